"""Layers of masked pre-training: which tokens are hidden, and where they stand.

A mask `(batch, t, h, w)` is True where a token is hidden. Each sample hides the same
number of tokens, so that all shapes are static.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vivit.embeddings import split_into_tubelets
from keras_vivit.types import Config, DType, Shape, Tensor

MASKINGS = ("tube", "random")


def count_hidden(masking: str, mask_ratio: float, grid: Shape) -> int:
    """Returns how many tokens of a sample are hidden; a tube hides them in all t."""
    frames = grid[0] if masking == "tube" else 1
    return frames * int(mask_ratio * (math.prod(grid) // frames))


def visible_first(hidden: Tensor) -> Tensor:
    """Returns the places `(batch, tokens)` of the visible, then of the hidden tokens.

    Both are in the order of the grid, time-major.
    """
    tokens = math.prod(hidden.shape[1:])
    places = ops.arange(tokens, dtype="int32")
    hidden = ops.reshape(hidden, (-1, tokens))
    return ops.argsort(ops.where(hidden, places + tokens, places), axis=-1)


def take(tokens: Tensor, places: Tensor) -> Tensor:
    """Returns the tokens `(batch, n, d)` at places `(batch, n)` of a grid."""
    *_, dim = tokens.shape
    count = math.prod(tokens.shape[1:-1])
    starts = ops.arange(ops.shape(places)[0], dtype="int32") * count
    rows = ops.cast(places, "int32") + starts[:, None]
    taken = ops.take(ops.reshape(tokens, (-1, dim)), ops.reshape(rows, (-1,)), axis=0)
    return ops.reshape(taken, (-1, places.shape[1], dim))


@keras.saving.register_keras_serializable("keras_vivit")
class DrawMask(keras.layers.Layer):
    """Draws which tokens are hidden.

    In training it draws for each call, otherwise always the same mask.

    Args:
        masking: `"tube"`: the same places in all frames; or `"random"`.
        num_hidden: Integer, hidden tokens of a sample.
        seed: Optional integer.

    Call arguments:
        inputs: Tensor `(batch, t, h, w, d)`.
        training: Boolean.

    Returns:
        Boolean tensor `(batch, t, h, w)`.
    """

    def __init__(
        self,
        masking: str,
        num_hidden: int,
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.masking = masking
        self.num_hidden = num_hidden
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        _, t, h, w, _ = inputs.shape
        frames = 1 if self.masking == "tube" else t
        seed = self.seed_generator if training else self.seed or 0
        noise = keras.random.uniform(
            (ops.shape(inputs)[0], frames * h * w), dtype="float32", seed=seed
        )
        ranks = ops.argsort(ops.argsort(noise, axis=-1), axis=-1)
        hidden = ops.reshape(ranks < self.num_hidden * frames // t, (-1, frames, h, w))
        return ops.repeat(hidden, t // frames, axis=1)

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        return None

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor(inputs.shape[:-1], "bool")

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "masking": self.masking,
            "num_hidden": self.num_hidden,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("keras_vivit")
class SelectTokens(keras.layers.Layer):
    """Takes the hidden tokens of a grid, or the visible ones.

    The tokens of a sample are NaN unless its mask hides `num_hidden` tokens and, with
    `by_frame`, the same places in all frames: compiled code cannot raise an error.

    Args:
        num_hidden: Integer, hidden tokens of a sample.
        hidden: Boolean, which tokens to take.
        by_frame: Boolean, keeps the axis of time, for masks that are tubes.

    Call arguments:
        inputs: List of a tensor `(batch, t, h, w, d)` and the mask `(batch, t, h, w)`.

    Returns:
        Tensor `(batch, n, d)`, or `(batch, t, n / t, d)` with `by_frame`.
    """

    def __init__(
        self,
        num_hidden: int,
        hidden: bool = False,
        by_frame: bool = False,
        name: str | None = None,
        dtype: DType = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.num_hidden = num_hidden
        self.hidden = hidden
        self.by_frame = by_frame
        self.supports_masking = True

    def call(self, inputs: list[Tensor]) -> Tensor:
        grid, hidden = inputs
        hidden = ops.cast(hidden, "bool")
        taken = take(grid, self._places(hidden))
        is_right = ops.sum(ops.cast(hidden, "int32"), (1, 2, 3)) == self.num_hidden
        if self.by_frame:
            is_tube = ops.cast(hidden == hidden[:, :1], "int32")
            is_tube = ops.min(is_tube, axis=(1, 2, 3)) == 1
            is_right = ops.logical_and(is_right, is_tube)
        nan = ops.full((), np.nan, taken.dtype)
        taken = ops.where(is_right[:, None, None], taken, nan)
        return ops.reshape(taken, (-1, *self._shape(grid.shape)[1:], taken.shape[-1]))

    def compute_mask(self, inputs: list[Tensor], previous_mask: Any) -> Any:
        mask = previous_mask and previous_mask[0]
        if mask is None:
            return None
        places = self._places(ops.cast(inputs[1], "bool"))
        mask = ops.reshape(mask, (-1, math.prod(mask.shape[1:])))
        taken = ops.take_along_axis(mask, places, axis=1)
        return ops.reshape(taken, (-1, *self._shape(inputs[0].shape)[1:]))

    def _places(self, hidden: Tensor) -> Tensor:
        places = visible_first(hidden)
        first = places.shape[1] - self.num_hidden
        return places[:, first:] if self.hidden else places[:, :first]

    def _shape(self, grid_shape: Shape) -> Shape:
        tokens = math.prod(grid_shape[1:-1])
        count = self.num_hidden if self.hidden else tokens - self.num_hidden
        if not self.by_frame:
            return (grid_shape[0], count)
        return (grid_shape[0], grid_shape[1], count // grid_shape[1])

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return (*self._shape(input_shape[0]), input_shape[0][-1])

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_hidden": self.num_hidden,
            "hidden": self.hidden,
            "by_frame": self.by_frame,
        }


@keras.saving.register_keras_serializable("keras_vivit")
class MaskToken(keras.layers.Layer):
    """Puts visible tokens back on the grid, and a learned token at the hidden places.

    Call arguments:
        inputs: List of the visible tokens `(batch, ..., d)`, of a tensor `(batch, t, h,
            w, ...)` with the Keras mask of the grid, and of the mask of hidden tokens
            `(batch, t, h, w)`.

    Returns:
        Tensor `(batch, t, h, w, d)`.
    """

    def __init__(self, name: str | None = None, dtype: DType = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.supports_masking = True

    def build(self, input_shape: list[Shape]) -> None:
        self.token = self.add_weight(
            name="token",
            shape=(input_shape[0][-1],),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        )

    def call(self, inputs: list[Tensor]) -> Tensor:
        visible, _, hidden = inputs
        dim, grid = visible.shape[-1], hidden.shape[1:]
        count = math.prod(visible.shape[1:-1])
        tokens = ops.reshape(visible, (-1, count, dim))
        token = ops.broadcast_to(
            ops.cast(self.token, tokens.dtype),
            (ops.shape(tokens)[0], math.prod(grid) - count, dim),
        )
        tokens = ops.concatenate([tokens, token], axis=1)
        places = ops.argsort(visible_first(ops.cast(hidden, "bool")), axis=-1)
        return ops.reshape(take(tokens, places), (-1, *grid, dim))

    def compute_mask(self, inputs: list[Tensor], previous_mask: Any) -> Any:
        return previous_mask and previous_mask[1]  # the grid's

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return (*input_shape[2], input_shape[0][-1])

    def get_config(self) -> Config:  # Keras' own fails if `dtype` is a policy.
        return super().get_config()


@keras.saving.register_keras_serializable("keras_vivit")
class ReconstructionLoss(keras.layers.Layer):
    """Adds the mean squared error of the hidden tubelets to the model's losses.

    The target is a tubelet's voxels, each channel with mean 0 and variance 1. A masked
    token does not count.

    Args:
        tubelet_size: Tuple `(frames, height, width)`.
        strides: Tuple `(frames, height, width)`, the step between tubelets.
        scale: Float that takes pixels to [0, 1]: it counts where a tubelet is constant.

    Call arguments:
        inputs: List of the predictions `(batch, n, voxels)`, of the videos `(batch,
            frames, height, width, channels)` and of the mask of hidden tokens `(batch,
            t, h, w)`.

    Returns:
        The predictions.

    Reference:
        [VideoMAE, Tong et al., 2022](https://arxiv.org/abs/2203.12602)
    """

    def __init__(
        self,
        tubelet_size: Shape,
        strides: Shape,
        scale: float = 1.0,
        name: str | None = None,
        dtype: DType = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.tubelet_size = tuple(tubelet_size)
        self.strides = tuple(strides)
        self.scale = scale
        self.supports_masking = True

    def call(self, inputs: list[Tensor], mask: Any = None) -> Tensor:
        voxels, video, hidden = inputs
        kept = mask and mask[0]
        tubelets = split_into_tubelets(
            video * self.scale, self.tubelet_size, self.strides
        )
        places = visible_first(ops.cast(hidden, "bool"))
        places = places[:, places.shape[1] - voxels.shape[1] :]
        target, _, _ = normalize(take(tubelets, places), video.shape[-1])
        error = ops.mean(ops.square(voxels - target), axis=-1)  # (b, n)
        if kept is None:
            loss = ops.mean(error)
        else:
            kept = ops.cast(kept, error.dtype)
            loss = ops.sum(error * kept) / ops.maximum(ops.sum(kept), 1)
        self.add_loss(loss)
        return voxels

    def compute_mask(self, inputs: list[Tensor], previous_mask: Any) -> Any:
        return previous_mask and previous_mask[0]

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return input_shape[0]

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "tubelet_size": self.tubelet_size,
            "strides": self.strides,
            "scale": self.scale,
        }


def normalize(tubelets: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns tubelets `(batch, n, voxels)` normalized by channel, mean and deviation.

    The last two have the shape `(batch, n, 1, channels)`.
    """
    n, voxels = tubelets.shape[1:]
    x = ops.reshape(tubelets, (-1, n, voxels // channels, channels))
    # A mean is rounded, which 1e-6 would magnify: differences from the first voxel are
    # exactly 0 where a tubelet is constant.
    first = x[:, :, :1]
    x = x - first
    mean = ops.mean(x, axis=2, keepdims=True)
    squares = ops.sum(ops.square(x - mean), axis=2, keepdims=True)
    deviation = ops.sqrt(squares / max(voxels // channels - 1, 1)) + 1e-6
    target = ops.reshape((x - mean) / deviation, (-1, n, voxels))
    return target, first + mean, deviation
