"""Checkpoint files as dictionaries of tensors under Scenic's names.

Nothing in a file is executed, and no tensor is read before it is asked for (but
Scenic's format is one message, which is read as a whole).
"""

import functools
import importlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

Tensors = dict[str, Callable[[], np.ndarray]]


class Checkpoint(NamedTuple):
    """What a file holds.

    `tensors` maps Scenic's names to functions that read them, `settings` holds the
    constructor arguments that the tensors do not tell.
    """

    tensors: Tensors
    settings: dict[str, Any]


def optional_package(name, extra):
    """Imports a package that only one of the formats needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'This checkpoint needs the package {name}: pip install "{extra}"'
        ) from error


# === Scenic: Flax's msgpack ===


def read_scenic(path):
    msgpack = optional_package("msgpack", "keras-vivit[scenic]")
    try:
        with path.open("rb") as file:
            # Streamed: the file is never in memory beside the tensors.
            unpacker = msgpack.Unpacker(
                file,
                ext_hook=functools.partial(_array, msgpack.unpackb),
                max_buffer_size=os.path.getsize(path),
            )
            tree = unpacker.unpack()
        # Files written before Scenic left `flax.optim` keep the model in the optimizer.
        tree = tree["optimizer"]["target"] if "optimizer" in tree else tree["params"]
        arrays = dict(_flatten(tree.get("params", tree)))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        msgpack.OutOfData,
    ) as error:
        raise ValueError(
            "`source` must be a Scenic checkpoint, as Flax writes it. "
            f"Received: {path} ({type(error).__name__}: {error})"
        ) from error
    return Checkpoint(
        {name: functools.partial(_same, a) for name, a in arrays.items()}, {}
    )


def _same(array):
    return array


def _array(unpack, code, data):
    # Flax: 1 is an array, 3 a NumPy scalar (the optimizer's counters), 2 complex.
    if code not in (1, 3):
        raise ValueError(f"extension type {code} is no array")
    shape, dtype, buffer = unpack(data)
    if any(not isinstance(n, int) or n < 0 for n in shape):
        raise ValueError(f"an array has the shape {shape}")
    return np.frombuffer(buffer, np.dtype(dtype)).reshape(shape)


def _flatten(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}/")
        elif isinstance(value, np.ndarray):
            yield prefix + name, value
        else:
            raise ValueError(f"{prefix}{name} is no array")


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
        file = safetensors.safe_open(path, "np")
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} must be a whole safetensors file ({error})."
        ) from error
    return {n: functools.partial(file.get_tensor, n) for n in file.keys()}  # noqa: SIM118


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
