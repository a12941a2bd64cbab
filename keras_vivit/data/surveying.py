"""Decodes many files at once, in processes that a damaged file may hang or kill."""

import atexit
import concurrent.futures
import functools
import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from keras_vivit.data import decoding

LIMIT = 30  # seconds without a new frame


def survey_videos(paths: list[Path], workers: int) -> list[dict[str, Any]]:
    """Returns for each file what `decoding.survey` finds, or `{"error": reason}`."""
    processes = [Process() for _ in range(max(1, min(workers, len(paths))))]
    idle: queue.SimpleQueue = queue.SimpleQueue()
    for process in processes:
        idle.put(process)

    def ask(path: Path) -> dict[str, Any]:
        process = idle.get()
        try:
            return process.ask(path)
        finally:
            idle.put(process)

    pool = concurrent.futures.ThreadPoolExecutor(len(processes))
    try:
        return list(pool.map(ask, paths))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.close()


def survey(path: Path) -> dict[str, Any]:
    """Returns what `decoding.survey` does, from a process that later files share."""
    result = _process().ask(path)
    if "error" in result:
        raise decoding.UnreadableError(path, result["error"])
    return result


@functools.cache
def _process() -> "Process":
    process = Process()
    atexit.register(process.close)
    return process


class Process:
    """Runs `decoding.py` as a script, anew after each file that ends it."""

    def __init__(self) -> None:
        self.process: Any = None

    def ask(self, path: Path) -> dict[str, Any]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-P", decoding.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        self.process.stdin.write(f"{json.dumps(str(path))}\n")
        self.process.stdin.flush()
        while True:
            line, hangs = self._read_line()
            if hangs or not line:
                code = self.close()
                reason = f"no new frame for {LIMIT} s" if hangs else f"exit code {code}"
                return {"error": f"decoding fails: {reason}"}
            if (result := json.loads(line)) is not None:
                return result

    def _read_line(self) -> tuple[str, bool]:
        hangs = threading.Event()

        def kill(process: subprocess.Popen) -> None:
            hangs.set()
            process.kill()

        timer = threading.Timer(LIMIT, kill, [self.process])
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        return line, hangs.is_set()

    def close(self) -> int | None:
        process, self.process = self.process, None
        if process is None:
            return None
        if process.poll() is None:
            process.kill()
        process.communicate()
        return process.returncode
