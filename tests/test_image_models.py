"""Image ViTs of `transformers`: DINOv2, ViTMAE, and DeiT without distillation."""

import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from helpers import STORED_OR_NOW, data_folder, flat
from safetensors import numpy as safetensors
from scenic import assert_close

import keras_vivit as kv

STORED = pathlib.Path(__file__).parent / "parity" / "transformers"
sys.path.insert(0, str(STORED))

from make import write_image_models  # noqa: E402

NAMES = ["dinov2", "vit_mae", "deit"]
FRAME = {"video_shape": (1, 16, 16, 3), "tubelet_size": (1, 4, 4), "rescaling": None}


@pytest.fixture(scope="module", params=STORED_OR_NOW)
def folder(request, tmp_path_factory):
    """Files as stored, and as the installed `transformers` writes them."""
    if request.param == "stored":
        return STORED
    written = tmp_path_factory.mktemp("transformers")
    write_image_models(written)
    return written


def outputs(folder=STORED):
    with np.load(folder / "image_models.npz") as file:
        return dict(file)


def edited(tmp_path, name, change=None, **config_changes):
    """A copy of a stored folder with other tensors, or another configuration."""
    copy = tmp_path / "edited"
    shutil.copytree(STORED / name, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **config_changes}))
    if change:
        state = safetensors.load_file(copy / "model.safetensors")
        safetensors.save_file(change(state), copy / "model.safetensors")
    return copy


@pytest.mark.parametrize("name", NAMES)
def test_one_frame_gives_the_tokens_of_transformers(name, folder):
    model = kv.ViViTBackbone.from_image_preset(folder / name, pooling="token", **FRAME)
    expected = outputs(folder)
    tokens = model.predict_on_batch(expected["images"][:, None])
    np.testing.assert_allclose(tokens, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ["space_time", "time_space"])
def test_still_video_in_variant_3_gives_all_tokens_of_the_image(order):
    model = kv.ViViTBackbone.from_image_preset(
        STORED / "deit",
        (6, 16, 16, 3),
        variant="factorized_self_attention",
        attention_order=order,
        pooling="token",
        rescaling=None,
    )
    expected = outputs()
    video = np.repeat(expected["images"][:, None], 6, axis=1)
    tokens = model.predict_on_batch(video)
    assert_close(tokens[:, 0], expected["deit"][:, 0])
    for frame in np.split(tokens[:, 1:], 3, axis=1):
        assert_close(frame, expected["deit"][:, 1:])


@pytest.mark.parametrize("name", ["dinov2", "vit_mae"])
def test_pixels_are_imagenets_unless_a_file_tells(name, tmp_path):
    model = kv.ViViTBackbone.from_image_preset(STORED / name, (2, 16, 16, 3))
    assert model.rescaling[1][0] == pytest.approx(-0.485 / 0.229)
    copy = edited(tmp_path, name)
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (copy / "preprocessor_config.json").write_text(json.dumps(processor))
    model = kv.ViViTBackbone.from_image_preset(copy, (2, 16, 16, 3))
    assert model.rescaling == pytest.approx((1 / 127.5, -1))


def test_settings_are_those_of_the_configuration():
    model = kv.ViViTBackbone.from_image_preset(STORED / "dinov2", (2, 16, 16, 3))
    assert model.layer_norm_epsilon == 1e-6
    assert model.get_config()["activation"] == "gelu"
    assert (model.num_heads, model.mlp_dim, model.num_layers) == (6, 48, 2)


def test_layer_scale_is_folded_into_kernel_and_bias():
    state = safetensors.load_file(STORED / "dinov2" / "model.safetensors")
    model = kv.ViViTBackbone.from_image_preset(STORED / "dinov2", **FRAME)
    kernel, bias = flat(model.get_layer("encoder_block_1").mlp.output_dense.weights)
    layer = "dinov2.encoder.layer.1."
    scale = state[f"{layer}layer_scale2.lambda1"]
    np.testing.assert_allclose(
        kernel, state[f"{layer}mlp.fc2.weight"].T * scale, rtol=1e-6
    )
    np.testing.assert_allclose(bias, state[f"{layer}mlp.fc2.bias"] * scale, rtol=1e-6)


# === Refused ===


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("deit", "distillation token"),
        ("dinov2_with_registers", "register tokens"),
        ("dinov3_vit", "rotary positions"),
    ],
)
def test_models_with_more_than_a_vit_are_refused(kind, reason, tmp_path):
    message = rf"`model_type` in config\.json must be one of.*'{kind}'.*{reason}"
    with pytest.raises(ValueError, match=message):
        kv.ViViTBackbone.from_image_preset(
            edited(tmp_path, "deit", model_type=kind), (2, 16, 16, 3)
        )


def test_gated_mlp_is_refused(tmp_path):
    path = edited(tmp_path, "dinov2", use_swiglu_ffn=True)
    with pytest.raises(ValueError, match=r"`use_swiglu_ffn` in config\.json must be"):
        kv.ViViTBackbone.from_image_preset(path, (2, 16, 16, 3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dinov2.embeddings.register_tokens", "must have no register tokens"),
        ("dinov2.encoder.layer.0.layer_scale1.lambda1", r"lambda1 must have the shape"),
        ("dinov2.encoder.layer.9.layer_scale1.lambda1", "must hold the same tensors"),
        ("dinov2.gate", r"Not in the model: .*gate \(3,\)"),
    ],
)
def test_tensors_without_a_place_are_refused(name, message, tmp_path):
    path = edited(
        tmp_path, "dinov2", lambda state: {**state, name: np.ones(3, "float32")}
    )
    with pytest.raises(ValueError, match=message):
        kv.ViViTBackbone.from_image_preset(path, (2, 16, 16, 3))


# === A trained model ===


@pytest.mark.slow
def test_trained_model_gives_its_reference(tmp_path):
    source = data_folder("vit_s14")
    with np.load(source / "dinov2_small_fp16.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["embeddings.position_embeddings"] = arrays.pop(
        "embeddings.position_embeddings_16x16"
    )
    state = {  # Its kernels are those of Keras, (in, out).
        name.replace(".kernel", ".weight"): np.ascontiguousarray(
            x.T if name.endswith(".kernel") else x
        )
        for name, x in arrays.items()
    }
    safetensors.save_file(state, tmp_path / "model.safetensors")
    config = {
        "model_type": "dinov2",
        "image_size": 224,
        "patch_size": 14,
        "num_channels": 3,
        "num_attention_heads": 6,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = kv.ViViTBackbone.from_image_preset(
        tmp_path,
        (1, 224, 224, 3),
        tubelet_size=(1, 14, 14),
        pooling="token",
        rescaling=None,
    )
    with np.load(source / "reference.npz") as file:
        pixels, expected = file["pixel_values"], file["last_hidden_state"]
    frame = np.moveaxis(pixels, 1, -1)[:, None].astype("float32")
    np.testing.assert_allclose(model.predict_on_batch(frame), expected, atol=1e-4)
