"""Taking values of each sample along one axis."""

import math

from keras import ops

from keras_vivit.types import Tensor


def interpolate(x: Tensor, places: Tensor, axis: int) -> Tensor:
    """Values at places `(batch, n)` of one axis, clamped to the border."""
    places = ops.clip(places, 0, x.shape[axis] - 1)
    low = ops.floor(places)
    shape = [-1, *[1] * (len(x.shape) - 1)]
    shape[axis] = places.shape[1]
    weight = ops.reshape(places - low, shape)
    lower, upper = take(x, low, axis), take(x, low + 1, axis)
    return lower + weight * (upper - lower)


def take(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Takes `(batch, n)` of one axis, clamped to the border."""
    size, before = x.shape[axis], math.prod(x.shape[1:axis])
    index = ops.cast(ops.clip(index, 0, size - 1), "int32")[:, None]
    first = ops.arange(ops.shape(x)[0] * before, dtype="int32") * size
    index = index + ops.reshape(first, (-1, before, 1))  # (batch, before, n)
    rows = ops.reshape(x, (-1, *x.shape[axis + 1 :]))
    taken = ops.take(rows, index, axis=0)
    return ops.reshape(
        taken, (-1, *x.shape[1:axis], index.shape[2], *x.shape[axis + 1 :])
    )
