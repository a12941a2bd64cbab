"""The machine that the numbers of a run or a benchmark depend on."""

import platform
from pathlib import Path


def machine():
    """Returns the processor's name, on x86 with its family and model.

    Virtual machines shorten the name, "AMD EPYC", to that of several generations.
    """
    information = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if not information.exists():
        return name
    lines = (line.partition(":") for line in information.read_text().splitlines())
    facts = {key.strip(): text.strip() for key, _, text in lines}
    name = facts.get("model name", name)
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name
