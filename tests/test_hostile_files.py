"""Files that are damaged, or were made to do harm, are refused."""

import json
import pathlib
import pickle
import shutil
import struct
import types
from importlib.util import find_spec

import msgpack
import pytest
from helpers import flat

import keras_vivit as kv
from keras_vivit.checkpoints import tensors

PARITY = pathlib.Path(__file__).parent / "parity"
VIVIT = PARITY / "transformers" / "vivit"
SCENIC = PARITY / "scenic" / "odd_m1_token.msgpack"


def refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        kv.ViViTClassifier.from_preset(path, video_shape=(6, 8, 40, 1))
    assert str(path) in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(VIVIT, copy)
    return copy


# === Scenic ===


def packed_array(shape, dtype, buffer):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, buffer)))


def packed_kernel(kernel):
    return msgpack.packb({"params": {"embedding": {"kernel": kernel}}})


SCENIC_FILES = {
    "empty": b"",
    "text": b"no checkpoint at all",
    "truncated": SCENIC.read_bytes()[:-100],
    "number": msgpack.packb(7),
    "no parameters": msgpack.packb({"step": 7}),
    "no array": packed_kernel("text"),
    "unknown extension": packed_kernel(msgpack.ExtType(7, b"")),
    "pickled objects": packed_kernel(packed_array((1,), "object", pickle.dumps(1))),
    "more than there is": packed_kernel(packed_array((2**40,), "float32", b"0000")),
    "negative size": packed_kernel(packed_array((-1,), "float32", b"0000")),
    "huge map": b"\xdf\xff\xff\xff\xff",  # of 2^32 entries
    "deep map": b"\x81\xa1a" * 10_000,
}


@pytest.mark.parametrize("name", SCENIC_FILES)
def test_file_that_is_no_scenic_checkpoint_is_refused(name, tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(SCENIC_FILES[name])
    refused(path, "must be a Scenic checkpoint")


# === transformers ===


def test_missing_source_is_refused(tmp_path):
    refused(tmp_path / "nothing", "`source` must be the name of a preset")


def test_empty_folder_is_refused(tmp_path):
    refused(tmp_path, "config.json must be a readable JSON file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be a readable JSON file"),
        ("[]", "must hold a JSON object"),
        (
            '{"model_type": "bert"}',
            "must be one of vivit, vit, videomae, .*. Received: 'bert'",
        ),
        (
            '{"model_type": ["vivit"]}',
            r"must be one of vivit, .*. Received: \['vivit'\]",
        ),
        ('{"model_type": "vivit"}', "must describe a model as `transformers` does"),
    ],
)
def test_wrong_configuration_is_refused(folder, text, message):
    (folder / "config.json").write_text(text)
    refused(folder, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "os.system"}, "`hidden_act` in config.json must be one of"),
        ({"num_attention_heads": "many"}, "must describe a model as `transformers`"),
    ],
)
def test_wrong_settings_are_refused(folder, changes, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    refused(folder, message)


@pytest.mark.parametrize("name", ["image_size", "num_frames"])
def test_absurd_sizes_in_the_configuration_are_refused(folder, name):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: 2**40}))
    refused(folder, "one token for each row of the position table")


def test_sizes_are_the_tensors_own(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 2**40, "num_hidden_layers": 2**40}
    (folder / "config.json").write_text(json.dumps(config))
    model = kv.ViViTClassifier.from_preset(folder)
    assert (model.backbone.embed_dim, model.backbone.num_layers) == (24, 2)


def test_failed_load_leaves_no_variables_behind(folder):
    with pytest.raises(ValueError, match="Not in the model"):
        kv.ViViTClassifier.from_preset(folder, num_layers=1)
    with pytest.raises(ValueError, match="`pooling` must be"):
        kv.ViViTClassifier.from_preset(folder, pooling="max")
    layer = kv.ClassToken()
    layer.build((None, 3, 4))
    assert layer.token.shape == (4,)
    assert not flat(layer.token)[0].any()


def damaged(content, kind):
    if kind == "truncated":
        return content[:-100]
    if kind == "empty":
        return b""
    if kind == "header":  # of more bytes than there are
        return struct.pack("<Q", 2**62) + content[8:]
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    first = next(name for name in header if name != "__metadata__")
    if kind == "shape":
        header[first]["shape"] = [2**40]
    else:
        header[first]["data_offsets"] = [0, 2**50]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@pytest.mark.parametrize("kind", ["truncated", "empty", "header", "shape", "offsets"])
def test_damaged_safetensors_are_refused(folder, kind):
    path = folder / "model.safetensors"
    path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        kv.ViViTClassifier.from_preset(folder)


@pytest.mark.parametrize(
    "shard", ["../copy/model.safetensors", "/etc/passwd", "..", "none.safetensors", ""]
)
def test_index_cannot_name_files_elsewhere(folder, shard):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"vivit.layernorm.bias": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "`weight_map` must name files of its own folder")


def test_shards_must_hold_what_their_index_says(folder):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"vivit.layernorm.bias": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "must hold the tensors of their index")


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.skipif(not find_spec("torch"), reason="needs PyTorch")
@pytest.mark.parametrize("kind", ["zip", "pickle", "text", "no tensors"])
def test_pytorch_file_cannot_run_code(folder, kind, tmp_path):
    import torch

    (folder / "model.safetensors").unlink()
    path, trace = folder / "pytorch_model.bin", tmp_path / "trace"
    if kind == "zip":
        torch.save({"weight": Harm(trace)}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"weight": Harm(trace)}))
    elif kind == "text":
        path.write_text("text")
    else:
        torch.save({"weight": 7}, path)
    refused(folder, "must be a PyTorch file of tensors alone")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Harm(trace)))
    assert trace.exists(), "the file would have done no harm anyway"


def test_missing_package_is_named(monkeypatch):
    with pytest.raises(ImportError, match=r'pip install "keras-vivit\[none\]"'):
        tensors.optional_package("no_such_package", "keras-vivit[none]")


# === The Hub ===


@pytest.mark.parametrize(
    "source", ["hf://name", "hf://a/b/c", "hf://../x", "hf://a/b@", "hf:///etc/passwd"]
)
def test_wrong_address_is_refused(source):
    with pytest.raises(ValueError, match=r"must be 'hf://owner/name'.*Received"):
        kv.ViViTClassifier.from_preset(source)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_hub_is_asked_for_one_kind_of_file(monkeypatch, kind):
    import huggingface_hub

    asked = []
    files = ["config.json", "pytorch_model.bin", "flax_model.msgpack"]
    if kind == "safetensors":
        files.append("model.safetensors")

    class Api:
        def repo_info(self, name, revision, timeout):
            asked.append((name, revision))
            siblings = [types.SimpleNamespace(rfilename=name) for name in files]
            return types.SimpleNamespace(siblings=siblings)

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision, set(allow_patterns)))
        return str(VIVIT)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = kv.ViViTClassifier.from_preset("hf://owner/name@v1.0")
    assert model.output_shape == (None, 5)
    weights = {
        "safetensors": {"*.safetensors", "*.safetensors.index.json"},
        "bin": {"pytorch_model*.bin", "pytorch_model*.bin.index.json"},
    }[kind]
    configs = {"config.json", "preprocessor_config.json"}
    assert asked == [("owner/name", "v1.0"), ("owner/name", "v1.0", configs | weights)]
