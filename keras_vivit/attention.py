"""Self-attention on the token grid: over all of it, over space, or over time."""

import functools
import math
import sys

import keras
from keras import ops

from keras_vivit import policies, validation
from keras_vivit.fast import SMALL, in_float32, is_half, on_cpu, reshape
from keras_vivit.kernels import has_kernel, kernel_attention
from keras_vivit.products import dense, projections

AXES = ("all", "space", "time")
LONG = 8  # tokens for each feature of a head
PIECE = 2**22  # scores


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
        training: Boolean.

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
            self._add_dense(name, "nd,dhk->nhk", (dim,), heads)
        self._add_dense("output", "nhk,hkd->nd", heads, (dim,))

    def _add_dense(self, name, equation, input_shape, output_shape):
        layer = keras.layers.EinsumDense(
            equation,
            output_shape,
            bias_axes=equation.partition(">n")[2],
            name=name,
            dtype=policies.resolve(self.dtype_policy, f"{self.path}/{name}"),
        )
        layer.build((None, *input_shape))
        setattr(self, f"{name}_dense", layer)

    def call(self, inputs, mask=None, seeds=None, training=None):
        _, *grid, dim = shape = ops.shape(inputs)
        rows = reshape(inputs, (-1, dim))
        heads = (-1, math.prod(grid), self.num_heads, dim // self.num_heads)
        layers = self.query_dense, self.key_dense, self.value_dense
        queries, keys, values = (
            _split(reshape(x, heads), len(self.axes)) for x in projections(layers, rows)
        )
        if mask is not None:
            mask = reshape(mask, heads[:2])
        rate = 0.0 if seeds is None else self.dropout_rate
        outputs = []
        for axes, *share in zip(self.axes, queries, keys, values, strict=True):
            query, key, value = (_fold(x, grid, axes) for x in share)
            kept = None if mask is None else _fold(mask, grid, axes)[:, None, None, :]
            output = dot_product_attention(
                query, key, value, kept, rate, seeds, training
            )
            outputs.append(_unfold(output, grid, axes))
        output = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=2)
        output = reshape(output, (-1, *heads[2:]))
        return reshape(dense(self.output_dense, output), (-1, *shape[1:]))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "axes": self.axes,
            "dropout_rate": self.dropout_rate,
        }


def _split(x, shares):
    """Divides the heads of `(batch, tokens, heads, head_dim)`."""
    return [x] if shares == 1 else ops.split(x, shares, axis=2)


def _fold(x, grid, axes):
    """Moves the axes that do not attend from `(batch, t*s, ...)` to the batch."""
    if axes == "all":
        return x
    t, s, rest = grid[0], math.prod(grid[1:]), tuple(x.shape[2:])
    if axes == "space":
        return reshape(x, (-1, s, *rest))  # (b*t, s, ...)
    x = reshape(x, (-1, t, s, *rest))
    return reshape(_swap(x), (-1, t, *rest))  # (b*s, t, ...)


def _unfold(x, grid, axes):
    """Undoes `_fold`."""
    if axes == "all":
        return x
    t, s, rest = grid[0], math.prod(grid[1:]), tuple(x.shape[2:])
    if axes == "time":
        x = _swap(reshape(x, (-1, s, t, *rest)))
    return reshape(x, (-1, t * s, *rest))


def _swap(x):
    """Swaps time and space, or tokens and heads."""
    return ops.transpose(x, (0, 2, 1, *range(3, len(x.shape))))


def dot_product_attention(query, key, value, mask, rate, seeds, training):
    """`ops.dot_product_attention` with dropout of the weights, and the fastest way.

    That is the backend's own kernel, or else plain matrix products.
    """
    _, tokens, _, head_dim = query.shape
    if not rate and tokens == 1:
        return value
    if not rate and has_kernel(query):
        return kernel_attention(query, key, value, mask)
    query = query / math.sqrt(head_dim)

    def attend(query, key, value, mask):
        weights = _weights(query, key, mask)
        if rate:
            weights = keras.random.dropout(weights, rate, seed=next(seeds))
        return weights @ value

    if not rate and on_cpu("jax"):
        attend = _in_pieces(attend)

    def attend_plainly(query, key, value):
        key = ops.transpose(key, (0, 2, 3, 1))
        return _swap(attend(_swap(query), key, _swap(value), mask))

    compute = attend_plainly
    small = head_dim < SMALL
    long = (tokens or 0) > LONG * head_dim  # None in a graph of any length.
    pays = long and (small or not is_half(value)) and on_cpu("tensorflow")
    if not rate and training and pays:
        compute = functools.partial(_attend_in_tensorflow, mask=mask)
    if small:
        return in_float32(on_cpu("tensorflow"), compute, query, key, value)
    return compute(query, key, value)


def _weights(query, key, mask):
    scores = ops.cast(query @ key, "float32")
    if mask is not None:
        scores = ops.where(mask, scores, -1e30)
    return ops.cast(ops.softmax(scores, axis=-1), query.dtype)


def _in_pieces(attend):
    """Attends for one sample, or some queries of one, after the other.

    Attention on CPUs waits for memory in JAX, unless the scores of a piece stay in the
    cache and are computed again for the gradient (343 tokens, 4 heads, batch 32:
    prediction 0.3 and gradient 0.5 of the time of the whole). Long sequences never have
    all scores at a time.
    """

    def attend_in_pieces(query, key, value, mask):
        batch, heads, tokens, dim = query.shape
        whole = not isinstance(batch, int) or batch * heads * tokens**2 <= PIECE
        if whole or keras.distribution.distribution() is not None:
            return attend(query, key, value, mask)
        pieces = math.ceil(heads * tokens**2 / PIECE)
        length = math.ceil(tokens / pieces)
        padding = ((0, 0), (0, 0), (0, pieces * length - tokens), (0, 0))
        query = reshape(ops.pad(query, padding), (batch, heads, pieces, length, dim))

        def sample(tensors):
            queries, *rest = tensors
            return ops.map(keras.remat(lambda query: attend(query, *rest)), queries)

        output = ops.map(sample, (ops.swapaxes(query, 1, 2), key, value, mask))
        output = ops.swapaxes(output, 1, 2)
        return reshape(output, (batch, heads, -1, dim))[:, :, :tokens]

    return attend_in_pieces


def _attend_in_tensorflow(query, key, value, mask):
    """Attends over many tokens, with a gradient of fewer passes over the scores.

    TensorFlow's own has four, and products of transposed scores that take three times
    as long (343 tokens, 4 heads of 16, batch 32: attention and gradient 0.78 of the
    time, compiled 0.65; 3136 tokens, 6 heads of 64: 0.89, 0.9).
    """
    matmul = sys.modules["tensorflow"].matmul  # XLA is slower with transpositions.

    @ops.custom_gradient
    def attend(query, key, value):  # (batch, tokens, heads, head_dim), for XLA too.
        query, value = _swap(query), _swap(value)
        key = ops.transpose(key, (0, 2, 3, 1))
        weights = _weights(query, key, mask)
        output = weights @ value

        def gradient(upstream):
            upstream = _swap(upstream)
            # What the softmax takes off, as one more feature: a pass less.
            total = ops.sum(upstream * output, axis=-1, keepdims=True)
            left = ops.concatenate([upstream, total], axis=-1)
            right = ops.concatenate([value, -ops.ones_like(value[..., :1])], axis=-1)
            scores = weights * matmul(left, right, transpose_b=True)
            if mask is not None:  # for rows without any token to attend to
                scores = ops.where(mask, scores, 0.0)
            return (
                _swap(matmul(scores, key, transpose_b=True)),
                ops.transpose(matmul(query, scores, transpose_a=True), (0, 3, 1, 2)),
                ops.transpose(
                    matmul(upstream, weights, transpose_a=True), (0, 3, 1, 2)
                ),
            )

        return _swap(output), gradient

    return attend(query, key, value)
