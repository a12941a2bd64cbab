"""Volume files other than DICOM: what nibabel reads, npy and npz."""

import contextlib
import functools
import math
import zipfile
from collections.abc import Callable, Iterator
from numbers import Integral
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from keras_vivit.data.decoding import UnreadableError
from keras_vivit.extras import optional_package
from keras_vivit.types import Shape

EXTRA = "keras-vivit[volume]"
LIMIT = 4 * 2**30  # bytes
FORMATS = "NIfTI, DICOM, npy, npz, or another one that nibabel reads (MGH, MINC, AFNI)"


class Stored(NamedTuple):
    """A volume in a file.

    `shape`, `spacing` and `affine` are those of the file; `read(index)` returns an
    array with three spatial axes and one of channels. Without an affine the axes have
    no directions.
    """

    path: Path
    shape: Shape
    spacing: tuple[float, ...] | None
    affine: np.ndarray | None
    read: Callable[[Any], np.ndarray]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what other packages raise, which is of many kinds, into one error."""
    try:
        yield
    except UnreadableError:
        raise
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        reason = words.replace(str(path), path.name)
        raise UnreadableError(path, reason, "volume") from error


def check_memory(path: Path, shape: Shape) -> None:
    if math.prod(shape) * 4 > LIMIT:
        size = " x ".join(map(str, shape))
        raise UnreadableError(path, f"{size} voxels exceed 4 GiB", "volume")


def choose(
    path: Path, shape: Shape, index: int | tuple[int, ...] | None
) -> tuple[int, ...]:
    """Returns an index for each axis after the third, by the argument `index`."""
    more = shape[3:]
    varying = [axis for axis, size in enumerate(more) if size > 1]
    given = () if index is None else index if isinstance(index, tuple) else (index,)
    if index is None or len(given) not in (len(varying), len(more)):
        if index is None and not varying:
            return (0,) * len(more)
        raise ValueError(
            f"`index` must choose one volume along each axis after the third "
            f"({len(varying)} of them). Received: index={index} for {path} of shape "
            f"{shape}"
        )
    if len(given) != len(more):
        chosen = dict(zip(varying, given, strict=True))
        given = tuple(chosen.get(axis, 0) for axis in range(len(more)))
    for i, size in zip(given, more, strict=True):
        if not isinstance(i, Integral) or not 0 <= int(i) < size:
            raise ValueError(
                f"`index` must lie between 0 and {size - 1}. Received: index={index} "
                f"for {path} of shape {shape}"
            )
    return tuple(int(i) for i in given)


def three_axes(array: np.ndarray) -> np.ndarray:
    """Drops trailing axes of 1, and adds some where there are fewer than three."""
    return array.reshape(array.shape[:3] + (1,) * (3 - array.ndim))


# === nibabel ===


def open_nibabel(path: Path) -> Stored:
    nibabel = optional_package("nibabel", EXTRA)
    with reading(path):
        try:
            image = nibabel.load(path)
        except nibabel.filebasedimages.ImageFileError as error:
            reason = f"the format must be {FORMATS}"
            raise UnreadableError(path, reason, "volume") from error
        if not isinstance(image, nibabel.spatialimages.SpatialImage):
            raise ValueError(f"{type(image).__name__} holds no volume")
        shape = tuple(map(int, image.shape))
        zooms = tuple(map(float, image.header.get_zooms()[:3]))
        zooms += (1.0,) * (3 - len(zooms))
        # MINC has time first.
        time_first = isinstance(image, nibabel.minc1.Minc1Image) and len(shape) == 4
    read = functools.partial(_read_nibabel, path, image, time_first)
    return Stored(path, shape, zooms, image.affine, read)


def _read_nibabel(
    path: Path, image: Any, time_first: bool, index: int | tuple[int, ...] | None
) -> np.ndarray:
    shape = tuple(map(int, image.shape))
    if time_first:
        shape = shape[1:] + shape[:1]
    place = choose(path, shape, index)
    check_memory(path, shape[:3])
    with reading(path):
        if time_first:
            array = np.asanyarray(image.dataobj)[place]
        else:
            array = np.asanyarray(image.dataobj[(..., *place)])
    if array.dtype.names:  # Colours.
        return np.stack([three_axes(array[name]) for name in array.dtype.names], -1)
    return three_axes(array)[..., None]


# === NumPy ===


def open_numpy(path: Path, name: str | None) -> Stored:
    """Opens an npy file, or the array `name` of an npz file."""
    if not zipfile.is_zipfile(path):
        with reading(path), path.open("rb") as file:
            header = _header(file)
        return _numpy(path, header, functools.partial(np.load, path))
    with reading(path), zipfile.ZipFile(path) as archive:
        names = [n.removesuffix(".npy") for n in archive.namelist()]
    name = choose_name(path, name, {n: n for n in names}, "array")
    with (
        reading(path),
        zipfile.ZipFile(path) as archive,
        archive.open(f"{name}.npy") as file,
    ):
        header = _header(file)
    return _numpy(path, header, functools.partial(_load_npz, path, name))


def _load_npz(path: Path, name: str) -> np.ndarray:
    with np.load(path) as archive:
        return archive[name]


def _header(file: IO[bytes]) -> tuple[Shape, np.dtype]:
    """Returns shape and data type, and reads no data."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype


def _numpy(
    path: Path, header: tuple[Shape, np.dtype], load: Callable[[], Any]
) -> Stored:
    shape, dtype = header
    if dtype.kind not in "biuf":
        raise UnreadableError(path, f"its numbers are {dtype}", "volume")

    def read(index: int | tuple[int, ...] | None) -> np.ndarray:
        place = choose(path, shape, index)
        check_memory(path, shape)
        with reading(path):
            return three_axes(load()[(..., *place)])[..., None]

    return Stored(path, shape, None, None, read)


def choose_name(
    path: Path, series: str | None, names: dict[str, str], kind: str
) -> str:
    """Returns the name that `series` is, or ends, of a dictionary name -> text."""
    if not names:
        raise UnreadableError(path, f"no {kind}", "volume")
    found = [name for name in names if series is None or name.endswith(str(series))]
    if series in names:
        found = [series]
    if len(found) == 1:
        return found[0]
    lines = "".join(f"\n  {text}" for text in names.values())
    raise ValueError(
        f"`series` must name one {kind} of {path}. Received: series={series!r}, where "
        f"there are{lines}"
    )
