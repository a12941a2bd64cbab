"""The example's four ways train what they say; a killed run goes on."""

import inspect
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import flat

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import finetune

from keras_vivit import ViViTClassifier

TINY = ["--videos", "64", "--batch-size", "8", "--epochs", "1"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return finetune.pretrain(finetune.parse([*TINY, "--out", str(folder)]))


@pytest.mark.slow
@pytest.mark.parametrize("method", finetune.LEARNING_RATES)
def test_method_trains_what_it_says(method, checkpoint, tmp_path, capsys):
    call = [str(checkpoint), *TINY, "--method", method, "--out", str(tmp_path)]
    finetune.main(call)
    assert "Validation accuracy" in capsys.readouterr().out
    before = ViViTClassifier.from_preset(str(checkpoint)).backbone
    after = keras.saving.load_model(tmp_path / "model.keras").backbone
    changed = {
        weight.path
        for old, weight in zip(before.weights, after.weights, strict=True)
        if np.abs(flat(old)[0] - flat(weight)[0]).max() > 1e-7
    }
    everything = {weight.path for weight in after.weights}
    if method == "frozen":
        assert not changed
    elif method == "lora":
        assert changed
        assert all("_block_" in path for path in changed)
    else:  # Softmax is blind to the bias of keys.
        assert everything - changed <= {p for p in everything if "key/bias" in p}

    finetune.main([*call, "--epochs", "2"])  # as after a kill in the second epoch
    output = capsys.readouterr().out
    assert "Epoch 2/2" in output
    assert "Epoch 1/2" not in output


@pytest.mark.slow
def test_learning_rates_fall_from_the_head_down(checkpoint):
    model = ViViTClassifier.from_preset(str(checkpoint))
    scales = finetune.layer_scales(model, 0.5)
    assert set(scales) == {w.path for w in model.backbone.weights}
    assert sorted(set(scales.values())) == [0.5**n for n in (5, 4, 3, 2, 1)]
    assert scales["tubelet_embedding/kernel"] == 0.5**5


def scaled_step(gradient):
    """Returns how far a step takes variables of ones, by name."""
    variables = [
        keras.Variable(np.ones((3, 3)), name=name, trainable=True)
        for name in ("kernel", "slow_kernel", "slow_bias", "gamma", "table")
    ]
    scales = {v.path: 0.1 for v in variables if "slow" in v.name}
    optimizer = finetune.ScaledAdamW(scales, 0.01, weight_decay=0.5)
    optimizer.build(variables)
    optimizer.apply([keras.ops.full((3, 3), gradient)] * len(variables))
    return {v.name: 1 - flat(v)[0] for v in variables}


def test_step_is_as_long_as_its_factor():
    steps = scaled_step(1.0)
    np.testing.assert_allclose(steps["gamma"], 0.01, rtol=1e-3)
    np.testing.assert_allclose(steps["slow_bias"], 0.001, rtol=1e-3)


def test_kernels_alone_decay_and_as_fast_as_they_learn():
    steps = {name: step.max() for name, step in scaled_step(0.0).items()}
    expected = {"kernel": 0.005, "slow_kernel": 0.0005}
    expected |= dict.fromkeys(("slow_bias", "gamma", "table"), 0.0)
    assert steps == pytest.approx(expected, rel=1e-3)


def test_mistakes_are_named(tmp_path):
    out = ["--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="`--decay` must be above 0"):
        finetune.main([*out, "--method", "layerwise", "--decay", "0"])
    with pytest.raises(SystemExit, match="`--rank` must be positive"):
        finetune.main([*out, "--rank", "0"])
    np.savez(tmp_path / "videos.npz", train_images=np.zeros((2, 4, 8, 8)))
    with pytest.raises(SystemExit, match=r"Missing: .*train_labels"):
        finetune.main([*out, "--data", str(tmp_path / "videos.npz")])
    assert not (tmp_path / "run").exists()


def test_page_has_the_code_of_the_example():
    page = Path(__file__).parents[1] / "docs" / "finetuning.md"
    if not page.exists():
        pytest.skip("a source distribution has no docs")
    for part in (finetune.ScaledAdamW, finetune.layer_scales):
        assert inspect.getsource(part) in page.read_text()
