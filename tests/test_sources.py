"""One front door: a source is recognised by what is in it, not by its name."""

import json
import pathlib
import shutil
import zipfile
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from helpers import flat
from safetensors import numpy as safetensors

import keras_vivit as kv

PARITY = pathlib.Path(__file__).parent / "parity"
VIVIT = PARITY / "transformers" / "vivit"
MONAI = {"video_shape": (8, 16, 12, 1), "num_heads": 3}
needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="needs PyTorch")
# A file of each format, a name that misleads, and what must be given.
FILES = [
    (
        "scenic/odd_m1_token.msgpack",
        "model.safetensors",
        {"video_shape": (6, 8, 40, 1)},
    ),
    ("monai/conv_tokens.safetensors", "checkpoint", MONAI),
    pytest.param(
        "monai/perceptron_tokens.pt",
        "weights.bin",
        {**MONAI, "video_shape": (8, 16, 12, 2), "tubelet_size": (2, 4, 4)},
        marks=needs_torch,
    ),
]


def assert_same_weights(model, other):
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(flat(a), flat(b))


@pytest.mark.parametrize(("file", "name", "given"), FILES)
def test_name_of_a_file_does_not_matter(file, name, given, tmp_path):
    shutil.copy(PARITY / file, tmp_path / name)
    assert_same_weights(
        kv.ViViTBackbone.from_preset(tmp_path / name, **given),
        kv.ViViTBackbone.from_preset(PARITY / file, **given),
    )


def test_prefixes_of_training_scripts_are_removed_in_folders_too(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(VIVIT, copy)
    state = safetensors.load_file(copy / "model.safetensors")
    wrapped = {f"module._orig_mod.{name}": x for name, x in state.items()}
    safetensors.save_file(wrapped, copy / "model.safetensors")
    assert_same_weights(
        kv.ViViTClassifier.from_preset(copy), kv.ViViTClassifier.from_preset(VIVIT)
    )


def test_tensor_that_is_there_twice_is_refused(tmp_path):
    state = safetensors.load_file(PARITY / "monai" / "conv_tokens.safetensors")
    twice = {**state, "module.norm.bias": np.ones(24, "float32")}
    safetensors.save_file(twice, tmp_path / "file")
    with pytest.raises(ValueError, match=r"must hold norm\.bias once"):
        kv.ViViTBackbone.from_preset(tmp_path / "file", **MONAI)


# === What fits no format ===


def saved_keras_file(path):
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(path.with_suffix(".keras"))
    path.with_suffix(".keras").rename(path)


def saved_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "text")


def state_dict(**shapes):
    def write(path):
        arrays = {k: np.ones(shape, "float32") for k, shape in shapes.items()}
        safetensors.save_file(arrays, path)

    return write


IMAGE_PATCHES = {"patch_embed.proj.weight": (8, 3, 4, 4)}
FOLDER_PATCHES = {"vit.embeddings.patch_embeddings.projection.weight": (8, 3, 4, 4)}


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (saved_keras_file, r"Scenic.*VideoMAE.*MONAI.*`keras\.saving\.load_model`"),
        (saved_zip, r"Scenic.*VideoMAE.*MONAI.*a zip file with notes\.txt"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n"), "an HDF5 file; `load_weights`"),
        (lambda path: path.write_text("PK?"), r"which begins with b'PK\?'"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (state_dict(fc=(2, 2)), r"VideoMAE.*patch_embed.*MONAI.*patch_embedding.*fc"),
        (state_dict(**IMAGE_PATCHES), r"a file of an image model.*\(8, 3, 4, 4\)"),
        (state_dict(**FOLDER_PATCHES), "must be the folder of a model in the `transf"),
    ],
)
def test_error_says_what_a_file_is(write, found, tmp_path):
    path = tmp_path / "file"
    write(path)
    with pytest.raises(ValueError, match=f"(?s){found}") as caught:
        kv.ViViTClassifier.from_preset(path)
    assert str(path) in str(caught.value)


def test_error_says_what_a_folder_holds(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"`transformers` format.*model\.safetensors"):
        kv.ViViTClassifier.from_preset(tmp_path)


@needs_torch
def test_pickled_objects_beside_the_tensors_are_explained(tmp_path):
    import torch

    torch.save({"model": {}, "args": pathlib.PurePosixPath("x")}, tmp_path / "file")
    message = r"PyTorch file of tensors alone, as `torch\.save\(model\.state_dict\(\)"
    with pytest.raises(ValueError, match=message):
        kv.ViViTClassifier.from_preset(tmp_path / "file")


def test_other_keras_model_is_refused():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match=r"`source` must be.*ViTBackbone.*Functional"):
        kv.ViViTBackbone.from_image_preset(model, (2, 16, 16, 3))


def test_configuration_of_another_library_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base"}))
    with pytest.raises(ValueError, match="`model_type` in config"):
        kv.ViViTClassifier.from_preset(tmp_path)
