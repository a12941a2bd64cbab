"""JAX: what its compiler for CPUs needs, and the fused attention of GPUs.

All that is differentiated has a `custom_jvp`, so that forward mode works, too: the
gradient is the transposed tangent.
"""

import functools
import math
from typing import Any

import jax
import keras
from keras import ops

from keras_vivit import policies
from keras_vivit.fast import eager, xla
from keras_vivit.types import Function, Tensor

PIECE = 2**22  # scores that are in memory at a time

activate, call, run_block = xla.activate, xla.call, xla.run_block


def remat(plain: Function, function: Function) -> Function:
    """Hides the computation from XLA, which would merge it with the first one.

    It cannot look into the sides of a condition. This one always holds, but for an
    infinity that nothing can be made of.
    """
    function = plain(function)
    if not xla.on_cpu():
        return function

    def conditional(x: Tensor) -> Tensor:
        finite = ops.logical_not(ops.cast(ops.ravel(x)[0], "float32") > 3e38)
        return ops.cond(finite, lambda: function(x), lambda: x)

    return conditional


# === Products of matrices ===


@jax.custom_jvp
def _product(rows: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    return rows @ kernel + bias


@_product.defjvp
def _product_tangent(primals: Any, tangents: Any) -> tuple[Tensor, Tensor]:
    rows, kernel, _ = primals
    d_rows, d_kernel, d_bias = tangents
    # XLA would fuse the transpose into the product for the kernel's gradient.
    rows = jax.lax.optimization_barrier(rows.T).T
    return _product(*primals), d_rows @ kernel + rows @ d_kernel + d_bias


product = functools.partial(xla.product, _product)


def dense(plain: Function, layer: keras.layers.Layer, rows: Tensor) -> Tensor:
    return xla.dense(plain, layer, rows) if xla.on_cpu() else plain(layer, rows)


# === Layer normalization ===


def layer_norm(
    plain: Function,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    training: bool | None,
) -> Tensor:
    if not xla.on_cpu():
        return plain(x, gamma, beta, epsilon, training)
    dtype = policies.at_least_float32(x.dtype)
    x, gamma, beta = (ops.convert_to_tensor(t, dtype) for t in (x, gamma, beta))
    return _layer_norm(epsilon, x, gamma, beta)


def _normalize(epsilon: float, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x - _mean(x)
    scale = jax.lax.rsqrt(_mean(x * x) + epsilon)
    return x * scale, scale


def _mean(x: Tensor) -> Tensor:
    return x.mean(axis=-1, keepdims=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _layer_norm(epsilon: float, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return _normalize(epsilon, x)[0] * gamma + beta


@_layer_norm.defjvp
def _layer_norm_tangent(
    epsilon: float, primals: Any, tangents: Any
) -> tuple[Tensor, Tensor]:
    """The closed form: its transpose has fewer passes than the derived gradient.

    The scale comes first here, and so last in the gradient, where XLA fuses it.
    """
    x, gamma, beta = primals
    d_x, d_gamma, d_beta = tangents
    x, scale = _normalize(epsilon, x)
    d_x = scale * d_x
    d_x = d_x - _mean(d_x) - x * _mean(d_x * x)
    return x * gamma + beta, d_x * gamma + x * d_gamma + d_beta


# === Attention ===


def dot_product_attention(
    plain: Function,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    training: bool | None = None,
) -> Tensor:
    if xla.on_cpu():
        return _attention_in_pieces(plain, query, key, value, mask)
    if query.dtype == "float64":  # Keras' softmax would be of float32.
        return plain(query, key, value, mask, training)
    if mask is None and query.shape[1] % 2 and _is_for_cudnn(query):
        return _odd_attention_by_cudnn(query, key, value)
    # cuDNN's kernel has no mask of keys; Keras would log an error for each layer.
    flash = None if mask is None else False
    return ops.dot_product_attention(
        query, key, value, mask=mask, flash_attention=flash
    )


def _attention_in_pieces(
    plain: Function, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    """Attends for one sample, or some queries of one, after the other.

    The scores of a piece stay in the cache, and the gradient computes them again. Long
    sequences never have all of their scores in memory.
    """
    batch, tokens, heads, dim = query.shape
    whole = not isinstance(batch, int) or batch * heads * tokens**2 <= PIECE
    if whole or keras.distribution.distribution() is not None:
        return plain(query, key, value, mask, None)
    pieces = math.ceil(heads * tokens**2 / PIECE)
    length = math.ceil(tokens / pieces)
    padding = ((0, 0), (0, pieces * length - tokens), (0, 0), (0, 0))
    query = ops.pad(query / math.sqrt(dim), padding)
    query = ops.reshape(query, (batch, pieces, length, heads, dim))
    # Once for all pieces: in each of them, the transposes cost a quarter of a step.
    query = ops.transpose(query, (0, 1, 3, 2, 4))  # (b, pieces, heads, length, dim)
    key = ops.transpose(key, (0, 2, 3, 1))  # (b, heads, dim, tokens)
    value = ops.transpose(value, (0, 2, 1, 3))  # (b, heads, tokens, dim)
    dtype = policies.at_least_float32(query.dtype)

    def sample(tensors: Any) -> Tensor:
        queries, key, value, mask = tensors

        def piece(query: Tensor) -> Tensor:
            scores = ops.cast(query @ key, dtype)
            if mask is not None:
                scores = ops.where(mask, scores, -1e30)
            return ops.cast(ops.softmax(scores, axis=-1), query.dtype) @ value

        return ops.map(keras.remat(piece), queries)

    output = ops.map(sample, (query, key, value, mask))
    output = ops.transpose(output, (0, 1, 3, 2, 4))
    return ops.reshape(output, (batch, -1, heads, dim))[:, :tokens]


def _is_for_cudnn(query: Tensor) -> bool:
    """Whether Keras takes cuDNN's kernel: half precision on recent NVIDIA GPUs."""
    if not keras.distribution.list_devices()[0].startswith("gpu"):
        return False
    attend = functools.partial(ops.dot_product_attention, flash_attention=True)
    try:
        jax.eval_shape(attend, query, query, query)
    except (ImportError, RuntimeError, ValueError):  # whatever Keras finds missing
        return False
    return True


def _odd_attention_by_cudnn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Adds a token that does not count: JAX refuses the gradient of an odd number.

    Up to JAX 0.10, it takes the tensor that stands for no bias for a bias.
    """
    batch, tokens = query.shape[:2]
    more = ((0, 0), (0, 1), (0, 0), (0, 0))
    output = jax.nn.dot_product_attention(
        *(ops.pad(x, more) for x in (query, key, value)),
        key_value_seq_lengths=ops.full((batch,), tokens, "int32"),
        implementation="cudnn",
    )
    return output[:, :tokens]


# === Augmentation ===


def augment(plain: Function, layer: keras.layers.Layer, data: eager.Data) -> eager.Data:
    """Compiles eager calls, which would otherwise run operation by operation."""
    used = [layer.seed_generator.state.value, *jax.tree.leaves(data)]
    if any(isinstance(x, jax.core.Tracer) for x in used):
        return plain(layer, data)
    return eager.augment(layer, data, jax.jit)
