"""Scenic's checkpoints: Flax's msgpack.

A checkpoint is a map of maps. Flax writes an array as an extension of code 1, which
holds `(shape, name of the dtype, bytes)`.
"""

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_vivit.checkpoints.tensors import Checkpoint, Tensor
from keras_vivit.extras import optional_package

# Where the model's tensors are. `optimizer` is from before Scenic left `flax.optim`.
ROOTS = ("optimizer/target/params/", "optimizer/target/", "params/params/", "params/")
# The first byte of a msgpack value tells its kind; here the size of the header follows.
_EXTENSIONS = {0xC7: 3, 0xC8: 4, 0xC9: 6} | dict.fromkeys(range(0xD4, 0xD9), 2)
_BYTES = {0xC4: 2, 0xC5: 3, 0xC6: 5}
_ARRAY = 1
# More than the extension's header, a shape and the name of a dtype take.
_HEADER_SIZE = 512


def read(path: Path) -> Checkpoint:
    """Opens a Scenic checkpoint.

    Raises:
        ValueError: If the file is not one, or is damaged.
        ImportError: If msgpack is not installed.
    """
    msgpack = optional_package("msgpack", "keras-vivit[scenic]")
    try:
        with path.open("rb") as file, path.open("rb") as preview:
            unpacker = msgpack.Unpacker(file, max_buffer_size=os.path.getsize(path))
            leaves = dict(_leaves(unpacker, preview))
            for root in ROOTS:
                tensors = {
                    name.removeprefix(root): _open_array(msgpack, path, preview, *place)
                    for name, place in leaves.items()
                    if name.startswith(root)
                }
                if tensors:
                    return Checkpoint(tensors, {})
        raise ValueError("no parameters")
    except (
        *(ValueError, TypeError, LookupError, RecursionError),
        msgpack.OutOfData,
    ) as error:
        raise ValueError(
            "`source` must be a Scenic checkpoint, as Flax writes it. "
            f"Received: {path} ({error!r})"
        ) from error


def _leaves(
    unpacker: Any, preview: BinaryIO, prefix: str = ""
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields the name of each value that is no map, and its `(start, end)` in bytes."""
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


def _open_array(
    msgpack: Any, path: Path, file: BinaryIO, start: int, end: int
) -> Tensor:
    """Reads an array's header, and checks that the array fills its place."""
    file.seek(start)
    content = file.read(min(end - start, _HEADER_SIZE))
    size = _EXTENSIONS.get(content[0], 0)
    if not size or content[size - 1] != _ARRAY:
        raise TypeError("not an array")
    header = msgpack.Unpacker()
    header.feed(content[size:])
    header.read_array_header()
    shape, dtype = tuple(header.unpack()), np.dtype(header.unpack())
    if dtype.kind not in "fiu" or any(not isinstance(n, int) or n < 0 for n in shape):
        raise TypeError(f"an array of {dtype}, {shape}")
    size += header.tell()
    offset = start + size + _BYTES[content[size]]
    if offset + math.prod(shape) * dtype.itemsize != end:
        raise ValueError(f"{end - offset} bytes for {dtype}, {shape}")
    return Tensor(shape, functools.partial(_read_array, path, offset, dtype, shape))


def _read_array(
    path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    with path.open("rb") as file:
        values = np.fromfile(file, dtype, math.prod(shape), offset=offset)
    return values.reshape(shape)
