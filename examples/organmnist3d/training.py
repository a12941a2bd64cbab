"""The Keras side of the recipe: batches, model, optimizer, training and prediction."""

import os
import shutil
import sys
from pathlib import Path

import keras
import numpy as np

import keras_vivit
from keras_vivit import augmentation

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import processes
from common.batches import RepeatableBatches
from common.command_line import input_errors
from common.devices import fill_up, shares, with_weights
from common.fitting import fit
from common.resuming import reseed

DROP_PATH_RATE = 0.1  # of a pre-trained encoder

# === Batches ===


class Batches(RepeatableBatches):
    """Volumes and one-hot labels, shuffled and augmented anew in every epoch.

    Args:
        split: `data.Split`.
        num_classes: Integer.
        batch_size: Integer.
        seed: Integer.
        augment: List of layers from `keras_vivit.augmentation`.
    """

    def __init__(self, split, num_classes, batch_size, seed, augment=()):
        super().__init__(seed)
        self.images = split.images
        self.labels = one_hot(split.labels, num_classes)
        self.batch_size = batch_size
        self.augment = augment

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def make(self, epoch, index):
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.labels))
        # The first volumes fill up the last batch: with one shape for all batches, a
        # step is compiled once.
        order = fill_up(order, self.batch_size)
        rows = order[index * self.batch_size :][: self.batch_size]
        batch = {"videos": self.images[rows], "labels": self.labels[rows]}
        states = [layer.seed_generator.state for layer in self.augment]
        reseed(states, (self.seed, epoch, index))
        for layer in self.augment:
            batch = layer(batch, training=True)
        # Drawn for all, so that random numbers do not depend on the processes.
        rows = processes.rows(self.batch_size)
        return batch["videos"][rows], batch["labels"][rows]


def one_hot(labels, num_classes):
    return keras.utils.to_categorical(labels, num_classes).astype("float32")


def layers_for(settings, sides, labels=True):
    """Returns the layers of a configuration's `augmentation`.

    Args:
        settings: Dictionary, or `None` for no augmentation.
        sides: The label of each class in a volume that is mirrored left to right;
            `None` where labels have no sides, so that any axis may be mirrored.
        labels: Boolean, whether the batches have these labels.
    """
    if settings is None:
        return []
    axes = ("frames",) if sides else ("frames", "height", "width")
    permutation = sides if labels else None
    layers = [
        *(augmentation.RandomFlip(a, label_permutation=permutation) for a in axes),
        augmentation.RandomAffine(**settings["affine"]),
        augmentation.RandomIntensity(**settings["intensity"]),
    ]
    if settings["cutmix"]:
        layers.append(augmentation.CutMix(**settings["cutmix"]))
    if settings["erasing"]:
        layers.append(augmentation.RandomErasing(**settings["erasing"]))
    return layers


# === Model and optimizer ===


def build(data, configuration):
    """Returns the compiled model; the same seed gives the same weights."""
    keras.utils.set_random_seed(configuration["seed"])
    variant = configuration["variant"]
    arguments = {
        "video_shape": data.train.images.shape[1:],
        "num_classes": len(data.class_names),
        "class_names": list(data.class_names),
        "seed": configuration["seed"],
        "dtype": configuration["precision"],
        "variant": variant,
    }
    if "init" in configuration:  # Its tubelets and sizes are those of the pre-training.
        with input_errors():
            model = keras_vivit.ViViTClassifier.from_preset(
                configuration["init"], drop_path_rate=DROP_PATH_RATE, **arguments
            )
    else:
        model = keras_vivit.ViViTClassifier.from_preset(
            configuration["preset"],
            load_weights=False,
            **arguments,
            **configuration["model"],
            **configuration["variants"].get(variant, {}),
        )
    steps = -(-len(data.train.labels) // configuration["batch_size"])
    model.compile(
        optimizer=optimizer(configuration, steps),
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=configuration["label_smoothing"]
        ),
        # The loss, without label smoothing.
        weighted_metrics=[
            "accuracy",
            keras.metrics.CategoricalCrossentropy("cross_entropy"),
        ],
    )
    # Otherwise TensorFlow traces the first step twice, and a resumed model has no
    # optimizer variables to load.
    model.optimizer.build(model.trainable_variables)
    return model


# A regular expression that Keras searches for in the names of variables.
NOT_A_KERNEL = "^(?!.*kernel)"


def optimizer(configuration, steps):
    """Returns the optimizer of a configuration, for epochs of `steps` steps.

    `"muon"` updates the kernels of the blocks by Muon and all other variables by AdamW.
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
        optimizer = keras_vivit.optimizers.Muon(
            rate, exclude_layers=["^head"], **options
        )
    else:
        optimizer = keras.optimizers.AdamW(rate, **options)
    optimizer.exclude_from_weight_decay(var_names=[NOT_A_KERNEL])
    return optimizer


# === Training ===


def train(data, configuration, folder, callbacks=(), verbose=False):
    """Trains, or resumes training, and saves the epoch to keep as `model.keras`.

    Weights are the moving average of the optimizer, if it has one.

    Args:
        data: `data.Dataset`.
        configuration: Dictionary, see `configs.py`.
        folder: Path of the run's folder.
        callbacks: List of further callbacks.
        verbose: Boolean, whether Keras shows its progress bars.
    """
    model = build(data, configuration)
    describe(model, data, configuration)
    classes, batch_size = len(data.class_names), configuration["batch_size"]
    with processes.local():
        augment = layers_for(configuration["augmentation"], data.sides)
    fit(
        model,
        Batches(data.train, classes, batch_size, configuration["seed"], augment),
        with_weights(data.val.images, one_hot(data.val.labels, classes)),
        folder,
        epochs=configuration["epochs"],
        patience=configuration["patience"],
        averaging=configuration["ema_momentum"] is not None,
        validation_batch_size=even_batch(
            len(data.val.labels), batch_size // processes.count()
        ),
        callbacks=callbacks,
        verbose=verbose,
    )
    if processes.index() == 0:
        with processes.local():  # `save` makes variables, too.
            model.save(folder / "unfinished.keras")
        os.replace(folder / "unfinished.keras", folder / "model.keras")
        shutil.rmtree(folder / "checkpoints")
    processes.gather(None)
    return model


def describe(model, data, configuration):
    """Prints what is trained, on what, and for how long."""
    grid = model.backbone.get_layer("tubelet_embedding").output.shape[1:4]
    stops = " at most" if configuration["patience"] is not None else ""
    print(
        f"Training a ViViT ({configuration['variant']}, {np.prod(grid)} tokens, "
        f"{model.count_params():,} parameters)\n"
        f"on {len(data.train.labels)} volumes for {configuration['epochs']} epochs"
        f"{stops}. The first epoch will show how long that takes.",
        flush=True,
    )


def even_batch(count, batch_size):
    """Returns a size from half to twice `batch_size` that leaves no smaller batch.

    A smaller last batch would be compiled again. Where no size divides `count`, or
    several devices share the batches, it is `batch_size`.
    """
    alone = max(shares(), processes.count()) == 1
    sizes = range(2 * batch_size, batch_size // 2, -1) if alone else ()
    return next((size for size in sizes if count % size == 0), batch_size)


def tensorboard(folder):
    return [keras.callbacks.TensorBoard(folder / "tensorboard")]


# === Prediction ===


def load(folder):
    return keras.saving.load_model(folder / "model.keras")


def predict(model, images, verbose=False):
    """Returns class probabilities, float32 `(n, num_classes)`."""
    filled = fill_up(images, processes.count())
    part = filled[processes.rows(len(filled))]
    batches = -(-len(part) // 32)
    size = -(-len(part) // (batches * shares())) * shares()
    probabilities = model.predict(
        fill_up(part, size), batch_size=size, verbose="auto" if verbose else 0
    )[: len(part)]
    parts = processes.gather(np.asarray(probabilities, "float32"))
    return np.concatenate(parts)[: len(images)]


def predict_two_views(model, data, verbose=False):
    """Returns the predictions for the test volumes: of one view, and of two views.

    The second view is the mirror image, whose probabilities are those of the labels
    on the other side. The prediction of two views is the mean of both.
    """
    one_view = predict(model, data.test.images, verbose)
    mirrored = predict(model, data.test.images[:, ::-1], verbose)
    if data.sides:
        mirrored = mirrored[:, data.sides]
    return one_view, (one_view + mirrored) / 2
