"""The example with a segmentation head, run as a script."""

import pathlib
import re
import subprocess
import sys

import pytest
from helpers import once

SCRIPT = pathlib.Path(__file__).parents[1] / "examples" / "compose_custom_model.py"


@once
@pytest.mark.slow
def test_segmentation_is_learned_saved_and_loaded(tmp_path):
    out = tmp_path / "segmenter.keras"
    command = [sys.executable, SCRIPT, "--out", out]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.exists()
    assert "same predictions: True" in run.stdout
    (iou,) = re.findall(r"on new volumes: ([\d.]+)", run.stdout)
    assert float(iou) > 0.7
