"""The benchmark of time and memory by the number of tokens."""

import importlib
import math
from pathlib import Path

import pytest
from helpers import once

pytestmark = once
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def growth(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("growth")


def test_batches_of_all_sizes_have_the_same_tokens(growth):
    counts = [size.batch * math.prod(size.grid) for size in growth.GROWTH.values()]
    assert max(counts) <= 1.05 * min(counts)
    assert [math.prod(s.grid) for s in growth.GROWTH.values()][::6] == [27, 12544]


def test_costs_are_compared_with_the_best_rate_of_the_model(
    growth, monkeypatch, tmp_path, capsys
):
    pytest.importorskip("matplotlib")
    measured = []

    def fake(case, device):
        measured.append(case)
        size, model = growth.SIZES[case["size"]], growth.MODELS[case["model"]]
        slow = 2 if case["size"] == "growth64" and case["model"] == "vivit3" else 1
        seconds = {
            key: slow * growth.operations(size, model, key == "train") / 1e9
            for key in ("train", "predict")
        }
        return {
            **seconds,
            "memory": slow * 1e3 * size.batch * growth.tokens(size, model),
        }

    monkeypatch.setattr(growth.run, "run", fake)
    options = ["--backends", "torch", "--sizes", "growth27", "growth64"]
    growth.main([*options, "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "| torch | vivit1 | 1.00 at" in said
    assert "| torch | vivit3 | 2.00 at 64 | 2.00 at 64 | 2.00 at 64 |" in said
    assert (tmp_path / "growth-cpu-float32.png").read_bytes().startswith(b"\x89PNG")
    assert len(measured) == 8
    growth.main([*options, "--out", str(tmp_path)])  # All results are there.
    assert len(measured) == 8
    assert capsys.readouterr().out in said


def test_errors_are_left_out(growth):
    row = {**growth.COMMON, "backend": "torch", "size": "growth27", "model": "vivit1"}
    assert growth.per_token([{**row, "error": "out of memory"}]) == []
