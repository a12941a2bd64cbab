"""Kernels are chosen by a measurement, once for all processes of a machine."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import only

from keras_vivit import fast
from keras_vivit.fast import choice

CPUINFO = "vendor_id : AuthenticAMD\nflags : avx2\nMHz : {}\n\nflags : of another core"


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A home folder of Keras, and a processor."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(choice, "CPU", tmp_path / "cpuinfo")
    choice.CPU.write_text(CPUINFO.format(2000))
    return tmp_path


def slow():
    time.sleep(0.01)


def nothing():
    pass


def unexpected():
    raise AssertionError("measured again")


def files(folder):
    return [path for path in (folder / "keras").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("ways", "expected"), [((nothing, slow), True), ((slow, nothing), False)]
)
def test_faster_way_is_chosen_and_kept(ways, expected, machine):
    assert choice.is_faster("name", *ways) is expected
    choice.CPU.write_text(CPUINFO.format(3000))  # The clock changes.
    assert choice.is_faster("name", unexpected, unexpected) is expected
    assert len(files(machine)) == 1


def test_little_faster_is_not_enough(monkeypatch):
    monkeypatch.setattr(choice, "_share", lambda *ways: 0.9)
    assert not choice.is_faster("name", nothing, nothing)


def test_another_processor_and_another_name_choose_anew(machine):
    assert choice.is_faster("name", nothing, slow)
    assert not choice.is_faster("other", slow, nothing)
    choice.CPU.write_text(CPUINFO.format(2000).replace("avx2", "avx2 avx512f"))
    assert not choice.is_faster("name", slow, nothing)
    assert len(files(machine)) == 3


def test_processes_at_once_choose_the_same(machine):
    with ThreadPoolExecutor(4) as pool:
        pairs = [(nothing, slow), (slow, nothing)] * 4
        found = set(pool.map(lambda ways: choice.is_faster("name", *ways), pairs))
    assert len(found) == 1
    assert len(files(machine)) == 1


@pytest.mark.parametrize("fault", ["no Linux", "folder is a file", "damaged", "list"])
def test_usual_way_where_nothing_can_be_kept(fault, machine):
    if fault == "no Linux":
        choice.CPU.unlink()
    elif fault == "folder is a file":
        (machine / "keras").write_text("")
    else:
        assert choice.is_faster("name", nothing, slow)
        files(machine)[0].write_text({"damaged": "{", "list": "[]"}[fault])
    assert not choice.is_faster("name", nothing, slow)


@only("torch")
def test_products_are_measured_in_little_time(machine):
    ours = fast.module()
    seconds = []
    for number in range(3):
        (machine / "cpuinfo").write_text(f"model : {number}\n\n")
        start = time.perf_counter()
        assert ours._prefers_onednn.__wrapped__() in (False, True)
        seconds.append(time.perf_counter() - start)
    assert len(files(machine)) == 3
    assert min(seconds) < 0.2


@only("torch")
def test_a_process_measures_once(machine):
    code = (
        "import numpy as np, keras_vivit; from keras_vivit.fast import choice\n"
        "share = choice._share\n"
        "choice._share = lambda *ways: print('measured') or share(*ways)\n"
        "model = keras_vivit.ViViTClassifier.from_preset('vivit_organmnist3d')\n"
        "model.predict(np.zeros((2, 28, 28, 28, 1)), verbose=0)\n"
    )
    for expected in ("measured\n", ""):
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
        )
        assert done.stdout == expected
