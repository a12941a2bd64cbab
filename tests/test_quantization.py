"""Quantized models predict nearly as before, and files keep them quantized."""

import inspect
import os
import pathlib

import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize

import keras_vivit as kv
from keras_vivit.backbone import VARIANTS

SHAPE = (4, 16, 16, 1)
SIZES = {
    "tubelet_size": (2, 8, 8),
    "embed_dim": 32,
    "num_layers": 1,
    "num_temporal_layers": 1,
    "num_heads": 2,
    "mlp_dim": 64,
}
VIDEOS = normal(4, *SHAPE)

# Keras warns for each layer that has nothing to quantize.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")


def classifier(variant, **arguments):
    model = kv.ViViTClassifier(SHAPE, 3, variant=variant, **SIZES, **arguments)
    randomize(model)
    return model


def outputs(model, videos=VIDEOS):
    return flat(model(videos))[0]


def quantized(model):
    """Paths of the layers with integer kernels."""
    return {w.path for w in model.weights if w.dtype == "int8"}


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("variant", VARIANTS)
def test_int8_classifier(variant, tmp_path):
    model = classifier(variant)
    before, size = outputs(model), model.count_params()
    model.quantize("int8")
    after = outputs(model)
    assert 0 < np.abs(after - before).max() < 0.05

    kernels = {w.path for w in model.weights if w.path.endswith("kernel")}
    assert quantized(model) == kernels - {"tubelet_embedding/kernel"}
    again = reloaded(reloaded(model, tmp_path), tmp_path)
    assert quantized(again) == quantized(model)
    assert again.count_params() == model.count_params() > size  # and the scales
    np.testing.assert_allclose(outputs(again), after, atol=1e-6)


@pytest.mark.skipif(
    "filters" not in inspect.signature(keras.Model.quantize).parameters,
    reason="this Keras quantizes to int8 only, and every layer",
)
def test_int4_backbone_without_its_mlps(tmp_path):
    model = kv.ViViTBackbone(SHAPE, **SIZES)
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
    model = classifier(VARIANTS[0], dtype=dtype)
    model.quantize("int8")
    again = reloaded(model, tmp_path)
    assert again.dtype_policy.default_policy.name == dtype
    np.testing.assert_allclose(outputs(again), outputs(model), atol=1e-6)


def test_adapters_of_a_quantized_model_train_and_merge(tmp_path):
    model = classifier(VARIANTS[0])
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
    model = classifier(VARIANTS[0], pooling="token")
    model.quantize("int8")
    with pytest.raises(ValueError, match="must not be quantized"):
        kv.save_to_transformers(model, tmp_path)
    assert not list(tmp_path.iterdir())


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
