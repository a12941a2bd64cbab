"""From tokens to one vector."""

import keras
from keras import ops

from keras_vivit import validation

MODES = ("mean", "token")


@keras.saving.register_keras_serializable("keras_vivit")
class TokenPooling(keras.layers.Layer):
    """Makes one vector of all tokens: their mean, or the class token.

    Unlike Keras' own pooling layers it honours masks: the mean is the sum of
    the kept tokens over `max(count, 1)`.

    Args:
        pooling: `"mean"`, or `"token"` for the first token of a sequence.

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

    def __init__(self, pooling="mean", **kwargs):
        super().__init__(**kwargs)
        self.pooling = validation.choice("pooling", pooling, MODES)
        self.supports_masking = True

    def build(self, input_shape):
        validation.rank("inputs", input_shape, 3, "(batch, ..., embed_dim)")
        if self.pooling == "token" and len(input_shape) != 3:
            raise ValueError(
                '`pooling="token"` needs the shape (batch, tokens, embed_dim), the '
                f"class token first. Received: shape={tuple(input_shape)}"
            )

    def call(self, inputs, mask=None):
        if self.pooling == "token":
            return inputs[:, 0]
        axes = tuple(range(1, len(inputs.shape) - 1))
        if mask is None:
            return ops.mean(inputs, axis=axes)
        kept = ops.cast(mask, inputs.dtype)[..., None]
        return ops.sum(inputs * kept, axes) / ops.maximum(ops.sum(kept, axes), 1)

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "pooling": self.pooling}
