"""Batches that depend on the seed, the epoch and the index alone."""

import keras


class RepeatableBatches(keras.utils.PyDataset):
    """Dataset that a resumed training sees as the first one did.

    A subclass has `__len__` and `make(epoch, index)`, which returns a batch. The batch
    must depend on nothing else.

    Args:
        seed: Integer.
    """

    def __init__(self, seed):
        super().__init__()
        self.seed, self.epoch = seed, 0

    def make(self, epoch, index):
        raise NotImplementedError

    def start_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        return self.make(self.epoch, index)
