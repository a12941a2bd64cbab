"""Downloads from the Hugging Face Hub, and what the cache does without it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import normal, once
from local_hub import hub  # noqa: F401

import keras_vivit as kv

FOLDER = pathlib.Path(__file__).parent / "parity" / "transformers" / "vivit"
LOAD = """
import json, sys, time
import numpy as np
import keras_vivit as kv

start = time.perf_counter()
model = kv.ViViTClassifier.from_preset("hf://owner/name", classifier_activation=None)
seconds = time.perf_counter() - start
with np.load(sys.argv[1]) as file:
    logits = model.predict_on_batch(file["video"])
print(json.dumps({"seconds": seconds, "logits": np.asarray(logits).tolist()}))
"""


def load(tmp_path, **environment):
    """Loads in a process of its own: the environment is read at the first import."""
    video = tmp_path / "video.npz"
    np.savez(video, video=normal(2, 6, 16, 16, 3))
    run = subprocess.run(
        [sys.executable, "-c", LOAD, video],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise RuntimeError(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


@once
@pytest.mark.slow
def test_the_cache_does_without_a_connection(hub, tmp_path):  # noqa: F811
    shutil.copytree(FOLDER, hub / "owner" / "name")
    model = kv.ViViTClassifier.from_preset(FOLDER, classifier_activation=None)
    expected = model.predict_on_batch(normal(2, 6, 16, 16, 3))
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # No one listens at that port.
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}, nowhere):
        result = load(tmp_path, **environment)
        np.testing.assert_allclose(result["logits"], expected, atol=1e-5)
        assert result["seconds"] < 15, "the request was retried"


@once
@pytest.mark.slow
def test_without_a_cache_the_connection_is_what_fails(tmp_path):
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    with pytest.raises(RuntimeError, match="offline mode is enabled"):
        load(tmp_path, **environment)
