"""What a function, not its speed, needs from a backend: a file for each of them."""

import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras


def has_values(tensor: Any) -> bool:
    """Whether values can be read: not while a backend traces or builds a graph."""
    return _backend().has_values(tensor)


def without_gradients() -> AbstractContextManager[Any]:
    """Returns a scope whose computations keep nothing for a gradient."""
    return _backend().without_gradients()


def pull_back(
    function: Callable[..., tuple[Any, Any]], tensors: list[Any], upstream: Any
) -> tuple[Any, list[Any]]:
    """Computes gradients by any tensors: the vector-Jacobian product.

    Args:
        function: Takes the tensors and returns its output and anything else.
        tensors: List of floating-point tensors.
        upstream: Tensor of the output's shape and dtype: the gradient by the output.

    Returns:
        What else the function returned, and the list of gradients, zero by a tensor
        without influence.
    """
    return _backend().pull_back(function, tensors, upstream)


def is_foreign_graph(data: Any) -> bool:
    """Whether data are in a graph of TensorFlow's (`tf.data`) on another backend."""
    tf = sys.modules.get("tensorflow")
    return (
        tf is not None
        and keras.config.backend() != "tensorflow"
        and not tf.executing_eagerly()
        and any(isinstance(x, tf.Tensor) for x in keras.tree.flatten(data))
    )


def call_from_graph(function: Callable[..., Any], data: Any, spec: Any) -> Any:
    """Calls a function of the active backend from a graph of TensorFlow's.

    Args:
        function: Takes the structure `data` as NumPy arrays.
        data: Structure of TensorFlow's tensors.
        spec: Structure of `keras.KerasTensor`, what comes out.
    """
    tensorflow = importlib.import_module("keras_vivit.backends.tensorflow")
    return tensorflow.call_from_graph(function, data, spec)


def _backend() -> Any:
    return importlib.import_module(f"keras_vivit.backends.{keras.config.backend()}")
