"""Quantized models predict nearly as before, and files keep them quantized."""

import inspect
import os
import pathlib

import keras
import numpy as np
import pytest
from helpers import (
    SMALL,
    SMALL_VIDEO,
    flat,
    normal,
    randomize,
    small_classifier,
    some_layers_stay,
)

import keras_vivit as kv
from keras_vivit import config
from keras_vivit.backbone import VARIANTS

pytestmark = [pytest.mark.slow, some_layers_stay]
VIDEOS = normal(4, *SMALL_VIDEO)


def classifier(variant="spatio_temporal", **arguments):
    return small_classifier(variant, num_layers=1, **arguments)


def outputs(model, videos=VIDEOS):
    return flat(model(videos))[0]


def quantized(model):
    """Paths of the layers with integer kernels."""
    return {w.path for w in model.weights if w.dtype == "int8"}


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


def rounded(x, axes):
    integers, scale = keras.quantizers.abs_max_quantize(x, axes)
    return keras.ops.cast(integers, x.dtype) / scale


def product_of_rounded(layer, inputs, training=None):
    """What an int8 layer has to compute, in floats."""
    axes = len(layer.kernel.shape) - len(layer.bias.shape)
    rows = rounded(inputs, tuple(range(-axes, 0)))
    columns = rounded(layer.kernel, tuple(range(axes)))
    return keras.ops.tensordot(rows, columns, axes) + layer.bias


@pytest.mark.parametrize("variant", VARIANTS)
def test_int8_classifier(variant, tmp_path, monkeypatch):
    model = classifier(variant)
    before, size = outputs(model), model.count_params()
    with monkeypatch.context() as patch:
        patch.setattr(config, "_fast_paths", False)
        for layer in (keras.layers.Dense, keras.layers.EinsumDense):
            patch.setattr(layer, "call", product_of_rounded)
        expected = outputs(model)
    model.quantize("int8")
    after = outputs(model)
    assert np.abs(after - before).max() > 3e-3
    # As close as rounding allows, should one input lie halfway between two integers.
    np.testing.assert_allclose(after, expected, atol=1e-3)

    kernels = {w.path for w in model.weights if w.path.endswith("kernel")}
    assert quantized(model) == kernels - {"tubelet_embedding/kernel"}
    again = reloaded(reloaded(model, tmp_path), tmp_path)
    assert quantized(again) == quantized(model)
    assert again.count_params() == model.count_params() > size  # and the scales
    np.testing.assert_allclose(outputs(again), after, atol=1e-6)


def test_int8_backbone(tmp_path):
    model = kv.ViViTBackbone(SMALL_VIDEO, **SMALL)
    randomize(model)
    before = outputs(model)
    model.quantize("int8")
    again = reloaded(model, tmp_path)
    assert quantized(again) == quantized(model) != set()
    np.testing.assert_allclose(outputs(again), outputs(model), atol=1e-6)
    change = np.linalg.norm(outputs(model) - before) / np.linalg.norm(before)
    assert 0 < change < 0.05


@pytest.mark.skipif(
    "filters" not in inspect.signature(keras.Model.quantize).parameters,
    reason="this Keras quantizes to int8 only, and every layer",
)
def test_int4_backbone_without_its_mlps(tmp_path):
    model = kv.ViViTBackbone(SMALL_VIDEO, **SMALL)
    model.quantize("int4", filters=lambda layer: "attention" in str(layer.path))
    again = reloaded(model, tmp_path)
    assert quantized(again) == quantized(model)
    assert all("/attention/" in path for path in quantized(model))
    np.testing.assert_allclose(outputs(again), outputs(model), atol=1e-6)


def test_block_in_a_model_of_ones_own(tmp_path):
    inputs = keras.Input((4, 32))
    block = kv.ViViTEncoderBlock(num_heads=2, mlp_dim=64)
    model = keras.Model(inputs, keras.layers.Dense(3)(block(inputs)))
    model.quantize("int8")
    again, tokens = reloaded(model, tmp_path), normal(2, 4, 32)
    assert len(quantized(again)) == 7
    np.testing.assert_allclose(
        outputs(again, tokens), outputs(model, tokens), atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_int8_beside_half_precision(dtype, tmp_path):
    model = classifier(dtype=dtype)
    model.quantize("int8")
    again = reloaded(model, tmp_path)
    assert again.dtype_policy.default_policy.name == dtype
    np.testing.assert_allclose(outputs(again), outputs(model), atol=1e-6)


def test_adapters_of_a_quantized_model_train_and_merge(tmp_path):
    model = classifier()
    model.quantize("int8")
    adapted = reloaded(model, tmp_path)
    adapted.enable_lora(2)
    adapted.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    adapted.fit(VIDEOS, np.array([0, 1, 2, 0]), epochs=4, verbose=0)
    after = outputs(adapted)
    assert np.abs(after - outputs(model)).max() > 0.01
    merged = reloaded(adapted, tmp_path)
    assert not any("lora" in w.path for w in merged.weights)
    np.testing.assert_allclose(outputs(merged), after, atol=0.02)


def test_other_formats_do_not_take_integers(tmp_path):
    model = classifier(pooling="token")
    model.quantize("int8")
    with pytest.raises(ValueError, match="must not be quantized"):
        kv.save_to_transformers(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    "KERAS_VIVIT_DATA" not in os.environ,
    reason="KERAS_VIVIT_DATA is not set: no real volumes",
)
def test_organs_are_named_as_before(tmp_path):
    with np.load(pathlib.Path(os.environ["KERAS_VIVIT_DATA"], "organmnist3d.npz")) as f:
        volumes, labels = f["test_images"][..., None], f["test_labels"].ravel()
    model = kv.ViViTClassifier.from_preset("vivit_organmnist3d")
    model.save(tmp_path / "float.keras")
    before = model.predict(volumes, verbose=0)
    model.quantize("int8")
    after = reloaded(model, tmp_path).predict(volumes, verbose=0)
    right = [np.mean(p.argmax(-1) == labels) for p in (before, after)]
    assert abs(right[1] - right[0]) <= 0.01
    sizes = [(tmp_path / f"{n}.keras").stat().st_size for n in ("float", "model")]
    assert sizes[1] < 0.45 * sizes[0]
