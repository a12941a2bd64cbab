"""Batches of labelled videos or volumes for `fit`, `evaluate` and `predict`."""

import concurrent.futures
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_vivit import validation
from keras_vivit.data import clips, labels, listing, surveying, video, volume
from keras_vivit.data.prefetching import Prefetcher
from keras_vivit.data.sampling import RULES
from keras_vivit.extras import optional_package
from keras_vivit.types import Shape

AXES = ("frames", "height", "width", "channels")
MOST_WORKERS = 1024


class VideoFolder(keras.utils.PyDataset):
    """Reads batches of labelled videos, or of volumes, from a folder.

    The files lie in `FOLDER/CLASS/*`, in `FOLDER/train/CLASS/*` and
    `FOLDER/test/CLASS/*`, or a table `FOLDER/clips.csv` lists them in the columns
    `file` and `label`, and, if there are, `split` (`train`, `validation`, `test`) and
    `group`. A folder of images is a video, a folder of DICOM slices is a volume.

    At the start all files of the split are decoded once, in processes of their own:
    damaged ones are listed, and lengths and rates are measured. Threads read batches
    ahead, also over the end of an epoch. Order, clips and crops depend on `seed` and on
    the number of the epoch alone. This class shuffles, `fit` must not; and the callback
    of the example tells it the number, so that an interrupted training goes on with
    `initial_epoch` as if nothing had happened.

    Args:
        folder: A folder, or a CSV file like `clips.csv`.
        video_shape: `(frames, height, width, channels)` of the clips. One channel makes
            videos grey.
        split: `"train"`, `"validation"`, `"test"`, or `None` for all files. Validation
            files are those that the table or a folder names so, else a share of the
            training files.
        validation_split: Number in [0, 1), that share. The files of a group, such as
            the clips of one video or the scans of one patient, stay together, and
            labels keep their shares as far as whole groups allow.
        batch_size: Integer.
        training: Boolean: shuffle, and draw clips and crops at random. The default is
            True for `split="train"` alone.
        stride, rule: As for `sample_clips`.
        target_fps: Number: `stride` counts frames of this rate in all videos, whatever
            their own. `None` counts the frames that there are (`"slowfast"`: 30 fps).
        resize: `"crop"` scales frames so that they just cover the shape, `"stretch"`
            changes their proportions, and an integer is the shorter side before the
            crop. Crops are random in training, else central.
        window, orientation: As for `read_volume`, for volumes, which are resampled to
            the shape.
        label: The column of labels; or a tuple of columns, for a model of several
            heads: labels are then a dictionary. The names of folders count for any.
        label_mode: `"int"`; `"categorical"` (one-hot); `"several"` (labels such as
            `a;b`, as zeros and ones); `"number"`; or `None` for batches without labels.
        classes: Names of the classes in order; files of other ones are left out. By
            default all that there are, sorted, also those of other splits. With several
            columns, a dictionary column -> names.
        balanced: Boolean, whether training draws each class equally often.
            `class_weights` is the other way to treat uneven classes.
        seed: Integer.
        workers: Integer, threads and processes that decode. `None`: one for each
            processor.
        prefetch: Integer, batches to read ahead.
        cache_bytes: Integer, memory for decoded files, at the size to which they are
            resized. They stay there as long as there is room.
        on_error: `"raise"`, or `"skip"` to leave damaged files out, with a warning.
        share: Tuple `(index, count)`, which of so many equal parts of each batch to
            read, where several processes train one model. The first rows fill up the
            last batch, so that all parts are of one size.
        gather: Function of an object that returns a list of those of all processes, in
            order. With it, each process decodes only its share of the files at the
            start.

    Attributes:
        files: List of paths.
        labels: Array with a label for each file, a dictionary of them, or `None`.
        class_names: Tuple of names, a dictionary of them, or `None`.
        class_weights: Dictionary for `fit(class_weight=...)`: makes classes equal.
        skipped: Dictionary of the files that were left out, and why.

    Raises:
        ValueError: If an argument is wrong, there are no such files, or some of them
            cannot be read.
        ImportError: If a package that reads them is not installed.

    Example:
    >>> train = keras_vivit.data.VideoFolder(  # doctest: +SKIP
    ...     "clips", (16, 112, 112, 3), validation_split=0.2, stride=4)
    >>> epochs = keras.callbacks.LambdaCallback(  # doctest: +SKIP
    ...     on_epoch_begin=train.start_epoch)
    >>> model.fit(train, epochs=10, shuffle=False, callbacks=[epochs])  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        video_shape: Shape,
        split: str | None = "train",
        validation_split: float = 0.0,
        batch_size: int = 8,
        training: bool | None = None,
        stride: int = 1,
        rule: str = "scenic",
        target_fps: float | None = None,
        resize: str | int = "crop",
        window: tuple[float, float] | None = None,
        orientation: str = "RAS",
        label: str | tuple[str, ...] = "label",
        label_mode: str | None = "int",
        classes: Sequence[str] | dict[str, Sequence[str]] | None = None,
        balanced: bool = False,
        seed: int = 0,
        workers: int | None = None,
        prefetch: int = 2,
        cache_bytes: int = 0,
        on_error: str = "raise",
        share: tuple[int, int] = (0, 1),
        gather: Callable[[Any], list[Any]] | None = None,
    ) -> None:
        super().__init__()
        validation.choice("split", split, (*listing.SPLITS, None))
        validation.choice("label_mode", label_mode, labels.MODES)
        validation.choice("on_error", on_error, ("raise", "skip"))
        self.training = split == "train"
        if training is not None:
            self.training = validation.boolean("training", training)
        self.layout = clips.Layout(
            validation.positive_ints("video_shape", video_shape, AXES),
            validation.positive_int("stride", stride),
            validation.choice("rule", rule, RULES),
            target_fps
            if target_fps is None
            else validation.positive_number("target_fps", target_fps),
            _check_resize(resize),
            self.training,
            volume.check_window(window),
            volume.check_orientation(orientation),
        )
        self.batch_size = validation.positive_int("batch_size", batch_size)
        self.share = _check_share(share, self.batch_size)
        if gather is not None and not callable(gather):
            raise ValueError(
                f"`gather` must be a function. {validation.received('gather', gather)}"
            )
        self.seed = validation.natural("seed", seed)
        self.balanced = balanced = validation.boolean("balanced", balanced)
        self.cache = clips.Cache(validation.natural("cache_bytes", cache_bytes))
        workers = _processors() if workers is None else workers
        threads = validation.positive_int("workers", workers, MOST_WORKERS)
        prefetch = validation.positive_int("prefetch", prefetch)
        held_out = validation.rate("validation_split", validation_split)

        # === Files ===
        single: Any = label if isinstance(label, str) else None
        columns = (single,) if single else tuple(validation.strings("label", label))
        columns = () if label_mode is None else columns
        _check_classes(classes)
        items = listing.list_items(validation.path("folder", folder), columns)
        items = labels.keep_classes(items, columns, classes, label_mode)
        one_class = single is not None and label_mode in ("int", "categorical")
        chosen = listing.select(items, split, held_out, seed, one_class)
        self.volumes = listing.all_volumes(chosen)
        survey = self._survey_volumes if self.volumes else self._survey_videos
        paths = [item.path for item in chosen]
        if gather is None:
            results = survey(paths, threads)
        else:
            index, count = self.share
            parts = gather(survey(paths[index::count], threads))
            results = [parts[i % count][i // count] for i in range(len(paths))]
        self.skipped = _report(chosen, results, on_error)
        chosen = [item for item in chosen if item.path not in self.skipped]
        self.files = [item.path for item in chosen]
        self.facts = [facts for facts in results if isinstance(facts, clips.Facts)]

        # === Labels ===
        arrays, names = labels.encode_columns(
            chosen, items, columns, classes, label_mode
        )
        self.labels: Any = arrays.get(single, arrays or None)
        self.class_names: Any = names.get(single, names or None)
        self.one_class = one_class
        if balanced and not one_class:
            raise ValueError(
                "`balanced` must be False, unless each file has one class. "
                f"Received: balanced={balanced}, label_mode={label_mode!r}"
            )

        # === Batches ===
        self.epoch, self.complete = 0, False
        self.order = functools.lru_cache(maxsize=3)(self._order)
        self.prefetcher = Prefetcher(
            self._tasks,
            self._following,
            threads,
            prefetch,
        )

    # === Keras' interface ===

    @property
    def num_batches(self) -> int:
        return -(-len(self.files) // self.batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if not 0 <= index < self.num_batches:
            raise IndexError(index)
        self.complete |= index == self.num_batches - 1
        epoch = self.epoch if self.training else 0
        videos = np.stack(self.prefetcher.get((epoch, index)))
        if self.labels is None:
            return (videos,)
        rows = self._rows((epoch, index))
        rows = rows[self.places(len(rows))]
        return videos, keras.tree.map_structure(lambda x: x[rows], self.labels)

    def start_epoch(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Goes to another epoch, which has an order and clips of its own.

        Args:
            epoch: Integer, counts from 0.
            logs: Not used, for Keras' callbacks.
        """
        self.epoch = epoch
        self.complete = False
        if self.training:
            self.prefetcher.keep(lambda key: key[0] in (epoch, epoch + 1))

    def on_epoch_end(self) -> None:
        # `fit` looks at the first batch, and ends that epoch, before it starts.
        if self.complete:
            self.start_epoch(self.epoch + 1)

    # === Order ===

    @property
    def class_weights(self) -> dict[int, float]:
        if not self.one_class:
            raise ValueError("`class_weights` needs files with one class each.")
        return labels.class_weights(self._classes(), len(self.class_names))

    def _classes(self) -> np.ndarray:
        return self.labels if self.labels.ndim == 1 else self.labels.argmax(axis=-1)

    def _order(self, epoch: int) -> np.ndarray:
        """Returns the files of an epoch, in order."""
        if not self.training:
            return np.arange(len(self.files))
        rng = np.random.default_rng((self.seed, epoch))
        if not self.balanced:
            return rng.permutation(len(self.files))
        return labels.draw_balanced(self._classes(), rng)

    def _rows(self, key: tuple[int, int]) -> np.ndarray:
        epoch, index = key
        return self.order(epoch)[index * self.batch_size :][: self.batch_size]

    def places(self, count: int) -> np.ndarray:
        """Returns which of the rows of a batch this process reads."""
        index, shares = self.share
        if shares == 1:
            return np.arange(count)
        size = self.batch_size // shares
        return np.resize(np.arange(count), self.batch_size)[index * size :][:size]

    def _following(self, key: tuple[int, int]) -> tuple[int, int]:
        epoch, index = key
        if index + 1 < self.num_batches:
            return epoch, index + 1
        return (epoch + 1 if self.training else epoch), 0

    def _tasks(self, key: tuple[int, int]) -> list[Callable[[], np.ndarray]]:
        """Returns a function for each clip of a batch."""
        rows = self._rows(key)
        return [
            functools.partial(self.read, rows[place], (self.seed, *key, place))
            for place in self.places(len(rows)).tolist()
        ]

    # === Files ===

    def read(self, row: int, seed: tuple[int, ...] = (0,)) -> np.ndarray:
        """Returns a clip, or the volume, of a file; `seed` is that of training."""
        facts = self.facts[row]
        if self.volumes:
            return clips.read_scan(facts.path, self.layout, self.cache)
        rng = np.random.default_rng(seed)
        return clips.read_clip(facts, self.layout, self.cache, rng)

    def _survey_videos(
        self, paths: list[Path], threads: int
    ) -> list[clips.Facts | str]:
        """Returns for each file its `Facts`, or in words why it cannot be used."""
        optional_package("av", video.EXTRA)
        return [
            _facts_of(path, result, self.layout)
            for path, result in zip(
                paths, surveying.survey_videos(paths, threads), strict=True
            )
        ]

    def _survey_volumes(
        self, paths: list[Path], threads: int
    ) -> list[clips.Facts | str]:
        def read(path: Path) -> clips.Facts | str:
            try:
                clips.read_scan(path, self.layout, self.cache)
            except ValueError as error:
                return getattr(error, "reason", str(error))
            return clips.Facts(path, self.layout.shape[0], None, (0, 0))

        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            return list(pool.map(read, paths))


def _facts_of(
    path: Path, result: dict[str, Any], layout: clips.Layout
) -> clips.Facts | str:
    if "error" in result:
        return result["error"]
    facts = clips.Facts(path, result["frames"], result["rate"], tuple(result["size"]))
    try:
        clips.check_size(facts, layout)
    except ValueError as error:
        return str(error)
    return facts


def _processors() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _check_classes(classes: Any) -> None:
    if classes is not None:
        columns = classes if isinstance(classes, dict) else {"": classes}
        for names in columns.values() or [()]:
            validation.strings("classes", names)


def _check_resize(resize: str | int) -> str | int:
    if isinstance(resize, str):
        if resize in ("crop", "stretch"):
            return resize
        raise ValueError(
            "`resize` must be 'crop', 'stretch' or an integer. "
            f"Received: resize={resize!r}"
        )
    return validation.positive_int("resize", resize)


def _check_share(share: tuple[int, int], batch_size: int) -> tuple[int, int]:
    pair = isinstance(share, list | tuple) and len(share) == 2
    if not (
        pair
        and all(isinstance(n, int) for n in share)
        and 0 <= share[0] < share[1]
        and batch_size % share[1] == 0
    ):
        raise ValueError(
            "`share` must be (index, count), with index < count, and count must divide "
            f"`batch_size`. Received: share={share!r}, batch_size={batch_size}"
        )
    return share[0], share[1]


def _report(
    items: list[listing.Item], results: list[clips.Facts | str], on_error: str
) -> dict[Path, str]:
    """Returns a dictionary of the files that cannot be used, and why."""
    errors = {
        item.path: result
        for item, result in zip(items, results, strict=True)
        if isinstance(result, str)
    }
    lines = "".join(f"\n  {path}: {reason}" for path, reason in errors.items())
    text = f"{len(errors)} of {len(items)} files cannot be read"
    if errors and (on_error == "raise" or len(errors) == len(items)):
        raise ValueError(
            "`folder` must hold files that can be read, unless on_error='skip'. "
            f"Received: {text}:{lines}"
        )
    if errors:
        warnings.warn(f"{text} and are left out:{lines}", stacklevel=3)
    return errors
