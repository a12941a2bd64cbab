"""Derivatives of every order and mode that plain Keras layers have, too."""

import keras
import numpy as np
import pytest
from helpers import flat, normal, only, randomize, small_classifier
from keras import ops

import keras_vivit as kv
from keras_vivit import fast
from keras_vivit.backbone import VARIANTS
from keras_vivit.normalization import LayerNormalization

BLOCKS = (
    kv.ViViTEncoderBlock,
    kv.FactorizedSelfAttentionBlock,
    kv.FactorizedDotProductBlock,
)
each_block = pytest.mark.parametrize("block_class", BLOCKS)


def built(block_class):
    block = block_class(2, 6, activation="gelu")
    block.build((None, 2, 3, 4))
    randomize(block)
    return block


def layer_norm():
    layer = LayerNormalization(epsilon=1e-6)
    layer.build((None, 6))
    randomize(layer)
    return layer


def formula(layer, x):
    """Layer normalization, for automatic differentiation of any kind."""
    x = x - ops.mean(x, axis=-1, keepdims=True)
    x = x / ops.sqrt(ops.mean(x * x, axis=-1, keepdims=True) + layer.epsilon)
    return x * layer.gamma + layer.beta


# === Layer normalization, by what each backend differentiates with ===


def derivatives(function, x):
    """The gradient of a scalar, and that of the gradient's square."""
    match keras.backend.backend():
        case "jax":
            import jax

            def second(x):
                return ops.sum(jax.grad(function)(x) ** 2)

            return jax.grad(function)(x), jax.grad(second)(x)
        case "tensorflow":
            import tensorflow as tf

            x = tf.constant(x)
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    y = function(x)
                first = inner.gradient(y, x)
                square = ops.sum(first**2)
            return first, outer.gradient(square, x)
        case "torch":
            import torch

            x = torch.tensor(x, requires_grad=True)
            (first,) = torch.autograd.grad(function(x), x, create_graph=True)
            return first, torch.autograd.grad((first**2).sum(), x)[0]


@pytest.mark.usefixtures("way")
def test_layer_norm_has_the_derivatives_of_its_formula():
    layer, x = layer_norm(), normal(3, 6)
    found, expected = (
        derivatives(lambda x, f=f: ops.sum(ops.sin(f(x))), x)
        for f in (
            lambda x: layer(x, training=True),
            lambda x: formula(layer, x),
        )
    )
    for a, b in zip(flat(found), flat(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("variant", VARIANTS)
def test_second_derivatives_of_models(variant):
    """Against differences."""
    model, x = small_classifier(variant), normal(1, 4, 16, 16, 1)

    def loss(x):
        return ops.sum(ops.log(model(x, training=True)) ** 2)

    def value(x):
        return flat(loss(ops.convert_to_tensor(x)))[0]

    def gradient_square(x):
        return np.sum(flat(derivatives(loss, x))[0].astype("float64") ** 2)

    first, second = flat(derivatives(loss, x))
    for derivative, function in ((first, value), (second, gradient_square)):
        # Along the derivative, where the change is the largest.
        step = 0.03 * derivative / np.linalg.norm(derivative)
        change = function(x + step) - function(x - step)
        np.testing.assert_allclose(2 * np.sum(derivative * step), change, rtol=0.02)


# === JAX ===


@only("jax")
@pytest.mark.slow
@pytest.mark.usefixtures("way")
@each_block
def test_jax_has_forward_mode_and_hessians(block_class):
    import jax

    block, x, v = built(block_class), normal(1, 2, 3, 4), normal(1, 2, 3, 4, seed=5)

    def loss(x):
        return ops.sum(ops.sin(block(x, training=True)))

    gradient = jax.grad(loss)(x)
    value, along = jax.jvp(loss, (x,), (v,))
    np.testing.assert_allclose(value, loss(x), rtol=1e-5)
    np.testing.assert_allclose(along, ops.sum(gradient * v), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.jacfwd(loss)(x), gradient, rtol=1e-4, atol=1e-5)
    product = jax.jvp(jax.grad(loss), (x,), (v,))[1]
    hessian = np.reshape(jax.hessian(loss)(x), (v.size, v.size))
    np.testing.assert_allclose(
        np.ravel(product), hessian @ np.ravel(v), rtol=1e-3, atol=1e-3
    )


@only("jax")
@pytest.mark.slow
def test_jax_differentiates_weights_in_forward_mode():
    import jax

    model, x = small_classifier(), normal(2, 4, 16, 16, 1)
    weights = [v.value for v in model.trainable_variables]
    tangents = [normal(*w.shape, seed=i) for i, w in enumerate(weights)]
    others = [v.value for v in model.non_trainable_variables]

    def loss(weights):
        return ops.sum(model.stateless_call(weights, others, x)[0] ** 2)

    _, along = jax.jvp(loss, (weights,), (tangents,))
    gradients = jax.grad(loss)(weights)
    expected = sum(np.sum(g * t) for g, t in zip(gradients, tangents, strict=True))
    np.testing.assert_allclose(along, expected, rtol=1e-4)


# === PyTorch ===


@pytest.fixture
def onednn(monkeypatch):
    """Has PyTorch multiply by oneDNN, whatever the processor is."""
    ours = fast.module()
    calls, compute = [], ours._onednn
    monkeypatch.setattr(ours, "_prefers_onednn", lambda: True)
    monkeypatch.setattr(ours, "_onednn", lambda *x: calls.append(1) or compute(*x))
    return calls


@only("torch")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@each_block
def test_torch_func(block_class, onednn):
    import torch

    block = built(block_class)
    x, v = (torch.tensor(normal(50, 2, 3, 4, seed=seed)) for seed in range(2))

    def loss(x):
        return torch.sin(block(x)).sum()

    reference = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(reference), reference)
    assert onednn
    torch.testing.assert_close(torch.func.grad(loss)(x), expected, rtol=1e-4, atol=1e-4)
    _, along = torch.func.jvp(loss, (x,), (v,))
    torch.testing.assert_close(along, (expected * v).sum(), rtol=1e-4, atol=1e-4)
    each = torch.func.vmap(lambda sample: block(sample[None])[0])(x)
    torch.testing.assert_close(each, block(x), rtol=1e-4, atol=1e-5)


@only("torch")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@each_block
def test_torch_has_forward_mode(block_class, onednn):
    import torch.autograd.forward_ad as forward_ad

    torch = forward_ad.torch
    block = built(block_class)
    x, v = (torch.tensor(normal(50, 2, 3, 4, seed=seed)) for seed in range(2))
    _, expected = torch.func.jvp(block, (x,), (v,))
    onednn.clear()
    with forward_ad.dual_level():
        outputs = block(forward_ad.make_dual(x, v))
        along = forward_ad.unpack_dual(outputs).tangent
    assert onednn
    torch.testing.assert_close(along, expected, rtol=1e-4, atol=1e-4)


@only("torch")
@pytest.mark.filterwarnings("ignore")  # of the tracer, about shapes in Python
def test_torch_traces_models(onednn):
    import torch

    model = small_classifier()
    x = torch.tensor(normal(32, 4, 16, 16, 1))
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
        onednn.clear()
        torch.testing.assert_close(traced(x + 1), model(x + 1), rtol=1e-4, atol=1e-5)
