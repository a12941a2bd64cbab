"""Volumes as arrays: NIfTI, DICOM, npy, npz."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_vivit import validation
from keras_vivit.data import dicom, volume_formats
from keras_vivit.data.decoding import UnreadableError
from keras_vivit.data.resampling import resample
from keras_vivit.extras import optional_package
from keras_vivit.types import Shape

AXES = ("depth", "height", "width")


class VolumeInfo(NamedTuple):
    """What a volume file declares, along its axes as they are stored."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    affine: np.ndarray | None
    axes: str | None


def volume_info(path: str | os.PathLike[str], series: str | None = None) -> VolumeInfo:
    """Returns what a volume file declares, without reading its voxels.

    Args:
        path, series: As for `read_volume`.

    Returns:
        A named tuple: `shape` as stored; `spacing` of the spatial axes, in millimetres
        (of a DICOM image, its rows and columns), or `None`; `affine`, array `(4, 4)`,
        which maps the indices of voxels to millimetres to the right, anterior and
        superior, as in nibabel, or `None`; `axes`, where the spatial axes run, such as
        `"LAS"`, or `None`.

    Raises:
        ValueError: If the file cannot be read.
        ImportError: If nibabel or pydicom is needed and not installed.
    """
    stored = _open(path, series)
    axes = None
    if stored.affine is not None:
        orientations = optional_package("nibabel.orientations", volume_formats.EXTRA)
        axes = "".join(orientations.ornt2axcodes(_directions(stored)))
    return VolumeInfo(stored.shape, stored.spacing, stored.affine, axes)


def read_volume(
    path: str | os.PathLike[str],
    shape: Shape | None = None,
    spacing: float | tuple[float, ...] | None = None,
    window: tuple[float, float] | None = None,
    orientation: str = "RAS",
    index: int | tuple[int, ...] | None = None,
    series: str | None = None,
) -> np.ndarray:
    """Reads a volume, its axes turned into known directions.

    Rescale slopes and intercepts are applied, palettes become colours, and
    MONOCHROME1 is inverted, so that bright is high.

    Args:
        path: A file of NIfTI, DICOM, npy, npz, or of a format that nibabel reads; or a
            folder with the slices of a DICOM series, which are sorted by position.
        shape: `(depth, height, width)`, to which the volume is resampled.
        spacing: Millimetres between voxels, one number or three, to which the volume is
            resampled. Only one of `shape` and `spacing` may be given.
        window: `(low, high)`, values that become 0 and 255.
        orientation: Three letters, where the axes run to: the right `R` or left `L`,
            anterior `A` or posterior `P`, superior `S` or inferior `I`. With `"RAS"`,
            axis 0 runs to the patient's right, as with `nibabel.as_closest_canonical`.
            DICOM files with one image or a cine, npy and npz keep the axes they have:
            frames, rows and columns.
        index: Integer, or a tuple of them: which volume along the axes after the third,
            such as time. Trailing axes of size 1 need none.
        series: String: which series of a folder, by its `SeriesInstanceUID` or the end
            of it; which array of an npz file.

    Returns:
        Array `(depth, height, width, channels)`, float32, or uint8 with `window`.

    Raises:
        ValueError: If an argument is wrong, the file cannot be read, its slices are no
            volume, or it would exceed 4 GiB.
        ImportError: If nibabel or pydicom is needed and not installed.

    Example:
    >>> keras_vivit.data.read_volume("scan.nii.gz", spacing=2).shape  # doctest: +SKIP
    (170, 170, 120, 1)
    """
    shape, spacing = _check_size(shape, spacing)
    window, orientation = check_window(window), check_orientation(orientation)
    stored = _open(path, series)
    volume = stored.read(index)
    distances = (stored.spacing or ())[:3]
    if stored.affine is not None:
        volume, distances = _orient(volume, stored, orientation)
    # Complex numbers have no order.
    if volume.dtype.kind not in "biuf":
        raise UnreadableError(stored.path, f"its numbers are {volume.dtype}", "volume")
    volume = volume.astype("float32")
    if shape or spacing:
        volume = _resize(stored.path, volume, distances, shape, spacing)
    return volume if window is None else _to_uint8(volume, *window)


def _open(path: str | os.PathLike[str], series: str | None) -> volume_formats.Stored:
    path = validation.path("path", path)
    if path.is_dir():
        return dicom.open_series(path, series)
    if not path.is_file():
        raise UnreadableError(path, "no such file or folder", "volume")
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith((b"\x93NUMPY", b"PK")):
        return volume_formats.open_numpy(path, series)
    if series is not None:
        raise ValueError(
            "`series` must be None, unless `path` is a folder or an npz file. "
            f"Received: series={series!r}"
        )
    if dicom.is_dicom(path):
        return dicom.open_file(path)
    return volume_formats.open_nibabel(path)


def _directions(stored: volume_formats.Stored) -> np.ndarray:
    """Returns nibabel's array of the directions and signs of the axes."""
    orientations = optional_package("nibabel.orientations", volume_formats.EXTRA)
    with volume_formats.reading(stored.path):
        directions = orientations.io_orientation(stored.affine)
    if np.isnan(directions).any():
        reason = "its affine does not tell where the axes run"
        raise UnreadableError(stored.path, reason, "volume")
    return directions


def _orient(
    volume: np.ndarray, stored: volume_formats.Stored, orientation: str
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Swaps and reverses axes, and returns the new distances of voxels, too."""
    orientations = optional_package("nibabel.orientations", volume_formats.EXTRA)
    wanted = orientations.axcodes2ornt(tuple(orientation))
    turn = orientations.ornt_transform(_directions(stored), wanted)
    order = np.argsort(turn[:, 0])
    distances = stored.spacing or ()
    spacing = tuple(distances[int(axis)] for axis in order)
    return orientations.apply_orientation(volume, turn), spacing


def _resize(
    path: Path,
    volume: np.ndarray,
    distances: tuple[float, ...],
    shape: Shape | None,
    spacing: Any,
) -> np.ndarray:
    if shape:
        scales = [old / new for old, new in zip(volume.shape, shape, strict=False)]
        return resample(volume, shape, scales)
    if len(distances) != 3 or not min(distances) > 0:
        raise ValueError(
            f"`spacing` must be None for files that tell no spacing of three axes. "
            f"Received: spacing={spacing} for {path}"
        )
    scales = [new / old for old, new in zip(distances, spacing, strict=True)]
    sizes = zip(volume.shape, scales, strict=False)
    shape = tuple(max(1, round(size / scale)) for size, scale in sizes)
    volume_formats.check_memory(path, shape)
    return resample(volume, shape, scales)


def _to_uint8(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = (volume - low) * (255 / (high - low))
    return np.rint(np.nan_to_num(scaled).clip(0, 255)).astype("uint8")


# === Arguments ===


def _check_size(
    shape: Any, spacing: Any
) -> tuple[Shape | None, tuple[float, ...] | None]:
    if shape is not None and spacing is not None:
        raise ValueError(
            "Only one of `shape` and `spacing` must be given. "
            f"Received: shape={shape}, spacing={spacing}"
        )
    if shape is not None:
        shape = validation.positive_ints("shape", shape, AXES)
    if spacing is not None:
        values = spacing if isinstance(spacing, list | tuple) else (spacing,) * 3
        if len(values) != 3:
            raise ValueError(
                "`spacing` must be a number, or one for each of three axes. "
                f"Received: spacing={spacing}"
            )
        spacing = tuple(validation.positive_number("spacing", x) for x in values)
    return shape, spacing


def check_window(window: Any) -> tuple[float, float] | None:
    if window is None:
        return None
    if not isinstance(window, list | tuple) or len(window) != 2:
        raise ValueError(
            f"`window` must be a pair (low, high). Received: window={window!r}"
        )
    low, high = (validation.finite("window", x) for x in window)
    if not low < high:
        raise ValueError(
            f"`window` must be a pair with low < high. Received: window={window!r}"
        )
    return low, high


def check_orientation(orientation: Any) -> str:
    pairs = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    letters = list(orientation) if isinstance(orientation, str) else []
    if sorted(pairs.get(letter, -1) for letter in letters) != [0, 1, 2]:
        raise ValueError(
            "`orientation` must be one letter each of R or L, A or P, and S or I. "
            f"Received: orientation={orientation!r}"
        )
    return orientation
