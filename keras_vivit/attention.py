"""Self-attention on the token grid: over all of it, over space, or over time."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from keras_vivit import fast, policies, validation
from keras_vivit.dropout import dropout, seed_generator
from keras_vivit.fast import reshape
from keras_vivit.types import Config, DType, Regularizer, Shape, Tensor

AXES = ("all", "space", "time")


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns softmax(query key^T / sqrt(head_dim)), computed in float32 or more.

    Args:
        query: Tensor `(batch, tokens, heads, head_dim)`.
        key: Tensor `(batch, tokens, heads, head_dim)`.
        mask: Optional boolean tensor `(batch, 1, 1, tokens)`: only keys at True get a
            weight.

    Returns:
        Tensor `(batch, heads, tokens, tokens)`; the last axis sums to 1.
    """
    query = _swap(query / math.sqrt(query.shape[-1]))  # (b, heads, tokens, head_dim)
    key = ops.transpose(key, (0, 2, 3, 1))  # (b, heads, head_dim, tokens)
    dtype = policies.at_least_float32(query.dtype)
    scores = ops.cast(query @ key, dtype)  # (b, heads, tokens, tokens)
    if mask is not None:
        scores = ops.where(mask, scores, -1e30)
    return ops.cast(ops.softmax(scores, axis=-1), query.dtype)


def weighted_values(weights: Tensor, value: Tensor) -> Tensor:
    """Returns the sum of the values `(batch, tokens, heads, head_dim)` by weight."""
    return _swap(weights @ _swap(value))


@fast.accelerated
def dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    training: bool | None = None,
) -> Tensor:
    """Attends without dropout; tensors as in the two functions above."""
    return weighted_values(attention_weights(query, key, mask), value)


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
        dropout_rate: Float, dropout of the attention weights in training.
        seed: Optional integer, or the `keras.random.SeedGenerator` of a parent.

    Call arguments:
        inputs: Tensor `(batch, ..., embed_dim)`.
        mask: Optional boolean tensor `(batch, ...)`: only tokens at True are
            attended to.
        training: Boolean, whether weights are dropped.
        seeds: Optional iterator over the seeds of the dropout, which otherwise come
            from the layer's own generator.
        attend: Optional function of query, key, value and mask that attends in place
            of the layer, once for each share of the heads.

    Returns:
        Tensor of the inputs' shape.
    """

    def __init__(
        self,
        num_heads: int,
        axes: tuple[str, ...] = ("all",),
        dropout_rate: float = 0.0,
        seed: Any = None,
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
        self.num_heads = validation.positive_int("num_heads", num_heads)
        self.axes = tuple(validation.choice("axes", axis, AXES) for axis in axes)
        self.dropout_rate = validation.rate("dropout_rate", dropout_rate)
        self.seed = seed
        if self.dropout_rate:
            self.seed_generator = seed_generator(seed)
        self.supports_masking = True
        if self.num_heads % len(self.axes):
            raise ValueError(
                f"`num_heads` must be even, half for {self.axes[0]} and half for "
                f"{self.axes[-1]}. Received: num_heads={num_heads}"
            )

    def build(self, input_shape: Shape) -> None:
        rank = 3 if self.axes == ("all",) else 4
        dim = validation.features(
            "inputs", input_shape, rank, "(batch, ..., embed_dim)"
        )
        if dim % self.num_heads:
            raise ValueError(
                "`num_heads` must divide the size of a token. "
                f"Received: num_heads={self.num_heads}, embed_dim={dim}"
            )
        heads = (self.num_heads, dim // self.num_heads)
        for name in ("query", "key", "value"):
            self._add_dense(name, "nd,dhk->nhk", (dim,), heads)
        self._add_dense("output", "nhk,hkd->nd", heads, (dim,))

    def _add_dense(
        self,
        name: str,
        equation: str,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
    ) -> None:
        layer = keras.layers.EinsumDense(
            equation,
            output_shape,
            bias_axes=equation.partition(">n")[2],
            name=name,
            dtype=policies.resolve(self.dtype_policy, f"{self.path}/{name}"),
        )
        layer.build((None, *input_shape))
        setattr(self, f"{name}_dense", layer)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = None,
        seeds: Iterator[Any] | None = None,
        attend: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        _, *grid, dim = shape = ops.shape(inputs)
        heads = (-1, math.prod(grid), self.num_heads, dim // self.num_heads)
        layers = [self.query_dense, self.key_dense, self.value_dense]
        projected = fast.projections(layers, reshape(inputs, (-1, dim)))
        queries, keys, values = (
            _split(reshape(x, heads), len(self.axes)) for x in _of_one_dtype(projected)
        )
        if mask is not None:
            mask = reshape(mask, heads[:2])
        outputs = []
        for axes, *share in zip(self.axes, queries, keys, values, strict=True):
            query, key, value = (fold(x, grid, axes) for x in share)
            kept = None if mask is None else fold(mask, grid, axes)[:, None, None, :]
            if attend is None:
                output = self._attend(query, key, value, kept, training, seeds)
            else:
                output = attend(query, key, value, kept)
            outputs.append(unfold(output, grid, axes))
        output = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=2)
        output = fast.dense(self.output_dense, reshape(output, (-1, *heads[2:])))
        return reshape(output, (-1, *shape[1:]))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        training: bool | None,
        seeds: Iterator[Any] | None,
    ) -> Tensor:
        if training and self.dropout_rate:
            seeds = seeds or itertools.repeat(self.seed_generator)
            weights = attention_weights(query, key, mask)
            weights = dropout(weights, self.dropout_rate, seeds)
            return weighted_values(weights, value)
        if query.shape[1] == 1:
            return value  # A single token attends to itself.
        return dot_product_attention(query, key, value, mask, training)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "axes": self.axes,
            "dropout_rate": self.dropout_rate,
            "seed": self.seed,
        }


def _of_one_dtype(tensors: list[Tensor]) -> list[Tensor]:
    """Casts tensors of sublayers with dtype policies of their own to the widest."""
    if len({x.dtype for x in tensors}) == 1:
        return tensors
    dtype = keras.backend.result_type(*(x.dtype for x in tensors))
    return [ops.cast(x, dtype) for x in tensors]


def _split(x: Tensor, shares: int) -> list[Tensor]:
    """Divides the heads of `(batch, tokens, heads, head_dim)`."""
    return [x] if shares == 1 else ops.split(x, shares, axis=2)


def fold(x: Tensor, grid: list[int], axes: str) -> Tensor:
    """Moves the axes that do not attend from `(batch, t*s, ...)` to the batch."""
    if axes == "all":
        return x
    t, s, rest = grid[0], math.prod(grid[1:]), tuple(x.shape[2:])
    if axes == "space":
        return reshape(x, (-1, s, *rest))  # (b*t, s, ...)
    x = reshape(x, (-1, t, s, *rest))
    return reshape(_swap(x), (-1, t, *rest))  # (b*s, t, ...)


def unfold(x: Tensor, grid: list[int], axes: str) -> Tensor:
    """Undoes `fold`."""
    if axes == "all":
        return x
    t, s, rest = grid[0], math.prod(grid[1:]), tuple(x.shape[2:])
    if axes == "time":
        x = _swap(reshape(x, (-1, s, t, *rest)))
    return reshape(x, (-1, t * s, *rest))


def _swap(x: Tensor) -> Tensor:
    """Swaps the axes 1 and 2."""
    return ops.transpose(x, (0, 2, 1, *range(3, len(x.shape))))
