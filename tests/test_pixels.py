"""Which pixels a loaded model expects, and for one channel instead of three."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from helpers import randomize
from scenic import assert_close

import keras_vivit as kv

FOLDERS = pathlib.Path(__file__).parent / "parity" / "transformers"
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SCENIC = (1 / 127.5, -1)


def folder_with(tmp_path, processor, name="vivit"):
    copy = tmp_path / "copy"
    shutil.copytree(FOLDERS / name, copy)
    (copy / "preprocessor_config.json").write_text(json.dumps(processor))
    return copy


def rescaled(rescaling, pixels):
    scale, offset = (1, 0) if rescaling is None else rescaling
    return pixels * np.asarray(scale) + np.asarray(offset)


@pytest.mark.parametrize(
    ("processor", "low", "high"),
    [
        # The only ViViT on the Hub, whose processor gives [-3, 1].
        ({"do_rescale": True, "offset": True, "do_normalize": True, **HALF}, -1, 1),
        ({"rescale_factor": 1 / 127.5, "offset": True, "do_normalize": False}, -1, 1),
        ({"rescale_factor": 1 / 255, "offset": False, "do_normalize": False}, 0, 1),
        ({"rescale_factor": 1 / 255, "offset": False, **HALF}, -1, 1),
        ({"do_rescale": False, "offset": False, "do_normalize": False}, 0, 255),
        ({"rescale_factor": 0.01, "offset": False, "do_normalize": False}, 0, 2.55),
        ({"image_processor_type": "VideoMAEImageProcessor", **HALF}, -1, 1),
    ],
)
def test_rescaling_comes_from_the_processor(processor, low, high, tmp_path):
    model = kv.ViViTClassifier.from_preset(folder_with(tmp_path, processor))
    found = rescaled(model.get_config()["rescaling"], np.array([0, 255]))
    np.testing.assert_allclose(found, [low, high], atol=1e-6)


def test_each_channel_has_its_own_rescaling(tmp_path):
    path = folder_with(
        tmp_path, {"offset": False, "rescale_factor": 1 / 255, **IMAGENET}
    )
    model = kv.ViViTClassifier.from_preset(path, classifier_activation=None)
    plain = kv.ViViTClassifier.from_preset(
        path, classifier_activation=None, rescaling=None
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 16, 16, 3), "uint8")
    normalized = (pixels / 255 - IMAGENET["image_mean"]) / IMAGENET["image_std"]
    assert_close(
        model.predict_on_batch(pixels),
        plain.predict_on_batch(normalized.astype("float32")),
    )


def test_processors_of_image_models_count(tmp_path):
    path = folder_with(tmp_path, {"rescale_factor": 1 / 255, **IMAGENET}, "vit")
    model = kv.ViViTBackbone.from_image_preset(path, (2, 16, 16, 3))
    scale, offset = model.rescaling
    np.testing.assert_allclose(scale, 1 / 255 / np.array(IMAGENET["image_std"]))
    np.testing.assert_allclose(
        offset, -np.array(IMAGENET["image_mean"]) / IMAGENET["image_std"]
    )


@pytest.mark.parametrize(
    "change", [{"image_std": [0, 1, 1]}, {"image_mean": "half"}, {"image_mean": [[1]]}]
)
def test_processor_without_numbers_is_refused(change, tmp_path):
    path = folder_with(tmp_path, {"offset": False, **IMAGENET, **change})
    with pytest.raises(ValueError, match=r"preprocessor_config.json must hold numbers"):
        kv.ViViTClassifier.from_preset(path)


# === One channel ===


@pytest.mark.parametrize("model", [kv.ViViTClassifier, kv.ViViTBackbone])
@pytest.mark.parametrize(
    "rescaling",
    [
        ([0.0171, 0.0175, 0.0174], [-2.12, -2.04, -1.80]),
        (0.01, [-2.12, -2.04, -1.80]),
        ([0.1, 0.2, -0.1], 0.5),
        (0.01, -1.5),
        None,
    ],
)
def test_one_channel_is_as_good_as_three_equal_ones(model, rescaling):
    arguments = {"rescaling": rescaling}
    if model is kv.ViViTClassifier:
        arguments["classifier_activation"] = None
    three = model.from_preset(FOLDERS / "vivit", **arguments)
    one = model.from_preset(FOLDERS / "vivit", video_shape=(6, 16, 16, 1), **arguments)
    grey = np.random.default_rng(0).integers(0, 4, (2, 6, 16, 16, 1)).astype("float32")
    expected = three.predict_on_batch(np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(one.predict_on_batch(grey), expected, atol=2e-5)


@pytest.mark.parametrize("tubelet_init", ["central_frame", "inflate"])
def test_image_models_fold_their_channels(tubelet_init, tmp_path):
    path = folder_with(tmp_path, {"rescale_factor": 1 / 255, **IMAGENET}, "vit")
    three, one = (
        kv.ViViTBackbone.from_image_preset(
            path, (4, 16, 16, channels), tubelet_init=tubelet_init
        )
        for channels in (3, 1)
    )
    grey = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16, 1), "uint8")
    still = np.repeat(grey, 4, axis=1)
    expected = three.predict_on_batch(np.repeat(still, 3, axis=-1))
    np.testing.assert_allclose(one.predict_on_batch(still), expected, atol=2e-5)


def test_rescaling_of_two_channels_does_not_fit():
    with pytest.raises(ValueError, match=r"`rescaling` must|must have the shape"):
        kv.ViViTClassifier.from_preset(
            FOLDERS / "vivit",
            video_shape=(6, 16, 16, 1),
            rescaling=([0.1, 0.2], [0, 0]),
        )


# === Written for transformers ===


@pytest.mark.slow
@pytest.mark.parametrize(
    "rescaling",
    [
        SCENIC,
        (1 / 255, 0.0),
        (1.0, -1.0),
        (0.02, 0.3),
        ([0.0171, 0.0175, 0.0174], [-2.12, -2.04, -1.80]),
        None,
    ],
)
def test_saved_processor_gives_what_the_model_expects(rescaling, tmp_path):
    model = kv.ViViTClassifier(
        (4, 16, 16, 3),
        3,
        tubelet_size=(2, 8, 8),
        embed_dim=12,
        num_layers=1,
        num_heads=2,
        mlp_dim=12,
        pooling="token",
        rescaling=rescaling,
    )
    randomize(model)
    kv.save_to_transformers(model, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), "uint8")
    again = kv.ViViTClassifier.from_preset(tmp_path).get_config()["rescaling"]
    assert (again is None) == (rescaling is None)
    expected = rescaled(rescaling, pixels)
    np.testing.assert_allclose(rescaled(again, pixels), expected, atol=1e-5)
    transformers = pytest.importorskip("transformers")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    values = processor(list(pixels), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(np.moveaxis(values, 1, -1), expected, atol=1e-5)
