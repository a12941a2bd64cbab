"""The Keras side of the recipe: the model, and epochs that an interruption cannot harm.

A run goes on after a kill as if nothing had happened, because

- the order of the volumes and the states of the dropouts depend on the seed and on the
  number of the epoch alone (`RepeatableEpochs`);
- a row of `history.csv` is written after the weights of its epoch, so the last row
  vouches for a complete checkpoint, and the rows before it are all that early stopping
  has to know (`ResumableEarlyStopping`).
"""

import importlib
import os
import platform
import shutil
import time

import keras
import numpy as np
from runs import read_history

import keras_vivit

PRESET = "vivit_organmnist3d_baseline"


class Batches(keras.utils.PyDataset):
    """Volumes in an order that depends on the seed and the epoch alone."""

    def __init__(self, split, batch_size, seed):
        super().__init__()
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.start_epoch(0)

    def start_epoch(self, epoch):
        rng = np.random.default_rng((self.seed, epoch))
        self.order = rng.permutation(len(self.split.labels))

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size :][: self.batch_size]
        return self.split.images[rows], self.split.labels[rows]


class RepeatableEpochs(keras.callbacks.Callback):
    """Starts each epoch from its number, and adds its seconds to the logs.

    Weight files do not hold the states of Keras' seed generators: a resumed model
    would draw the dropout of the first epoch again.
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
        rng = np.random.default_rng((self.batches.seed, epoch, 1))
        for state in states:
            state.assign(rng.integers(2**31, size=state.shape))

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = round(time.perf_counter() - self.begin, 3)


class ResumableEarlyStopping(keras.callbacks.EarlyStopping):
    """Early stopping that first relives the epochs before an interruption."""

    def __init__(self, history, **kwargs):
        super().__init__(**kwargs)
        self.history = history

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        for epoch, row in enumerate(self.history):
            self.on_epoch_end(epoch, row)


class Checkpoints:
    """A file of weights and optimizer state per epoch, numbered from 1."""

    def __init__(self, folder):
        self.folder = folder / "checkpoints"

    def path(self, epoch):
        return self.folder / f"epoch-{epoch:04d}.weights.h5"

    def keep_only(self, *epochs):
        kept = [self.path(epoch) for epoch in epochs]
        for path in self.folder.iterdir():
            if path not in kept:
                path.unlink()

    def writer(self):
        return keras.callbacks.ModelCheckpoint(
            self.folder / "epoch-{epoch:04d}.weights.h5", save_weights_only=True
        )


def build(data, configuration):
    """Returns the compiled baseline; the same seed gives the same weights."""
    keras.utils.set_random_seed(configuration["seed"])
    model = keras_vivit.ViViTClassifier.from_preset(
        PRESET,
        video_shape=data.train.images.shape[1:],
        num_classes=len(data.class_names),
        seed=configuration["seed"],
        dtype=configuration["precision"],
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=1e-4, weight_decay=1e-5),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def train(data, configuration, folder, tensorboard=False):
    """Trains, or goes on training, and saves the best epoch as `model.keras`."""
    model = build(data, configuration)
    checkpoints = Checkpoints(folder)
    history = read_history(folder)
    stopping = ResumableEarlyStopping(
        history, monitor="val_loss", mode="min", patience=configuration["patience"]
    )
    if history:
        print(f"Going on after epoch {len(history)}.")
        model.optimizer.build(model.trainable_variables)
        model.load_weights(checkpoints.path(len(history)))

    # Relived once before `fit`, which could not but train one epoch more.
    stopping.set_model(model)
    stopping.on_train_begin()
    if len(history) < configuration["epochs"] and not stopping.stopped_epoch:
        fit(model, data, configuration, folder, checkpoints, stopping, tensorboard)

    print(f"Best epoch: {stopping.best_epoch + 1} (val_loss {stopping.best:.4f}).")
    model.load_weights(checkpoints.path(stopping.best_epoch + 1))
    model.save(folder / "unfinished.keras")
    os.replace(folder / "unfinished.keras", folder / "model.keras")
    shutil.rmtree(checkpoints.folder)
    return model


def fit(model, data, configuration, folder, checkpoints, stopping, tensorboard):
    batches = Batches(data.train, configuration["batch_size"], configuration["seed"])

    def prune(epoch, logs):
        checkpoints.keep_only(epoch + 1, stopping.best_epoch + 1)

    callbacks = [
        RepeatableEpochs(batches),
        checkpoints.writer(),
        keras.callbacks.CSVLogger(folder / "history.csv", append=True),
        stopping,
        keras.callbacks.LambdaCallback(on_epoch_end=prune),
    ]
    if tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard"))
    model.fit(
        batches,
        epochs=configuration["epochs"],
        initial_epoch=len(stopping.history),
        shuffle=False,  # `Batches` shuffles; Keras would do it anew after a resume.
        validation_data=data.val,
        validation_batch_size=configuration["batch_size"],
        callbacks=callbacks,
    )


def load(folder):
    return keras.saving.load_model(folder / "model.keras")


def predict(model, split):
    """Returns class probabilities, float32 `(n, num_classes)`."""
    return np.asarray(model.predict(split.images, batch_size=32), "float32")


def versions():
    """Returns the versions that the numbers depend on."""
    backend = keras.config.backend()
    modules = {"keras": keras, "keras_vivit": keras_vivit, "numpy": np}
    modules[backend] = importlib.import_module(backend)
    found = {name: module.__version__ for name, module in modules.items()}
    return {"python": platform.python_version(), **found}
