"""The benchmark of what pre-training brings on OrganMNIST3D."""

import importlib
import json
from pathlib import Path

import pytest
from helpers import once

import keras_vivit

pytestmark = once


@pytest.fixture
def benchmark(monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module("starts")


def test_runs_are_made_once_and_compared(benchmark, monkeypatch, tmp_path, capsys):
    made = []

    def fake(command, check):
        options = dict(zip(command[2::2], command[3::2], strict=False))
        folder = Path(options["--out"])
        folder.mkdir(parents=True)
        made.append(folder.name)
        if "pretrain.py" in command[1]:
            return (folder / "model").mkdir()
        assert Path(options["--init"]).exists()
        accuracy = 0.8 if "pre/model" in options["--init"] else 0.7
        accuracy += int(options["--seed"]) / 100
        metrics = {"accuracy": accuracy, "auc": 1, "epochs": 1, "versions": {}}
        metrics["two_views"] = {"accuracy": accuracy}
        (folder / "metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(benchmark.subprocess, "run", fake)
    arguments = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    benchmark.main(arguments)
    assert len(made) == len(set(made)) == 13
    said = capsys.readouterr().out
    assert "| pre-trained | 100% | .810 ± .010 | .800, .810, .820 |" in said
    assert "| random | 10% | .710 ± .010 | .700, .710, .720 |" in said
    model = keras_vivit.ViViTMaskedAutoencoder.from_preset(tmp_path / "runs/random-1")
    assert model.backbone.tubelet_size == (7, 7, 7)
    benchmark.main(arguments)
    assert len(made) == 13
    rows = json.loads((tmp_path / "pretraining-organmnist3d.json").read_text())["rows"]
    assert len(rows) == 12
