"""The benchmark of reading videos, on a tiny folder."""

import json
import sys
from pathlib import Path

import keras
import pytest
from helpers import needs_av

FOLDER = Path(__file__).parents[1] / "benchmarks"
if not FOLDER.exists():
    pytest.skip("a source distribution has no benchmarks", allow_module_level=True)
sys.path.insert(0, str(FOLDER))  # as Python does for a script in that folder

import reading  # noqa: E402

pytestmark = needs_av
BACKEND = keras.config.backend()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips")
    reading.encode(path, count=4, frames=40, size=(32, 48))
    return path


@pytest.mark.parametrize("reader", ["folder", "pyav", "limit"])
def test_readers_read_the_whole_folder(folder, reader):
    case = {"reader": reader, "folder": str(folder), "workers": 2}
    assert reading.measure(case)["clips_per_second"] > 0


@pytest.mark.slow
def test_a_step_is_measured_with_the_folder_and_with_arrays(folder, monkeypatch):
    monkeypatch.setattr(reading, "SHAPE", (4, 32, 32, 3))
    case = {"reader": "step", "folder": str(folder), "workers": 2}
    result = reading.measure(case)
    assert set(result) == {"step_folder", "step_arrays"}
    assert min(result.values()) > 0


def test_results_are_written_with_a_summary(folder, tmp_path, monkeypatch):
    results = {
        "step": {"step_folder": 1.2, "step_arrays": 1.0},
        "pyav": {"error": "no memory"},
    }
    monkeypatch.setattr(
        reading,
        "run_case",
        lambda case: results.get(case["reader"], {"clips_per_second": 7.0}),
    )
    options = ["--folder", str(folder), "--backends", BACKEND, "--out", str(tmp_path)]
    reading.main([*options, "--rounds", "2"])
    record = json.loads((tmp_path / "reading-cpu.json").read_text())
    assert record["summary"][f"step, {BACKEND}"] == {"ratio": 1.2}
    assert record["summary"]["folder"] == {"clips_per_second": 7.0}
    assert "pyav" not in record["summary"]
    assert {row["round"] for row in record["rows"]} == {1, 2}
    assert record["environment"]["videos"] == folder.name
