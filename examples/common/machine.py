"""The machine that the numbers of a run or a benchmark depend on."""

import platform
from pathlib import Path


def machine():
    """Returns the processor's name."""
    information = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if information.exists():
        lines = (line.partition(":") for line in information.read_text().splitlines())
        names = (text.strip() for key, _, text in lines if "model name" in key)
        name = next(names, name)
    return name
