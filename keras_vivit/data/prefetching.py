"""Batches that are read ahead, in threads."""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any


class Prefetcher:
    """Reads batches before they are asked for.

    Args:
        tasks: Function, takes a key and returns a list of functions, one for each
            sample of that batch.
        following: Function, takes a key and returns the next one.
        threads: Integer.
        ahead: Integer, number of batches.
    """

    def __init__(
        self,
        tasks: Callable[[Any], list[Callable[[], Any]]],
        following: Callable[[Any], Any],
        threads: int,
        ahead: int,
    ) -> None:
        self.tasks, self.following, self.ahead = tasks, following, ahead
        self.pool = concurrent.futures.ThreadPoolExecutor(threads)
        self.pending: dict[object, list] = {}
        self.lock = threading.Lock()

    def get(self, key: Any) -> list[Any]:
        """Returns the samples of a batch, and starts to read those that follow."""
        with self.lock:
            futures = self.pending.pop(key, None) or self._submit(key)
            coming = key
            for _ in range(self.ahead):
                coming = self.following(coming)
                if len(self.pending) < self.ahead and coming not in self.pending:
                    self.pending[coming] = self._submit(coming)
        return [future.result() for future in futures]

    def keep(self, wanted: Callable[[Any], bool]) -> None:
        """Forgets the batches whose keys are not wanted."""
        with self.lock:
            for key in [key for key in self.pending if not wanted(key)]:
                for future in self.pending.pop(key):
                    future.cancel()

    def _submit(self, key: Any) -> list[concurrent.futures.Future]:
        return [self.pool.submit(task) for task in self.tasks(key)]
