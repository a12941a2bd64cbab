"""Mixtures of two samples and of their labels."""

import keras
from keras import ops

from keras_vivit import validation
from keras_vivit.augmentation.base import Augmentation, per_sample


class _Mixing(Augmentation):
    """Mixes every sample with another of the batch, and their soft labels."""

    needs_labels = True

    def __init__(self, alpha=1.0, rate=1.0, **kwargs):
        super().__init__(**kwargs)
        self.alpha = validation.between("alpha", alpha, 1e-6, 100)
        self.rate = validation.between("rate", rate, 0, 1)

    def build(self, input_shape):
        super().build(input_shape)
        if len(input_shape["labels"]) != 2:
            raise ValueError(
                "`labels` must be soft, of shape (batch, classes). "
                f"Received: shape={tuple(input_shape['labels'])}"
            )

    def augment(self, videos, labels):
        labels = ops.cast(labels, videos.dtype)
        batch = ops.shape(videos)[0]
        order = ops.argsort(self.uniform(videos, 0, 1)[:, 0])
        kept = keras.random.beta(
            (batch, 1), self.alpha, self.alpha, videos.dtype, self.seed_generator
        )
        kept = ops.where(self.uniform(videos, 0, 1) < self.rate, kept, 1)
        videos, kept = self.mix(videos, ops.take(videos, order, axis=0), kept)
        return videos, kept * labels + (1 - kept) * ops.take(labels, order, axis=0)

    def mix(self, videos, others, kept):
        """Returns mixed videos, and the share `(batch, 1)` of the first ones."""
        raise NotImplementedError

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha, "rate": self.rate}


@keras.saving.register_keras_serializable("keras_vivit")
class MixUp(_Mixing):
    """Blends each video, and its label, with another one's of the batch.

    Args:
        alpha: Float, the shares are drawn from Beta(alpha, alpha).
        rate: Float in [0, 1], the share of samples that are mixed.
        seed: Optional integer.

    Call arguments:
        inputs: Dictionary with `"videos"` `(batch, frames, height, width, channels)`
            and soft `"labels"` `(batch, classes)`.
        training: Boolean.

    Returns:
        The same structure and shapes.

    Raises:
        ValueError: If the labels are missing, or are not soft.

    Reference:
        [mixup, Zhang et al., 2018](https://arxiv.org/abs/1710.09412)
    """

    def mix(self, videos, others, kept):
        share = per_sample(kept)
        return share * videos + (1 - share) * others, kept


@keras.saving.register_keras_serializable("keras_vivit")
class CutMix(_Mixing):
    """Replaces a box of each video by that of another one, and mixes their labels.

    Labels are mixed by the exact share of voxels.

    Args:
        alpha: Float, the boxes' shares of the volume are drawn from Beta(alpha, alpha).
        rate: Float in [0, 1], the share of samples that are mixed.
        seed: Optional integer.

    Call arguments:
        inputs: Dictionary with `"videos"` `(batch, frames, height, width, channels)`
            and soft `"labels"` `(batch, classes)`.
        training: Boolean.

    Returns:
        The same structure and shapes.

    Raises:
        ValueError: If the labels are missing, or are not soft.

    Reference:
        [CutMix, Yun et al., 2019](https://arxiv.org/abs/1905.04899)
    """

    def mix(self, videos, others, kept):
        size = ops.convert_to_tensor(tuple(videos.shape[1:4]), videos.dtype)
        side = ops.power(1 - kept, 1 / 3) * size  # (batch, 3)
        centre = self.uniform(videos, 0, 1, 3) * size
        inside = True
        for axis, n in enumerate(videos.shape[1:4]):
            place = ops.arange(n, dtype=videos.dtype) + 0.5
            distance = ops.abs(place - centre[:, axis : axis + 1])
            along = distance < side[:, axis : axis + 1] / 2  # (batch, n)
            shape = [1, 1, 1]
            shape[axis] = n
            inside = ops.logical_and(inside, ops.reshape(along, (-1, *shape, 1)))
        share = ops.mean(ops.cast(inside, videos.dtype), axis=(1, 2, 3))  # (batch, 1)
        return ops.where(inside, others, videos), 1 - share
