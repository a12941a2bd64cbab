"""What a function, not its speed, needs from a backend: a file for each of them."""

import importlib
from typing import Any

import keras


def has_values(tensor: Any) -> bool:
    """Whether values can be read: not while a backend traces or builds a graph."""
    return _backend().has_values(tensor)


def _backend() -> Any:
    return importlib.import_module(f"keras_vivit.backends.{keras.config.backend()}")
