"""TimeSformer: variant 3 with a class token, weights of `transformers`."""

import json
import pathlib
import shutil
import sys

import keras
import numpy as np
import pytest
from helpers import STORED_OR_NOW, flat, normal
from scenic import assert_close

import keras_vivit as kv

STORED = pathlib.Path(__file__).parent / "parity" / "transformers"
sys.path.insert(0, str(STORED))

from make import write_timesformer  # noqa: E402

LOGITS = {"rescaling": None, "classifier_activation": None}


@pytest.fixture(scope="module", params=STORED_OR_NOW)
def folder(request, tmp_path_factory):
    """Files as stored, and as the installed `transformers` writes them."""
    if request.param == "stored":
        return STORED
    written = tmp_path_factory.mktemp("transformers")
    write_timesformer(written)
    return written


def outputs(folder=STORED):
    with np.load(folder / "timesformer.npz") as file:
        return dict(file)


def edited(tmp_path, change=None, **config_changes):
    """A copy of the stored folder with other tensors, or another configuration."""
    from safetensors import numpy as safetensors

    copy = tmp_path / "edited"
    shutil.copytree(STORED / "timesformer", copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **config_changes}))
    if change:
        state = safetensors.load_file(copy / "model.safetensors")
        safetensors.save_file(change(state), copy / "model.safetensors")
    return copy


# === Parity ===


@pytest.mark.usefixtures("way")
def test_logits_and_tokens_are_those_of_transformers(folder):
    model = kv.ViViTClassifier.from_preset(folder / "timesformer", **LOGITS)
    model = keras.Model(model.input, [model.backbone.output, model.output])
    expected = outputs(folder)
    tokens, logits = model.predict_on_batch(expected["videos"])
    assert_close(logits, expected["logits"])
    np.testing.assert_allclose(tokens, expected["tokens"], rtol=1e-5, atol=1e-5)


def test_backbone_loads_without_the_head():
    backbone = kv.ViViTBackbone.from_preset(STORED / "timesformer", rescaling=None)
    expected = outputs()
    tokens = backbone.predict_on_batch(expected["videos"])
    np.testing.assert_allclose(tokens, expected["tokens"], rtol=1e-5, atol=1e-5)


def test_settings_are_those_of_timesformer():
    config = kv.ViViTClassifier.from_preset(STORED / "timesformer").get_config()
    expected = {
        "variant": "factorized_self_attention",
        "attention_order": "time_space",
        "position_kind": "factorized",
        "pooling": "token",
        "video_shape": (3, 16, 16, 3),
        "tubelet_size": (1, 4, 4),
        "activation": "gelu",
        "layer_norm_epsilon": 1e-6,
        "final_norm": True,
        "num_classes": 5,
    }
    assert {name: config[name] for name in expected} == expected
    scale, offset = config["rescaling"]
    pixels = scale * np.array([0, 0.45 * 255, 255]) + offset
    np.testing.assert_allclose(pixels, [-0.45 / 0.225, 0, 0.55 / 0.225], atol=1e-6)


def test_models_without_biases(tmp_path):
    def without(state):
        return {k: v for k, v in state.items() if not k.endswith("qkv.bias")}

    path = edited(tmp_path, without, qkv_bias=False)
    block = kv.ViViTBackbone.from_preset(path).get_layer("encoder_block_0")
    for attention in (block.time_attention, block.space_attention):
        assert not flat(attention.query_dense.bias)[0].any()
        assert flat(attention.output_dense.bias)[0].any()


def test_model_survives_saving(tmp_path):
    model = kv.ViViTClassifier.from_preset(STORED / "timesformer", **LOGITS)
    model.save(tmp_path / "model.keras")
    model.save_to_preset(tmp_path / "preset")
    expected = outputs()
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(again.predict_on_batch(expected["videos"]), expected["logits"])
    longer = kv.ViViTClassifier.from_preset(
        tmp_path / "preset", video_shape=(5, 16, 16, 3)
    )
    same = kv.ViViTClassifier.from_preset(
        STORED / "timesformer", video_shape=(5, 16, 16, 3), **LOGITS
    )
    video = normal(1, 5, 16, 16, 3)
    assert_close(longer.predict_on_batch(video), same.predict_on_batch(video))


def test_tables_are_resampled_and_the_class_token_keeps_its_row():
    short, long = (
        kv.ViViTBackbone.from_preset(STORED / "timesformer", video_shape=shape)
        for shape in ((3, 16, 16, 3), (6, 24, 16, 1))
    )
    tables = [m.get_layer("encoder_position") for m in (short, long)]
    for name, grid in (("time_table", (6,)), ("space_table", (6, 4))):
        old, new = (flat(getattr(table, name))[0] for table in tables)
        expected = kv.resize_position_table(old, grid)
        np.testing.assert_allclose(new, expected, atol=1e-6)
    old, new = (flat(m.get_layer("encoder_class_token").weights) for m in (short, long))
    np.testing.assert_array_equal(old, new)


# === Masks ===


def test_masked_frames_are_as_if_they_were_not_there():
    arguments = {"masked": True, **LOGITS}
    model = kv.ViViTClassifier.from_preset(STORED / "timesformer", **arguments)
    videos = outputs()["videos"]
    inputs = {"video": videos, "frame_mask": np.ones((2, 3), bool)}
    assert_close(model.predict_on_batch(inputs), outputs()["logits"])
    # The last frame of three is left out.
    inputs["frame_mask"][:, 2] = False
    short = kv.ViViTClassifier.from_preset(
        STORED / "timesformer", video_shape=(2, 16, 16, 3), **LOGITS
    )
    table = flat(model.backbone.get_layer("encoder_position").time_table)[0]
    short.backbone.get_layer("encoder_position").time_table.assign(table[:2])
    logits = model.predict_on_batch(inputs)
    assert_close(logits, short.predict_on_batch(videos[:, :2]))
    assert np.abs(logits - outputs()["logits"]).max() > 1e-3


# === Refused ===


@pytest.mark.parametrize("kind", ["space_only", "joint_space_time"])
def test_other_attention_is_refused(kind, tmp_path):
    message = rf"`attention_type` in config\.json must be.*attention_type='{kind}'"
    with pytest.raises(ValueError, match=message):
        kv.ViViTClassifier.from_preset(edited(tmp_path, attention_type=kind))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 2**40}, r"`num_frames` in config\.json must be.*of.*3\."),
        ({"image_size": 2**40}, "one token for each row of the position table"),
        ({"image_size": 12}, "one token for each row of the position table"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        kv.ViViTClassifier.from_preset(edited(tmp_path, **changes))


@pytest.mark.parametrize(
    "missing", ["layer.0.temporal_dense.bias", "layer.1.temporal_layernorm.weight"]
)
def test_missing_tensor_is_an_error(missing, tmp_path):
    def without(state):
        return {k: v for k, v in state.items() if not k.endswith(missing)}

    with pytest.raises(ValueError, match="must hold the same tensors"):
        kv.ViViTClassifier.from_preset(edited(tmp_path, without))


def test_video_model_is_no_image_model():
    with pytest.raises(ValueError, match="`source` must be an image model"):
        kv.ViViTBackbone.from_image_preset(STORED / "timesformer", (6, 16, 16, 3))
