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
JOB = "KERAS_DISTRIBUTION_JOB_ADDRESSES"


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


def launched():
    """Returns the backend whose launcher started several processes, or `None`."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ:
        return "torch"
    return "jax" if JOB in os.environ else None


def check_alone():
    """Raises in a process of several, which would not know of each other."""
    if launched():
        raise InputError(
            "This script runs in one process. "
            f"Received: the environment of several, for {launched()}."
        )


def first(function, *arguments):
    """Calls a function in the first process alone; all raise the error it raises."""
    if not launched():
        return function(*arguments)
    from common import processes

    error = None
    if processes.index() == 0:
        try:
            function(*arguments)
        except InputError as raised:
            error = raised
    if (error := processes.gather(error)[0]) is not None:
        raise error


def resumes(options, folder):
    """Returns whether to go on: if told to, and where `torchrun` restarts a run."""
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return options.resume or (restarted and (folder / "run.json").exists())


def choose_backend(preferred=None, several=False):
    """Sets `KERAS_BACKEND` to an installed backend, and prints which one and why.

    In this order: the environment variable `KERAS_BACKEND`, `preferred` (the backend
    of a run that is resumed), Keras' configuration file, the first of `BACKENDS` that
    is installed.

    Args:
        preferred: Name of a backend, or `None`.
        several: Boolean, whether the script runs in several processes, too.

    Returns:
        The name of the backend.
    """
    if not several:
        check_alone()
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
