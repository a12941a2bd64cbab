"""Fast paths give what the plain ones do."""

import math

import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize
from keras import ops

import keras_vivit as kv
from keras_vivit import attention, fast

needs_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="a fast path of JAX"
)
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a fast path of TensorFlow"
)
needs_torch = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="a fast path of PyTorch"
)


@needs_torch
@pytest.mark.parametrize("rows", [256, 250, 16])
@pytest.mark.parametrize("large", [0, 2**20])
def test_onednn_computes_the_product_of_matrices(rows, large, monkeypatch):
    import torch

    arrays = normal(rows, 24), normal(24, 40), normal(40)
    results, calls, compute = [], [], fast._onednn
    monkeypatch.setattr(fast, "LARGE", large)
    monkeypatch.setattr(
        fast, "_onednn", lambda *args: calls.append(1) or compute(*args)
    )
    for is_amd in ([], [True]):
        monkeypatch.setattr(fast, "_is_amd_with_avx512", is_amd.copy)
        tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
        outputs = fast.product(*tensors)
        (outputs**2).sum().backward()
        with torch.no_grad():
            predicted = fast.product(*tensors)
        results.append([outputs.detach(), predicted, *(x.grad for x in tensors)])
    assert len(calls) == 2 * (rows > 16)
    for plain, found in zip(*results, strict=True):
        np.testing.assert_allclose(plain, found, rtol=1e-4, atol=1e-4)


@needs_jax
def test_gradient_from_transposed_rows_is_that_of_the_product():
    import jax

    def loss(*arrays):
        return ops.sum(fast.product(*arrays) ** 2)

    rows, kernel, bias = arrays = normal(250, 24), normal(24, 40), normal(40)
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    assert "optimization_barrier" in gradient.lower(*arrays).as_text()
    upstream = 2 * (rows @ kernel + bias)
    expected = upstream @ kernel.T, rows.T @ upstream, upstream.sum(0)
    for found, known in zip(gradient(*arrays), expected, strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-4, atol=1e-3)


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


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize("quantized", [(), ("query",), ("value",)])
def test_projections_are_those_of_each_layer(quantized):
    layer = attention.MultiHeadSelfAttention(num_heads=2)
    layer.build((None, 5, 8))
    layers = {name: getattr(layer, f"{name}_dense") for name in ("query", "value")}
    for name in quantized:
        layers[name].quantize("int8")
    rows = ops.convert_to_tensor(normal(10, 8))
    found = flat(fast.projections([*layers.values()], rows))
    expected = flat([each(rows) for each in layers.values()])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ("vendor_id : AuthenticAMD\nflags : fpu avx2 avx512f avx512_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : fpu avx2", False),
        ("vendor_id : GenuineIntel\nflags : fpu avx2 avx512f", False),
        (None, False),
    ],
)
def test_processor_is_recognized(cpu, expected, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    if cpu:
        path.write_text(cpu)
    monkeypatch.setattr(fast, "CPU", path)
    assert fast._is_amd_with_avx512.__wrapped__() == expected


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


@needs_tensorflow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_long_attention_is_tensorflows(masked, dtype, monkeypatch):
    import tensorflow as tf

    calls, attend = [], attention._attend_in_tensorflow
    monkeypatch.setattr(
        attention,
        "_attend_in_tensorflow",
        lambda *args, **options: calls.append(1) or attend(*args, **options),
    )
    tensors = [tf.constant(normal(2, 40, 3, 4, seed=i), dtype) for i in range(3)]
    mask = normal(2, 1, 1, 40) > 0
    mask[1] = False  # nothing to attend to
    results = []
    for training in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = attention.dot_product_attention(
                *tensors, mask if masked else None, 0.0, None, training
            )
            loss = ops.sum(outputs**2)
        results.append([outputs, *tape.gradient(loss, tensors)])
    assert calls == [1]
    for plain, found in zip(*map(flat, results), strict=True):
        np.testing.assert_allclose(found, plain, atol=1e-5)


@needs_tensorflow
@pytest.mark.parametrize(("features", "expected"), [(4, "float32"), (32, "bfloat16")])
def test_small_heads_of_half_precision_attend_in_float32(
    features, expected, monkeypatch
):
    dtypes, weigh = [], attention._weights
    monkeypatch.setattr(
        attention,
        "_weights",
        lambda q, *rest: dtypes.append(q.dtype) or weigh(q, *rest),
    )
    tokens = 8 * features + 1
    tensors = [ops.cast(normal(1, tokens, 1, features), "bfloat16") for _ in range(3)]
    for training in (False, True):
        outputs = attention.dot_product_attention(*tensors, None, 0.0, None, training)
        assert outputs.dtype == "bfloat16"
    assert dtypes == [expected] * 2
