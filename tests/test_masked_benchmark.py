"""The benchmark of masked pre-training, with a tiny model."""

import json
import sys
from pathlib import Path

import keras
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
if not FOLDER.exists():
    pytest.skip("a source distribution has no benchmarks", allow_module_level=True)
sys.path.insert(0, str(FOLDER))  # as Python does for a script in that folder

import masked  # noqa: E402


def test_steps_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(masked, "VIDEO", (4, 32, 32, 3))
    monkeypatch.setattr(masked, "TUBELET", (2, 8, 8))
    small = {"num_layers": 1, "num_heads": 2, "mlp_dim": 16}
    monkeypatch.setattr(masked, "ENCODER", {"embed_dim": 16, **small})
    monkeypatch.setattr(masked, "DECODER", {"dim": 8, **small})
    masked.main(["--batch", "2", "--rounds", "2", "--out", str(tmp_path)])
    backend = keras.config.backend()
    record = json.loads((tmp_path / f"masked-{backend}.json").read_text())
    assert {"masked", "whole"} <= record["ratios"].keys()
    assert record["ratios"]["masked"] == 1
    assert {len(values) for values in record["seconds"].values()} == {2}
