"""Changes of colour and contrast, the same for all frames of a video.

Videos are `(batch, frames, height, width, channels)` with values in [0, 1], factors
`(batch, 1, 1, 1, 1)`. What is computed of a whole video leaves out masked frames, which
may hold anything: `mask` is `(batch, frames)` or `None`.
"""

import math

from keras import ops

from keras_vivit.types import Tensor

LUMA = (0.299, 0.587, 0.114)
LEVELS = 256


def blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """The other video at 0, this one at 1, more than it beyond."""
    return other + factor * (x - other)


def grey(x: Tensor) -> Tensor:
    """Brightness `(..., 1)`: the luma of red, green and blue, else the mean."""
    if x.shape[-1] != 3:
        return ops.mean(x, axis=-1, keepdims=True)
    return sum(weight * x[..., i : i + 1] for i, weight in enumerate(LUMA))


def mean_grey(x: Tensor, mask: Tensor | None) -> Tensor:
    by_frame = ops.mean(grey(x), axis=(2, 3, 4))  # (batch, frames)
    if mask is None:
        mean = ops.mean(by_frame, axis=1)
    else:
        kept = ops.cast(mask, "bool")
        total = ops.sum(ops.where(kept, by_frame, 0.0), axis=1)
        mean = total / ops.maximum(ops.sum(ops.cast(kept, "float32"), axis=1), 1)
    return ops.reshape(mean, (-1, 1, 1, 1, 1))


def rotate_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turns colours about the axis of greys, by a share of the full circle.

    In the YIQ space, where a turn keeps the luma.
    """
    red, green, blue = (x[..., i : i + 1] for i in range(3))
    y = grey(x)
    i = 0.5959 * red - 0.2746 * green - 0.3213 * blue
    q = 0.2115 * red - 0.5227 * green + 0.3112 * blue
    angle = turn * (2 * math.pi)
    cos, sin = ops.cos(angle), ops.sin(angle)
    i, q = cos * i - sin * q, sin * i + cos * q
    rows = ((0.9563, 0.6210), (-0.2721, -0.6474), (-1.1070, 1.7046))
    return ops.concatenate([y + a * i + b * q for a, b in rows], axis=-1)


def smooth(x: Tensor) -> Tensor:
    """Each pixel five times, and its eight neighbours; the border repeats."""
    box = x
    for axis in (2, 3):
        last = box.shape[axis] - 1
        first, behind = ops.split(box, [1], axis)
        ahead, end = ops.split(box, [last], axis)
        before = ops.concatenate([first, ahead], axis)
        box = before + box + ops.concatenate([behind, end], axis)
    return (box + 4 * x) / 13


def posterize(x: Tensor, bits: int) -> Tensor:
    """Drops the lowest of eight bits."""
    step = float(2**bits)
    return ops.floor(ops.round(x * 255) / step) * step / 255


def solarize(x: Tensor, threshold: float) -> Tensor:
    """Inverts what is as bright as the threshold."""
    return ops.where(x >= threshold, 1 - x, x)


def autocontrast(x: Tensor, mask: Tensor | None) -> Tensor:
    """Stretches each channel to the whole range."""
    low, high = x, x
    if mask is not None:
        kept = _frames(mask)
        low, high = ops.where(kept, x, 1.0), ops.where(kept, x, 0.0)
    low = ops.min(low, axis=(1, 2, 3), keepdims=True)
    high = ops.max(high, axis=(1, 2, 3), keepdims=True)
    flat = high <= low
    return ops.where(flat, x, (x - low) / ops.where(flat, 1.0, high - low))


def equalize(x: Tensor, mask: Tensor | None) -> Tensor:
    """Makes all of 256 levels equally frequent in each channel."""
    shape, channels = ops.shape(x), x.shape[-1]
    levels = x if mask is None else ops.where(_frames(mask), x, 0.0)
    levels = ops.cast(ops.round(ops.clip(levels, 0, 1) * (LEVELS - 1)), "int32")
    rows = shape[0] * channels  # a histogram for each channel of each video
    row = ops.reshape(ops.arange(rows, dtype="int32"), (-1, 1, 1, 1, channels))
    index = ops.reshape(levels + row * LEVELS, (-1,))
    counted = ops.ones_like(x) if mask is None else ops.where(_frames(mask), 1.0, 0.0)
    counted = ops.reshape(ops.broadcast_to(counted, shape), (-1,))
    counts = ops.segment_sum(counted, index, num_segments=rows * LEVELS)
    table = ops.reshape(_equal_levels(ops.reshape(counts, (-1, LEVELS))), (-1,))
    new = ops.reshape(ops.take(table, index, axis=0), shape)
    return ops.where(new < 0, x, new)


def _equal_levels(counts: Tensor) -> Tensor:
    """What each level becomes, as Pillow has it; -1 where there is one level alone."""
    place = ops.arange(LEVELS, dtype="int32")
    last = ops.max(ops.where(counts > 0, place, 0), axis=1, keepdims=True)
    others = ops.sum(ops.where(place == last, 0.0, counts), axis=1, keepdims=True)
    step = ops.floor(others / (LEVELS - 1))
    before = ops.cumsum(counts, axis=1) - counts
    new = ops.floor((before + ops.floor(step / 2)) / ops.maximum(step, 1))
    return ops.where(step > 0, ops.minimum(new, LEVELS - 1) / (LEVELS - 1), -1.0)


def _frames(mask: Tensor) -> Tensor:
    return ops.cast(mask, "bool")[:, :, None, None, None]
