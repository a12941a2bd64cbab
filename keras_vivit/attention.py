"""Self-attention on the token grid: over all of it, over space, or over time."""

import math

import keras
from keras import ops

from keras_vivit import validation

AXES = ("all", "space", "time")


@keras.saving.register_keras_serializable("keras_vivit")
class MultiHeadSelfAttention(keras.layers.Layer):
    """Multi-head self-attention whose heads share or divide the grid's axes.

    The four variants of ViViT differ here alone: `axes=("all",)` is joint
    attention (variant 1), `("space",)` or `("time",)` one half of a factorized
    block (variant 3), and `("time", "space")` gives the first half of the heads
    to time and the second to space (variant 4, section 3.3).

    Args:
        num_heads: Integer, number of heads; must divide the size of a token.
        axes: Tuple of `"all"`, `"space"`, `"time"`: what an equal share of the
            heads attends over. Axis 1 of the input is time, the others space.
        dropout_rate: Float, dropout of the attention weights.

    Call arguments:
        inputs: Tensor `(batch, ..., embed_dim)`.
        mask: Optional boolean tensor `(batch, ...)`: only tokens at True are
            attended to.
        seeds: Iterator over what `keras.random.dropout` takes as a seed;
            dropout happens only if it is given.

    Returns:
        Tensor of the inputs' shape.
    """

    def __init__(self, num_heads, axes=("all",), dropout_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = validation.positive_int("num_heads", num_heads)
        self.axes = tuple(validation.choice("axes", axis, AXES) for axis in axes)
        self.dropout_rate = validation.rate("dropout_rate", dropout_rate)
        self.supports_masking = True
        if self.num_heads % len(self.axes):
            raise ValueError(
                f"`num_heads` must be even, half for {self.axes[0]} and half for "
                f"{self.axes[-1]}. Received: num_heads={num_heads}"
            )

    def build(self, input_shape):
        rank = 3 if self.axes == ("all",) else 4
        validation.rank("inputs", input_shape, rank, "(batch, ..., embed_dim)")
        dim = input_shape[-1]
        if dim % self.num_heads:
            raise ValueError(
                "`num_heads` must divide the size of a token. "
                f"Received: num_heads={self.num_heads}, embed_dim={dim}"
            )
        heads = (self.num_heads, dim // self.num_heads)
        for name in ("query", "key", "value"):
            self._add_dense(name, "btd,dhk->bthk", (None, dim), (None, *heads))
        self._add_dense("output", "bthk,hkd->btd", (None, *heads), (None, dim))

    def _add_dense(self, name, equation, input_shape, output_shape):
        layer = keras.layers.EinsumDense(
            equation,
            output_shape,
            bias_axes=equation[-2:] if name != "output" else "d",
            name=name,
            dtype=self.dtype_policy,
        )
        layer.supports_masking = True  # It lets masks pass, but does not say so.
        layer.build((None, *input_shape))
        setattr(self, f"{name}_dense", layer)

    def call(self, inputs, mask=None, seeds=None):
        shape = ops.shape(inputs)
        tokens = ops.reshape(inputs, (-1, math.prod(shape[1:-1]), shape[-1]))
        projected = (
            self.query_dense(tokens),
            self.key_dense(tokens),
            self.value_dense(tokens),
        )
        share = self.num_heads // len(self.axes)
        outputs = []
        for i, axes in enumerate(self.axes):
            heads = slice(i * share, (i + 1) * share)
            query, key, value = (
                _fold(x[:, :, heads], shape[1:-1], axes) for x in projected
            )
            kept = None
            if mask is not None:
                kept = ops.reshape(mask, (-1, math.prod(shape[1:-1])))
                kept = _fold(kept, shape[1:-1], axes)[:, None, None, :]
            if seeds is None or not self.dropout_rate:
                output = ops.dot_product_attention(query, key, value, mask=kept)
            else:
                output = _attention_with_dropout(
                    query, key, value, kept, self.dropout_rate, next(seeds)
                )
            outputs.append(_unfold(output, shape[1:-1], axes))
        output = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=2)
        return ops.reshape(self.output_dense(output), (-1, *shape[1:]))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "axes": self.axes,
            "dropout_rate": self.dropout_rate,
        }


def _fold(x, grid, axes):
    """Moves the axes that do not attend from `(batch, t*s, ...)` to the batch."""
    if axes == "all":
        return x
    t, s, rest = grid[0], math.prod(grid[1:]), tuple(x.shape[2:])
    if axes == "space":
        return ops.reshape(x, (-1, s, *rest))  # (b*t, s, ...)
    x = ops.reshape(x, (-1, t, s, *rest))
    return ops.reshape(_swap_time_and_space(x), (-1, t, *rest))  # (b*s, t, ...)


def _unfold(x, grid, axes):
    """Undoes `_fold`."""
    if axes == "all":
        return x
    t, s, rest = grid[0], math.prod(grid[1:]), tuple(x.shape[2:])
    if axes == "time":
        x = _swap_time_and_space(ops.reshape(x, (-1, s, t, *rest)))
    return ops.reshape(x, (-1, t * s, *rest))


def _swap_time_and_space(x):
    return ops.transpose(x, (0, 2, 1, *range(3, len(x.shape))))


def _attention_with_dropout(query, key, value, mask, rate, seed):
    """`ops.dot_product_attention` with dropout of the weights, which it lacks."""
    query = query / math.sqrt(query.shape[-1])
    scores = ops.cast(ops.einsum("bqhk,bvhk->bhqv", query, key), "float32")
    if mask is not None:
        scores = ops.where(mask, scores, -1e30)
    weights = ops.cast(ops.softmax(scores, axis=-1), value.dtype)
    weights = keras.random.dropout(weights, rate, seed=seed)
    return ops.einsum("bhqv,bvhk->bqhk", weights, value)
