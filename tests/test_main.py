"""What `python -m keras_vivit` prints."""

import platform
import re
import subprocess
import sys

import keras
import numpy as np

import keras_vivit
from keras_vivit import __main__

BACKEND = keras.backend.backend()


def test_report_has_versions_backend_devices_presets_and_a_forward_pass():
    command = [sys.executable, "-P", "-m", "keras_vivit"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    text, _, rest = run.stdout.partition("presets")
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
    presets, _, time = rest.partition("forward pass")
    assert presets.split() == list(keras_vivit.ViViTClassifier.presets())
    assert re.fullmatch(r" +\d+\.\d\d s\n", time)


def fail(*_, **__):
    raise RuntimeError("no kernel image")


def test_failure_is_reported_after_all_else(monkeypatch, capsys):
    monkeypatch.setattr(keras_vivit.ViViTClassifier, "call", fail)
    assert __main__.main() == 1
    output, errors = capsys.readouterr()
    _, _, error = output.partition("presets")[2].partition("forward pass")
    assert re.match("(?s) +RuntimeError: .*no kernel image", error)
    assert "Traceback" in errors


def test_probabilities_that_are_none_are_a_failure(monkeypatch, capsys):
    zeros = keras.ops.zeros((1, 3))
    monkeypatch.setattr(keras_vivit.ViViTClassifier, "__call__", lambda *_: zeros)
    assert __main__.main() == 1
    assert "ArithmeticError: The probabilities sum to 0.0." in capsys.readouterr().out
