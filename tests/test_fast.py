"""Fast paths give what the plain ones do."""

import math

import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize
from keras import ops

import keras_vivit as kv
from keras_vivit import fast

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a fast path of TensorFlow"
)


@needs_tensorflow
def test_compiled_gradients_are_behind_barriers():
    import tensorflow as tf

    block = kv.ViViTEncoderBlock(2, 32, activation="gelu")
    x = tf.constant(normal(2, 40, 16))
    block.build(x.shape)
    randomize(block)

    def gradients(x):
        tensors = [x, *(weight.value for weight in block.trainable_weights)]
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = ops.sum(block(x, training=True) ** 2)
            first = inner.gradient(loss, tensors)
        return first, outer.gradient(first[0], x)

    plain, compiled = (tf.function(gradients, jit_compile=c) for c in (False, True))
    hlo = compiled.experimental_get_compiler_ir(x)(stage="hlo")
    assert hlo.count("opt-barrier(") >= 14  # six weights, four sums of two norms
    for found, expected in zip(flat(compiled(x)), flat(plain(x)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_exact_gelu():
    x = np.linspace(-6, 6, 101, dtype="float32")
    outputs = fast.activate(keras.activations.gelu, ops.convert_to_tensor(x))
    expected = [v * math.erfc(-v / math.sqrt(2)) / 2 for v in x]
    np.testing.assert_allclose(flat(outputs)[0], expected, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_layer_norm_is_that_of_keras(dtype, training):
    layer = keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype)
    x = ops.cast(3 + normal(2, 5, 24), layer.compute_dtype)
    layer.build(x.shape)
    layer.gamma.assign(normal(24))
    layer.beta.assign(normal(24, seed=1))
    outputs = fast.layer_norm(layer, x, training)
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
    tolerance = 1e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(flat(outputs)[0], flat(layer(x))[0], atol=tolerance)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="what XLA compiles")
def test_half_precision_is_rounded_once_on_cpus():
    x = ops.cast(normal(2, 5, 16), "bfloat16")
    half, plain = (
        kv.ViViTEncoderBlock(2, 32, dtype=d) for d in ("mixed_bfloat16", "float32")
    )
    for block in (half, plain):
        block.build(x.shape)
        randomize(block)
        for weight in block.weights:
            weight.assign(ops.cast(weight, "bfloat16"))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        half, plain = (tf.function(block, jit_compile=True) for block in (half, plain))
    found, expected = half(x), plain(ops.cast(x, "float32"))
    np.testing.assert_array_equal(*flat([found, ops.cast(expected, "bfloat16")]))
