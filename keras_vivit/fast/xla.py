"""What JAX and TensorFlow share where XLA compiles for a CPU.

XLA has no kernels for half precision there, and would round after each operation. A
block of half precision computes in float32 instead, and rounds once, at its end.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_vivit.types import Tensor

HALVES = ("bfloat16", "float16")


def on_cpu() -> bool:
    return keras.distribution.list_devices()[0].startswith("cpu")


def dtype_of(x: Tensor) -> str:
    return keras.backend.standardize_dtype(x.dtype)


def in_float32(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Calls a function in float32 if its inputs are of half precision, and rounds."""
    if dtype_of(inputs[0]) not in HALVES:
        return function(*inputs)
    outputs = function(*(ops.cast(x, "float32") for x in inputs))
    return ops.cast(outputs, inputs[0].dtype)


def call(layer: keras.layers.Layer, inputs: Tensor, **options: Any) -> Tensor:
    """Calls a sublayer; one of half precision, that gets float32, without its cast."""
    if not _keeps_float32(layer, inputs) or layer.activity_regularizer is not None:
        return layer(inputs, **options)
    with keras.name_scope(layer.name):
        return layer.call(inputs, **options)


def computes_alone(layer: keras.layers.Layer, rows: Tensor) -> bool:
    """Whether `layer(rows)` does no more than `layer.call(rows)`."""
    return (
        (layer.compute_dtype == dtype_of(rows) or _keeps_float32(layer, rows))
        and layer.quantization_mode is None
        and layer.activity_regularizer is None
        and keras.distribution.distribution() is None
    )


def matrix_and_vector(layer: keras.layers.Layer) -> tuple[Tensor, Tensor]:
    """Returns kernel and bias as they multiply rows and are added to them."""
    kernel, bias = (getattr(w, "value", w) for w in (layer.kernel, layer.bias))
    kernel = ops.reshape(kernel, (-1, math.prod(bias.shape)))
    return kernel, ops.reshape(bias, (-1,))


def _keeps_float32(layer: keras.layers.Layer, inputs: Tensor) -> bool:
    return dtype_of(inputs) == "float32" and layer.compute_dtype in HALVES


def gelu_by_erf(x: Tensor) -> Tensor:
    """The exact GELU; Keras' is made of `erfc`, which takes longer than `erf`."""
    return x * (0.5 * (1 + ops.erf(x * 0.5**0.5)))
