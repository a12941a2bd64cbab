"""Affine transformations."""

import math

import keras
import numpy as np
from keras import ops

from keras_vivit import validation
from keras_vivit.augmentation.base import Augmentation, Data
from keras_vivit.augmentation.lookup import take
from keras_vivit.types import Config, DType, Regularizer, Tensor


@keras.saving.register_keras_serializable("keras_vivit")
class RandomAffine(Augmentation):
    """Rotates, scales and shifts videos, with trilinear interpolation.

    What comes in from outside repeats the border. Segmentation masks take the nearest
    voxel's label. With a `frame_mask` the frames that it leaves out are outside, too:
    the nearest kept frame takes their place, and the mask moves as the middles of the
    frames do.

    Args:
        rotation: Float, degrees: each of the three angles is at most this large.
            For volumes; videos rarely want their frames mixed.
        scale: Float in [0, 1): sizes change by factors from `1 - scale` to
            `1 + scale`.
        shift: Float in [0, 1], the largest shift as a share of each axis.
        rate: Float in [0, 1], the share of samples that are changed. Interpolation
            smooths them; with less than 1 a model sees sharp ones, too, as it will in
            inference.
        seed: Optional integer.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`, or a dictionary with
            `"videos"` and what belongs to them.
        training: Boolean.

    Returns:
        The same structure and shapes.
    """

    def __init__(
        self,
        rotation: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        rate: float = 1.0,
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        super().__init__(seed, name, dtype, trainable, activity_regularizer, autocast)
        self.rotation = validation.between("rotation", rotation, 0, 180)
        self.scale = validation.rate("scale", scale)
        self.shift = validation.between("shift", shift, 0, 1)
        self.rate = validation.between("rate", rate, 0, 1)

    def augment(self, data: Data) -> Data:
        videos = data["videos"]
        shape = tuple(videos.shape[1:4])
        size = ops.convert_to_tensor(shape, "float32")
        angles = self.uniform(videos, -1, 1, 3) * math.radians(self.rotation)
        zoom = self.uniform(videos, 1 - self.scale, 1 + self.scale)
        shift = self.uniform(videos, -1, 1, 3) * (self.shift * size)
        if self.rate < 1:
            stays = self.uniform(videos, 0, 1) >= self.rate
            angles, shift = ops.where(stays, 0, angles), ops.where(stays, 0, shift)
            zoom = ops.where(stays, 1, zoom)
        turn = _rotation(angles)
        middle = (size[:, None] - 1) / 2

        def sources(places: Tensor) -> Tensor:
            """Where the voxels at `places` `(3, n)` come from, `(batch, 3, n)`."""
            offsets = ops.convert_to_tensor(places, "float32") - middle
            return _product(turn / zoom[..., None], offsets) + middle - shift[..., None]

        points = sources(np.indices(shape).reshape(3, -1))
        moved = {}
        if "frame_mask" in data:
            frames = np.arange(shape[0])
            centres = [frames, *(np.full(shape[0], (n - 1) / 2) for n in shape[1:])]
            origins = ops.floor(sources(np.stack(centres))[:, 0] + 0.5)
            moved["frame_mask"] = take(data["frame_mask"], origins, axis=1)
            data = _without_masked_frames(data)
        if "segmentation_masks" in data:
            moved["segmentation_masks"] = _nearest(data["segmentation_masks"], points)
        return {**moved, "videos": _trilinear(data["videos"], points)}

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "rotation": self.rotation,
            "scale": self.scale,
            "shift": self.shift,
            "rate": self.rate,
        }


def _rotation(angles: Tensor) -> Tensor:
    """Matrices `(batch, 3, 3)` of turns about the three axes, one after another."""
    cos, sin = ops.cos(angles), ops.sin(angles)
    one, zero = ops.ones_like(angles[:, 0]), ops.zeros_like(angles[:, 0])
    total = None
    for axis, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
        rows = [[one if a == b else zero for b in range(3)] for a in range(3)]
        rows[i][i] = rows[j][j] = cos[:, axis]
        rows[i][j], rows[j][i] = -sin[:, axis], sin[:, axis]
        turn = ops.stack([ops.stack(row, axis=-1) for row in rows], axis=-2)
        total = turn if total is None else _product(turn, total)
    return total


def _product(matrices: Tensor, columns: Tensor) -> Tensor:
    """`(batch, 3, 3)` times `(..., 3, n)`; GPUs would multiply matrices in TF32."""
    return sum(matrices[..., i : i + 1] * columns[..., i : i + 1, :] for i in range(3))


def _trilinear(videos: Tensor, points: Tensor) -> Tensor:
    """Samples videos at `points` `(batch, 3, voxels)`, clamped to the border."""
    size = tuple(videos.shape[1:4])
    last = ops.convert_to_tensor(size, "float32")[:, None] - 1
    points = ops.minimum(ops.maximum(points, 0), last)
    low = ops.minimum(ops.floor(points), ops.maximum(last - 1, 0))
    weight = points - low
    flat, index = _flat(videos, ops.cast(low, "int32"))
    # An axis of one voxel has no neighbour.
    steps = [n * (k > 1) for n, k in zip(_strides(size), size, strict=True)]

    def sample(index: Tensor, axis: int = 0) -> Tensor:
        if axis == 3:
            return ops.take(flat, index, axis=0)  # (batch, voxels, channels)
        lower, upper = sample(index, axis + 1), sample(index + steps[axis], axis + 1)
        return lower + weight[:, axis, :, None] * (upper - lower)

    return ops.reshape(sample(index), ops.shape(videos))


def _nearest(masks: Tensor, points: Tensor) -> Tensor:
    """Takes the voxels that are nearest to `points` `(batch, 3, voxels)`."""
    places = [_nearest_index(points[:, i], n) for i, n in enumerate(masks.shape[1:4])]
    flat, index = _flat(masks, ops.stack(places, axis=1))
    return ops.reshape(ops.take(flat, index, axis=0), ops.shape(masks))


def _nearest_index(places: Tensor, size: int) -> Tensor:
    """Integers, clamped to the border; halves belong to the higher neighbour."""
    return ops.cast(ops.clip(ops.floor(places + 0.5), 0, size - 1), "int32")


def _strides(size: tuple[int, ...]) -> tuple[int, int, int]:
    return size[1] * size[2], size[2], 1


def _flat(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """All voxels in one row, and where `places` `(batch, 3, n)` are in it."""
    size = tuple(x.shape[1:4])
    index = ops.arange(ops.shape(x)[0], dtype="int32")[:, None] * math.prod(size)
    for axis, stride in enumerate(_strides(size)):
        index = index + places[:, axis] * stride
    return ops.reshape(x, (-1, *x.shape[4:])), index


def _without_masked_frames(data: Data) -> Data:
    """Puts the nearest kept frame in place of each that the mask leaves out."""
    mask = ops.cast(data["frame_mask"], "bool")
    n = mask.shape[1]
    distance = np.abs(np.arange(n)[:, None] - np.arange(n))  # (new, old)
    distance = ops.convert_to_tensor(distance, "int32") + ops.where(mask, 0, n)[:, None]
    frames = ops.argmin(distance, axis=-1)
    names = [name for name in ("videos", "segmentation_masks") if name in data]
    return {**data, **{name: take(data[name], frames, axis=1) for name in names}}
