"""The versions that the numbers of a run depend on."""

import importlib
import platform

import keras
import numpy as np

import keras_vivit


def installed():
    """Returns a dictionary of versions, for a run's record."""
    backend = keras.config.backend()
    modules = {"keras": keras, "keras_vivit": keras_vivit, "numpy": np}
    modules[backend] = importlib.import_module(backend)
    found = {name: module.__version__ for name, module in modules.items()}
    return {"python": platform.python_version(), **found}
