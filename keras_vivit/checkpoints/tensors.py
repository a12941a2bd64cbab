"""Tensors in files: their shapes at once, their values when a model takes them.

Nothing in a file is executed.
"""

import functools
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_vivit.extras import optional_package


class Tensor(NamedTuple):
    """The shape of a tensor, and a function that reads its values."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def map(self, convert: Callable[[np.ndarray], np.ndarray]) -> "Tensor":
        """Returns the tensor with `convert` applied to its values.

        `convert` runs once on zeros that take no memory, to get the new shape.
        """
        zeros = np.broadcast_to(np.float32(0), self.shape)
        return Tensor(convert(zeros).shape, lambda: convert(self.read()))


Tensors = dict[str, Tensor]


class Checkpoint(NamedTuple):
    """What a source holds.

    `tensors` are under Scenic's names; `settings` holds the constructor arguments that
    the tensors do not tell, `new_head` those of a classifier where there is no head.
    """

    tensors: Tensors
    settings: dict[str, Any]
    new_head: dict[str, Any] | None = None


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be a readable JSON file ({error}).") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object.")
    return value


# === NumPy ===


def open_npz(path: Path) -> Tensors:
    """Returns the tensors of a file that `np.savez` wrote."""
    with zipfile.ZipFile(path) as archive:
        shapes = {name: _npy_shape(archive, name) for name in archive.namelist()}

    def read(name: str) -> np.ndarray:
        with np.load(path) as arrays:
            return arrays[name]

    names = {name.removesuffix(".npy"): shape for name, shape in shapes.items()}
    return {
        name: Tensor(shape, functools.partial(read, name))
        for name, shape in names.items()
    }


def _npy_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as file:
        np.lib.format.read_magic(file)
        return np.lib.format.read_array_header_1_0(file)[0]


# === safetensors, and PyTorch's own format ===

# Under which names training scripts save a state dict, beside other things.
ROOTS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net")
_WRAPPERS = re.compile(r"^((module|_orig_mod|model)\.)+")


def open_weights(folder: Path) -> Tensors:
    """Returns the tensors of a folder in the `transformers` format.

    Their names are those in the files.

    Raises:
        ValueError: If the folder holds no weights, or damaged ones.
        ImportError: If reading them needs a package that is not installed.
    """
    for name, opener in (
        ("model.safetensors", open_safetensors),
        ("pytorch_model.bin", open_pytorch),
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


def _open_shards(
    folder: Path, index: Path, opener: Callable[[Path], Tensors]
) -> Tensors:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise ValueError(f"{index} must hold a `weight_map`.")
    tensors: Tensors = {}
    for shard in sorted(set(map(str, shards.values()))):
        if os.path.basename(shard) != shard or not (folder / shard).is_file():
            raise ValueError(
                "`weight_map` must name files of its own folder. "
                f"Received: {shard!r} in {index}"
            )
        tensors |= opener(folder / shard)
    if differing := set(tensors) ^ set(shards):
        raise ValueError(
            "The shards must hold the tensors of their index. "
            f"Received: {index}, where {', '.join(sorted(differing)[:5])} differ."
        )
    return tensors


def open_safetensors(path: Path) -> Tensors:
    safetensors = optional_package("safetensors", "keras-vivit[hf]")
    try:
        with safetensors.safe_open(path, "np") as file:
            shapes = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} must be a whole safetensors file ({error})."
        ) from error

    def read(name: str) -> np.ndarray:
        # Opened for each tensor: mapped pages would count as memory in use.
        with safetensors.safe_open(path, "np") as file:
            return file.get_tensor(name)

    return {n: Tensor(shape, functools.partial(read, n)) for n, shape in shapes.items()}


def open_pytorch(path: Path) -> Tensors:
    """Opens a file of PyTorch, a state dict or one under a name of `ROOTS`."""
    torch = optional_package("torch", "keras-vivit[torch]")
    try:
        # PyTorch before 1.6 wrote files that cannot be mapped into memory.
        content = torch.load(
            path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
        state = _state_dict(content)
        return {
            name: Tensor(tuple(tensor.shape), functools.partial(_to_numpy, tensor))
            for name, tensor in state.items()
        }
    except Exception as error:  # Damaged and hostile files raise many kinds.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} must be a PyTorch file of tensors alone, as "
            f"`torch.save(model.state_dict(), ...)` writes it, or with them under one "
            f"of {', '.join(ROOTS)} ({reason})."
        ) from error


def _state_dict(content: Any) -> Any:
    """Takes a state dict out of what a training script saved with it."""
    for root in ROOTS:
        if isinstance(content.get(root), dict):
            return _state_dict(content[root])
    return content


def without_wrappers(stored: Tensors, source: Path) -> Tensors:
    """Removes the prefixes of data parallelism, compilation and training loops.

    Raises:
        ValueError: If two tensors would have the same name.
    """
    tensors: Tensors = {}
    for name, tensor in stored.items():
        short = _WRAPPERS.sub("", name).replace("_orig_mod.", "")
        if short in tensors:
            raise ValueError(
                f"{source} must hold {short} once, not under another prefix too. "
                f"Received: {name}"
            )
        tensors[short] = tensor
    return tensors


def _to_numpy(tensor: Any) -> np.ndarray:
    return tensor.float().numpy()
