"""Batches that depend on the seed and the epoch alone, made while the model trains."""

import threading
from concurrent.futures import ThreadPoolExecutor

import keras


class RepeatableBatches(keras.utils.PyDataset):
    """Dataset whose batches a thread makes before they are needed.

    A subclass has `__len__` and `make(epoch, index)`, which returns a batch. The batch
    must depend on nothing else, so that a resumed training sees the same ones.

    Args:
        seed: Integer.
        ahead: Integer, number of batches that are made before they are needed.
    """

    def __init__(self, seed, ahead=2):
        super().__init__()
        self.seed, self.ahead, self.epoch = seed, ahead, 0
        self.made = {}  # (epoch, index) -> future
        self.lock = threading.Lock()  # TensorFlow reads from a thread of its own.
        # Keras stores the distribution for each thread.
        self.thread = ThreadPoolExecutor(
            1,
            initializer=keras.distribution.set_distribution,
            initargs=(keras.distribution.distribution(),),
        )

    def make(self, epoch, index):
        raise NotImplementedError

    def start_epoch(self, epoch):
        with self.lock:
            self.epoch = epoch
            self.made = {k: made for k, made in self.made.items() if k[0] == epoch}

    def __getitem__(self, index):
        with self.lock:
            first = self.epoch * len(self) + index
            keys = [divmod(first + i, len(self)) for i in range(1 + self.ahead)]
            for key in keys:
                if key not in self.made:
                    self.made[key] = self.thread.submit(self.make, *key)
            made = self.made.pop(keys[0])
        return made.result()
