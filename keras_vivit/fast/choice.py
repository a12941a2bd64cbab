"""Which of two ways to compute is faster on this processor.

That is measured once, and kept in Keras' folder: all processes choose the same, and
runs repeat exactly. Where nothing can be kept there, the usual way is taken.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

from keras_vivit.types import Function

CPU = "/proc/cpuinfo"
MODEL = ("vendor_id", "cpu family", "model", "flags", "CPU")  # what lines begin with
CLEARLY = 0.8  # of the usual way's time


def is_faster(name: str, way: Function, usual: Function) -> bool:
    """Returns what was found out under this name, or finds it out."""
    try:
        path = _folder() / f"{name}-{_processor()}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:
                json.dump(_share(way, usual), file)
                file.flush()
                with contextlib.suppress(FileExistsError):  # Another was first.
                    os.link(file.name, path)
        return json.loads(path.read_text()) < CLEARLY
    except (OSError, TypeError, ValueError):
        return False


def _folder() -> Path:
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "keras_vivit" / "choices"


def _processor() -> str:
    """Returns a digest of the kind of processor; an `OSError` if it is not Linux."""
    lines = Path(CPU).read_text().partition("\n\n")[0].splitlines()
    about = "\n".join(line for line in lines if line.startswith(MODEL))
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def _share(way: Function, usual: Function) -> float:
    """Returns the time of a way as a share of the usual way's."""
    best = [float("inf")] * 2
    for _ in range(4):
        for i, compute in enumerate((way, usual)):
            start = time.perf_counter()
            compute()
            best[i] = min(best[i], time.perf_counter() - start)
    return best[0] / best[1]
