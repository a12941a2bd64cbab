"""What each dtype policy computes in, and how near it comes to float32."""

import keras
import numpy as np
import pytest
from helpers import SMALL_VIDEO, flat, normal, small_classifier

import keras_vivit as kv
from keras_vivit.backbone import VARIANTS

PIXELS = np.random.default_rng(0).integers(256, size=(4, *SMALL_VIDEO), dtype="uint8")
# Largest difference of a probability: 8 and 11 bits of mantissa.
POLICIES = {
    "mixed_bfloat16": 0.1,
    "bfloat16": 0.1,
    "mixed_float16": 0.01,
    "float16": 0.01,
}

each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_policy = pytest.mark.parametrize("dtype", POLICIES)
each_mixed = pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])


def classifier(dtype, variant="spatio_temporal", **arguments):
    scale = (1 / 127.5, -1)
    return small_classifier(variant, dtype=dtype, rescaling=scale, **arguments)


def outputs(model, videos=PIXELS):
    return flat(model(videos))[0]


@each_variant
@each_policy
def test_outputs_are_near_those_of_float32(dtype, variant):
    expected = outputs(classifier("float32", variant))
    model = classifier(dtype, variant)
    error = np.abs(outputs(model) - expected).max()
    assert 0 < error < POLICIES[dtype]


@each_policy
def test_overlapping_tubelets_and_masks(dtype):
    arguments = {"strides": (1, 4, 4), "masked": True}
    inputs = {"video": PIXELS, "frame_mask": np.array([[1, 1, 1, 0]] * 4, bool)}
    expected = outputs(classifier("float32", **arguments), inputs)
    error = np.abs(outputs(classifier(dtype, **arguments), inputs) - expected).max()
    assert 0 < error < POLICIES[dtype]


@each_policy
def test_weights_and_results_have_the_dtypes_of_the_policy(dtype):
    model = classifier(dtype)
    loaded = kv.ViViTClassifier.from_preset("vivit_organmnist3d", dtype=dtype)
    stored = "float32" if dtype.startswith("mixed_") else dtype
    half = dtype.removeprefix("mixed_")
    standardize = keras.backend.standardize_dtype
    for weight in (*model.weights, *loaded.weights):
        assert standardize(weight.value.dtype) == weight.dtype == stored
    assert standardize(model.backbone(PIXELS).dtype) == half
    assert standardize(model(PIXELS).dtype) == stored  # probabilities


@each_mixed
def test_pixels_are_not_rounded_before_they_are_scaled(dtype):
    """bfloat16 has no 255 and 254 beside each other."""
    model = classifier(dtype)
    rescaled = keras.Model(model.input, model.backbone.get_layer("rescaling").output)
    values = np.arange(4 * 16 * 16).reshape(1, *SMALL_VIDEO) % 256
    assert len(np.unique(flat(rescaled(values))[0])) == 256


@pytest.mark.slow
@each_mixed
def test_training_follows_float32(dtype):
    labels = np.array([0, 1, 2, 0])
    losses = {}
    for policy in ("float32", dtype):
        model = classifier(policy)
        model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
        scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled == (policy == "mixed_float16")
        history = model.fit(PIXELS, labels, epochs=12, verbose=0)
        losses[policy] = history.history["loss"]
    assert losses[dtype][-1] < 0.7 * losses[dtype][0]
    np.testing.assert_allclose(losses[dtype][-1], losses["float32"][-1], rtol=0.2)


def test_large_tokens_do_not_overflow_float16():
    """The variance of these is above 65,504, float16's largest number."""
    block = kv.ViViTEncoderBlock(num_heads=2, mlp_dim=64, dtype="float16")
    tokens = 400 * normal(1, 64, 32).astype("float16")
    assert np.isfinite(flat(block(tokens))[0]).all()
