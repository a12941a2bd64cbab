"""What a folder, or a CSV file, holds: files, labels, splits and groups."""

import contextlib
import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_vivit.data import decoding, dicom

SPLITS = ("train", "validation", "test")
OTHER_NAMES = {"training": "train", "val": "validation", "valid": "validation"}
TABLE = "clips.csv"
# A file of two parts is named by the first.
SECOND_PARTS = {".img": ".hdr", ".BRIK": ".HEAD", ".REC": ".PAR"}
NO_CLIPS = (".csv", ".db", ".html", ".ini", ".json", ".md", ".srt", ".txt", ".xml")
VOLUMES = (
    *(".dcm", ".hdr", ".head", ".img", ".mgh", ".mgz", ".mnc", ".nii", ".npy"),
    *(".npz", ".nrrd", ".par"),
)


class Item(NamedTuple):
    """A file; `labels` has one string for each column of labels."""

    path: Path
    labels: tuple[str, ...]
    split: str | None
    group: str


def list_items(folder: str | os.PathLike[str], columns: tuple[str, ...]) -> list[Item]:
    """Lists files with their labels, from a table or by the names of folders."""
    folder = Path(folder)
    table = folder / TABLE if folder.is_dir() else folder
    if table.is_file():
        items = _read_table(table, columns)
    elif folder.is_dir():
        items = list(_walk(folder, len(columns)))
    else:
        raise ValueError(
            f"`folder` must be a folder or a CSV file. Received: folder={folder}"
        )
    if not items:
        raise ValueError(
            f"`folder` must hold CLASS/*, train/CLASS/* or {TABLE}. "
            f"Received: folder={folder}, where nothing is found"
        )
    return items


def _read_table(path: Path, columns: tuple[str, ...]) -> list[Item]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), reader.fieldnames or []
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(
            f"`folder` must hold a readable CSV file. Received: {path} ({error})"
        ) from error
    if missing := {"file", *columns} - set(names):
        raise ValueError(
            f"A CSV file must have the columns file, {', '.join(columns)}. Received: "
            f"{path} without {', '.join(sorted(missing))}"
        )
    return [
        Item(
            path.parent / row["file"],
            tuple((row[column] or "").strip() for column in columns),
            _split_name(row.get("split") or None),
            row.get("group") or row["file"],
        )
        for row in rows
    ]


def _split_name(name: str | None) -> str | None:
    return name and OTHER_NAMES.get(name.lower(), name.lower())


def _walk(folder: Path, number: int) -> Iterator[Item]:
    """Yields files of CLASS/*, or of SPLIT/CLASS/*."""
    parts = [(_split_name(part.name), part) for part in _folders(folder)]
    if not parts or {name for name, _ in parts} - set(SPLITS):
        parts = [(None, folder)]
    for split, part in parts:
        flat = not number and any(x.is_file() and _is_clip(x) for x in part.iterdir())
        for labelled in [part] if flat else _folders(part):
            for path in sorted(labelled.iterdir()):
                if _is_clip(path):
                    yield Item(path, (labelled.name,) * number, split, str(path))


def _folders(folder: Path) -> list[Path]:
    paths = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in paths if not path.name.startswith("."))


def walk_clips(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields the videos and volumes in a folder and in the folders in it.

    A folder of images, or of DICOM slices, is one clip.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [path for name in sorted(names) if _is_clip(path := Path(place, name))]
        yield from [Path(place)] if _is_one_clip(files) else files


def _is_one_clip(files: list[Path]) -> bool:
    if files and all(path.suffix.lower() in decoding.IMAGES for path in files):
        return True
    with contextlib.suppress(OSError):
        slices = (path.is_file() and dicom.is_dicom(path) for path in files)
        return len(files) > 1 and all(slices)
    return False


def _is_clip(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix.lower() in NO_CLIPS:
        return False
    name = path.name.removesuffix(".gz")
    for second, first in SECOND_PARTS.items():
        if name.endswith(second):
            stem = path.parent / name.removesuffix(second)
            return not any(Path(f"{stem}{first}{gz}").exists() for gz in ("", ".gz"))
    return True


def is_volume(path: Path) -> bool:
    """Tells volumes from videos by their names, DICOM files by what they hold."""
    if path.is_dir():
        return not any(
            file.suffix.lower() in decoding.IMAGES for file in path.iterdir()
        )
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return suffix in VOLUMES or (path.is_file() and dicom.is_dicom(path))


def all_volumes(items: list[Item]) -> bool:
    """Returns whether all files are volumes, or all of them videos."""
    kinds = {is_volume(item.path) for item in items}
    if len(kinds) > 1:
        raise ValueError("`folder` must hold videos or volumes. Received: both")
    return kinds.pop()


# === Splits ===


def select(
    items: list[Item],
    split: str | None,
    validation_split: float,
    seed: int,
    stratified: bool,
) -> list[Item]:
    """Returns the items of a split, in the order they have."""
    if split is None:
        return items
    named = {item.split for item in items}
    if split == "test" or (split == "validation" and "validation" in named):
        return _named(items, split)
    if "validation" in named and validation_split:
        raise ValueError(
            "`validation_split` must be 0 where the files have a validation split. "
            f"Received: validation_split={validation_split}"
        )
    pool = _named(items, "train") if named != {None} else items
    if split == "validation" and not validation_split:
        raise ValueError(
            "`validation_split` must be above 0 for split='validation', unless the "
            "files have such a split. Received: validation_split=0"
        )
    held_out = _hold_out(pool, validation_split, seed, stratified)
    chosen = [x for x in pool if (x.group in held_out) == (split == "validation")]
    if not chosen:
        raise ValueError(
            "`validation_split` must leave files in each split. Received: "
            f"validation_split={validation_split}, with {len(pool)} files in "
            f"{len({item.group for item in pool})} groups"
        )
    return chosen


def _named(items: list[Item], split: str) -> list[Item]:
    chosen = [item for item in items if item.split == split]
    if not chosen:
        names = sorted({str(item.split) for item in items})
        raise ValueError(
            "`split` must be one that the files have. "
            f"Received: split={split!r}, with files of {', '.join(names)}"
        )
    return chosen


def _hold_out(items: list[Item], share: float, seed: int, stratified: bool) -> set[str]:
    """Chooses groups that have the wanted share of each label, as nearly as they can.

    Groups come in random order; each is held out if that brings the number of files of
    each label nearer to the share. The best of several orders counts.
    """
    labels: list[tuple[str, ...]] = [()]
    if stratified:
        labels = sorted({item.labels for item in items})
    groups: dict[str, np.ndarray] = {}
    for item in items:
        count = groups.setdefault(item.group, np.zeros(len(labels)))
        count[labels.index(item.labels) if stratified else 0] += 1
    names, counts = list(groups), list(groups.values())
    rng = np.random.default_rng(seed)
    best, least = set(), np.inf
    for _ in range(max(1, min(100, 20_000 // len(names)))):
        missing, held_out = share * np.sum(counts, axis=0), set()
        for i in rng.permutation(len(names)):
            if ((missing - counts[i]) ** 2).sum() < (missing**2).sum():
                missing = missing - counts[i]
                held_out.add(names[i])
        if (missing**2).sum() < least:
            best, least = held_out, (missing**2).sum()
    return best
