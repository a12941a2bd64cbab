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
from batches import Batches, layers_for, one_hot, reseed
from parallel import complete, shares
from runs import read_history

import keras_vivit


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
        reseed(states, (self.batches.seed, epoch, 1))

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
    """Returns the compiled model; the same seed gives the same weights."""
    keras.utils.set_random_seed(configuration["seed"])
    variant = configuration["variant"]
    model = keras_vivit.ViViTClassifier.from_preset(
        configuration["preset"],
        load_weights=False,
        video_shape=data.train.images.shape[1:],
        num_classes=len(data.class_names),
        seed=configuration["seed"],
        dtype=configuration["precision"],
        variant=variant,
        **configuration["model"],
        **configuration["variants"].get(variant, {}),
    )
    steps = -(-len(data.train.labels) // configuration["batch_size"])
    model.compile(
        optimizer=optimizer(configuration, steps),
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=configuration["label_smoothing"],
            reduction="mean_with_sample_weight",
        ),
        # The loss, without label smoothing.
        weighted_metrics=[
            "accuracy",
            keras.metrics.CategoricalCrossentropy("cross_entropy"),
        ],
    )
    # Else TensorFlow traces the first step twice, and resumed models have none to fill.
    model.optimizer.build(model.trainable_variables)
    return model


# Regular expressions that Keras searches for in the names and paths of variables.
NOT_A_KERNEL = "^(?!.*kernel)"
NOT_OF_AN_MLP = r"^(?!.*/mlp/\w+/kernel$)"


def optimizer(configuration, steps):
    """Returns the optimizer of a configuration, for epochs of `steps` steps.

    `"muon"` updates the kernels of the MLPs by Muon and all other variables by AdamW.
    Kernels alone decay, all of them at the same rate: position tables, class tokens,
    biases and norms do not.
    """
    rate, warmup = configuration["learning_rate"], configuration["warmup_epochs"]
    if warmup is not None:
        rate = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(configuration["epochs"] - warmup, 1) * steps,
            warmup_target=rate,
            warmup_steps=warmup * steps,
        )
    options = {"weight_decay": configuration["weight_decay"]}
    if (momentum := configuration["ema_momentum"]) is not None:
        options |= {"use_ema": True, "ema_momentum": momentum}
    if configuration["optimizer"] == "muon":
        optimizer = keras.optimizers.Muon(
            rate, exclude_layers=[NOT_OF_AN_MLP], **options
        )
        # Not an argument: Keras 3.11 has a single decay.
        optimizer.adam_weight_decay = configuration["weight_decay"]
    else:
        optimizer = keras.optimizers.AdamW(rate, **options)
    optimizer.exclude_from_weight_decay(var_names=[NOT_A_KERNEL])
    return optimizer


def train(data, configuration, folder, callbacks=()):
    """Trains, or goes on training, and saves the epoch to keep as `model.keras`.

    That is the one with the best validation loss where training may stop early, else
    the last one. Weights are the average of the optimizer, if it keeps one.
    """
    model = build(data, configuration)
    checkpoints = Checkpoints(folder)
    history = read_history(folder)
    patience = configuration["patience"]
    stopping = ResumableEarlyStopping(
        history,
        monitor="val_loss",
        mode="min",
        patience=configuration["epochs"] if patience is None else patience,
    )
    if history:
        print(f"Going on after epoch {len(history)}.")
        model.load_weights(checkpoints.path(len(history)))

    # Relived once before `fit`, which could not but train one epoch more.
    stopping.set_model(model)
    stopping.on_train_begin()
    if len(history) < configuration["epochs"] and not stopping.stopped_epoch:
        fit(model, data, configuration, folder, checkpoints, stopping, callbacks)

    kept = configuration["epochs"] if patience is None else stopping.best_epoch + 1
    model.load_weights(checkpoints.path(kept))
    model.optimizer.finalize_variable_values(model.trainable_variables)
    loss = read_history(folder)[kept - 1]["val_loss"]
    print(f"Keeping epoch {kept} (val_loss {loss:.4f}).")
    model.save(folder / "unfinished.keras")
    os.replace(folder / "unfinished.keras", folder / "model.keras")
    shutil.rmtree(checkpoints.folder)
    return model


def fit(model, data, configuration, folder, checkpoints, stopping, callbacks):
    classes, batch_size = len(data.class_names), configuration["batch_size"]
    augment = layers_for(configuration["augmentation"], data.sides)
    batches = Batches(data.train, classes, batch_size, configuration["seed"], augment)

    def prune(epoch, logs):
        checkpoints.keep_only(epoch + 1, stopping.best_epoch + 1)

    averaging = configuration["ema_momentum"] is not None
    model.fit(
        batches,
        epochs=configuration["epochs"],
        initial_epoch=len(stopping.history),
        shuffle=False,  # `Batches` shuffles; Keras would do it anew after a resume.
        validation_data=complete(data.val.images, one_hot(data.val.labels, classes)),
        validation_batch_size=batch_size,
        callbacks=[
            RepeatableEpochs(batches),
            # Validates with the averaged weights, and goes on with the others.
            *([keras.callbacks.SwapEMAWeights()] if averaging else []),
            checkpoints.writer(),
            keras.callbacks.CSVLogger(folder / "history.csv", append=True),
            stopping,
            keras.callbacks.LambdaCallback(on_epoch_end=prune),
            *callbacks,
        ],
    )


def tensorboard(folder):
    return [keras.callbacks.TensorBoard(folder / "tensorboard")]


def load(folder):
    return keras.saving.load_model(folder / "model.keras")


def predict(model, split):
    """Returns class probabilities, float32 `(n, num_classes)`."""
    images, batch_size = complete(split.images)[0], -(-32 // shares()) * shares()
    probabilities = model.predict(images, batch_size=batch_size)
    return np.asarray(probabilities, "float32")[: len(split.images)]


def predict_two_views(model, data):
    """Returns the mean of the predictions for volumes and for their mirror images.

    The mirror image's probabilities are those of the label on the other side.
    """
    mirrored = predict(model, data.test._replace(images=data.test.images[:, ::-1]))
    if data.sides:
        mirrored = mirrored[:, data.sides]
    return (predict(model, data.test) + mirrored) / 2


def versions():
    """Returns the versions that the numbers depend on."""
    backend = keras.config.backend()
    modules = {"keras": keras, "keras_vivit": keras_vivit, "numpy": np}
    modules[backend] = importlib.import_module(backend)
    found = {name: module.__version__ for name, module in modules.items()}
    return {"python": platform.python_version(), **found}
