"""What layers compute with: the plain form, and a backend's faster form of it.

Every function here is complete, and right on each backend. `fast/BACKEND.py` may have
a function of the same name: it gets the plain form, then the same arguments, and calls
the plain form where it knows nothing faster. Without that file, and with
`keras_vivit.config.disable_fast_paths()`, the plain forms are all that runs.
docs/performance.md says what each of the faster forms brings.
"""

import functools
import importlib
from types import ModuleType
from typing import Any, TypeVar

import keras
from keras import ops

from keras_vivit import config, policies
from keras_vivit.types import Function, Tensor

Plain = TypeVar("Plain", bound=Function)


def accelerated(plain: Plain) -> Plain:
    """Decorates a plain function: the backend's function of that name goes first."""

    name = plain.__name__

    @functools.wraps(plain)
    def compute(*args: Any, **kwargs: Any) -> Any:
        if config.is_fast_paths_enabled() and (own := _own(name)):
            return own(plain, *args, **kwargs)
        return plain(*args, **kwargs)

    return compute  # type: ignore[return-value]


@functools.cache
def _own(name: str) -> Function | None:
    """Returns the backend's function of this name, if there is one."""
    return getattr(module(), name, None)


def module() -> ModuleType | None:
    """Returns the backend's file, if it is there and can be imported."""
    try:
        return importlib.import_module(f"{__name__}.{keras.backend.backend()}")
    except ImportError:
        return None


@accelerated
def call(layer: keras.layers.Layer, inputs: Tensor, **options: Any) -> Tensor:
    """Calls a sublayer on a tensor that its parent has prepared."""
    return layer(inputs, **options)


@accelerated
def run_layers(
    model: keras.Model,
    block_class: type[keras.layers.Layer],
    functional_call: Function,
    inputs: Tensor,
    training: bool | None,
) -> Tensor:
    """Runs a functional model whose layers form a chain, most of them blocks."""
    return functional_call(inputs, training=training)


@accelerated
def run_block(forward: Function, tokens: Tensor) -> Tensor:
    """Runs the branches of a block."""
    return forward(tokens)


@accelerated
def remat(function: Function) -> Function:
    """Has the backward pass compute a function again, instead of keeping its values.

    The result of `function` has the shape and dtype of its argument.
    """
    return keras.remat(function)


@accelerated
def reshape(x: Tensor, shape: tuple[Any, ...]) -> Tensor:
    return ops.reshape(x, shape)


@accelerated
def product(rows: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Returns `rows @ kernel + bias`."""
    return ops.add(ops.matmul(rows, kernel), bias)


@accelerated
def dense(layer: keras.layers.Layer, rows: Tensor) -> Tensor:
    """Calls a `Dense` on `(n, d)`, or an `EinsumDense` that splits or joins heads."""
    return layer(rows)


@accelerated
def projections(layers: list[keras.layers.Layer], rows: Tensor) -> list[Tensor]:
    """Calls `EinsumDense` layers of one shape on the same rows."""
    return [dense(layer, rows) for layer in layers]


@accelerated
def activate(activation: Function, x: Tensor) -> Tensor:
    return activation(x)


@accelerated
def layer_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, training: bool | None
) -> Tensor:
    """Normalizes the last axis, in float32 or more."""
    x = ops.cast(x, policies.at_least_float32(x.dtype))
    x = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(variance + epsilon) * gamma + beta


@accelerated
def update_variables(
    one_by_one: Function,
    together: Function,
    gradients: list[Tensor],
    variables: list[Any],
    learning_rate: Tensor,
) -> None:
    """Has an optimizer update its variables one by one, or all in one call."""
    one_by_one(gradients, variables, learning_rate)


@accelerated
def augment(layer: keras.layers.Layer, data: dict[str, Any]) -> dict[str, Any]:
    """Runs an augmentation."""
    return layer.augment(data)
