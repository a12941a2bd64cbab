"""Eager augmentation is compiled where that pays, and gives the same."""

import keras
import numpy as np
import pytest
from helpers import augmentation_of, flat, normal, only

from keras_vivit import augmentation, config

BACKEND = keras.backend.backend()
each_layer = pytest.mark.parametrize("name", augmentation.__all__)


@pytest.fixture
def plain():
    config.disable_fast_paths()
    yield
    config.enable_fast_paths()


class Counting(augmentation.RandomFlip):
    """Notes how often Python runs through it: when it is compiled, or each time."""

    runs = 0

    def augment(self, data):
        type(self).runs += 1
        return super().augment(data)


@pytest.fixture
def counting():
    return type("Counted", (Counting,), {"runs": 0})


def batch(samples=6):
    labels = np.eye(2, dtype="float32")[np.arange(samples) % 2]
    mask = np.arange(4) < 1 + np.arange(samples)[:, None] % 4
    return {"videos": normal(samples, 4, 5, 6, 1), "labels": labels, "frame_mask": mask}


def run(layer, calls=3):
    """Outputs of each call, and the state of the random numbers after it."""
    results = []
    for _ in range(calls):
        outputs = layer(batch(), training=True)
        assert list(outputs) == ["videos", "labels", "frame_mask"]
        results.append([*flat(outputs), *flat(layer.seed_generator.state)])
    return results


@each_layer
def test_compiled_calls_are_the_plain_ones(name, request):
    compiled = run(augmentation_of(name))
    request.getfixturevalue("plain")
    for a, b in zip(compiled, run(augmentation_of(name)), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)
        np.testing.assert_array_equal(a[-1], b[-1])  # The state.
    assert np.any(compiled[0][2] != compiled[1][2])


def test_layer_compiles_once_for_a_shape_and_its_settings(counting):
    plain = BACKEND == "torch"
    layer = counting(seed=0)
    for _ in range(3):
        layer(batch(), training=True)
    counting(seed=1, name="another")(batch(), training=True)
    assert counting.runs == (4 if plain else 1)
    layer(batch(5), training=True)
    assert counting.runs == (5 if plain else 2)
    layer.rate = 1.0
    outputs = layer({"videos": normal(6, 4, 5, 6, 1)}, training=True)
    np.testing.assert_array_equal(
        flat(outputs)[0], np.flip(normal(6, 4, 5, 6, 1), axis=3)
    )


@only("tensorflow", reason="a warning of TensorFlow")
def test_layers_that_are_new_to_tensorflow_give_no_warning(caplog):
    for i in range(6):
        augmentation.RandomFlip(rate=0.5 + i / 100)(batch(), training=True)
    assert not caplog.messages


def test_switch_turns_compiling_off(counting, plain):
    layer = counting()
    for _ in range(3):
        layer(batch(), training=True)
    assert counting.runs == 3


@each_layer
def test_state_that_is_set_repeats_a_call(name):
    layer = augmentation_of(name)
    (first,) = run(layer, 1)
    run(layer)
    layer.seed_generator.state.assign([0, 0])
    (again,) = run(layer, 1)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_stateless_calls_return_the_state():
    layer = augmentation.RandomAffine(shift=0.2, seed=0)
    outputs = flat(layer(batch(), training=True))
    layer.seed_generator.state.assign([0, 0])
    again, (state,) = layer.stateless_call(
        [], [np.array([0, 0])], batch(), training=True
    )
    np.testing.assert_array_equal(flat(again)[2], outputs[2])
    assert flat(state)[0][1] == 3
    assert flat(layer.seed_generator.state)[0][1] == 0


def test_gradients_are_the_plain_ones(request):
    weights = np.random.default_rng(1).normal(size=(6, 4, 5, 6, 1)).astype("float32")
    compiled = gradient(weights)
    request.getfixturevalue("plain")
    np.testing.assert_allclose(compiled, gradient(weights), atol=1e-5)
    assert np.any(compiled != weights)


def gradient(weights):
    layer, x = augmentation.RandomAffine(20, 0.2, 0.2, seed=0), batch()["videos"]
    match BACKEND:
        case "jax":
            import jax

            state = np.array([0, 0], "uint32")

            def loss(x):
                outputs, _ = layer.stateless_call([], [state], x, training=True)
                return (outputs * weights).sum()

            layer.build(x.shape)
            return np.asarray(jax.grad(loss)(x))
        case "tensorflow":
            import tensorflow as tf

            x = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                total = tf.reduce_sum(layer(x, training=True) * weights)
            return tape.gradient(total, x).numpy()
        case "torch":
            import torch

            x = torch.tensor(x, requires_grad=True)
            (layer(x, training=True) * torch.tensor(weights)).sum().backward()
            return x.grad.numpy()
