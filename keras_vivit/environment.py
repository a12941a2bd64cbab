"""What a bug report needs to say; `python -m keras_vivit` prints it."""

import importlib.metadata
import os
import platform
import sys

from keras_vivit import __version__

PACKAGES = ("keras", "numpy", "jax", "tensorflow", "tensorflow-cpu", "torch")


def describe(**more):
    """Prints versions, also of packages that cannot be imported, and `more`."""
    lines = {
        "keras-vivit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in PACKAGES:
        try:
            lines[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, value in (lines | more).items():
        print(f"{name:<14} {value}")


def require_keras():
    """Ends the program with a word on what to do if Keras cannot be imported."""
    try:
        import keras  # noqa: F401
    except Exception as error:
        describe()
        choice = os.environ.get("KERAS_BACKEND", "not set")
        sys.exit(
            f"\nKeras does not start; KERAS_BACKEND is {choice}.\n"
            f"{type(error).__name__}: {error}\n"
            'Install a backend, as with pip install "keras-vivit[jax]", and choose it '
            "with KERAS_BACKEND=jax (or tensorflow, torch)."
        )
