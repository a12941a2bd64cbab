"""The machine and the versions that the numbers of a run depend on."""

import importlib
import platform
from pathlib import Path

import keras
import numpy as np

import keras_vivit


def installed():
    """Returns a dictionary of the machine and of versions, for a run's record."""
    backend = keras.config.backend()
    modules = {"keras": keras, "keras_vivit": keras_vivit, "numpy": np}
    modules[backend] = importlib.import_module(backend)
    found = {name: module.__version__ for name, module in modules.items()}
    return {"machine": machine(), "python": platform.python_version(), **found}


def machine():
    """Returns the processor's name."""
    information = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if information.exists():
        lines = (line.partition(":") for line in information.read_text().splitlines())
        names = (text.strip() for key, _, text in lines if "model name" in key)
        name = next(names, name)
    return name
