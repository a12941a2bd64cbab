"""Linear resampling of volumes, one axis after the other."""

from collections.abc import Sequence

import numpy as np

from keras_vivit.types import Shape


def resample(volume: np.ndarray, sizes: Shape, scales: Sequence[float]) -> np.ndarray:
    """Resamples the first axes of a volume.

    Voxels are boxes that lie side by side, as in Keras' `Resizing`: the first box of
    both volumes starts at the same place. Where the volume gets smaller, each new voxel
    averages over its width, so that small structures fade instead of vanishing.

    Args:
        volume: Array, its first axes are resampled.
        sizes: Integers, the new size of each axis.
        scales: Numbers, the width of a new voxel in old ones.
    """
    for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
        if size != volume.shape[axis] or scale != 1:
            matrix = _weights(volume.shape[axis], size, scale)
            volume = np.moveaxis(np.tensordot(matrix, volume, axes=(1, axis)), 0, axis)
    return volume


def _weights(old: int, new: int, scale: float) -> np.ndarray:
    """Returns a matrix `(new, old)` of weights, each row of sum 1."""
    centres = (np.arange(new) + 0.5) * scale - 0.5
    distances = np.abs(centres[:, None].clip(0, old - 1) - np.arange(old))
    weights = np.maximum(0, 1 - distances / max(scale, 1))
    return (weights / weights.sum(axis=1, keepdims=True)).astype("float32")
