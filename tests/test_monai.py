"""MONAI's 3-D ViT: state dicts, and what they do not tell."""

import pathlib
import re
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from helpers import flat, normal
from safetensors import numpy as safetensors

import keras_vivit as kv

CASES = pathlib.Path(__file__).parent / "parity" / "monai"
needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="needs PyTorch")
TOKENS, CLASSES = CASES / "conv_tokens.safetensors", CASES / "conv_classes.safetensors"
NAMES = [
    "conv_tokens",
    "conv_classes",
    pytest.param("perceptron_tokens", marks=needs_torch),
    pytest.param("perceptron_classes", marks=needs_torch),
]


def case(name):
    """The file of a case, what must be given with it, inputs and outputs."""
    with np.load(CASES / f"{name}.npz") as file:
        inputs, outputs = file["inputs"], file["outputs"]
    given = {"video_shape": inputs.shape[1:], "num_heads": 3}
    if "perceptron" in name:
        given["tubelet_size"] = (2, 4, 4) if "tokens" in name else (4, 4, 4)
    (path,) = (path for path in CASES.glob(f"{name}.*") if path.suffix != ".npz")
    return path, given, inputs, outputs


def assert_same(outputs, expected):
    outputs = outputs.reshape(expected.shape)
    error = np.abs(outputs - expected).max() / np.abs(expected).max()
    assert error < 1e-5


def edited(tmp_path, change, source=TOKENS):
    """A copy of a file with other tensors."""
    path = tmp_path / source.name
    safetensors.save_file(change(safetensors.load_file(source)), path)
    return path


# === Parity ===


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_monai(name):
    path, given, inputs, expected = case(name)
    model = kv.ViViTClassifier if "classes" in name else kv.ViViTBackbone
    assert_same(model.from_preset(path, **given).predict_on_batch(inputs), expected)


def test_settings_are_those_of_monai():
    path, given, *_ = case("conv_classes")
    config = kv.ViViTClassifier.from_preset(path, **given).get_config()
    expected = {
        "variant": "spatio_temporal",
        "pooling": "token",
        "position_kind": "learned",
        "activation": "gelu",
        "classifier_activation": "tanh",
        "layer_norm_epsilon": 1e-5,
        "rescaling": None,
        "tubelet_size": (4, 4, 4),
        "embed_dim": 24,
        "mlp_dim": 40,
        "num_layers": 2,
        "num_classes": 5,
    }
    assert {name: config[name] for name in expected} == expected


@needs_torch
def test_head_without_tanh_gives_logits():
    path, given, *_ = case("perceptron_classes")
    model = kv.ViViTClassifier.from_preset(path, **given)
    assert model.classifier_activation is keras.activations.linear


def test_new_head_does_not_have_the_activation_of_the_old_one():
    path, given, *_ = case("conv_classes")
    with pytest.warns(UserWarning, match="gives way to a new one"):
        model = kv.ViViTClassifier.from_preset(path, num_classes=3, **given)
    assert model.classifier_activation is keras.activations.softmax
    same = kv.ViViTClassifier.from_preset(path, num_classes={"a": 2, "b": 3}, **given)
    assert same.classifier_activation is keras.activations.tanh


def test_class_token_has_no_position():
    path, given, *_ = case("conv_classes")
    backbone = kv.ViViTBackbone.from_preset(path, **given)
    token, position = flat(backbone.get_layer("encoder_class_token").weights)
    assert token.any()
    assert not position.any()


def test_table_is_resampled_for_other_volumes():
    path, given, *_ = case("conv_tokens")
    backbone = kv.ViViTBackbone.from_preset(
        path,
        **{**given, "video_shape": (12, 16, 16, 1)},
        source_video_shape=given["video_shape"],
    )
    source = flat(kv.ViViTBackbone.from_preset(path, **given).weights)[2]
    expected = kv.resize_position_table(source, (6, 4, 4))
    np.testing.assert_allclose(flat(backbone.weights)[2], expected, atol=1e-6)
    assert backbone.predict_on_batch(normal(1, 12, 16, 16, 1)).shape == (1, 6, 4, 4, 24)


@pytest.mark.parametrize(
    "unused",
    [
        "blocks.0.cross_attn.out_proj.weight",
        "decoder_blocks.0.norm1.weight",
        "mask_tokens",
        "conv3d_transpose_1.weight",
    ],
)
def test_what_only_other_inputs_and_pretraining_use_is_left_out(unused, tmp_path):
    _, given, inputs, expected = case("conv_tokens")
    path = edited(tmp_path, lambda state: {**state, unused: np.ones(3, "float32")})
    backbone = kv.ViViTBackbone.from_preset(path, **given)
    assert_same(backbone.predict_on_batch(inputs), expected)


# === What must be given ===


@pytest.mark.parametrize(
    ("name", "given", "missing"),
    [
        ("conv_tokens", (), "`video_shape`, `num_heads` must be given.* tell them"),
        ("conv_tokens", ("video_shape",), "^`num_heads` must be given.* tell it"),
        ("conv_tokens", ("num_heads",), "^`video_shape` must be given.* tell it"),
        pytest.param(
            "perceptron_tokens",
            ("video_shape", "num_heads"),
            "^`tubelet_size` must be given.* tell it",
            marks=needs_torch,
        ),
    ],
)
def test_error_names_what_is_missing(name, given, missing):
    path, arguments, *_ = case(name)
    with pytest.raises(ValueError, match=missing):
        kv.ViViTBackbone.from_preset(path, **{k: arguments[k] for k in given})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "must be divisible among the heads.*num_heads=5"),
        ({"num_heads": 0}, "`num_heads` must be a positive integer.*num_heads=0"),
        ({"video_shape": (8, 16, 16, 1)}, "one row for each token of the grid"),
        ({"video_shape": (8, 16, 12)}, "`video_shape` must be 4 positive integers"),
        ({"tubelet_size": (2, 4, 2)}, "must have the shape of"),
    ],
)
def test_what_does_not_fit_the_file_is_refused(changes, message):
    path, given, *_ = case("conv_tokens")
    with pytest.raises(ValueError, match=message):
        kv.ViViTBackbone.from_preset(path, **{**given, **changes})


@needs_torch
@pytest.mark.parametrize("tubelet_size", [(3, 4, 4), (2, 4), (2, 4, 2)])
def test_wrong_patch_of_a_perceptron_is_refused(tubelet_size):
    path, given, *_ = case("perceptron_tokens")
    message = "`tubelet_size` must be|one row for each token|must have the shape of"
    with pytest.raises(ValueError, match=message):
        kv.ViViTBackbone.from_preset(path, **{**given, "tubelet_size": tubelet_size})


def test_left_over_tensors_are_named(tmp_path):
    path = edited(tmp_path, lambda state: {**state, "gate.weight": np.ones(3)})
    with pytest.raises(ValueError, match=r"Not in the model: gate\.weight \(3,\)"):
        kv.ViViTBackbone.from_preset(path, **case("conv_tokens")[1])


# === Files of training scripts ===


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "model._orig_mod.module.", "vision_encoder."],
)
def test_prefix_of_all_tensors_is_removed(prefix, tmp_path):
    _, given, inputs, expected = case("conv_tokens")
    path = edited(tmp_path, lambda state: {prefix + k: x for k, x in state.items()})
    backbone = kv.ViViTBackbone.from_preset(path, **given)
    assert_same(backbone.predict_on_batch(inputs), expected)


def test_encoder_of_a_unetr_is_taken_out(tmp_path):
    def unetr(state):
        others = ["encoder1.layer.conv.weight", "decoder5.conv.weight", "out.bias"]
        vit = {f"module.vit.{k}": x for k, x in state.items()}
        return vit | {f"module.{k}": np.ones(3, "float32") for k in others}

    _, given, inputs, expected = case("conv_tokens")
    backbone = kv.ViViTBackbone.from_preset(edited(tmp_path, unetr), **given)
    assert_same(backbone.predict_on_batch(inputs), expected)


@pytest.mark.parametrize("others", [("logit_scale",), ("teacher.norm.bias",)])
def test_other_parts_of_a_larger_model_are_named(others, tmp_path):
    def clip(state):
        vision = {f"vision_encoder.{k}": x for k, x in state.items()}
        return vision | {name: np.ones(1, "float32") for name in others}

    message = rf"prefix 'vision_encoder\.'.*save its state dict alone.*{others[0]}"
    with pytest.raises(ValueError, match=message):
        kv.ViViTBackbone.from_preset(edited(tmp_path, clip), **case("conv_tokens")[1])


@needs_torch
@pytest.mark.parametrize("roots", [(), ("state_dict",), ("module", "state_dict")])
def test_state_dict_is_found_in_what_was_saved_with_it(roots, tmp_path):
    import torch

    _, given, inputs, expected = case("conv_tokens")
    state = safetensors.load_file(TOKENS)
    content = {f"module.{name}": torch.tensor(x) for name, x in state.items()}
    for root in roots:
        content = {root: content, "epoch": 3, "optimizer": {"state": {}}}
    path = tmp_path / "checkpoint-of-any-name"
    torch.save(content, path)
    backbone = kv.ViViTBackbone.from_preset(path, **given)
    assert_same(backbone.predict_on_batch(inputs), expected)


@needs_torch
def test_tensors_under_an_unknown_name_are_explained(tmp_path):
    import torch

    path = tmp_path / "checkpoint.pt"
    torch.save({"student": {"norm.bias": torch.ones(2)}, "epoch": 3}, path)
    with pytest.raises(ValueError, match=re.escape("under one of state_dict, ")):
        kv.ViViTBackbone.from_preset(path, **case("conv_tokens")[1])
