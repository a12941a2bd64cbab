"""What JAX and TensorFlow share where XLA compiles for a CPU.

XLA has no kernels for half precision there, and would round after each operation. A
block of half precision computes in float32 instead, and rounds once, at its end.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_vivit import fast
from keras_vivit.types import Function, Tensor

HALVES = ("bfloat16", "float16")


def on_cpu() -> bool:
    return keras.distribution.list_devices()[0].startswith("cpu")


def compiles() -> bool:
    """Whether XLA compiles, now, for a CPU: on JAX always."""
    return on_cpu() and getattr(fast.module(), "is_for_xla", lambda: True)()


def dtype_of(x: Tensor) -> str:
    return keras.backend.standardize_dtype(x.dtype)


def in_float32(function: Function, *inputs: Tensor) -> Tensor:
    """Calls a function in float32 if its inputs are of half precision, and rounds."""
    if dtype_of(inputs[0]) not in HALVES:
        return function(*inputs)
    outputs = function(*(ops.cast(x, "float32") for x in inputs))
    return ops.cast(outputs, inputs[0].dtype)


def call(
    plain: Function, layer: keras.layers.Layer, inputs: Tensor, **options: Any
) -> Tensor:
    """Calls a sublayer; one of half precision, that gets float32, without its cast."""
    kept = compiles() and _keeps_float32(layer, inputs)
    if not kept or layer.activity_regularizer is not None:
        return plain(layer, inputs, **options)
    with keras.name_scope(layer.name):
        return layer.call(inputs, **options)


def run_block(plain: Function, forward: Function, tokens: Tensor) -> Tensor:
    return in_float32(forward, tokens) if compiles() else plain(forward, tokens)


def product(
    multiply: Function, plain: Function, rows: Tensor, kernel: Tensor, bias: Tensor
) -> Tensor:
    # A recomputation is outside of the scope that casts variables.
    kernel, bias = (ops.cast(x, rows.dtype) for x in (kernel, bias))
    if not compiles():
        return plain(rows, kernel, bias)
    return in_float32(multiply, rows, kernel, bias)


def activate(plain: Function, activation: Function, x: Tensor) -> Tensor:
    """Keras' exact GELU is made of `erfc`, which takes longer than `erf`.

    TensorFlow fuses this form with the product before it, without XLA, too.
    """
    exact_gelu = activation is keras.activations.gelu
    return plain(_gelu_by_erf if exact_gelu else activation, x)


def dense(plain: Function, layer: keras.layers.Layer, rows: Tensor) -> Tensor:
    """Multiplies matrices: einsums with heads, and their gradients, take longer."""
    if not _computes_alone(layer, rows):
        return plain(layer, rows)
    kernel, bias = _matrix_and_vector(layer)
    if len(rows.shape) > 2:
        rows = ops.reshape(rows, (-1, kernel.shape[0]))
    outputs = fast.product(rows, kernel, bias)
    if len(layer.bias.shape) == 1:  # A reshape would part it from the activation.
        return outputs
    return ops.reshape(outputs, (-1, *layer.bias.shape))


def _computes_alone(layer: keras.layers.Layer, rows: Tensor) -> bool:
    """Whether `layer(rows)` does no more than `layer.call(rows)`."""
    return (
        (layer.compute_dtype == dtype_of(rows) or _keeps_float32(layer, rows))
        and layer.quantization_mode is None
        and layer.activity_regularizer is None
        and keras.distribution.distribution() is None
    )


def _matrix_and_vector(layer: keras.layers.Layer) -> tuple[Tensor, Tensor]:
    """Returns kernel and bias as they multiply rows and are added to them."""
    kernel, bias = (getattr(w, "value", w) for w in (layer.kernel, layer.bias))
    kernel = ops.reshape(kernel, (-1, math.prod(bias.shape)))
    return kernel, ops.reshape(bias, (-1,))


def _keeps_float32(layer: keras.layers.Layer, inputs: Tensor) -> bool:
    return dtype_of(inputs) == "float32" and layer.compute_dtype in HALVES


def _gelu_by_erf(x: Tensor) -> Tensor:
    return x * (0.5 * (1 + ops.erf(x * 0.5**0.5)))
