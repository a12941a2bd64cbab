"""Checkpoint files as dictionaries of tensors under Scenic's names.

Nothing in a file is executed, and no tensor is read before it is asked for.
"""

import functools
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_vivit.extras import optional_package

Tensors = dict[str, Callable[[], np.ndarray]]


class Checkpoint(NamedTuple):
    """What a file holds.

    `tensors` maps Scenic's names to functions that read them, `settings` holds the
    constructor arguments that the tensors do not tell.
    """

    tensors: Tensors
    settings: dict[str, Any]


# === The weights of presets ===


def read_npz(path, settings):
    """Reads the tensors of a preset, which come with the package."""
    with np.load(path) as archive:
        tensors: Tensors = {
            name: functools.partial(np.asarray, x) for name, x in archive.items()
        }
    return Checkpoint(tensors, settings)


# === Scenic: Flax's msgpack ===

# Where the model is; until Scenic left `flax.optim`, the optimizer held it.
ROOTS = ("optimizer/target/params/", "optimizer/target/", "params/params/", "params/")


def read_scenic(path):
    """Finds the tensors of a Scenic checkpoint, without reading them."""
    msgpack = optional_package("msgpack", "keras-vivit[scenic]")
    try:
        with path.open("rb") as file, path.open("rb") as preview:
            unpacker = msgpack.Unpacker(file, max_buffer_size=os.path.getsize(path))
            places = dict(_leaves(unpacker, preview))
    except (ValueError, TypeError, RecursionError, msgpack.OutOfData) as error:
        raise _no_scenic(path, error) from error
    for root in ROOTS:
        tensors: Tensors = {
            name.removeprefix(root): functools.partial(_read_array, path, *place)
            for name, place in places.items()
            if name.startswith(root)
        }
        if tensors:
            return Checkpoint(tensors, {})
    raise _no_scenic(path, "no parameters")


def _no_scenic(path, reason):
    return ValueError(
        "`source` must be a Scenic checkpoint, as Flax writes it. "
        f"Received: {path} ({reason!r})"
    )


def _leaves(unpacker, preview, prefix=""):
    """Pairs of a name, and the first and last byte of what it names."""
    for _ in range(unpacker.read_map_header()):
        name = f"{prefix}{unpacker.unpack()}"
        start = unpacker.tell()
        preview.seek(start)
        (kind,) = preview.read(1) or b"\0"
        if kind >> 4 == 0x8 or kind in (0xDE, 0xDF):  # A map.
            yield from _leaves(unpacker, preview, f"{name}/")
        else:
            unpacker.skip()
            yield name, (start, unpacker.tell())


def _read_array(path, start, end):
    msgpack = optional_package("msgpack", "keras-vivit[scenic]")
    with path.open("rb") as file:
        file.seek(start)
        message = file.read(end - start)
    try:
        extension = msgpack.unpackb(message)
        # Flax: 1 is an array, 3 a NumPy scalar, 2 a complex number.
        if not isinstance(extension, msgpack.ExtType) or extension.code != 1:
            raise TypeError("not an array")
        shape, dtype, buffer = msgpack.unpackb(extension.data)
        if any(not isinstance(n, int) or n < 0 for n in shape):
            raise ValueError(f"the shape {shape}")
        return np.frombuffer(buffer, np.dtype(dtype)).reshape(shape)
    except (ValueError, TypeError) as error:
        raise _no_scenic(path, error) from error


# === transformers: safetensors, or PyTorch's own format ===


def download(source):
    """Fetches `hf://owner/name[@revision]` into Hugging Face's cache."""
    match = re.fullmatch(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@(.+))?", source)
    if match is None:
        raise ValueError(
            "`source` must be 'hf://owner/name' or 'hf://owner/name@revision'. "
            f"Received: source={source!r}"
        )
    hub = optional_package("huggingface_hub", "keras-vivit[hf]")
    name, revision = match.groups()
    files = hub.HfApi().list_repo_files(name, revision=revision)
    # PyTorch's format only where there is no safetensors, which is as good as always.
    kind = "*.safetensors" if "safetensors" in " ".join(files) else "pytorch_model*.bin"
    patterns = ["config.json", kind, f"{kind}.index.json"]
    return Path(hub.snapshot_download(name, revision=revision, allow_patterns=patterns))


def open_weights(folder):
    """Every tensor of a folder under its name in `transformers`."""
    for name, opener in (
        ("model.safetensors", _open_safetensors),
        ("pytorch_model.bin", _open_pytorch),
    ):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return opener(folder / name)
        if index.is_file():
            return _open_shards(folder, index, opener)
    raise ValueError(
        "`source` must be a folder with model.safetensors or pytorch_model.bin, whole "
        f"or in shards. Received: {folder}"
    )


def _open_shards(folder, index, opener):
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise ValueError(f"{index} must hold a `weight_map`.")
    tensors: Tensors = {}
    for shard in sorted(set(map(str, places.values()))):
        if os.path.basename(shard) != shard or not (folder / shard).is_file():
            raise ValueError(
                "`weight_map` must name files of its own folder. "
                f"Received: {shard!r} in {index}"
            )
        tensors |= opener(folder / shard)
    if differing := set(tensors) ^ set(places):
        raise ValueError(
            "The shards must hold the tensors of their index. "
            f"Received: {index}, where {', '.join(sorted(differing)[:5])} differ."
        )
    return tensors


def _open_safetensors(path):
    safetensors = optional_package("safetensors", "keras-vivit[hf]")
    try:
        with safetensors.safe_open(path, "np") as file:
            names = list(file.keys())
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} must be a whole safetensors file ({error})."
        ) from error

    def read(name):
        # Opened anew each time: pages that were mapped would count as memory in use.
        with safetensors.safe_open(path, "np") as file:
            return file.get_tensor(name)

    return {name: functools.partial(read, name) for name in names}


def _open_pytorch(path):
    torch = optional_package("torch", "keras-vivit[torch]")
    try:
        whole = not zipfile.is_zipfile(path)  # As PyTorch wrote before 1.6.
        state = torch.load(path, "cpu", weights_only=True, mmap=not whole)
        return {
            name: functools.partial(_to_numpy, t.float) for name, t in state.items()
        }
    except Exception as error:  # Of many kinds, for damaged and for hostile files.
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} must be a PyTorch file of tensors alone ({reason})."
        ) from error


def _to_numpy(as_float32):
    return as_float32().numpy()


def read_json(path):
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be a readable JSON file ({error}).") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object.")
    return value


# === KerasHub ===

_KERAS_HUB = {
    r"(^|.*/)class_token": "cls",
    r"(^|.*/)patch_embedding/": "embedding/",
    r"(^|.*/)position_embedding/embeddings": "Transformer/posembed_input/pos_embedding",
    r"(^|.*/)ln/": "Transformer/encoder_norm/",
    r"(^|.*/)transformer_block_": "Transformer/encoderblock_",
    r"ln_1/": "LayerNorm_0/",
    r"ln_2/": "LayerNorm_1/",
    r"mha/attention_output/": "MultiHeadDotProductAttention_0/out/",
    r"mha/": "MultiHeadDotProductAttention_0/",
    r"mlp/dense_1/": "MlpBlock_0/Dense_0/",
    r"mlp/dense_2/": "MlpBlock_0/Dense_1/",
    r"gamma$": "scale",
    r"beta$": "bias",
}


def from_keras_hub(model):
    """Takes the tensors of a `keras_hub.models.ViTBackbone`."""
    tensors: Tensors = {}
    for weight in model.weights:
        name = weight.path
        for pattern, scenic in _KERAS_HUB.items():
            name = re.sub(pattern, scenic, name)
        # Its blocks count from 1.
        name = re.sub(r"(?<=block_)\d+", lambda m: str(int(m[0]) - 1), name)
        tensors[name] = functools.partial(_numpy_of, weight, "pos_embedding" in name)
    settings = {
        "video_shape": (1, *model.image_shape),
        "activation": "gelu",
        "layer_norm_epsilon": model.layer_norm_epsilon,
    }
    return Checkpoint(tensors, settings)


def _numpy_of(weight, batched):
    array = keras.ops.convert_to_numpy(weight)
    return array[None] if batched else array
