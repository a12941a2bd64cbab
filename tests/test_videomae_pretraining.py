"""Pre-training with a VideoMAE of `transformers`, decoder included."""

import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from helpers import STORED_OR_NOW, flat
from scenic import assert_close
from test_videomae import needs_torch, original

import keras_vivit as kv
from keras_vivit.checkpoints.videomae import DECODER
from keras_vivit.positions import sequence_table

STORED = pathlib.Path(__file__).parent / "parity" / "transformers"
sys.path.insert(0, str(STORED))

from make import write_videomae_pretraining  # noqa: E402

NAME = "videomae_pretraining"
MASK = {"mask_ratio": 0.75, "hidden_input": True}


@pytest.fixture(scope="module", params=STORED_OR_NOW)
def folder(request, tmp_path_factory):
    """Files as stored, and as the installed `transformers` writes them."""
    if request.param == "stored":
        return STORED
    written = tmp_path_factory.mktemp("transformers")
    write_videomae_pretraining(written)
    return written


def outputs(folder=STORED):
    with np.load(folder / f"{NAME}.npz") as file:
        x = {"video": file["videos"].astype("float32"), "hidden": file["hidden"]}
        return x, file["voxels"], file["loss"]


def test_predictions_and_loss_are_those_of_transformers(folder):
    model = kv.ViViTMaskedAutoencoder.from_preset(folder / NAME, **MASK)
    x, voxels, loss = outputs(folder)
    model.compile("sgd")
    assert_close(model.predict(x, verbose=0), voxels)
    np.testing.assert_allclose(model.evaluate(x, verbose=0), loss, rtol=0, atol=1e-5)


def test_training_goes_on():
    model = kv.ViViTMaskedAutoencoder.from_preset(STORED / NAME, mask_ratio=0.75)
    before = {v.path: flat(v)[0] for v in model.weights}
    model.compile("sgd")
    model.fit(outputs()[0]["video"], verbose=0)
    for variable in model.weights:
        changed = np.any(flat(variable)[0] != before[variable.path])
        fixed = variable.path.endswith(("key/bias", "position/table"))
        assert changed != fixed or variable.path.endswith("key/bias"), variable.path


def test_encoder_is_that_of_the_backbone_and_a_classifier():
    model = kv.ViViTMaskedAutoencoder.from_preset(STORED / NAME)
    backbone = kv.ViViTBackbone.from_preset(STORED / NAME)
    classifier = kv.ViViTClassifier.from_preset(STORED / NAME, num_classes=3)
    for weights in zip(model.backbone.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(*map(flat, weights))
    assert not classifier.get_config()["final_norm"]


def test_decoder_has_its_own_table_and_heads():
    model = kv.ViViTMaskedAutoencoder.from_preset(STORED / NAME)
    table = flat(model.get_layer("decoder_position").table)[0].reshape(32, 12)
    np.testing.assert_allclose(table, sequence_table(32, 12))
    assert (model.decoder_dim, model.decoder_num_heads) == (12, 3)


@pytest.mark.parametrize("heads", [None, "3", 0, 5])
def test_wrong_heads_of_the_decoder_are_an_error(heads, tmp_path):
    shutil.copytree(STORED / NAME, tmp_path / NAME)
    path = tmp_path / NAME / "config.json"
    config = {**json.loads(path.read_text()), "decoder_num_attention_heads": heads}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"(?i)heads.*must be|must be.*heads"):
        kv.ViViTMaskedAutoencoder.from_preset(tmp_path / NAME)


@needs_torch
@pytest.mark.parametrize("root", ["model", None])
def test_original_file_brings_its_decoder(root, tmp_path):
    import torch
    from safetensors import numpy as safetensors

    state = original(safetensors.load_file(STORED / NAME / "model.safetensors"))
    state = {
        name if DECODER.match(name) else f"encoder.{name}": tensor
        for name, tensor in state.items()
    }
    path = tmp_path / "checkpoint.pth"
    torch.save({root: state, "epoch": 1600} if root else state, path)
    given = {"video_shape": (4, 16, 16, 3), "layer_norm_epsilon": 1e-12}
    given |= {"num_heads": 6, "decoder_num_heads": 3}
    model = kv.ViViTMaskedAutoencoder.from_preset(path, **given, **MASK)
    x, voxels, _ = outputs()
    assert_close(model.predict(x, verbose=0), voxels)
    with pytest.raises(ValueError, match=r"divisible among the heads.*num_heads=5"):
        kv.ViViTMaskedAutoencoder.from_preset(path, **{**given, "decoder_num_heads": 5})
