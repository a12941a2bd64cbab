"""Volumes to train on: one of MedMNIST's six 3-D sets, or a synthetic stand-in.

Names, tasks, labels and checksums are those of the `medmnist` package; all six sets are
CC BY 4.0. Nothing here imports Keras, so that a mistake is reported before a backend
starts.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from common.command_line import InputError

URL = "https://zenodo.org/records/10519652/files/{}?download=1"
SIZES = (28, 64)
# What `np.load` raises for files that are no npz, damaged, or hold pickles.
UNREADABLE = (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error)
SYNTHETIC_COUNTS = {"train": 971, "val": 161, "test": 610}  # as OrganMNIST3D
SPLITS = ("train", "val", "test")
FOLDS = 4  # of the training volumes
KEYS = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]


class Facts(NamedTuple):
    """What MedMNIST says about a set: the classes by label, and each file's MD5.

    `sides` is what each label becomes when a volume is mirrored along axis 0, which
    runs from one side of the body to the other; `None` where labels have no sides.
    """

    task: str
    class_names: tuple
    md5_28: str
    md5_64: str
    sides: tuple | None = None

    def md5(self, size):
        return self.md5_28 if size == 28 else self.md5_64


ORGANS = (
    "liver",
    "kidney-right",
    "kidney-left",
    "femur-right",
    "femur-left",
    "bladder",
    "heart",
    "lung-right",
    "lung-left",
    "spleen",
    "pancreas",
)
FRACTURES = (
    "buckle rib fracture",
    "nondisplaced rib fracture",
    "displaced rib fracture",
)
SETS = {
    "organmnist3d": Facts(
        "multi-class",
        ORGANS,
        "a0c5a1ff56af4f155c46d46fbb45a2fe",
        "58a2205adf14a9d0a189cb06dc78bf10",
        sides=(0, 2, 1, 4, 3, 5, 6, 8, 7, 9, 10),
    ),
    "nodulemnist3d": Facts(
        "binary-class",
        ("benign", "malignant"),
        "8755a7e9e05a4d9ce80a24c3e7a256f3",
        "c47c5b7d457bf6332200d2ea6d64ecd8",
    ),
    "adrenalmnist3d": Facts(
        "binary-class",
        ("normal", "hyperplasia"),
        "bbd3c5a5576322bc4cdfea780653b1ce",
        "17721accfe9fb005146a47d33bc54b2f",
    ),
    "fracturemnist3d": Facts(
        "multi-class",
        FRACTURES,
        "6aa7b0143a6b42da40027a9dda61302f",
        "f01d7e6316aedf4210da0da5b7437b42",
    ),
    "vesselmnist3d": Facts(
        "binary-class",
        ("vessel", "aneurysm"),
        "b41fd4f7e7e2feedddb201585ecafa1b",
        "6bb274a8846e1097066dcd64e2c4520f",
    ),
    "synapsemnist3d": Facts(
        "binary-class",
        ("inhibitory synapse", "excitatory synapse"),
        "1235b78a3cd6280881dd7850a78eadb6",
        "43bd14ebf3af9d3dd072446fedc14d5e",
    ),
}


class Split(NamedTuple):
    """Volumes, uint8 `(n, depth, height, width, 1)`, and labels, int64 `(n,)`."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """Three splits and where they come from.

    `source` is `"official"` (a file with MedMNIST's checksum), `"custom"` (any other
    file) or `"synthetic"`; `task` is MedMNIST's `"multi-class"` or `"binary-class"`;
    `sides` see `Facts`.
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


def share_of(split, share, seed):
    """Returns a share of a split: the same volumes for the same seed."""
    order = np.random.default_rng(seed).permutation(len(split.labels))
    rows = order[: max(round(share * len(order)), 1)]
    return Split(split.images[rows], split.labels[rows])


def with_fold(data, fold):
    """Holds one of `FOLDS` parts of the training volumes out, for choosing settings.

    They take the place of the test volumes. Each class is divided evenly. With the
    fold `None` nothing is held out.
    """
    if fold is None:
        return data
    rng, labels = np.random.default_rng(0), data.train.labels
    parts = np.empty(len(labels), int)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        parts[rows] = np.arange(len(rows)) % FOLDS
    inside, outside = (
        Split(data.train.images[rows], labels[rows])
        for rows in (parts == fold, parts != fold)
    )
    return data._replace(train=outside, test=inside)


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
