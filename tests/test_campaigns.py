"""Short forms of the campaigns of docs/reliability.md."""

import importlib
import json
import pathlib

import keras
import numpy as np
import pytest
from campaigns import arguments, extremes, files, kills, soak, tables
from helpers import needs_av, once, only

IS_FOR_XLA = "tensorflow.python.ops.control_flow_util.GraphOrParentsInXlaContext"
RESULTS = pathlib.Path(__file__).parent / "campaigns" / "results"


@pytest.mark.filterwarnings("ignore")
def test_wrong_arguments_are_refused_in_words():
    result = arguments.campaign(130)
    # Hypothesis draws other values in other processes: the long form counts the faults.
    assert result["faults"] < 2, json.dumps(result["found"], indent=1)
    assert result["works"] > 0
    assert result["refused"] > 60


def test_campaign_notices_errors_without_words():
    def fails(size):
        raise TypeError("'int' object is not iterable")

    subject = arguments.Subject("fails", fails, {"size": 1}, ("size",))
    assert arguments.outcome(subject, {"size": 2}).startswith("TypeError")


@pytest.mark.parametrize("name", ["float16: constant", "factorized_encoder: zeros"])
def test_extreme_numbers_give_finite_results(name):
    assert extremes.outcome(dict(extremes.cases())[name])[0] == "finite"


def test_infinite_pixels_are_refused_by_predictions():
    case = dict(extremes.cases())["predict_views: infinite"]
    assert extremes.outcome(case)[0] == "refused in words"


@once
@needs_av
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", files.FORMATS)
def test_mutated_files_are_read_or_refused(name, tmp_path, monkeypatch):
    if "PyTorch" in name:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    for _, what, found in files.run(name, range(4), 1, tmp_path):
        assert found in (None, "read", "refused") or found.endswith((" s", " MB")), (
            f"{what}: {found}"
        )


@once
@pytest.mark.slow
def test_killed_save_leaves_whole_files(tmp_path):
    (command,) = (c for c in kills.commands(tmp_path) if c.name == "save_to_preset")
    expected, seconds = kills.uninterrupted(command, tmp_path / "whole")
    fault = kills.trial(command, tmp_path / "killed", 0.9 * seconds, expected)
    assert fault in (None, "ended before it was killed")
    full = kills.full_disk(command, tmp_path / "full")
    assert full["full disk"] == "ends with an error"
    assert not full["damaged"]


@once
@pytest.mark.slow
def test_memory_threads_and_precisions():
    assert len(soak.memory(2)) == len(soak.memory(2, soak.round_of_keras)) == 2
    before, held = soak.resident(), np.ones(2**26)  # 512 MiB
    assert soak.resident() - before > 0.5 * held.nbytes
    assert soak.growth([1.0, 1.0, 1.0, 1.02]) == pytest.approx(0.02)
    assert soak.threads(4, 3) < 1e-5
    assert soak.precisions(2) < 1e-6


# === What is private upstream ===


def test_private_names_of_keras_are_there():
    layer = keras.layers.Dense(1)
    layer.build((None, 1))
    assert callable(layer._flatten_layers)
    masked = keras.layers.Masking()(keras.Input((2, 3)))
    assert masked._keras_mask is not None
    assert hasattr(keras.random.SeedGenerator(1), "_initial_seed")
    with keras.StatelessScope(initialize_variables=False):
        variable = keras.Variable(initializer="zeros", shape=(1,))
        assert hasattr(variable, "_initializer")


@only("torch")
def test_private_names_of_pytorch_are_there():
    import torch

    for name in ("forward_pre_hooks", "forward_hooks", "backward_pre_hooks"):
        assert hasattr(torch.nn.Module(), f"_{name}")
    assert hasattr(torch.nn.Module(), "_backward_hooks")
    if torch.backends.mkldnn.is_available():
        assert torch.ops.mkldnn._linear_pointwise


@only("tensorflow")
def test_private_names_of_tensorflow_are_there():
    module, name = IS_FOR_XLA.rsplit(".", 1)
    assert callable(getattr(importlib.import_module(module), name))


# === The page ===


@once
def test_figures_of_the_page_are_those_of_the_files():
    page = RESULTS.parents[2] / "docs" / "reliability.md"
    assert tables.filled(page.read_text()) == page.read_text()
