"""The front door: recognises a source by what is in it, not by its name."""

import re
import zipfile
from pathlib import Path
from typing import Any

import keras

from keras_vivit import presets, validation
from keras_vivit.checkpoints import (
    hub,
    keras_hub,
    monai,
    preset_folder,
    scenic,
    transformers,
    videomae,
)
from keras_vivit.checkpoints.tensors import (
    Checkpoint,
    Tensors,
    open_npz,
    open_pytorch,
    open_safetensors,
    read_json,
    without_wrappers,
)

# What a state dict is known by, and what may stand beside it under another prefix.
_STATE_DICTS = {
    videomae.PATCHES: (videomae.read, videomae.DECODER),
    monai.PATCHES: (monai.read, monai.UNETR),
    monai.PERCEPTRON: (monai.read, monai.UNETR),
}
_OF_TRANSFORMERS = "embeddings.patch_embeddings.projection.weight"
_MSGPACK_MAPS = (*range(0x80, 0x90), 0xDE, 0xDF)


def read(source: Any, given: dict[str, Any] | None = None) -> Checkpoint:
    """Opens a checkpoint: see `ViViTClassifier.from_preset` for what `source` may be.

    Args:
        source: The source.
        given: Optional dictionary of constructor arguments, for the sources that leave
            them open.

    Raises:
        ValueError: If it is none, or damaged.
        ImportError: If reading it needs a package that is not installed.
    """
    given = given or {}
    if isinstance(source, keras.Model):
        return keras_hub.read(source)
    if preset := presets.PRESETS.get(str(source)):
        return Checkpoint(open_npz(preset["weights"]), preset["config"])
    path = path_of(source)
    if path.is_dir():
        return _read_folder(path, given)
    if path.is_file():
        return _read_file(path, given)
    raise ValueError(
        "`source` must be the name of a preset (see `presets()`), a folder of "
        "`save_to_preset` or in the `transformers` format, 'hf://owner/name', or a "
        "checkpoint file of Scenic, VideoMAE or MONAI. "
        f"Received: source={str(source)!r}"
    )


def path_of(source: Any) -> Path:
    """Returns where a source is, after it has been downloaded from the Hub."""
    if str(source).startswith("hf://"):
        return hub.download(str(source))
    return validation.path("source", source).expanduser()


def _read_folder(folder: Path, given: dict[str, Any]) -> Checkpoint:
    if not (folder / "config.json").is_file():
        files = sorted(path.name for path in folder.iterdir())
        raise ValueError(
            "`source` must be a folder of `save_to_preset` or in the `transformers` "
            "format, whose config.json must be a readable JSON file, or a file of "
            f"weights. Received: {folder} with {', '.join(files[:5]) or 'no files'}"
        )
    config = read_json(folder / "config.json")
    if "class_name" in config:
        return preset_folder.read(folder)
    return transformers.read(folder, given.get("num_heads"))


def _read_file(path: Path, given: dict[str, Any]) -> Checkpoint:
    kind = _kind_of(path)
    if kind == "msgpack":
        return scenic.read(path)
    openers = {"PyTorch": open_pytorch, "safetensors": open_safetensors}
    if kind in openers:
        stored = without_wrappers(openers[kind](path), path)
        return _read_state_dict(stored, given, path)
    raise ValueError(
        "`source` must be a Scenic checkpoint (msgpack), or a state dict of VideoMAE "
        f"or MONAI (PyTorch's format or safetensors). Received: {path}, {kind}"
    )


def _kind_of(path: Path) -> str:
    """Returns the format of a file, or in words what else it is."""
    with path.open("rb") as file:
        start = file.read(16)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            files = archive.namelist()
        if any(name.endswith("data.pkl") for name in files):
            return "PyTorch"
        if "model.weights.h5" in files:
            return "a model that `keras.saving.load_model` loads"
        return f"a zip file with {', '.join(files[:5])}"
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file; `load_weights` loads those of Keras"
    if start[8:10] == b'{"':  # After the header's length.
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "PyTorch"  # As it was before version 1.6: pickles.
    if start[:1] and start[0] in _MSGPACK_MAPS:
        return "msgpack"
    return f"which begins with {start!r}" if start else "an empty file"


def _read_state_dict(stored: Tensors, given: dict[str, Any], path: Path) -> Checkpoint:
    for marker, (reader, others) in _STATE_DICTS.items():
        prefixes = [
            name.removesuffix(marker)
            for name in stored
            if re.search(rf"(^|\.){re.escape(marker)}$", name)
        ]
        if prefixes:
            return reader(_below(prefixes[0], stored, others, path), given, path)
    listed = f"{path} with {', '.join(sorted(stored)[:5])}, ..."
    if any(name.endswith(_OF_TRANSFORMERS) for name in stored):
        raise ValueError(
            "`source` must be the folder of a model in the `transformers` format, with "
            f"its config.json, not a file of it. Received: {listed}"
        )
    raise ValueError(
        f"`source` must be a file of VideoMAE, with the tensor {videomae.PATCHES}, or "
        f"of MONAI's ViT, with {monai.PATCHES} or {monai.PERCEPTRON}. "
        f"Received: {listed}"
    )


def _below(
    prefix: str, stored: Tensors, others: re.Pattern[str], path: Path
) -> Tensors:
    """Removes a prefix, which the names of all but the known others must have."""
    outside = [
        name
        for name in stored
        if not name.startswith(prefix) and not others.match(name)
    ]
    if outside:
        raise ValueError(
            f"All tensors must have the prefix {prefix!r} of the transformer's: save "
            f"its state dict alone. Received: {path} with {len(outside)} others, "
            f"{', '.join(outside[:5])}"
        )
    return {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
