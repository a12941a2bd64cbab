"""What functions need from TensorFlow, and in `tf.data` on any backend."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Layers move the state of their random numbers on, and `tf.data` has many threads.
_lock = threading.Lock()


def has_values(tensor: Any) -> bool:
    return tf.executing_eagerly()


def call_from_graph(function: Callable[..., Any], data: Any, spec: Any) -> Any:
    tensors = keras.tree.flatten(data)
    specs = keras.tree.flatten(spec)

    def call(*arrays: np.ndarray) -> list[np.ndarray]:
        with _lock:
            outputs = function(keras.tree.pack_sequence_as(data, arrays))
        results = map(keras.ops.convert_to_numpy, keras.tree.flatten(outputs))
        # JAX has no 64 bits.
        return [x.astype(s.dtype) for x, s in zip(results, specs, strict=True)]

    outputs = tf.numpy_function(call, tensors, [s.dtype for s in specs])
    for x, s in zip(outputs, specs, strict=True):
        x.set_shape(s.shape)
    return keras.tree.pack_sequence_as(spec, outputs)


without_gradients = contextlib.nullcontext


def pull_back(
    function: Callable[..., tuple[Any, Any]], tensors: list[Any], upstream: Any
) -> tuple[Any, list[Any]]:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors)
        output, others = function(*tensors)
    zero = tf.UnconnectedGradients.ZERO
    return others, tape.gradient(output, tensors, upstream, zero)
