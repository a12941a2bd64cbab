"""Frozen layers see each clip once: their features train the layers after them."""

import os

import keras
import numpy as np
from common.batches import RepeatableBatches
from common.devices import fill_up

VIEWS = 4  # clips of each training file, each augmented in its own way
FILE = "features.npz"


def divide(model):
    """Returns a model of the frozen layers, and one of the layers that train."""
    backbone, *others = (x for x in model.layers if x.name != "video")
    layers = [*backbone.layers, *others]
    first = next(i for i, layer in enumerate(layers) if layer.trainable_variables)
    body = keras.Model(model.input, layers[first - 1].output)
    x = inputs = keras.Input(body.output_shape[1:], name="features")
    for layer in layers[first:]:
        x = layer(x)
    return body, keras.Model(inputs, x)


def features(model, batches, validation, folder):
    """Computes features, or reads those of an interrupted run.

    Args:
        model: `ViViTClassifier`.
        batches: `AugmentedClips`.
        validation: `VideoFolder`.
        folder: Path of the run's folder.

    Returns:
        Batches of features, and a pair of features and labels for validation.
    """
    path = folder / FILE
    if not path.exists():
        print(f"Computing features of {VIEWS} clips of each training file.", flush=True)
        arrays = compute(divide(model)[0], batches, validation)
        partial = folder / "partial.npz"
        np.savez(partial, *arrays)
        os.replace(partial, path)
    with np.load(path) as saved:
        train_x, train_y, x, y = (saved[f"arr_{i}"] for i in range(4))
    return FeatureBatches(train_x, train_y, batches.seed), (x, y)


def compute(body, batches, validation):
    train = [
        (body.predict_on_batch(videos), keras.ops.convert_to_numpy(labels))
        for epoch in range(VIEWS)
        for videos, labels in (batches.make(epoch, i) for i in range(len(batches)))
    ]
    held_out = [
        (
            body.predict_on_batch(fill_up(videos, len(train[0][1])))[: len(labels)],
            labels,
        )
        for videos, labels in (validation[i] for i in range(len(validation)))
    ]
    return [
        np.concatenate([pair[part] for pair in pairs])
        for pairs in (train, held_out)
        for part in (0, 1)
    ]


def clean_up(folder):
    (folder / FILE).unlink(missing_ok=True)


class FeatureBatches(RepeatableBatches):
    """Features and labels, shuffled anew in every epoch."""

    def __init__(self, features, labels, seed, batch_size=32):
        super().__init__(seed)
        self.features, self.labels = features, labels
        self.batch_size = batch_size

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def make(self, epoch, index):
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.labels))
        order = fill_up(order, self.batch_size)
        rows = order[index * self.batch_size :][: self.batch_size]
        return self.features[rows], self.labels[rows]
