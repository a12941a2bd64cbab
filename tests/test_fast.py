"""Fast paths give what the plain forms do, and fall back to them."""

import math
import sys

import keras
import numpy as np
import pytest
from helpers import flat, normal, only, randomize, small_classifier, some_layers_stay
from keras import ops

import keras_vivit as kv
from keras_vivit import attention, config, fast
from keras_vivit.backbone import VARIANTS
from keras_vivit.mlp import gelu_tanh

BACKEND = keras.backend.backend()


def plainly(function, *args):
    """Calls a function with the fast paths off."""
    config.disable_fast_paths()
    try:
        return function(*args)
    finally:
        config.enable_fast_paths()


def test_switch_is_off_and_on():
    assert config.is_fast_paths_enabled()
    assert not plainly(config.is_fast_paths_enabled)
    assert config.is_fast_paths_enabled()


@pytest.mark.parametrize(
    "module", [f"keras_vivit.fast.{BACKEND}", "keras_vivit.fast.xla"]
)
def test_model_works_without_a_file(module, monkeypatch):
    model, x = small_classifier(), normal(2, 4, 16, 16, 1)
    expected = flat(model(x))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, None)  # as if it had been deleted
        if module.endswith("xla"):
            patch.delitem(sys.modules, f"keras_vivit.fast.{BACKEND}", raising=False)
            patch.delattr(fast, "xla", raising=False)
        fast._own.cache_clear()
        found = flat(model(x))
        used = fast.module()
    fast._own.cache_clear()
    assert (used is None) == (BACKEND != "torch" or not module.endswith("xla"))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def step(variant, dtype, **arguments):
    """Weights after one step."""
    keras.utils.set_random_seed(0)
    model = small_classifier(variant, dtype=dtype, **arguments)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.train_on_batch(normal(4, 4, 16, 16, 1), np.arange(4) % 3)
    return [*flat(model.trainable_variables), *flat(model(normal(4, 4, 16, 16, 1)))]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float32", 1e-5), pytest.param("mixed_bfloat16", 0.05, marks=pytest.mark.slow)],
)
def test_steps_are_the_same_both_ways(variant, dtype, tolerance):
    arguments = {"activation": "gelu", "remat": variant == "spatio_temporal"}
    ways = (
        step(variant, dtype, **arguments),
        plainly(lambda: step(variant, dtype, **arguments)),
    )
    for found, expected in zip(*ways, strict=True):
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_exact_gelu():
    x = np.linspace(-6, 6, 101, dtype="float32")
    outputs = fast.activate(keras.activations.gelu, ops.convert_to_tensor(x))
    expected = [v * math.erfc(-v / math.sqrt(2)) / 2 for v in x]
    np.testing.assert_allclose(flat(outputs)[0], expected, atol=1e-6)


@only("torch")
@pytest.mark.parametrize("part", [2**18, 7])
def test_gelu_by_a_sigmoid_is_that_of_the_kernel(part, monkeypatch):
    import torch

    ours = fast.module()
    monkeypatch.setattr(ours, "PART", part)
    x = torch.tensor(6 * normal(20, 9)).T.requires_grad_()  # Not contiguous.
    upstream = torch.tensor(normal(20, 9, seed=1)).T.requires_grad_()
    results = []
    for gelu in (lambda x: fast.activate(gelu_tanh, x), gelu_tanh):
        outputs = gelu(x)
        (first,) = torch.autograd.grad(outputs, x, upstream, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), (x, upstream))
        (alone,) = torch.autograd.grad(gelu(x), x, upstream)
        results.append([outputs, first, alone, *second])
    assert results[0][0].grad_fn.name() == "_GeluBackward"
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(*(r[2] for r in results), rtol=1e-5, atol=5e-6)
    torch.testing.assert_close(*(r[0] for r in results), rtol=1e-6, atol=1e-6)


# === Layer normalization ===


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_layer_norm_is_that_of_keras(dtype, training):
    from keras_vivit.normalization import LayerNormalization

    ours = LayerNormalization(epsilon=1e-6, dtype=dtype)
    theirs = keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype)
    x = ops.cast(3 + normal(2, 5, 24), ours.compute_dtype)
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.gamma.assign(normal(24))
        layer.beta.assign(normal(24, seed=1))
    outputs = ours(x, training=training)
    assert keras.backend.standardize_dtype(outputs.dtype) == ours.compute_dtype
    tolerance = 1e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(flat(outputs)[0], flat(theirs(x))[0], atol=tolerance)


# === Attention ===


@only("torch")
@pytest.mark.parametrize("tokens", [7, 129])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)]
)
def test_attention_of_torch_is_that_of_keras(tokens, dtype, tolerance):
    arrays = [normal(2, tokens, 3, 8, seed=seed) for seed in range(3)]
    tensors = [ops.convert_to_tensor(x, dtype).requires_grad_() for x in arrays]
    results = []
    for attend in (attention.dot_product_attention, ops.dot_product_attention):
        outputs = attend(*tensors)
        assert keras.backend.standardize_dtype(outputs.dtype) == dtype
        (outputs**2).sum().backward()
        results.append([outputs, *(x.grad.clone() for x in tensors)])
        for x in tensors:
            x.grad = None
    for found, plain in zip(*map(flat, results), strict=True):
        np.testing.assert_allclose(found, plain, atol=tolerance)


@only("torch")
def test_other_devices_get_contiguous_tensors(monkeypatch):
    import torch

    ours = fast.module()

    contiguous = []
    monkeypatch.setattr(ours, "STRIDED", ())
    monkeypatch.setattr(ours, "SHORT", 0)
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *tensors, **_: (
            contiguous.extend(map(torch.Tensor.is_contiguous, tensors)) or tensors[0]
        ),
    )
    attention.dot_product_attention(*(torch.ones(1, 7, 3, 8) for _ in range(3)))
    assert contiguous == [True] * 3


@only("jax")
def test_a_token_more_changes_nothing(monkeypatch):
    """cuDNN's attention cannot be run here; what surrounds the call can."""
    import jax

    ours = fast.module()

    attend, lengths = jax.nn.dot_product_attention, []

    def without_gpu(query, *rest, implementation, **options):
        assert implementation == "cudnn"
        lengths.append(query.shape[1])
        return attend(query, *rest, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", without_gpu)
    monkeypatch.setattr(ours.xla, "on_cpu", lambda: False)
    monkeypatch.setattr(ours, "_is_for_cudnn", lambda query: True)
    tensors = [normal(2, 7, 3, 8, seed=seed) for seed in range(3)]
    results = []
    for compute in (attention.dot_product_attention, attend):
        loss = lambda *tensors: ops.sum(compute(*tensors) ** 2)  # noqa: B023, E731
        results.append([compute(*tensors), *jax.grad(loss, (0, 1, 2))(*tensors)])
    assert set(lengths) == {8}
    for found, plain in zip(*map(flat, results), strict=True):
        np.testing.assert_allclose(found, plain, atol=1e-5)


@only("jax")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("piece", [4 * 30 * 30, 4 * 30 * 7])
def test_attention_in_pieces_is_that_of_the_whole(masked, piece, monkeypatch):
    import jax

    ours = fast.module()

    tensors = [normal(2, 30, 4, 8, seed=seed) for seed in range(3)]
    mask = (normal(2, 1, 1, 30) > 0) if masked else None

    def loss(*tensors):
        return ops.sum(attention.dot_product_attention(*tensors, mask) ** 2)

    expected = jax.value_and_grad(loss, (0, 1, 2))(*tensors)
    calls, divide = [], ours.ops.map
    monkeypatch.setattr(ours, "PIECE", piece)
    monkeypatch.setattr(ours.ops, "map", lambda *args: calls.append(1) or divide(*args))
    found = jax.value_and_grad(loss, (0, 1, 2))(*tensors)
    assert calls
    for a, b in zip(flat(found), flat(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@only("tensorflow")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_long_attention_is_the_derived_one(masked, dtype, monkeypatch):
    import tensorflow as tf

    ours = fast.module()

    calls, attend = [], ours._attend_with_gradient
    monkeypatch.setattr(
        ours, "_attend_with_gradient", lambda *args: calls.append(1) or attend(*args)
    )
    tensors = [tf.constant(normal(2, 40, 3, 4, seed=i), dtype) for i in range(3)]
    mask = normal(2, 1, 1, 40) > 0
    mask[1] = False  # nothing to attend to
    results = []
    for training in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = attention.dot_product_attention(
                *tensors, mask if masked else None, training
            )
            loss = ops.sum(outputs**2)
        results.append([outputs, *tape.gradient(loss, tensors)])
    assert calls == [1]
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for plain, found in zip(*(map(np.asarray, r) for r in results), strict=True):
        np.testing.assert_allclose(found, plain, atol=tolerance)


@only("jax", "tensorflow")
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
    if BACKEND == "tensorflow":
        import tensorflow as tf

        half, plain = (tf.function(block, jit_compile=True) for block in (half, plain))
    found, expected = half(x), plain(ops.cast(x, "float32"))
    np.testing.assert_array_equal(*flat([found, ops.cast(expected, "bfloat16")]))


# === Products ===


@only("torch")
@pytest.mark.parametrize("rows", [256, 250, 16])
@pytest.mark.parametrize("large", [0, 2**20])
def test_onednn_computes_the_product_of_matrices(rows, large, monkeypatch):
    import torch

    ours = fast.module()

    arrays = normal(rows, 24), normal(24, 40), normal(40)
    results, calls, compute = [], [], ours._onednn
    monkeypatch.setattr(ours, "LARGE", large)
    monkeypatch.setattr(
        ours, "_onednn", lambda *args: calls.append(1) or compute(*args)
    )
    for faster in (False, True):
        monkeypatch.setattr(ours, "_prefers_onednn", lambda faster=faster: faster)
        tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
        outputs = fast.product(*tensors)
        (outputs**2).sum().backward()
        with torch.no_grad():
            predicted = fast.product(*tensors)
        results.append([outputs.detach(), predicted, *(x.grad for x in tensors)])
    assert len(calls) == 2 * (rows > 16)
    for plain, found in zip(*results, strict=True):
        np.testing.assert_allclose(plain, found, rtol=1e-4, atol=1e-4)


@some_layers_stay
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


# === Upstream names that are not public ===


def missing(*args, **kwargs):
    raise AttributeError("missing")


def changed(new_argument, *, another):
    raise AssertionError("unreachable")


@only("torch")
@pytest.mark.parametrize(
    "name", ["mkldnn._linear_pointwise", "aten.convolution_backward"]
)
@pytest.mark.parametrize("replacement", [missing, changed])
def test_torch_without_an_operator(name, replacement, monkeypatch):
    import torch

    ours = fast.module()

    monkeypatch.setattr(ours, "_prefers_onednn", lambda: True)
    arrays = normal(256, 24), normal(24, 40), normal(40)
    expected = [arrays[0] @ arrays[1] + arrays[2]]
    upstream = 2 * expected[0]
    expected += [upstream @ arrays[1].T, arrays[0].T @ upstream, upstream.sum(0)]
    namespace, operator = name.split(".")
    monkeypatch.setattr(getattr(torch.ops, namespace), operator, replacement)
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    outputs = fast.product(*tensors)
    (outputs**2).sum().backward()
    found = [outputs, *(x.grad for x in tensors)]
    for a, b in zip(flat(found), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@only("tensorflow")
@pytest.mark.parametrize("name", ["IS_FOR_XLA", "BARRIER"])
@pytest.mark.parametrize(
    "path", ["no.such.module", "tensorflow.no_such_name", f"{__name__}.changed"]
)
def test_tensorflow_without_a_function(name, path, monkeypatch):
    import tensorflow as tf

    ours = fast.module()

    block, x = kv.ViViTEncoderBlock(2, 32), normal(2, 5, 16)
    expected = flat(block(x))
    monkeypatch.setattr(ours, name, path)

    @tf.function(jit_compile=True)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = block(x, training=True)
        return outputs, tape.gradient(outputs, x)

    outputs, found = gradient(tf.constant(x))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(flat(outputs), expected, atol=1e-5)
