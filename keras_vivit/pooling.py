"""From tokens to one vector, or to one for each frame."""

import math
from typing import Any

import keras
from keras import ops

from keras_vivit import policies, validation
from keras_vivit.layer import Layer
from keras_vivit.types import Config, DType, Regularizer, Shape, Tensor

MODES = ("mean", "token", "first")


def mean_of_tokens(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns the mean of `(batch, ..., embed_dim)` over all tokens, or the kept ones.

    It is the sum of the kept tokens over `max(count, 1)`.
    """
    axes = tuple(range(1, len(tokens.shape) - 1))
    # Sums of many tokens exceed what half precision holds.
    x = ops.cast(tokens, policies.at_least_float32(tokens.dtype))
    if mask is None:
        mean = ops.mean(x, axis=axes)
    else:
        total = ops.sum(validation.keep_tokens(x, mask), axes)
        count = ops.sum(ops.cast(mask, x.dtype)[..., None], axes)
        mean = total / ops.maximum(count, 1)
    return ops.cast(mean, tokens.dtype)


@keras.saving.register_keras_serializable("keras_vivit")
class TokenPooling(Layer):
    """Makes one vector of all tokens: their mean, the class token, or the first one.

    Unlike Keras' own pooling layers it honours masks: the mean is the sum of
    the kept tokens over `max(count, 1)`.

    Args:
        pooling: `"mean"`; `"token"` for the class token of a sequence; `"first"` for
            the first token of a grid or a sequence (zero if it is masked).
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, ..., embed_dim)`; with `"token"` `(batch,
            tokens, embed_dim)`.
        mask: Optional boolean tensor `(batch, ...)`, True = keep.

    Returns:
        Tensor `(batch, embed_dim)`.

    Raises:
        ValueError: If `pooling="token"` meets a grid, which has no class token.

    Example:
    >>> keras_vivit.TokenPooling()(np.zeros((2, 4, 4, 4, 64))).shape
    (2, 64)
    """

    def __init__(
        self,
        pooling: str = "mean",
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = True,
    ) -> None:
        super().__init__(
            name=name,
            dtype=dtype,
            trainable=trainable,
            activity_regularizer=activity_regularizer,
            autocast=autocast,
        )
        self.pooling = validation.choice("pooling", pooling, MODES)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        validation.features("inputs", input_shape, 3, "(batch, ..., embed_dim)")
        if self.pooling == "token" and len(input_shape) != 3:
            raise ValueError(
                '`pooling="token"` needs the shape (batch, tokens, embed_dim), the '
                f"class token first. Received: shape={tuple(input_shape)}"
            )

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.pooling == "token":
            return inputs[:, 0]
        if self.pooling == "first":
            kept = inputs if mask is None else validation.keep_tokens(inputs, mask)
            return kept[(slice(None), *[0] * (len(inputs.shape) - 2))]
        return mean_of_tokens(inputs, mask)

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        return None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> Config:
        return {**super().get_config(), "pooling": self.pooling}


@keras.saving.register_keras_serializable("keras_vivit")
class FoldFrames(keras.layers.Layer):
    """Makes each frame a sample: `(batch, t, h, w, d)` to `(batch * t, h, w, d)`."""

    def __init__(
        self,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = True,
    ) -> None:
        super().__init__(
            name=name,
            dtype=dtype,
            trainable=trainable,
            activity_regularizer=activity_regularizer,
            autocast=autocast,
        )
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        return ops.reshape(inputs, (-1, *ops.shape(inputs)[2:]))

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        return None if mask is None else ops.reshape(mask, (-1, *ops.shape(mask)[2:]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, frames, *rest = input_shape
        folded = None if batch is None or frames is None else batch * frames
        return (folded, *rest)

    def get_config(self) -> Config:  # Keras' own fails if `dtype` is a policy.
        return super().get_config()


@keras.saving.register_keras_serializable("keras_vivit")
class FramePooling(TokenPooling):
    """Pools each frame and restores time: `(batch * t, ..., d)` to `(batch, t, d)`.

    A frame is masked if all of its tokens are, whatever its class token says.

    Args:
        frames: Integer, t; or `None`: the layer then takes a list of two tensors, the
            second one with the t of `(batch, t, ...)`.
        pooling: As for `TokenPooling`, and all other arguments.
    """

    def __init__(
        self,
        frames: int | None,
        pooling: str = "mean",
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = True,
    ) -> None:
        super().__init__(
            pooling, name, dtype, trainable, activity_regularizer, autocast
        )
        self.frames = frames and validation.positive_int("frames", frames)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape if self.frames else input_shape[0])

    def call(self, inputs: Any, mask: Any = None) -> Tensor:
        frames, inputs, mask = self._with_frames(inputs, mask)
        vectors = super().call(inputs, mask)
        return ops.reshape(vectors, (-1, frames, vectors.shape[-1]))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        frames, _, mask = self._with_frames(inputs, mask)
        if mask is None:
            return None
        if self.pooling == "token":
            mask = mask[:, 1:]
        tokens = math.prod(ops.shape(mask)[1:])
        return ops.any(ops.reshape(mask, (-1, frames, tokens)), axis=-1)

    def _with_frames(self, inputs: Any, mask: Any) -> tuple[int, Tensor, Any]:
        if self.frames:
            return self.frames, inputs, mask
        folded, grid = inputs
        return ops.shape(grid)[1], folded, None if mask is None else mask[0]

    def compute_output_shape(self, input_shape: Any) -> Shape:
        if self.frames is None:
            (_, *_, dim), (batch, frames, *_) = input_shape
            return (batch, frames, dim)
        batch = input_shape[0]
        return (batch and batch // self.frames, self.frames, input_shape[-1])

    def get_config(self) -> Config:
        return {**super().get_config(), "frames": self.frames}
