"""The paths of attention agree, and factorized variants keep to their axes."""

import itertools

import numpy as np
import pytest
from helpers import flat, normal, only, randomize
from keras import ops

import keras_vivit as kv
from keras_vivit import attention
from keras_vivit.attention import MultiHeadSelfAttention

GRID = (3, 2, 5)
AXES = [("all",), ("space",), ("time",), ("time", "space")]


def make(axes, dropout_rate):
    layer = MultiHeadSelfAttention(4, axes, dropout_rate)
    layer.build((2, *GRID, 16))
    randomize(layer)
    return layer


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("axes", AXES)
def test_attention_is_that_of_keras_along_its_axes(axes, masked):
    """Weights with dropout at a rate that drops nothing, fast paths, plain Keras."""
    layer = make(axes, dropout_rate=1e-12)
    x = normal(2, *GRID, 16)
    mask = np.random.default_rng(0).random((2, *GRID)) < 0.7 if masked else None
    if masked:
        mask[:, 0, 0, 0] = mask[:, :, 0, 0] = True  # no row without any token
        mask[:, :, :, 0] = True
    found = [flat(layer(x, mask=mask, training=t))[0] for t in (False, True)]
    np.testing.assert_allclose(*found, atol=1e-5)
    expected = plain_attention(layer, x, mask)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def plain_attention(layer, x, mask):
    """The same by `ops.dot_product_attention`, head by head and line by line."""
    query, key, value = (
        ops.convert_to_numpy(dense(x.reshape(-1, 16))).reshape(*x.shape[:-1], 4, 4)
        for dense in (layer.query_dense, layer.key_dense, layer.value_dense)
    )
    outputs = np.zeros_like(query)
    share = 4 // len(layer.axes)
    for i, axes in enumerate(layer.axes):
        heads = slice(i * share, (i + 1) * share)
        lines = {
            "all": [(b,) for b in range(2)],
            "space": list(np.ndindex(2, GRID[0])),
            "time": [(b, slice(None), *s) for b, *s in np.ndindex(2, *GRID[1:])],
        }[axes]
        for line in lines:
            q, k, v = (
                t[line][..., heads, :].reshape(1, -1, share, 4)
                for t in (query, key, value)
            )
            kept = None if mask is None else mask[line].reshape(1, 1, 1, -1)
            y = ops.convert_to_numpy(ops.dot_product_attention(q, k, v, mask=kept))
            target = outputs[line][..., heads, :]
            outputs[line][..., heads, :] = y.reshape(target.shape)
    rows = layer.output_dense(outputs.reshape(-1, 4, 4))
    return ops.convert_to_numpy(rows).reshape(x.shape)


def test_dropout_thins_out_weights_without_changing_their_mean():
    layer = make(("all",), dropout_rate=0.5)
    x = normal(1, *GRID, 16)
    dropped = np.stack([flat(layer(x, training=True))[0] for _ in range(100)])
    error = dropped.std(axis=0) / 10  # of a mean of 100
    assert np.all(error > 0)
    assert np.abs((dropped.mean(axis=0) - flat(layer(x))[0]) / error).max() < 5


def test_seeds_are_drawn_from_the_iterator_that_is_given():
    layer, x = make(("all",), dropout_rate=0.5), normal(1, *GRID, 16)
    first, second, other = (
        flat(layer(x, training=True, seeds=itertools.repeat(seed)))[0]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert np.any(first != other)
    still = flat(layer(x, training=False, seeds=itertools.repeat(1)))[0]
    np.testing.assert_array_equal(still, flat(layer(x))[0])


def test_float64_is_kept():
    tensors = [normal(1, 5, 2, 4, seed=seed).astype("float64") for seed in range(3)]
    if str(ops.convert_to_tensor(tensors[0]).dtype).endswith("float32"):
        pytest.skip("JAX has float64 only where it is switched on")
    query, key, value = tensors
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, value)
    found = attention.dot_product_attention(*map(ops.convert_to_tensor, tensors))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-12)


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


@only("tensorflow")
@pytest.mark.parametrize(("features", "rounded_once"), [(4, True), (32, False)])
@pytest.mark.parametrize("training", [False, True])
def test_small_heads_of_half_precision_attend_in_float32(
    features, rounded_once, training
):
    shape = (1, 8 * features + 1, 1, features)
    halves = [ops.cast(normal(*shape, seed=i), "bfloat16") for i in range(3)]
    full = [ops.cast(x, "float32") for x in halves]
    found = attention.dot_product_attention(*halves, None, training)
    expected = attention.dot_product_attention(*full, None, training)
    assert found.dtype == "bfloat16"
    same = np.array_equal(*flat([found, ops.cast(expected, "bfloat16")]))
    assert same == rounded_once
