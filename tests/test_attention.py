"""The paths of attention agree, and factorized variants keep to their axes."""

import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize
from keras import ops

import keras_vivit as kv
from keras_vivit import attention
from keras_vivit.attention import MultiHeadSelfAttention

GRID = (3, 2, 5)
SEEDS = [keras.random.SeedGenerator(0)] * 100
AXES = [("all",), ("space",), ("time",), ("time", "space")]
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a fast path of TensorFlow"
)


def make(axes, dropout_rate):
    layer = MultiHeadSelfAttention(4, axes, dropout_rate)
    layer.build((2, *GRID, 16))
    randomize(layer)
    return layer


def kernel(patch):
    patch.setattr(attention, "has_kernel", lambda query: True)


def products(patch):
    patch.setattr(attention, "has_kernel", lambda query: False)


def samples(patch):
    products(patch)
    patch.setattr(attention, "PIECE", 4 * 30 * 30)


def queries(patch):
    samples(patch)
    patch.setattr(attention, "PIECE", 4 * 30 * 7)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(
    "path",
    [products] + [samples, queries] * (keras.backend.backend() == "jax"),
)
def test_paths_of_attention_agree(monkeypatch, path, axes, masked):
    layer = make(axes, dropout_rate=1e-12)
    x = normal(2, *GRID, 16)
    mask = np.random.default_rng(0).random((2, *GRID)) < 0.7 if masked else None
    with monkeypatch.context() as patch:
        kernel(patch)
        expected = flat(layer(x, mask=mask))[0]
    dropping = flat(layer(x, mask=mask, seeds=iter(SEEDS)))[0]
    np.testing.assert_allclose(dropping, expected, atol=1e-5)
    path(monkeypatch)
    np.testing.assert_allclose(flat(layer(x, mask=mask))[0], expected, atol=1e-5)


def test_dropout_thins_out_weights_without_changing_their_mean():
    layer = make(("all",), dropout_rate=0.5)
    x = normal(1, *GRID, 16)
    seeds = iter(SEEDS)
    dropped = np.stack([flat(layer(x, seeds=seeds))[0] for _ in range(100)])
    error = dropped.std(axis=0) / 10  # of a mean of 100
    assert np.all(error > 0)
    assert np.abs((dropped.mean(axis=0) - flat(layer(x))[0]) / error).max() < 5


def attended_lengths(monkeypatch, model, video):
    """Number of tokens in each call of the attention function, on an eager pass."""
    lengths = []
    attend = attention.dot_product_attention

    def spy(query, key, *rest):
        lengths.append((query.shape[1], key.shape[1]))
        return attend(query, key, *rest)

    monkeypatch.setattr(attention, "dot_product_attention", spy)
    model(video)
    return set(lengths)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("spatio_temporal", {(30, 30)}),
        ("factorized_encoder", {(10, 10), (3, 3)}),
        ("factorized_self_attention", {(10, 10), (3, 3)}),
        ("factorized_dot_product", {(10, 10), (3, 3)}),
    ],
)
def test_only_the_first_variant_attends_over_all_tokens(monkeypatch, variant, expected):
    model = kv.ViViTBackbone(
        (6, 4, 10, 1),
        tubelet_size=(2, 2, 2),
        variant=variant,
        embed_dim=8,
        num_layers=1,
        num_temporal_layers=1,
        num_heads=2,
        mlp_dim=8,
    )
    lengths = attended_lengths(monkeypatch, model, normal(1, 6, 4, 10, 1))
    assert lengths == expected


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
