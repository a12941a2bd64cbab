"""Tubelets: the two ways to project them, and what is lost at the border."""

import warnings

import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize

import keras_vivit as kv


def test_kernel_is_that_of_conv3d():
    video = normal(2, 6, 8, 8, 3)
    ours = kv.TubeletEmbedding(5, (2, 4, 2))
    ours.build(video.shape)
    randomize(ours)
    theirs = keras.layers.Conv3D(5, (2, 4, 2), strides=(2, 4, 2))
    theirs.build(video.shape)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        other.assign(mine)
    np.testing.assert_allclose(flat(ours(video)), flat(theirs(video)), atol=1e-5)


def test_matrix_product_and_convolution_give_the_same_numbers(monkeypatch):
    video = normal(2, 6, 8, 8, 3)
    layer = kv.TubeletEmbedding(5, (2, 4, 2))
    layer.build(video.shape)
    randomize(layer)
    product = flat(layer(video))
    calls = []
    conv = keras.ops.conv
    monkeypatch.setattr(keras.ops, "conv", lambda *a: calls.append(1) or conv(*a))
    layer.tubelet_size = list(layer.tubelet_size)  # No longer equal to the strides.
    np.testing.assert_allclose(product, flat(layer(video)), atol=1e-5)
    assert calls


def test_one_frame_per_tubelet_samples_frames_uniformly():
    video = normal(1, 8, 4, 4, 1)
    layer = kv.TubeletEmbedding(3, (1, 2, 2), strides=(4, 2, 2))
    sampled = kv.TubeletEmbedding(3, (1, 2, 2))
    for one in (layer, sampled):
        one.build((None, None, 4, 4, 1))
        randomize(one)
    np.testing.assert_allclose(
        flat(layer(video)), flat(sampled(video[:, ::4])), atol=1e-5
    )


def test_ignored_voxels_are_warned_of_once():
    layer = kv.TubeletEmbedding(3, (8, 8, 8), name="tubelets")
    words = r"`tubelets` ignores 37% of its input.*\(28, 28, 28\)"
    with pytest.warns(UserWarning, match=words):
        layer(normal(1, 28, 28, 28, 1))
    layer(normal(1, 28, 28, 28, 1))  # A second warning would be an error here.


@pytest.mark.parametrize(
    ("size", "tubelet", "strides"),
    [(28, 7, 7), (28, 8, 4), (28, 8, 5), (8, 1, 4)],
)
def test_nothing_ignored_is_nothing_warned_of(size, tubelet, strides):
    layer = kv.TubeletEmbedding(3, (tubelet,) * 3, (strides,) * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.build((None, size, size, size, 1))


def test_padding_drops_no_voxel():
    layer = kv.TubeletEmbedding(1, (8, 8, 8), padding="same")
    layer.build((None, 28, 28, 28, 1))
    layer.kernel.assign(np.ones(layer.kernel.shape))
    video = np.random.default_rng(0).random((1, 28, 28, 28, 1))
    tokens = flat(layer(video))[0]
    assert tokens.shape == (1, 4, 4, 4, 1)
    assert tokens.sum() == pytest.approx(video.sum(), rel=1e-5)


def test_grid_may_be_unknown():
    layer = kv.TubeletEmbedding(3, (2, 4, 4))
    inputs = keras.Input((None, None, 8, 1))
    assert layer(inputs).shape == (None, None, None, 2, 3)
    assert layer(normal(2, 6, 12, 8, 1)).shape == (2, 3, 3, 2, 3)


def test_mask_of_another_rank_is_refused():
    layer = kv.TubeletEmbedding(3, (2, 2, 2))
    with pytest.raises(ValueError, match=r"`mask` must have the shape.*\(2, 4, 4\)"):
        layer(normal(2, 4, 4, 4, 1), mask=np.ones((2, 4, 4), bool))
