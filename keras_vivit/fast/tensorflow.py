"""TensorFlow on CPUs: gradients in fewer passes, and what XLA needs there."""

import functools
import importlib
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_vivit import policies
from keras_vivit.fast import eager, xla
from keras_vivit.types import Function, Tensor

# Not public. What is missing, or has another signature, is left out.
IS_FOR_XLA = "tensorflow.python.ops.control_flow_util.GraphOrParentsInXlaContext"
BARRIER = "tensorflow.compiler.tf2xla.python.xla.optimization_barrier"

SMALL = 32  # features of a head: half precision is slower than float32
LONG = 8  # tokens for each feature of a head: the gradient below is faster

activate, call, dense, run_block = xla.activate, xla.call, xla.dense, xla.run_block


def _private(path: str) -> Any:
    """Returns an upstream function, or `None` if it is missing."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def is_for_xla() -> bool:
    """Whether the graph is traced with `jit_compile=True`."""
    try:
        return bool(_private(IS_FOR_XLA)(tf.compat.v1.get_default_graph()))
    except (AttributeError, TypeError):
        return False


@tf.custom_gradient
def _barrier(x: Tensor) -> tuple[Tensor, Function]:
    """Returns the tensor, which XLA then does not fuse with what it is made of."""

    def gradient(upstream: Tensor) -> Tensor:
        return upstream

    try:
        (barred,) = _private(BARRIER)(x)
    except (AttributeError, TypeError, ValueError):
        return tf.identity(x), gradient
    barred.set_shape(x.shape)
    return barred, gradient


# === Products of matrices ===


@tf.custom_gradient
def _product(rows: Tensor, kernel: Tensor, bias: Tensor) -> Any:
    """XLA would fuse the transpose into the product for the kernel's gradient."""

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = upstream @ tf.transpose(kernel)
        weights = _barrier(tf.transpose(rows)) @ upstream
        return inputs, weights, tf.reduce_sum(upstream, 0)

    return rows @ kernel + bias, gradient


product = functools.partial(xla.product, _product)


# === Layer normalization ===


def layer_norm(
    plain: Function,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    training: bool | None,
) -> Tensor:
    """Has a gradient in closed form in training; XLA sums in one step, not in two."""
    barred = xla.compiles()

    def mean(x: Tensor) -> Tensor:
        return tf.reduce_mean(_barrier(x) if barred else x, axis=-1, keepdims=True)

    def normalize(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        x = x - mean(x)
        scale = tf.math.rsqrt(mean(tf.square(x)) + epsilon)
        x = x * scale

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            axes = tuple(range(len(x.shape) - 1))
            inner = upstream * gamma
            inner = scale * (inner - mean(inner) - x * mean(inner * x))
            sums = tf.reduce_sum(upstream * x, axes), tf.reduce_sum(upstream, axes)
            return inner, *sums

        return x * gamma + beta, gradient

    dtype = policies.at_least_float32(x.dtype)
    tensors = [ops.cast(t, dtype) for t in (x, gamma, beta)]
    if training:
        return tf.custom_gradient(normalize)(*tensors)
    return normalize(*tensors)[0]


# === Attention ===


def dot_product_attention(
    plain: Function,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    training: bool | None = None,
) -> Tensor:
    _, tokens, _, head_dim = query.shape  # tokens: None in a graph of any length
    small, half = head_dim < SMALL, xla.dtype_of(value) in xla.HALVES
    attend = functools.partial(plain, mask=mask, training=training)
    if xla.on_cpu():
        long = training and (tokens or 0) > LONG * head_dim
        if long and (small or not half):
            attend = functools.partial(_attend_with_gradient, mask)
        if small:
            return xla.in_float32(attend, query, key, value)
    return attend(query, key, value)


def _attend_with_gradient(
    mask: Tensor | None, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Attends with a gradient of fewer passes over the scores than the derived one.

    Shapes are `(batch, tokens, heads, head_dim)` outside of the gradient, for XLA too.
    """

    @tf.custom_gradient
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Any:
        query, value = _swap(query), _swap(value)  # (batch, heads, tokens, head_dim)
        key = tf.transpose(key, (0, 2, 3, 1))  # (batch, heads, head_dim, tokens)
        query = query / query.shape[-1] ** 0.5
        scores = ops.cast(query @ key, policies.at_least_float32(key.dtype))
        if mask is not None:
            scores = tf.where(mask, scores, -1e30)
        weights = ops.cast(tf.nn.softmax(scores), query.dtype)
        output = weights @ value

        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            upstream = _swap(upstream)
            # The softmax gradient subtracts sum(upstream * output); as an extra
            # column of the product it costs no pass of its own.
            total = tf.reduce_sum(upstream * output, axis=-1, keepdims=True)
            left = tf.concat([upstream, total], axis=-1)
            right = tf.concat([value, -tf.ones_like(value[..., :1])], axis=-1)
            scores = weights * tf.matmul(left, right, transpose_b=True)
            if mask is not None:  # For rows without any token to attend to.
                scores = tf.where(mask, scores, 0.0)
            scaled = tf.matmul(scores, key, transpose_b=True)
            return (
                _swap(scaled / key.shape[2] ** 0.5),
                tf.transpose(tf.matmul(query, scores, transpose_a=True), (0, 3, 1, 2)),
                _swap(tf.matmul(weights, upstream, transpose_a=True)),
            )

        return _swap(output), gradient

    return attend(query, key, value)


def _swap(x: Tensor) -> Tensor:
    """Swaps tokens and heads."""
    return tf.transpose(x, (0, 2, 1, 3))


# === Augmentation ===


def augment(plain: Function, layer: keras.layers.Layer, data: eager.Data) -> eager.Data:
    """Makes a graph of eager calls; XLA would take long for random numbers."""
    if not tf.executing_eagerly():
        return plain(layer, data)
    return eager.augment(layer, data, tf.function)
