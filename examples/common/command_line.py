"""The command line of the examples: options, errors of one line, and the backend.

Nothing here imports Keras, so that a mistake is reported before a backend starts.
"""

import argparse
import contextlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

BACKENDS = ("jax", "torch", "tensorflow")


class InputError(ValueError):
    """A mistake in what the user gave; scripts print it without a traceback."""


def exit_status(run, *arguments):
    """Runs a script and returns its exit status."""
    try:
        run(*arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def input_errors():
    """Takes the errors of reading what the user named for the user's mistakes."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        raise InputError(str(error)) from error


def positive(text):
    return whole(text, at_least=1)


def whole(text, at_least=0):
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {at_least} on. Received: {text}"
        )
    return int(text)


def share(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f"must be a number above 0, at most 1. Received: {text}"
        )
    return value


def duration(seconds):
    """Returns a duration in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def choose_backend(preferred=None):
    """Sets `KERAS_BACKEND` to an installed backend, and prints which one and why.

    In this order: the environment variable `KERAS_BACKEND`, `preferred` (the backend
    of a run that is resumed), Keras' configuration file, the first of `BACKENDS` that
    is installed.

    Returns:
        The name of the backend.
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
