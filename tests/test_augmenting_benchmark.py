"""The benchmark of augmentation, on tiny videos."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import once

FOLDER = Path(__file__).parents[1] / "benchmarks"
if not FOLDER.exists():
    pytest.skip("a source distribution has no benchmarks", allow_module_level=True)
sys.path.insert(0, str(FOLDER))  # as Python does for a script in that folder

import augmenting as benchmark  # noqa: E402

BACKEND = keras.config.backend()
SHAPE = (2, 4, 16, 16, 3)
SOURCES = [case["source"] for case in benchmark.cases([BACKEND])]


@once
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the other libraries
@pytest.mark.parametrize("source", SOURCES)
def test_operations_return_videos_of_the_same_size(source):
    videos = np.random.default_rng(0).integers(0, 256, SHAPE, "uint8")
    functions = getattr(benchmark, f"{source}_functions")(videos)
    missing = {"crop"} if source == "keras" else set()
    assert set(functions) == set(benchmark.OPERATIONS) - missing
    for name, function in functions.items():
        assert np.asarray(function()).size == videos.size, name


def test_results_are_written_with_a_table(tmp_path, monkeypatch, capsys):
    results = {"ours": {"flip": 1.5, "crop": 20.25}, "keras": {"error": "no memory"}}
    monkeypatch.setattr(
        benchmark, "run_case", lambda case: results.get(case["source"], {"flip": 3.0})
    )
    options = ["--backends", BACKEND, "--out", str(tmp_path), "--rounds", "2"]
    benchmark.main(options)
    record = json.loads((tmp_path / "augmenting-cpu.json").read_text())
    assert record["summary"][f"ours, {BACKEND}"] == {"flip": 1.5, "crop": 20.25}
    assert f"keras, {BACKEND}" not in record["summary"]
    assert f"| ours, {BACKEND} | 20.2 | 1.5 |" in capsys.readouterr().out
    both = BACKEND == "torch" and find_spec("torchvision")
    assert len(record["rows"]) == 2 * (2 + bool(both))
