"""Volumes to train on: one of MedMNIST's six 3-D sets, or a synthetic stand-in.

Nothing here imports Keras, so every complaint about the data comes at once, before
a backend starts up.
"""

import hashlib
import http.client
import os
import shutil
import sys
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import shapes
from medmnist3d import SETS

URL = "https://zenodo.org/records/10519652/files/{}?download=1"
SIZES = (28, 64)
# What `np.load` raises for files that are no npz, damaged, or hold pickles.
UNREADABLE = (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error)
SYNTHETIC_COUNTS = {"train": 971, "val": 161, "test": 610}  # as OrganMNIST3D
SPLITS = ("train", "val", "test")
KEYS = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]


class InputError(ValueError):
    """A mistake in what the user gave; scripts print it without a traceback."""


def exit_status(run, *arguments):
    """Runs a script, and returns what the shell is told."""
    try:
        run(*arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class Split(NamedTuple):
    """Volumes, uint8 `(n, depth, height, width, 1)`, and labels, int64 `(n,)`."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """Three splits and where they come from.

    `source` is `"official"` (a file with MedMNIST's checksum), `"custom"` (any other
    file) or `"synthetic"`; `task` is MedMNIST's `"multi-class"` or `"binary-class"`;
    `sides` see `medmnist3d.Facts`.
    """

    name: str
    task: str
    class_names: tuple
    sides: tuple | None
    source: str
    path: str | None
    md5: str | None
    train: Split
    val: Split
    test: Split


def load(name="organmnist3d", size=28, path=None):
    """Loads a MedMNIST 3-D set, or synthetic volumes where there is none.

    Without a `path` the file is looked for in the cache folder (`KERAS_VIVIT_DATA`,
    or `~/.cache/keras-vivit`), then downloaded there. If neither works, synthetic
    volumes take its place, and a line says so.

    Args:
        name: One of the six sets of `medmnist3d.py`.
        size: 28 or 64, voxels along each axis.
        path: An npz file in MedMNIST's format, `"synthetic"`, or `None`.

    Returns:
        A `Dataset`.

    Raises:
        InputError: If a file is there but cannot be used, or has the wrong checksum
            after the download.
    """
    if path == "synthetic":
        return synthetic(size)
    if path:
        return read(Path(path).expanduser(), name, size)
    cached = cache_folder() / file_name(name, size)
    if not cached.exists():
        try:
            download(URL.format(cached.name), cached, SETS[name].md5(size))
        except DownloadError as error:
            print(
                f"No data: {cached} does not exist, and it cannot be downloaded "
                f"({error}).\nUsing built-in synthetic volumes instead: the results "
                f"will say nothing about {name}."
            )
            return synthetic(size)
    return read(cached, name, size)


def synthetic(size=28):
    """Returns eleven kinds of shapes, in OrganMNIST3D's format and split sizes."""
    splits = {
        split: Split(*shapes.sample(count, size, seed))
        for seed, (split, count) in enumerate(SYNTHETIC_COUNTS.items())
    }
    print(f"Data: synthetic volumes, {size}^3, {len(shapes.NAMES)} shapes.")
    return Dataset(
        "synthetic",
        "multi-class",
        shapes.NAMES,
        None,
        "synthetic",
        path=None,
        md5=None,
        **splits,
    )


def cache_folder():
    return Path(os.environ.get("KERAS_VIVIT_DATA", "~/.cache/keras-vivit")).expanduser()


def file_name(name, size):
    return f"{name}.npz" if size == 28 else f"{name}_{size}.npz"


class DownloadError(Exception):
    """The download did not come about; nobody's mistake."""


def download(url, target, md5):
    """Downloads to a temporary name; `target` exists only with the right checksum."""
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise InputError(
            "The cache folder must be writable (KERAS_VIVIT_DATA names another one). "
            f"Received: {target.parent} ({error.strerror})."
        ) from error
    print(f"Downloading {url}")
    try:
        with urllib.request.urlopen(url, timeout=30) as source, partial.open("wb") as f:
            shutil.copyfileobj(source, f)
        received = md5_of(partial)
        if received != md5:
            raise InputError(
                f"A download must have MedMNIST's MD5 {md5}. Received: {received} "
                f"from {url} (deleted; try again, or give a file with `--data`)."
            )
        os.replace(partial, target)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise DownloadError(getattr(error, "reason", error)) from error
    finally:
        partial.unlink(missing_ok=True)


def md5_of(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def read(path, name, size):
    """Reads an npz in MedMNIST's format and checks all of it."""
    if not path.is_file():
        raise InputError(
            f"`--data` must be 'synthetic' or an existing .npz file. Received: {path}."
        )
    md5 = md5_of(path)
    check_identity(path, name, size, md5)
    official = md5 == SETS[name].md5(size)
    note = "the official file" if official else f"not MedMNIST's own file, MD5 {md5}"
    print(f"Data: {name}, {size}^3, from {path} ({note}).")
    facts = SETS[name]
    arrays = read_arrays(path)
    return Dataset(
        name,
        facts.task,
        facts.class_names,
        facts.sides,
        "official" if official else "custom",
        str(path.resolve()),
        md5,
        **{
            split: check_split(path, split, arrays, size, len(facts.class_names))
            for split in SPLITS
        },
    )


def check_identity(path, name, size, md5):
    """Catches another set's official file, whose labels may happen to be in range."""
    for other, facts in SETS.items():
        for other_size in SIZES:
            same = (other, other_size) == (name, size)
            if md5 == facts.md5(other_size) and not same:
                raise InputError(
                    f"The data file must be {name} at size {size}. Received: {path}, "
                    f"which is {other} at size {other_size} "
                    f"(`--dataset {other} --size {other_size}`)."
                )


def read_arrays(path):
    try:
        # Opened here: `np.load` leaves a damaged file open if it opens it itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in KEYS if key not in archive]
            if missing:
                raise InputError(
                    "The data file must hold the arrays {train,val,test}_{images,"
                    f"labels}}. Received: {path} without {', '.join(missing)}."
                )
            return {key: archive[key] for key in KEYS}
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"The data file must be a readable .npz archive of plain arrays. Received: "
            f"{path} ({str(error).splitlines()[0]})."
        ) from error


def check_split(path, split, arrays, size, num_classes):
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]

    def require(condition, rule, received):
        if not condition:
            raise InputError(f"{split}_{rule}. Received: {received} in {path}.")

    cube = (size, size, size)
    require(
        images.dtype == np.uint8 and images.shape[1:] in (cube, (*cube, 1)),
        f"images must be uint8 of shape (n, {size}, {size}, {size})",
        f"{images.dtype} {images.shape}",
    )
    require(len(images) > 0, "images must hold at least one volume", "none")
    require(
        labels.dtype.kind in "iu"
        and labels.shape in ((len(images),), (len(images), 1)),
        f"labels must be integers of shape ({len(images)}, 1)",
        f"{labels.dtype} {labels.shape}",
    )
    labels = labels.reshape(-1).astype("int64")
    require(
        labels.min() >= 0 and labels.max() < num_classes,
        f"labels must be between 0 and {num_classes - 1}",
        f"{labels.min()} to {labels.max()}",
    )
    return Split(images.reshape(-1, *cube, 1), labels)
