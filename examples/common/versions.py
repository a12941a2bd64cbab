"""The machine and the versions that the numbers of a run depend on."""

import importlib
import platform

import keras
import numpy as np

import keras_vivit
from common.machine import machine


def installed():
    """Returns a dictionary of the machine and of versions, for a run's record."""
    backend = keras.config.backend()
    modules = {"keras": keras, "keras_vivit": keras_vivit, "numpy": np}
    modules[backend] = importlib.import_module(backend)
    found = {name: module.__version__ for name, module in modules.items()}
    return {"machine": machine(), "python": platform.python_version(), **found}
