"""Flips and affine transformations."""

import math

import keras
import numpy as np
from keras import ops

from keras_vivit import validation
from keras_vivit.augmentation.base import Augmentation, per_sample
from keras_vivit.embeddings import AXES


@keras.saving.register_keras_serializable("keras_vivit")
class RandomFlip(Augmentation):
    """Mirrors videos along one axis, and swaps the labels that have sides.

    Args:
        axis: `"frames"`, `"height"` or `"width"`.
        rate: Float in [0, 1], the share of samples that are mirrored.
        label_permutation: Tuple of integers: what label `i` becomes in a mirrored
            sample, for example `(0, 2, 1)` where 1 and 2 are the right and left of a
            pair. Labels must then be given. Defaults to no change.
        seed: Optional integer.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`, or a dictionary with
            `"videos"` and `"labels"`.
        training: Boolean.

    Returns:
        The same structure and shapes.

    Raises:
        ValueError: If the permutation is none, or the labels are missing.
    """

    def __init__(self, axis="width", rate=0.5, label_permutation=None, **kwargs):
        super().__init__(**kwargs)
        self.axis = validation.choice("axis", axis, AXES)
        self.rate = validation.between("rate", rate, 0, 1)
        self.label_permutation = label_permutation and tuple(label_permutation)
        if label_permutation is not None:
            self.needs_labels = True
            if sorted(label_permutation) != list(range(len(label_permutation))):
                raise ValueError(
                    "`label_permutation` must hold each label once. "
                    f"Received: label_permutation={label_permutation}"
                )

    def augment(self, videos, labels):
        flip = self.uniform(videos, 0, 1) < self.rate  # (batch, 1)
        mirrored = ops.flip(videos, 1 + AXES.index(self.axis))
        videos = ops.where(per_sample(flip), mirrored, videos)
        if self.label_permutation is None:
            return videos, labels
        if len(labels.shape) == 1:
            table = ops.cast(self.label_permutation, labels.dtype)
            return videos, ops.where(flip[:, 0], ops.take(table, labels), labels)
        # Column `permutation[i]` of the new labels is column `i` of the old.
        columns = np.argsort(self.label_permutation)
        return videos, ops.where(flip, ops.take(labels, columns, axis=1), labels)

    def get_config(self):
        return {
            **super().get_config(),
            "axis": self.axis,
            "rate": self.rate,
            "label_permutation": self.label_permutation,
        }


@keras.saving.register_keras_serializable("keras_vivit")
class RandomAffine(Augmentation):
    """Rotates, scales and shifts videos, with trilinear interpolation.

    What comes in from outside repeats the border.

    Args:
        rotation: Float, degrees: each of the three angles is at most this large.
            For volumes; videos rarely want their frames mixed.
        scale: Float in [0, 1): sizes change by factors from `1 - scale` to
            `1 + scale`.
        shift: Float in [0, 1], the largest shift as a share of each axis.
        seed: Optional integer.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`, or a dictionary with
            `"videos"` and `"labels"`.
        training: Boolean.

    Returns:
        The same structure and shapes.
    """

    def __init__(self, rotation=0.0, scale=0.0, shift=0.0, **kwargs):
        super().__init__(**kwargs)
        self.rotation = validation.between("rotation", rotation, 0, 180)
        self.scale = validation.rate("scale", scale)
        self.shift = validation.between("shift", shift, 0, 1)

    def augment(self, videos, labels):
        size = ops.convert_to_tensor(tuple(videos.shape[1:4]), videos.dtype)
        turn = _rotation(self.uniform(videos, -1, 1, 3) * np.deg2rad(self.rotation))
        zoom = self.uniform(videos, 1 - self.scale, 1 + self.scale)
        shift = self.uniform(videos, -1, 1, 3) * (self.shift * size)
        grid = np.indices(videos.shape[1:4]).reshape(3, -1)
        centre = (size[:, None] - 1) / 2
        offsets = ops.convert_to_tensor(grid, videos.dtype) - centre
        points = ops.matmul(turn / zoom[..., None], offsets)  # (batch, 3, voxels)
        return _trilinear(videos, points + centre - shift[..., None]), labels

    def get_config(self):
        return {
            **super().get_config(),
            "rotation": self.rotation,
            "scale": self.scale,
            "shift": self.shift,
        }


def _rotation(angles):
    """Matrices `(batch, 3, 3)` of turns about the three axes, one after another."""
    cos, sin = ops.cos(angles), ops.sin(angles)
    one, zero = ops.ones_like(angles[:, 0]), ops.zeros_like(angles[:, 0])
    total = None
    for axis, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
        rows = [[one if a == b else zero for b in range(3)] for a in range(3)]
        rows[i][i] = rows[j][j] = cos[:, axis]
        rows[i][j], rows[j][i] = -sin[:, axis], sin[:, axis]
        turn = ops.stack([ops.stack(row, axis=-1) for row in rows], axis=-2)
        total = turn if total is None else ops.matmul(turn, total)
    return total


def _trilinear(videos, points):
    """Samples videos at `points` `(batch, 3, voxels)`, clamped to the border."""
    size, channels = tuple(videos.shape[1:4]), videos.shape[-1]
    last = ops.convert_to_tensor(size, points.dtype)[:, None] - 1
    points = ops.minimum(ops.maximum(points, 0), last)
    low = ops.minimum(ops.floor(points), ops.maximum(last - 1, 0))
    weight = points - low
    low = ops.cast(low, "int32")
    voxels = math.prod(size)
    flat = ops.reshape(videos, (-1, channels))
    strides = (size[1] * size[2], size[2], 1)
    index = ops.arange(ops.shape(videos)[0], dtype="int32")[:, None] * voxels
    for axis, stride in enumerate(strides):
        index = index + low[:, axis] * stride
    # An axis of one voxel has no neighbour.
    steps = [stride * (n > 1) for stride, n in zip(strides, size, strict=True)]

    def sample(index, axis=0):
        if axis == 3:
            return ops.take(flat, index, axis=0)  # (batch, voxels, channels)
        lower, upper = sample(index, axis + 1), sample(index + steps[axis], axis + 1)
        return lower + weight[:, axis, :, None] * (upper - lower)

    return ops.reshape(sample(index), ops.shape(videos))
