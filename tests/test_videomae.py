"""VideoMAE: fine-tuned and pre-trained, from `transformers` and its own repository."""

import json
import pathlib
import re
import shutil
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from helpers import STORED_OR_NOW, flat, needs_transformers, normal, randomize
from scenic import assert_close

import keras_vivit as kv
from keras_vivit.positions import sequence_table

STORED = pathlib.Path(__file__).parent / "parity" / "transformers"
sys.path.insert(0, str(STORED))

from make import SIZES, write_videomae  # noqa: E402

needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="needs PyTorch")
LOGITS = {"rescaling": None, "classifier_activation": None}
NAMES = ["videomae", "videomae_first"]


@pytest.fixture(scope="module", params=STORED_OR_NOW)
def folder(request, tmp_path_factory):
    """Files as stored, and as the installed `transformers` writes them."""
    if request.param == "stored":
        return STORED
    written = tmp_path_factory.mktemp("transformers")
    write_videomae(written)
    return written


def outputs(folder=STORED):
    with np.load(folder / "videomae.npz") as file:
        return dict(file)


def edited(tmp_path, name="videomae", **changes):
    """A copy of a stored folder with another configuration."""
    copy = tmp_path / "edited"
    shutil.copytree(STORED / name, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changes}))
    return copy


# === Fine-tuned ===


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name, folder):
    model = kv.ViViTClassifier.from_preset(folder / name, **LOGITS)
    expected = outputs(folder)
    assert_close(model.predict_on_batch(expected["videos"]), expected[name])


def test_settings_are_those_of_the_configuration():
    mean, first = (
        kv.ViViTClassifier.from_preset(STORED / name).get_config() for name in NAMES
    )
    assert (mean["pooling"], mean["final_norm"]) == ("mean", False)
    assert (first["pooling"], first["final_norm"]) == ("first", True)
    assert (mean["head_norm_epsilon"], first["head_norm_epsilon"]) == (1e-5, None)
    assert mean["layer_norm_epsilon"] == 1e-12
    assert mean["activation"] == "gelu"
    assert mean["variant"] == "spatio_temporal"
    scale, offset = mean["rescaling"]
    np.testing.assert_allclose(scale, (0.0171248, 0.0175070, 0.0174292), atol=1e-7)
    np.testing.assert_allclose(offset, (-2.117904, -2.035714, -1.804444), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_model_survives_saving(name, tmp_path):
    model = kv.ViViTClassifier.from_preset(STORED / name, **LOGITS)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    expected = outputs()
    assert_close(again.predict_on_batch(expected["videos"]), expected[name])


def test_other_classes_keep_the_norm_before_the_head():
    with pytest.warns(UserWarning, match="gives way to a new one"):
        model = kv.ViViTClassifier.from_preset(STORED / "videomae", num_classes=3)
    same = kv.ViViTClassifier.from_preset(STORED / "videomae")
    for weights in zip(
        model.get_layer("head_norm").weights,
        same.get_layer("head_norm").weights,
        strict=True,
    ):
        np.testing.assert_array_equal(*map(flat, weights))
    assert not flat(model.get_layer("head").kernel)[0].any()


def test_missing_norm_before_the_head_is_an_error(tmp_path):
    from safetensors import numpy as safetensors

    path = edited(tmp_path) / "model.safetensors"
    state = safetensors.load_file(path)
    state = {k: v for k, v in state.items() if not k.startswith("fc_norm")}
    safetensors.save_file(state, path)
    with pytest.raises(ValueError, match="Missing in the checkpoint: head_norm/scale"):
        kv.ViViTClassifier.from_preset(path.parent)


@pytest.mark.parametrize("key", ["qv_bias", "qkv_bias"])
def test_models_without_biases(key, tmp_path):
    from safetensors import numpy as safetensors

    path = edited(tmp_path)
    config = json.loads((path / "config.json").read_text())
    del config["qv_bias"]
    (path / "config.json").write_text(json.dumps({**config, key: False}))
    state = safetensors.load_file(path / "model.safetensors")
    for name in state:
        if name.endswith(("q_bias", "v_bias")):
            state[name] = np.zeros_like(state[name])
    zeros = tmp_path / "zeros"
    shutil.copytree(STORED / "videomae", zeros)
    safetensors.save_file(state, zeros / "model.safetensors")
    state = {k: v for k, v in state.items() if not k.endswith(("q_bias", "v_bias"))}
    safetensors.save_file(state, path / "model.safetensors")
    videos = outputs()["videos"]
    expected, logits = (
        kv.ViViTClassifier.from_preset(p, **LOGITS).predict_on_batch(videos)
        for p in (zeros, path)
    )
    np.testing.assert_array_equal(logits, expected)
    assert np.abs(logits - outputs()["videomae"]).max() > 1e-3


def test_names_in_memory_are_read_too(tmp_path):
    from safetensors import numpy as safetensors

    path = edited(tmp_path) / "model.safetensors"
    state = safetensors.load_file(path)
    renamed = {
        name.replace("q_bias", "query.bias").replace("v_bias", "value.bias"): x
        for name, x in state.items()
    }
    assert renamed.keys() != state.keys()
    safetensors.save_file(renamed, path)
    model = kv.ViViTClassifier.from_preset(path.parent, **LOGITS)
    expected = outputs()
    assert_close(model.predict_on_batch(expected["videos"]), expected["videomae"])


def test_number_of_heads_can_be_replaced(tmp_path):
    path = edited(tmp_path, num_attention_heads=3)
    model = kv.ViViTClassifier.from_preset(path, num_heads=6, **LOGITS)
    expected = outputs()
    assert_close(model.predict_on_batch(expected["videos"]), expected["videomae"])
    with pytest.raises(ValueError, match=r"must be divisible among the heads.*heads=7"):
        kv.ViViTClassifier.from_preset(path, num_heads=7)


@pytest.mark.parametrize("name", ["image_size", "num_frames"])
def test_absurd_sizes_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json must describe videos"):
        kv.ViViTClassifier.from_preset(edited(tmp_path, **{name: 2**40}))


# === Positions ===


def test_table_is_the_formula_in_float64_and_does_not_train():
    model = kv.ViViTClassifier.from_preset(STORED / "videomae")
    layer = model.backbone.get_layer("encoder_position")
    expected = [
        [
            (np.cos if j % 2 else np.sin)(n / 10000 ** (2 * (j // 2) / 24))
            for j in range(24)
        ]
        for n in range(12)
    ]
    table = flat(layer.table)[0].reshape(12, 24)
    np.testing.assert_allclose(table, expected, atol=1e-7)
    assert not layer.trainable_weights
    before = flat(model.backbone.weights)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(normal(2, 6, 16, 16, 3), np.array([0, 1]), verbose=0)
    np.testing.assert_array_equal(flat(layer.table)[0].reshape(12, 24), table)
    assert any(
        np.any(a != b) for a, b in zip(before, flat(model.weights), strict=False)
    )


def test_table_is_resampled_to_another_grid():
    model = kv.ViViTBackbone.from_preset(
        STORED / "videomae", video_shape=(8, 24, 16, 3)
    )
    table = flat(model.get_layer("encoder_position").table)[0]
    source = sequence_table(12, 24).reshape(3, 2, 2, 24)
    expected = kv.resize_position_table(source, (4, 3, 2))
    np.testing.assert_allclose(table, expected, atol=1e-6)


def test_one_channel_is_as_good_as_three_equal_ones():
    arguments = {"classifier_activation": None}
    three = kv.ViViTClassifier.from_preset(STORED / "videomae", **arguments)
    one = kv.ViViTClassifier.from_preset(
        STORED / "videomae", video_shape=(6, 16, 16, 1), **arguments
    )
    grey = np.random.default_rng(0).integers(0, 256, (2, 6, 16, 16, 1), "uint8")
    expected = three.predict_on_batch(np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(one.predict_on_batch(grey), expected, atol=2e-5)


# === Pre-trained ===


def pretrained(tmp_path, mean_pooling=False):
    """A model with its decoder, and the tokens of its encoder."""
    import torch
    import transformers

    torch.manual_seed(2)
    config = transformers.VideoMAEConfig(
        image_size=16,
        patch_size=8,
        num_frames=6,
        tubelet_size=2,
        use_mean_pooling=mean_pooling,
        decoder_hidden_size=12,
        decoder_intermediate_size=12,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        **SIZES,
    )
    model = transformers.VideoMAEForPreTraining(config).eval()
    videos = torch.tensor(outputs()["videos"]).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
        tokens = model.videomae(videos).last_hidden_state.numpy()
    model.save_pretrained(tmp_path)
    return tokens


@pytest.mark.slow
@needs_transformers
@pytest.mark.parametrize("mean_pooling", [False, True])
def test_backbone_gives_the_tokens_of_the_pretrained_encoder(mean_pooling, tmp_path):
    expected = pretrained(tmp_path, mean_pooling)
    backbone = kv.ViViTBackbone.from_preset(tmp_path, rescaling=None)
    assert backbone.final_norm != mean_pooling
    tokens = backbone.predict_on_batch(outputs()["videos"]).reshape(2, 12, 24)
    np.testing.assert_allclose(tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@needs_transformers
def test_new_classifier_ends_as_a_fine_tuned_one(tmp_path):
    pretrained(tmp_path)
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        kv.ViViTClassifier.from_preset(tmp_path)
    model = kv.ViViTClassifier.from_preset(tmp_path, num_classes=3)
    assert (model.backbone.final_norm, model.head_norm_epsilon) == (False, 1e-5)
    assert model.backbone.pooling == "mean"
    gamma, beta = flat(model.get_layer("head_norm").weights)
    assert (gamma == 1).all()
    assert (beta == 0).all()
    same = kv.ViViTBackbone.from_preset(tmp_path)
    for ours, theirs in zip(model.backbone.weights, same.weights, strict=False):
        np.testing.assert_array_equal(flat(ours), flat(theirs))


@pytest.mark.slow
@needs_transformers
@pytest.mark.parametrize("name", NAMES)
def test_backbone_of_a_fine_tuned_model_gives_its_tokens(name, tmp_path):
    import torch
    import transformers

    theirs = transformers.VideoMAEModel.from_pretrained(STORED / name).eval()
    videos = outputs()["videos"]
    with torch.no_grad():
        pixels = torch.tensor(videos).permute(0, 1, 4, 2, 3)
        expected = theirs(pixels).last_hidden_state.numpy()
    backbone = kv.ViViTBackbone.from_preset(STORED / name, rescaling=None)
    tokens = backbone.predict_on_batch(videos).reshape(expected.shape)
    np.testing.assert_allclose(tokens, expected, rtol=1e-5, atol=1e-5)


# === Written back ===


@pytest.mark.parametrize("name", NAMES)
def test_written_back_it_is_the_same(name, tmp_path):
    from safetensors import numpy as safetensors

    model = kv.ViViTClassifier.from_preset(STORED / name)
    kv.save_to_transformers(model, tmp_path)
    before, after = (
        safetensors.load_file(path / "model.safetensors")
        for path in (STORED / name, tmp_path)
    )
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)
    again = kv.ViViTClassifier.from_preset(tmp_path).get_config()
    for key, value in model.get_config().items():
        if key == "rescaling":
            np.testing.assert_allclose(again[key], value, rtol=1e-6)
        elif key != "name":
            assert again[key] == value, key


@pytest.mark.slow
@needs_transformers
@pytest.mark.parametrize("name", NAMES)
def test_transformers_gives_the_same_logits(name, tmp_path):
    import torch
    import transformers

    model = kv.ViViTClassifier.from_preset(STORED / name, classifier_activation=None)
    randomize(model)
    kv.save_to_transformers(model, tmp_path)
    theirs = transformers.VideoMAEForVideoClassification.from_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    video = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), "uint8")
    pixels = processor(list(video), return_tensors="pt")
    with torch.no_grad():
        expected = theirs.eval()(**pixels).logits.numpy()
    logits = model.predict_on_batch(video[None])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pooling": "token", "variant": "spatio_temporal"},
            "`pooling` must be 'mean'",
        ),
        ({"final_norm": True}, "`final_norm` must be False"),
        ({"head_norm_epsilon": 1e-6}, "`head_norm_epsilon` must be 1e-05"),
    ],
)
def test_model_that_transformers_lacks_is_refused(changes, message, tmp_path):
    config = kv.ViViTClassifier.from_preset(STORED / "videomae").get_config()
    model = kv.ViViTClassifier.from_config({**config, **changes})
    with pytest.raises(ValueError, match=message):
        kv.save_to_transformers(model, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_resampled_table_is_not_written(tmp_path):
    model = kv.ViViTClassifier.from_preset(
        STORED / "videomae", video_shape=(6, 24, 24, 3)
    )
    with pytest.raises(ValueError, match="The position table must be VideoMAE's"):
        kv.save_to_transformers(model, tmp_path / "none")


# === The original repository ===

ORIGINAL = {  # the names of `transformers`, and those of the repository
    r"^videomae\.": "",
    r"^encoder\.layer\.": "blocks.",
    r"^decoder\.decoder_layers\.": "decoder.blocks.",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"attention\.output\.dense": "attn.proj",
    r"attention\.attention\.": "attn.",
    r"intermediate\.dense": "mlp.fc1",
    r"output\.dense": "mlp.fc2",
    r"^embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"^layernorm\.": "norm.",
    r"^classifier\.": "head.",
}


def original(state):
    """Renames and stacks the tensors of a file as the repository has them."""
    import torch

    renamed = {}
    for name, tensor in state.items():
        for pattern, new in ORIGINAL.items():
            name = re.sub(pattern, new, name)
        renamed[name] = torch.tensor(tensor)
    for name in [name for name in renamed if name.endswith("attn.query.weight")]:
        parts = [
            renamed.pop(name.replace("query", p)) for p in ("query", "key", "value")
        ]
        renamed[name.replace("query", "qkv")] = torch.cat(parts)
    return renamed


@pytest.mark.slow
@needs_transformers
@pytest.mark.parametrize("root", ["model", "module", None])
@pytest.mark.parametrize(
    "sizes",
    [{}, {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1}],
)
def test_original_files_load(root, sizes, tmp_path):
    import torch
    from safetensors import numpy as safetensors

    mean, _ = write_videomae(tmp_path, layer_norm_eps=1e-6, **sizes)
    mean.fc_norm.eps = 1e-6
    videos = outputs(tmp_path)["videos"]
    with torch.no_grad():
        pixels = torch.tensor(videos).permute(0, 1, 4, 2, 3)
        expected = mean(pixels).logits.numpy()
    state = original(safetensors.load_file(tmp_path / "videomae/model.safetensors"))
    path = tmp_path / "checkpoint.pth"
    torch.save({root: state} if root else state, path)
    heads = {} if sizes else {"num_heads": 6}
    model = kv.ViViTClassifier.from_preset(
        path, video_shape=(6, 16, 16, 3), **heads, **LOGITS
    )
    np.testing.assert_allclose(
        model.predict_on_batch(videos), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
@needs_transformers
def test_original_pretrained_files_load(tmp_path):
    import torch
    from safetensors import numpy as safetensors

    expected = pretrained(tmp_path)
    state = safetensors.load_file(tmp_path / "model.safetensors")
    encoder = {k: v for k, v in state.items() if k.startswith("videomae.")}
    renamed = {f"encoder.{k}": v for k, v in original(encoder).items()}
    renamed |= {"mask_token": torch.ones(1), "decoder.head.bias": torch.ones(1)}
    torch.save({"model": renamed}, tmp_path / "pretrained.pth")
    backbone = kv.ViViTBackbone.from_preset(
        tmp_path / "pretrained.pth",
        video_shape=(6, 16, 16, 3),
        num_heads=6,
        rescaling=None,
        layer_norm_epsilon=1e-12,
    )
    tokens = backbone.predict_on_batch(outputs()["videos"]).reshape(expected.shape)
    np.testing.assert_allclose(tokens, expected, rtol=1e-5, atol=1e-5)


@needs_torch
def test_other_pytorch_file_is_refused(tmp_path):
    import torch

    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"must be a file of VideoMAE.*fc\.weight"):
        kv.ViViTClassifier.from_preset(
            tmp_path / "other.pth", video_shape=(6, 16, 16, 3)
        )
