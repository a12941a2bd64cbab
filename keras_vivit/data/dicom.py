"""DICOM files: series of slices, cines and single images."""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from keras_vivit.data.volume_formats import (
    EXTRA,
    Stored,
    check_memory,
    choose,
    choose_name,
    reading,
)
from keras_vivit.extras import optional_package
from keras_vivit.types import Shape

# Distances of slices may differ by this share: tables round positions.
TOLERANCE = 0.1
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def open_file(path: Path) -> Stored:
    """Opens one file, with one frame or several, whose axes have no directions."""
    header = read_header(path)
    with reading(path):
        shape, spacing = _shape_of(header), header.get("PixelSpacing")
        spacing = tuple(map(float, spacing)) if spacing else None

    def read(index: int | tuple[int, ...] | None) -> np.ndarray:
        if index is not None:
            raise ValueError(
                f"`index` must be None for a DICOM file. Received: index={index}"
            )
        check_memory(path, shape)
        return read_pixels(path)

    return Stored(path, shape, spacing, None, read)


def read_header(path: Path) -> Any:
    pydicom = optional_package("pydicom", EXTRA)
    with reading(path):
        return pydicom.dcmread(path, stop_before_pixels=True)


def _shape_of(header: Any) -> Shape:
    """Returns the shape as stored: no frames or channels where there is one."""
    if not header.get("Rows") or not header.get("Columns"):
        raise ValueError("the file holds no image")
    frames = int(header.get("NumberOfFrames") or 1)
    channels = int(header.get("SamplesPerPixel") or 1)
    shape = (frames, int(header.Rows), int(header.Columns), channels)
    return shape[frames == 1 : 4 - (channels == 1)]


def read_pixels(path: Path) -> np.ndarray:
    """Returns `(frames, rows, columns, channels)`, rescaled, bright is high."""
    pydicom = optional_package("pydicom", EXTRA)
    with reading(path):
        dataset = pydicom.dcmread(path)
        pixels = pydicom.pixels.pixel_array(dataset)
        kind = dataset.PhotometricInterpretation
        if kind == "PALETTE COLOR":
            pixels = pydicom.pixels.apply_color_lut(pixels, dataset)
            if pixels.dtype == "uint16":  # The upper byte, if there are only 8 bits.
                pixels = pixels // 256
        elif dataset.get("SamplesPerPixel", 1) == 1:
            pixels = pixels[..., None]
        pixels = _rescale(dataset, pixels if pixels.ndim == 4 else pixels[None])
        return _invert(dataset, pixels) if kind == "MONOCHROME1" else pixels


def _rescale(dataset: Any, pixels: np.ndarray) -> np.ndarray:
    """Applies the rescale slope and intercept, of the file or of its frames."""
    pydicom = optional_package("pydicom", EXTRA)
    shared = dataset.get("SharedFunctionalGroupsSequence")
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    groups = [group for group in (shared, frames) if group]
    if not any("PixelValueTransformationSequence" in g[0] for g in groups):
        return pydicom.pixels.apply_modality_lut(pixels, dataset)
    for group in groups:
        if "PixelValueTransformationSequence" in group[0]:
            values = [item.PixelValueTransformationSequence[0] for item in group]
            slope = np.array([float(value.RescaleSlope) for value in values])
            intercept = np.array([float(value.RescaleIntercept) for value in values])
            shape = (-1, 1, 1, 1)
            pixels = pixels * slope.reshape(shape) + intercept.reshape(shape)
    return pixels


def _invert(dataset: Any, pixels: np.ndarray) -> np.ndarray:
    """MONOCHROME1 stores white as the lowest value."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    ends = np.array([0.0, 2.0**bits - 1]) - signed * 2.0 ** (bits - 1)
    return _rescale(dataset, ends.reshape(-1, 1, 1, 1)).sum() - pixels


# === Series ===


def open_series(folder: Path, series: str | None) -> Stored:
    """Opens a series of slices, whose axes are slices, rows and columns."""
    slices = _slices_of(folder, series)
    if len(slices) == 1:
        return open_file(slices[0][0])
    with reading(folder):
        return _stack_slices(folder, slices)


def _slices_of(folder: Path, series: str | None) -> list[tuple[Path, Any]]:
    """Returns pairs of a path and a header, those of one series."""
    groups: dict[str, list] = {}
    known = set()
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_dicom(path):
            header = read_header(path)
            with reading(path):  # pydicom decodes an element when it is asked for.
                instance = header.get("SOPInstanceUID")
                uid = header.get("SeriesInstanceUID", "")
            # Copies of one slice count once.
            if "Rows" in header and instance not in known:
                known.add(instance)
                groups.setdefault(uid, []).append((path, header))
    lines = {
        uid: f"{uid}: {len(slices)} files, {slices[0][1].get('Modality', '?')}, "
        f"{slices[0][1].get('SeriesDescription', 'no description')}"
        for uid, slices in groups.items()
    }
    return groups[choose_name(folder, series, lines, "DICOM series")]


def _stack_slices(folder: Path, slices: list[tuple[Path, Any]]) -> Stored:
    first = slices[0][1]
    for path, header in slices:
        if header.get("NumberOfFrames") not in (None, 1):
            raise ValueError(f"{path.name} holds several frames: give its path")
        for name in ("Rows", "Columns", "SamplesPerPixel"):
            if header.get(name) != first.get(name):
                raise ValueError(f"its slices differ in {name}")
    stacks, affine = _sort(slices)
    check_memory(folder, (len(slices), first.Rows, first.Columns))
    times = len(stacks[0])
    shape = (len(stacks), first.Rows, first.Columns, times)[: 4 - (times == 1)]
    spacing = tuple(float(x) for x in np.linalg.norm(affine[:3, :3], axis=0))
    read = functools.partial(_read_slices, folder, stacks, shape)
    return Stored(folder, shape, spacing, affine, read)


def _read_slices(
    folder: Path,
    stacks: list[list[Path]],
    shape: Shape,
    index: int | tuple[int, ...] | None,
) -> np.ndarray:
    place = (*choose(folder, shape, index), 0)[0]
    return np.concatenate([read_pixels(stack[place]) for stack in stacks])


def _sort(slices: list[tuple[Path, Any]]) -> tuple[list[list[Path]], np.ndarray]:
    """Sorts slices by position.

    Returns:
        A list of lists of paths, those at one position together, and the affine of the
        axes (slices, rows, columns) in RAS millimetres, as nibabel has it.
    """
    directions = [_vector(header, "ImageOrientationPatient", 6) for _, header in slices]
    if np.ptp(directions, axis=0).max() > 1e-3:
        raise ValueError("its slices have several directions, as scouts have")
    columns, rows = directions[0][:3], directions[0][3:]
    normal = np.cross(columns, rows)
    places = [_vector(header, "ImagePositionPatient", 3) for _, header in slices]
    heights = np.array(places) @ normal
    stacks: list[list[int]] = []
    for i in np.argsort(heights, kind="stable"):
        if not stacks or heights[i] - heights[stacks[-1][0]] > 1e-2:
            stacks.append([])
        stacks[-1].append(int(i))
    for stack in stacks:
        stack.sort(key=lambda i: int(slices[i][1].get("InstanceNumber") or 0))
    _check_stacks(stacks, heights)
    bottom, top = (places[stacks[end][0]] for end in (0, -1))
    spacing = _vector(slices[0][1], "PixelSpacing", 2)
    affine = np.eye(4)
    # Of a tilted gantry, slices do not follow each other along the normal.
    affine[:3, 0] = (top - bottom) / max(len(stacks) - 1, 1)
    affine[:3, 1] = rows * spacing[0]
    affine[:3, 2] = columns * spacing[1]
    affine[:3, 3] = bottom
    if len(stacks) == 1:
        thickness = slices[0][1].get("SliceThickness") or 1
        affine[:3, 0] = normal * float(thickness)
    return [[slices[i][0] for i in stack] for stack in stacks], LPS_TO_RAS @ affine


def _check_stacks(stacks: list[list[int]], heights: np.ndarray) -> None:
    counts = {len(stack) for stack in stacks}
    if len(counts) > 1:
        raise ValueError("it has several slices at some positions, and one at others")
    gaps = np.diff([heights[stack[0]] for stack in stacks])
    if len(gaps) and np.abs(gaps / np.median(gaps) - 1).max() > TOLERANCE:
        raise ValueError(
            f"its slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart: some are "
            "missing"
        )


def _vector(header: Any, name: str, length: int) -> np.ndarray:
    value = header.get(name)
    if value is None or len(value) != length:
        raise ValueError(f"its slices must have {name}")
    vector = np.array([float(x) for x in value])
    if not all(map(math.isfinite, vector)):
        raise ValueError(f"{name} must be finite")
    return vector
