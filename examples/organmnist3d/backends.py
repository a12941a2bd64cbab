"""Choosing a Keras backend before Keras is imported. Only scripts do this."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

from data import InputError

BACKENDS = ("jax", "torch", "tensorflow")


def choose_backend(preferred=None):
    """Sets `KERAS_BACKEND` to an installed backend, and prints which and why.

    The user's own choice comes first: the environment variable, then `preferred`
    (that of the run to go on with), then Keras' settings file; else the first of
    `BACKENDS` that is installed.

    Returns:
        The backend's name.
    """
    name, reason = _choose(preferred)
    if name not in BACKENDS or not find_spec(name):
        raise InputError(
            f"KERAS_BACKEND must name one of {', '.join(BACKENDS)} that is installed. "
            f"Received: {name}."
        )
    os.environ["KERAS_BACKEND"] = name
    print(f"Backend: {name} ({reason}).")
    return name


def _choose(preferred):
    if name := os.environ.get("KERAS_BACKEND"):
        return name, "named by KERAS_BACKEND"
    installed = [name for name in BACKENDS if find_spec(name)]
    if preferred in installed:
        return preferred, "the one this run was started with"
    settings = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    name = _backend_of(settings / "keras.json")
    if name in installed:
        return name, f"named by {settings / 'keras.json'}"
    if not installed:
        raise InputError(
            "Keras needs a backend, and none is installed: "
            "`pip install` one of jax, torch, tensorflow."
        )
    return installed[0], "installed; KERAS_BACKEND chooses another"


def _backend_of(path):
    try:
        return json.loads(path.read_text()).get("backend")
    except (OSError, ValueError):
        return None
