"""`python -m keras_vivit`, where the backend works and where it does not."""

import os
import platform
import subprocess
import sys

import keras
import numpy as np

import keras_vivit

BACKEND = keras.backend.backend()


def report(**variables):
    command = [sys.executable, "-P", "-m", "keras_vivit"]
    environment = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_report_has_versions_backend_devices_and_presets():
    run = report()
    assert run.returncode == 0, run.stderr
    text, _, presets = run.stdout.partition("presets")
    facts = dict(line.split(maxsplit=1) for line in text.splitlines())
    versions = {
        "keras-vivit": keras_vivit.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backend": BACKEND,
    }
    assert facts.items() >= versions.items()
    assert BACKEND in facts or f"{BACKEND}-cpu" in facts
    assert facts["devices"].startswith(("cpu", "gpu", "cuda", "mps", "tpu"))
    assert presets.split() == list(keras_vivit.ViViTClassifier.presets())


def test_broken_backend_ends_with_its_error_and_what_to_do(tmp_path):
    (tmp_path / f"{BACKEND}.py").write_text("raise OSError('library not found')")
    run = report(PYTHONPATH=str(tmp_path))
    assert run.returncode == 1
    assert f"\nkeras          {keras.__version__}\n" in run.stdout
    assert f"KERAS_BACKEND is {BACKEND}.\nOSError: library not found" in run.stderr
    assert "Install a backend" in run.stderr
    assert "Traceback" not in run.stderr


def test_unknown_backend_ends_with_its_name():
    run = report(KERAS_BACKEND="mxnet")
    assert run.returncode == 1
    assert "KERAS_BACKEND is mxnet.\n" in run.stderr
    assert "Traceback" not in run.stderr
