"""Batches whose order and augmentation depend on the seed and the epoch alone."""

import keras
import numpy as np
from parallel import complete

from keras_vivit import augmentation


class Batches(keras.utils.PyDataset):
    """Volumes and one-hot labels, shuffled and augmented anew in every epoch.

    Args:
        split: `data.Split`.
        num_classes: Integer.
        batch_size: Integer.
        seed: Integer.
        augment: List of layers from `keras_vivit.augmentation`.
    """

    def __init__(self, split, num_classes, batch_size, seed, augment=()):
        super().__init__()
        self.images = split.images
        self.labels = one_hot(split.labels, num_classes)
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.start_epoch(0)

    def start_epoch(self, epoch):
        self.epoch = epoch
        rng = np.random.default_rng((self.seed, epoch))
        self.order = rng.permutation(len(self.labels))

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size :][: self.batch_size]
        batch = {"videos": self.images[rows], "labels": self.labels[rows]}
        states = [layer.seed_generator.state for layer in self.augment]
        reseed(states, (self.seed, self.epoch, index))
        for layer in self.augment:
            batch = layer(batch, training=True)
        return complete(batch["videos"], batch["labels"])


def reseed(states, seed):
    """Gives the states of Keras' seed generators new values."""
    rng = np.random.default_rng(seed)
    for state in states:
        state.assign(rng.integers(2**31, size=state.shape))


def one_hot(labels, num_classes):
    return np.eye(num_classes, dtype="float32")[labels]


def layers_for(settings, sides):
    """Returns the layers that a configuration's `augmentation` asks for.

    Args:
        settings: Dictionary, or `None` for no augmentation.
        sides: What each label becomes in a volume mirrored left to right; `None` where
            labels have no sides, so that volumes can be mirrored along any axis.
    """
    if settings is None:
        return []
    if sides:
        flips = [augmentation.RandomFlip("frames", label_permutation=sides)]
    else:
        flips = [augmentation.RandomFlip(a) for a in ("frames", "height", "width")]
    layers = [
        *flips,
        augmentation.RandomAffine(**settings["affine"]),
        augmentation.RandomIntensity(**settings["intensity"]),
    ]
    if settings["cutmix"]:
        layers.append(augmentation.CutMix(**settings["cutmix"]))
    if settings["erasing"]:
        layers.append(augmentation.RandomErasing(**settings["erasing"]))
    return layers
