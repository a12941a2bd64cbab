"""The benchmarks of the parts of a step, and of one machine beside another."""

import importlib
from pathlib import Path

import pytest
from helpers import once

pytestmark = once
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_parts_are_differences(load, monkeypatch, tmp_path, capsys):
    steps, measured = load("steps"), []

    def fake(case, device):
        measured.append(case)
        if case["kind"] == "gemm":
            return {"operations": 1e12}
        train = {"sgd": 0.040, "adamw": 0.047}[case["optimizer"]]
        late = 0.001 * (case["round"] - 2)  # The median is that of round 2.
        return {"train": train + late, "predict": 0.010 + late}

    monkeypatch.setattr(steps.run, "run", fake)
    monkeypatch.setattr(steps, "operations", lambda *size, training: 6e9)
    options = ["--backends", "torch", "--sizes", "tokens64", "--out", str(tmp_path)]
    steps.main(options)
    line = "| torch | 64 | 47.0 | 10.0 | 30.0 | 7.0 | 6.0 |"
    assert capsys.readouterr().out.splitlines()[-1] == line
    assert len(measured) == 3 * 3
    steps.main(options)  # All results are there.
    assert len(measured) == 3 * 3
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_a_case_without_its_pair_is_left_out(load):
    steps = load("steps")
    case = {"kind": "model", "backend": "jax", "size": "tokens27", "optimizer": "sgd"}
    rows = [{**case, "train": 1.0, "predict": 1.0}, {**case, "error": "out of memory"}]
    assert steps.table(rows) == steps.HEAD


def test_page_has_the_table_of_all_machines(load):
    machines = load("machines")
    page, records = machines.PAGE.read_text(), machines.records()
    assert machines.filled(page, records) == page
    for record in records:
        assert record["environment"]["machine"] in page


def test_machines_stand_side_by_side(load):
    machines = load("machines")

    def record(machine, date, train):
        case = {
            **{"kind": "model", "backend": "torch", "device": "cpu", "round": 1},
            **{"dtype": "float32", "size": "tokens64", "compiled": False},
        }
        rows = [
            {**case, "model": "vivit1", "train": train, "predict": 0.01, "memory": 1},
            {**case, "model": "transformers", "train": 0.08, "predict": 0.02}
            | {"memory": 2},
        ]
        return {"environment": {"machine": machine, "date": date}, "rows": rows}

    table = machines.table(
        [record("A", "2026-01-01", 0.04), record("B", "2026-02-01", 0.06)]
    )
    head, _, line = table.splitlines()
    assert head == "| tokens | framework | B, 2026-02-01 | A, 2026-01-01 |"
    assert line == "| 64 | PyTorch | 60 (0.75) / 10 (0.50) | 40 (0.50) / 10 (0.50) |"
