"""Checkpoints in the format of `transformers`, both ways; see `parity/transformers`."""

import functools
import json
import pathlib
import shutil
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from helpers import STORED_OR_NOW, flat, needs_transformers, normal, randomize
from scenic import assert_close

import keras_vivit as kv

STORED = pathlib.Path(__file__).parent / "parity" / "transformers"
sys.path.insert(0, str(STORED))

from make import write  # noqa: E402

slow = pytest.mark.slow
needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="needs PyTorch")
RAW = {"rescaling": None}
LOGITS = {**RAW, "classifier_activation": None}


@pytest.fixture(
    scope="module",
    params=STORED_OR_NOW,
)
def folder(request, tmp_path_factory):
    """Files as stored, and as the installed `transformers` writes them."""
    if request.param == "stored":
        return STORED
    written = tmp_path_factory.mktemp("transformers")
    write(written)
    return written


def outputs(folder):
    with np.load(folder / "outputs.npz") as file:
        return dict(file)


# === ViViT ===


@pytest.mark.parametrize(
    "name",
    ["vivit", "vivit_sharded", pytest.param("vivit_in_memory", marks=needs_torch)],
)
def test_logits_are_those_of_transformers(name, folder):
    model = kv.ViViTClassifier.from_preset(folder / name, **LOGITS)
    expected = outputs(folder)
    assert_close(model.predict_on_batch(expected["videos"]), expected["logits"])


def test_everything_is_read_from_the_folder():
    config = kv.ViViTClassifier.from_preset(str(STORED / "vivit")).get_config()
    assert {name: config[name] for name in ("pooling", "variant", "num_classes")} == {
        "pooling": "token",
        "variant": "spatio_temporal",
        "num_classes": 5,
    }
    assert config["video_shape"] == (6, 16, 16, 3)
    assert config["tubelet_size"] == (2, 4, 8)
    assert config["rescaling"] == (1 / 127.5, -1)


def test_other_grid_and_one_channel():
    model = kv.ViViTClassifier.from_preset(
        STORED / "vivit", video_shape=(8, 32, 24, 1), tubelet_size=(4, 4, 8)
    )
    table = flat(model.backbone.get_layer("encoder_position").table)[0]
    same = kv.ViViTBackbone.from_preset(STORED / "vivit").get_layer("encoder_position")
    np.testing.assert_allclose(
        table, kv.resize_position_table(flat(same.table)[0], (2, 8, 3)), atol=1e-6
    )
    assert model.predict_on_batch(normal(1, 8, 32, 24, 1)).shape == (1, 5)


def edited(tmp_path, **changes):
    """A copy of the stored folder with another configuration."""
    copy = tmp_path / "edited"
    shutil.copytree(STORED / "vivit", copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changes}))
    return copy


def test_activation_and_epsilon_come_from_the_configuration(tmp_path):
    path = edited(tmp_path, hidden_act="relu", layer_norm_eps=0.5)
    backbone = kv.ViViTBackbone.from_preset(path)
    assert backbone.activation is keras.activations.relu
    assert backbone.layer_norm_epsilon == 0.5


def test_missing_projection_biases_are_zero(tmp_path):
    from safetensors import numpy as safetensors

    path = edited(tmp_path, qkv_bias=False)
    state = safetensors.load_file(path / "model.safetensors")
    kept = {
        name: tensor
        for name, tensor in state.items()
        if not name.endswith(("query.bias", "key.bias", "value.bias"))
    }
    safetensors.save_file(kept, path / "model.safetensors")
    attention = (
        kv.ViViTBackbone.from_preset(path).get_layer("encoder_block_1").attention
    )
    assert not flat(attention.value_dense.bias)[0].any()
    assert flat(attention.output_dense.bias)[0].any()


def test_half_precision_files_are_read(tmp_path):
    from safetensors import numpy as safetensors

    path = edited(tmp_path)
    state = safetensors.load_file(path / "model.safetensors")
    half = {name: tensor.astype("float16") for name, tensor in state.items()}
    safetensors.save_file(half, path / "model.safetensors")
    model = kv.ViViTClassifier.from_preset(path, **LOGITS)
    same = kv.ViViTClassifier.from_preset(STORED / "vivit", **LOGITS)
    for a, b in zip(model.weights, same.weights, strict=True):
        assert a.dtype == "float32"
        np.testing.assert_allclose(flat(a), flat(b), atol=1e-3)


# === Back to transformers ===


def trained(**changes):
    arguments = {
        "video_shape": (4, 8, 8, 1),
        "num_classes": 3,
        "tubelet_size": (2, 4, 2),
        "embed_dim": 12,
        "num_layers": 2,
        "num_heads": 3,
        "mlp_dim": 20,
        "pooling": "token",
        **changes,
    }
    model = kv.ViViTClassifier(**arguments)
    randomize(model)
    return model


def test_saved_folder_gives_the_same_model(tmp_path):
    model = trained()
    kv.save_to_transformers(model, tmp_path / "new" / "folder")
    again = kv.ViViTClassifier.from_preset(tmp_path / "new" / "folder", **RAW)
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(flat(a), flat(b))


def test_dropout_rates_are_kept(tmp_path):
    model = trained(dropout_rate=0.1, attention_dropout_rate=0.2, drop_path_rate=0.3)
    kv.save_to_transformers(model, tmp_path)
    config = kv.ViViTClassifier.from_preset(tmp_path).get_config()
    assert (config["dropout_rate"], config["attention_dropout_rate"]) == (0.1, 0.2)


def test_names_of_classes_are_kept(tmp_path):
    kv.save_to_transformers(trained(class_names=["left", "right", "up"]), tmp_path)
    model = kv.ViViTClassifier.from_preset(tmp_path)
    assert model.class_names == ["left", "right", "up"]
    labels = json.loads((tmp_path / "config.json").read_text())["label2id"]
    assert labels == {"left": 0, "right": 1, "up": 2}
    assert kv.ViViTClassifier.from_preset(STORED / "vivit").class_names is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_merged(dtype, tmp_path):
    model = trained(dtype=dtype)
    model.enable_lora(2)
    randomize(model, seed=2)
    kv.save_to_transformers(model, tmp_path)
    again = kv.ViViTClassifier.from_preset(tmp_path, dtype=dtype, **RAW)
    video = normal(2, 4, 8, 8, 1)
    expected = flat(model(video))[0]
    np.testing.assert_allclose(
        flat(again(video))[0], expected, atol=1e-5 if dtype == "float32" else 0.05
    )


@slow
@needs_transformers
def test_transformers_gives_the_same_logits(tmp_path):
    import torch
    from transformers import VivitForVideoClassification

    model = trained(classifier_activation=None, activation="gelu")
    kv.save_to_transformers(model, tmp_path)
    theirs = VivitForVideoClassification.from_pretrained(tmp_path).eval()
    video = normal(2, 4, 8, 8, 1)
    with torch.no_grad():
        logits = theirs(torch.tensor(video).permute(0, 1, 4, 2, 3)).logits.numpy()
    assert_close(model.predict_on_batch(video), logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "mean"}, "`pooling` must be 'token'.*pooling='mean'"),
        ({"variant": "factorized_encoder"}, "`variant` must be 'spatio_temporal'"),
        ({"position_kind": "sincos"}, "`position_kind` must be 'learned'"),
        ({"strides": (1, 4, 2)}, r"`strides` equal to `tubelet_size`.*\(1, 4, 2\)"),
        ({"video_shape": (4, 8, 4, 1)}, "`video_shape` must be square"),
        ({"num_classes": {"a": 2}}, r"`num_classes` must be an integer.*\{'a': 2\}"),
        ({"activation": "tanh"}, "`activation` must be one of gelu"),
    ],
)
def test_model_that_transformers_lacks_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        kv.save_to_transformers(trained(**changes), tmp_path / "none")
    assert not (tmp_path / "none").exists()


# === Image ViT ===


def image_backbone(**changes):
    arguments = {"video_shape": (6, 16, 16, 3), **RAW, **changes}
    return kv.ViViTBackbone.from_image_preset(STORED / "vit", **arguments)


def spatial_tokens(backbone, video):
    part = keras.Model(backbone.input, backbone.get_layer("spatial_norm").output)
    return part.predict_on_batch(video).reshape(len(video), 3, -1, 24)


def still(images, frames=6):
    return np.repeat(images[:, None], frames, axis=1)


@functools.cache
def image_tokens():
    """Tokens of the image model without its class token, as a video of one frame."""
    model = image_backbone(video_shape=(1, 16, 16, 3), tubelet_size=(1, 4, 4))
    return model.predict_on_batch(outputs(STORED)["images"][:, None])


def test_one_frame_gives_the_tokens_of_transformers(folder):
    expected = outputs(folder)
    model = kv.ViViTBackbone.from_image_preset(
        folder / "vit", (1, 16, 16, 3), tubelet_size=(1, 4, 4), pooling="token", **RAW
    )
    tokens = model.predict_on_batch(expected["images"][:, None])
    assert_close(tokens, expected["tokens"])


@pytest.mark.parametrize("tubelet_init", ["central_frame", "inflate"])
@pytest.mark.parametrize("variant", ["spatio_temporal", "factorized_self_attention"])
def test_still_video_gives_the_image_models_tokens(variant, tubelet_init):
    model = image_backbone(variant=variant, tubelet_init=tubelet_init)
    tokens = model.predict_on_batch(still(outputs(STORED)["images"]))
    for t in range(3):
        assert_close(tokens[:, t], image_tokens()[:, 0])


@pytest.mark.parametrize("tubelet_init", ["central_frame", "inflate"])
def test_spatial_encoder_gives_the_image_models_tokens(tubelet_init):
    expected = outputs(STORED)
    model = image_backbone(
        variant="factorized_encoder", pooling="token", tubelet_init=tubelet_init
    )
    tokens = spatial_tokens(model, still(expected["images"]))
    for t in range(3):
        assert_close(tokens[:, t], expected["tokens"])


def test_dot_product_variant_takes_all_of_the_image_model():
    model = image_backbone(variant="factorized_dot_product")
    same = image_backbone(video_shape=(1, 16, 16, 3), tubelet_size=(1, 4, 4))
    for ours, image in zip(model.weights[3:], same.weights[3:], strict=True):
        np.testing.assert_array_equal(flat(ours), flat(image))


def test_time_attention_starts_at_zero_and_learns():
    model = image_backbone(variant="factorized_self_attention")
    attention = model.get_layer("encoder_block_0").time_attention
    assert not flat(attention.output_dense.kernel)[0].any()
    assert flat(attention.query_dense.kernel)[0].any()


def test_image_models_settings_are_kept():
    model = image_backbone(video_shape=(4, 32, 16, 1))
    assert model.activation is keras.activations.gelu
    assert model.layer_norm_epsilon == 1e-12
    assert model.output_shape == (None, 2, 8, 4, 24)


def test_video_model_is_no_image_model():
    with pytest.raises(ValueError, match="`source` must be an image model"):
        kv.ViViTBackbone.from_image_preset(STORED / "vivit", (6, 16, 16, 3))


def test_unknown_tubelet_init_is_refused():
    with pytest.raises(ValueError, match=r"`tubelet_init` must be one of.*'random'"):
        image_backbone(tubelet_init="random")


@slow
def test_kerashub_model_gives_its_tokens():
    keras_hub = pytest.importorskip("keras_hub", exc_type=ImportError)
    image = keras_hub.models.ViTBackbone((16, 16, 3), (4, 4), 2, 6, 24, 40)
    randomize(image)
    model = kv.ViViTBackbone.from_image_preset(
        image, (6, 16, 16, 3), variant="factorized_encoder", pooling="token", **RAW
    )
    images = outputs(STORED)["images"]
    tokens = spatial_tokens(model, still(images))
    assert_close(tokens[:, 1], image.predict_on_batch(images))
