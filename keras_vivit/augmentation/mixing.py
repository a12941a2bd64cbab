"""Mixtures of two samples and of their labels."""

import math
from typing import Any

import keras
from keras import ops

from keras_vivit import validation
from keras_vivit.augmentation.base import (
    Augmentation,
    Data,
    is_integer,
    label_shapes,
    per_sample,
)
from keras_vivit.types import Config, DType, Regularizer, Tensor


class _Mixing(Augmentation):
    """Mixes every sample with another of the batch, and their soft labels.

    Of two clips with a `frame_mask` only the frames that both have are mixed, and
    labels count the voxels of the frames that the first one has.
    """

    needs = ("labels",)
    blended: tuple[str, ...] = ("labels",)

    def __init__(self, alpha: float, rate: float, *options: Any) -> None:
        super().__init__(*options)
        self.alpha = validation.between("alpha", alpha, 1e-6, 100)
        self.rate = validation.between("rate", rate, 0, 1)

    def check_shapes(self, shapes: Data) -> None:
        super().check_shapes(shapes)
        for shape in label_shapes(shapes["labels"]):
            if len(shape) != 2:
                raise ValueError(
                    "`labels` must be soft, of shape (batch, classes). "
                    f"Received: shape={shape}"
                )

    def check_dtypes(self, data: Data) -> None:
        for name in self.blended:
            for x in keras.tree.flatten(data.get(name, ())):
                if x.shape[-1] == 1 and is_integer(x):
                    raise ValueError(
                        f"`{name}` must be soft, a column for each class: integers in "
                        "one column are class numbers, which cannot be blended. "
                        f"Received: shape={tuple(x.shape)}, dtype={x.dtype}"
                    )

    def augment(self, data: Data) -> Data:
        videos = data["videos"]
        order = ops.argsort(self.uniform(videos, 0, 1)[:, 0])
        kept = _symmetric_beta(self.alpha, self.uniform(videos, 0, 1, 2))
        kept = ops.where(self.uniform(videos, 0, 1) < self.rate, kept, 1)
        others = keras.tree.map_structure(lambda x: ops.take(x, order, axis=0), data)
        own = self.own_share(videos, kept)  # Broadcasts to (batch, ..., 1).
        if "frame_mask" in data:
            mask = ops.cast(data["frame_mask"], "bool")
            both = ops.logical_and(mask, ops.cast(others["frame_mask"], "bool"))
            own = ops.where(both[..., None, None, None], own, 1)
            share = _over_frames(own, mask)
        else:
            share = ops.mean(own, axis=(1, 2, 3))  # (batch, 1)
        mixed = {"videos": self.mix(videos, others["videos"], own)}
        if "segmentation_masks" in data:
            masks, other = data["segmentation_masks"], others["segmentation_masks"]
            places = own if len(masks.shape) == 5 else own[..., 0]
            mixed["segmentation_masks"] = self.mix(masks, other, places)
        mixed["labels"] = keras.tree.map_structure(
            lambda x, other: share * x + (1 - share) * other,
            data["labels"],
            others["labels"],
        )
        return mixed

    def own_share(self, videos: Tensor, kept: Tensor) -> Tensor:
        """What stays of each voxel, if `kept` `(batch, 1)` is to stay of the whole."""
        raise NotImplementedError

    def mix(self, x: Tensor, others: Tensor, own: Tensor) -> Tensor:
        raise NotImplementedError

    def get_config(self) -> Config:
        return {**super().get_config(), "alpha": self.alpha, "rate": self.rate}


def _symmetric_beta(alpha: float, uniform: Tensor) -> Tensor:
    """Turns two uniform numbers, `(batch, 2)`, into one of Beta(alpha, alpha).

    The ratio of Student's t to which the polar method leads ([Bailey, 1994](
    https://doi.org/10.1090/S0025-5718-1994-1219702-8)); Keras' own takes PyTorch's
    global generator, which other threads use meanwhile.
    """
    radius = ops.power(uniform[:, :1], 1 / alpha)
    cosine = ops.cos(2 * math.pi * uniform[:, 1:])
    length = ops.sqrt(radius + (1 - radius) * ops.square(cosine))
    return 0.5 + 0.5 * cosine * ops.sqrt(1 - radius) / length


def _over_frames(own: Tensor, mask: Tensor) -> Tensor:
    """Mean `(batch, 1)` of the shares in the frames that a mask keeps."""
    mask = ops.cast(mask, own.dtype)
    lost = ops.sum((1 - ops.mean(own, axis=(2, 3, 4))) * mask, axis=1, keepdims=True)
    return 1 - lost / ops.maximum(ops.sum(mask, axis=1, keepdims=True), 1)


@keras.saving.register_keras_serializable("keras_vivit")
class MixUp(_Mixing):
    """Blends each video, and its label, with another one's of the batch.

    With a `frame_mask` only frames that both videos have are blended, and the label's
    shares are those of the frames that the mask keeps. Segmentation masks must be soft
    as the labels, with a channel for each class.

    Args:
        alpha: Float, the shares are drawn from Beta(alpha, alpha).
        rate: Float in [0, 1], the share of samples that are mixed.
        seed: Optional integer.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Dictionary with `"videos"` `(batch, frames, height, width, channels)`,
            soft `"labels"` `(batch, classes)`, and what else belongs to them.
        training: Boolean.

    Returns:
        The same structure and shapes; labels are float32.

    Raises:
        ValueError: If the labels are missing, or are not soft.

    Reference:
        [mixup, Zhang et al., 2018](https://arxiv.org/abs/1710.09412)
    """

    blended = ("labels", "segmentation_masks")

    def __init__(
        self,
        alpha: float = 1.0,
        rate: float = 1.0,
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        options = (seed, name, dtype, trainable, activity_regularizer, autocast)
        super().__init__(alpha, rate, *options)

    def check_shapes(self, shapes: Data) -> None:
        super().check_shapes(shapes)
        shape = shapes.get("segmentation_masks")
        if shape is not None and len(shape) != 5:
            raise ValueError(
                "`segmentation_masks` must be soft to be blended, of shape (batch, "
                f"frames, height, width, classes). Received: shape={tuple(shape)}"
            )

    def own_share(self, videos: Tensor, kept: Tensor) -> Tensor:
        return per_sample(kept)

    def mix(self, x: Tensor, others: Tensor, own: Tensor) -> Tensor:
        # Zero times what a mask hides may be NaN.
        return ops.where(own < 1, own * x + (1 - own) * others, x)


@keras.saving.register_keras_serializable("keras_vivit")
class CutMix(_Mixing):
    """Replaces a box of each video by that of another one, and mixes their labels.

    Labels are mixed by the exact share of voxels. With a `frame_mask` the box reaches
    only into frames that both videos have, and the voxels of the frames that the mask
    keeps are counted. Segmentation masks get the same box.

    Args:
        alpha: Float, the boxes' shares of the volume are drawn from Beta(alpha, alpha).
        rate: Float in [0, 1], the share of samples that are mixed.
        seed: Optional integer.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Dictionary with `"videos"` `(batch, frames, height, width, channels)`,
            soft `"labels"` `(batch, classes)`, and what else belongs to them.
        training: Boolean.

    Returns:
        The same structure and shapes; labels are float32.

    Raises:
        ValueError: If the labels are missing, or are not soft.

    Reference:
        [CutMix, Yun et al., 2019](https://arxiv.org/abs/1905.04899)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        rate: float = 1.0,
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        options = (seed, name, dtype, trainable, activity_regularizer, autocast)
        super().__init__(alpha, rate, *options)

    def own_share(self, videos: Tensor, kept: Tensor) -> Tensor:
        size = ops.convert_to_tensor(tuple(videos.shape[1:4]), "float32")
        side = ops.power(1 - kept, 1 / 3) * size  # (batch, 3)
        centre = self.uniform(videos, 0, 1, 3) * size
        outside = False
        for axis, n in enumerate(videos.shape[1:4]):
            place = ops.arange(n, dtype="float32") + 0.5
            distance = ops.abs(place - centre[:, axis : axis + 1])
            beyond = distance >= side[:, axis : axis + 1] / 2  # (batch, n)
            shape = [1, 1, 1]
            shape[axis] = n
            outside = ops.logical_or(outside, ops.reshape(beyond, (-1, *shape, 1)))
        return ops.cast(outside, "float32")

    def mix(self, x: Tensor, others: Tensor, own: Tensor) -> Tensor:
        return ops.where(own < 1, others, x)
