"""Changes of values, and their loss."""

import math

import keras
from keras import ops

from keras_vivit import validation
from keras_vivit.augmentation.base import Augmentation, Data, per_sample
from keras_vivit.embeddings import AXES
from keras_vivit.types import Config, DType, Regularizer


@keras.saving.register_keras_serializable("keras_vivit")
class RandomIntensity(Augmentation):
    """Changes contrast, brightness and gamma, and adds noise.

    Args:
        gain: Float in [0, 1): values are multiplied by `1 - gain` to `1 + gain`.
        offset: Float, added to the values: between `-offset` and `offset`.
        gamma: Float, the exponent lies between `1 / (1 + gamma)` and `1 + gamma`.
        noise: Float, the largest standard deviation of normal noise.
        value_range: Tuple, the lowest and highest value; `offset` and `noise` are
            shares of their distance, and results are clipped to it.
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
        gain: float = 0.0,
        offset: float = 0.0,
        gamma: float = 0.0,
        noise: float = 0.0,
        value_range: tuple[float, float] = (0, 255),
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        super().__init__(seed, name, dtype, trainable, activity_regularizer, autocast)
        self.gain = validation.rate("gain", gain)
        self.offset = validation.between("offset", offset, 0, 1)
        self.gamma = validation.between("gamma", gamma, 0, 10)
        self.noise = validation.between("noise", noise, 0, 1)
        self.value_range = validation.value_range("value_range", value_range)

    def augment(self, data: Data) -> Data:
        low, high = self.value_range
        x = (data["videos"] - low) / (high - low)
        if self.gamma:
            limit = math.log1p(self.gamma)
            exponent = per_sample(ops.exp(self.uniform(x, -limit, limit)))
            # Powers of exactly zero have no gradient.
            x = ops.power(ops.clip(x, 1e-6, 1), exponent)
        x = x * per_sample(self.uniform(x, 1 - self.gain, 1 + self.gain))
        x = x + per_sample(self.uniform(x, -self.offset, self.offset))
        if self.noise:  # A number for each voxel.
            noise = keras.random.normal(
                ops.shape(x), dtype=x.dtype, seed=self.seed_generator
            )
            x = x + noise * per_sample(self.uniform(x, 0, self.noise))
        return {"videos": low + ops.clip(x, 0, 1) * (high - low)}

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "gain": self.gain,
            "offset": self.offset,
            "gamma": self.gamma,
            "noise": self.noise,
            "value_range": self.value_range,
        }


@keras.saving.register_keras_serializable("keras_vivit")
class RandomErasing(Augmentation):
    """Fills random tubelets with a constant.

    Args:
        tubelet_size: Tuple `(frames, height, width)`; usually the embedding's.
        rate: Float in [0, 1), the share of tubelets that are erased.
        value: Float, what they are filled with.
        seed: Optional integer.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`, or a dictionary with
            `"videos"` and what belongs to them.
        training: Boolean.

    Returns:
        The same structure and shapes.

    Reference:
        [Random Erasing, Zhong et al., 2020](https://arxiv.org/abs/1708.04896)
    """

    def __init__(
        self,
        tubelet_size: tuple[int, int, int],
        rate: float,
        value: float = 0.0,
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        super().__init__(seed, name, dtype, trainable, activity_regularizer, autocast)
        self.tubelet_size = validation.positive_ints("tubelet_size", tubelet_size, AXES)
        self.rate = validation.rate("rate", rate)
        self.value = validation.finite("value", value)

    def augment(self, data: Data) -> Data:
        videos = data["videos"]
        size = videos.shape[1:4]
        grid = [-(-n // p) for n, p in zip(size, self.tubelet_size, strict=True)]
        numbers = self.uniform(videos, 0, 1, math.prod(grid))
        erased = ops.reshape(numbers < self.rate, (-1, *grid, 1))
        for axis, repeats in enumerate(self.tubelet_size, start=1):
            erased = ops.repeat(erased, repeats, axis=axis)
        erased = erased[:, : size[0], : size[1], : size[2]]
        return {"videos": ops.where(erased, ops.cast(self.value, "float32"), videos)}

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "tubelet_size": self.tubelet_size,
            "rate": self.rate,
            "value": self.value,
        }
