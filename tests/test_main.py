"""What `python -m keras_vivit` prints."""

import platform
import subprocess
import sys

import keras
import numpy as np

import keras_vivit

BACKEND = keras.backend.backend()


def test_report_has_versions_backend_devices_and_presets():
    command = [sys.executable, "-P", "-m", "keras_vivit"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
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
