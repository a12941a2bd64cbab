"""Training that can be killed at any time, and resumes to the same result.

- The order of the samples and the states of the dropouts depend on the seed and the
  epoch alone (`RepeatableEpochs`).
- A checkpoint holds all variables of the model and of the optimizer (`Checkpoint`).
- Early stopping replays the epochs of `history.csv` (`ResumableEarlyStopping`).
"""

import os
import time

import keras
import numpy as np

from common import processes
from common.command_line import launched


class RepeatableEpochs(keras.callbacks.Callback):
    """Reseeds data and dropout at the start of each epoch, and logs its seconds.

    Args:
        batches: Dataset with a `seed` and a method `start_epoch(epoch)`.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()
        self.batches.start_epoch(epoch)
        # The only variables of a model that are no weights are its random states.
        weights = {id(weight) for weight in self.model.weights}
        states = [v for v in self.model.variables if id(v) not in weights]
        seed = (self.batches.seed, epoch, 1)
        if launched() == "torch":  # JAX draws the numbers of the whole batch.
            seed += (processes.index(),)
        reseed(states, seed)

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = round(time.perf_counter() - self.begin, 3)


def reseed(states, seed):
    """Gives the states of Keras' seed generators new values."""
    rng = np.random.default_rng(seed)
    for state in states:
        state.assign(rng.integers(2**31, size=state.shape))


class ResumableEarlyStopping(keras.callbacks.EarlyStopping):
    """Early stopping that starts with the epochs of an interrupted run.

    Args:
        history: List of the logs of finished epochs.
        kwargs: Arguments of `keras.callbacks.EarlyStopping`.
    """

    def __init__(self, history, **kwargs):
        super().__init__(**kwargs)
        self.history = history

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        for epoch, row in enumerate(self.history):
            self.on_epoch_end(epoch, row)


class Checkpoint(keras.callbacks.Callback):
    """Writes all variables to a file after each epoch.

    Variables are written whole, so that training can resume on any number of devices.
    A file is replaced in one step: it is never incomplete.

    Args:
        folder: Folder, or `None` for no checkpoint.
        name: Name of the file; `{epoch}` in it is the number of the epoch, from 1.
        to_numpy: Function that returns a whole variable; every process calls it.
        writes: Boolean, whether this process writes the file.
        wait: Function that returns when every process has called it: no process
            starts an epoch before the last one is saved.
    """

    def __init__(
        self,
        folder,
        name="checkpoint.npz",
        to_numpy=keras.ops.convert_to_numpy,
        writes=True,
        wait=lambda: None,
    ):
        super().__init__()
        self.folder, self.name = folder, name
        self.to_numpy, self.writes, self.wait = to_numpy, writes, wait

    def path(self, epoch):
        return self.folder / self.name.format(epoch=epoch)

    def variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def load(self, model, epoch=None):
        """Loads a checkpoint, and returns the number of epochs it was trained for."""
        self.set_model(model)
        if not self.folder or not self.path(epoch).exists():
            return 0
        with np.load(self.path(epoch)) as saved:
            for i, variable in enumerate(self.variables()):
                variable.assign(saved[f"arr_{i}"])
            return int(saved["epochs"])

    def on_epoch_end(self, epoch, logs=None):
        if not self.folder:
            return
        values = [self.to_numpy(variable.value) for variable in self.variables()]
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / "partial.npz"
            np.savez(partial, *values, epochs=epoch + 1)
            os.replace(partial, self.path(epoch + 1))
        self.wait()

    def keep_only(self, *epochs):
        """Deletes the files of all other epochs."""
        kept = [self.path(epoch) for epoch in epochs]
        for path in self.folder.iterdir():
            if path not in kept:
                path.unlink()
