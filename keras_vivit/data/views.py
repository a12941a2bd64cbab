"""Predictions for whole videos, from several clips and crops of each."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_vivit import validation
from keras_vivit.data import clips, decoding, listing, video
from keras_vivit.data.resampling import resample
from keras_vivit.data.sampling import RULES, three_crops
from keras_vivit.extras import optional_package
from keras_vivit.types import Shape

TINY = np.finfo("float32").tiny
MOST_PIXELS = 2**14  # of a side


def predict_views(
    model: keras.Model,
    source: str | os.PathLike[str] | np.ndarray,
    num_clips: int = 4,
    num_crops: int = 3,
    stride: int | None = None,
    rule: str | None = None,
    size: int | None = None,
    average: str = "logits",
) -> np.ndarray | dict[str, np.ndarray]:
    """Predicts the class of a video from several clips and crops, as papers test.

    Args:
        model: Keras model of videos, `(batch, frames, height, width, channels)`, that
            returns probabilities or logits, or a dictionary of them. What is `None`
            below comes from the dictionary `model.sampling`, where the model has one.
            If that names `fps`, files are sampled as if they had that rate.
        source: Path of a video, array `(frames, height, width, channels)`, or path of a
            volume, which is read at the model's size and is a single view.
        num_clips: Integer.
        num_crops: 3, spread along the longer side, or 1, the centre.
        stride, rule: As for `sample_clips`; by default 1 and `"scenic"`.
        size: Integer, to which the shorter side is resized before the crops. The
            default just covers the model's size.
        average: `"logits"`, as Scenic averages, or `"probabilities"`, as VideoMAE does.

    Returns:
        Array `(num_classes,)`, float32, of probabilities; a dictionary of arrays for a
        model with several heads.

    Raises:
        ValueError: If an argument is wrong, or the source cannot be read.

    Example:
    >>> keras_vivit.data.predict_views(model, "dance.mp4").argmax()  # doctest: +SKIP
    14
    """
    validation.positive_int("num_clips", num_clips, validation.MOST_FRAMES)
    num_crops = validation.choice("num_crops", num_crops, (1, 3))
    validation.choice("average", average, ("logits", "probabilities"))
    layout = layout_of(model, stride, rule, size)
    views = read_views(source, layout, num_clips, num_crops)
    outputs = model.predict(views, batch_size=num_crops, verbose=0)
    kind = activation_of(model)
    return keras.tree.map_structure(lambda x: merge(x, kind, average), outputs)


def read_views(
    source: Any,
    layout: clips.Layout,
    num_clips: int,
    num_crops: int,
    survey: Callable[[Any], dict[str, Any]] = decoding.survey,
) -> np.ndarray:
    """Returns the views of a video, `(num_clips * num_crops, ...)`, or a volume's one.

    `survey` is how a file is decoded for the first time, see `decoding.survey`.
    """
    path = None if hasattr(source, "shape") else validation.path("source", source)
    if path is not None and listing.is_volume(path):
        return clips.read_scan(path, layout, clips.Cache(0))[None]
    facts = _facts_of(source, survey)
    indices = clips.sample_frames(facts, layout, num_clips=num_clips)
    needed, places = np.unique(indices, return_inverse=True)
    size, spaces = clips.resized(facts, layout), clips.check_size(facts, layout)
    if hasattr(source, "shape"):
        frames = np.stack([_resize(source[i], size) for i in needed])
    else:
        frames = video.read_frames(source, needed.tolist(), size)
    frames = clips.with_channels(frames, layout.shape[3])
    _, height, width, _ = layout.shape
    views: list[np.ndarray] = []
    for clip in places.reshape(indices.shape):
        if num_crops == 3:
            views.extend(three_crops(frames[clip], (height, width), layout.rule))
        else:
            top, left = (space // 2 for space in spaces)
            views.append(frames[clip, top : top + height, left : left + width])
    return np.stack(views)


def predict_over_time(
    model: keras.Model,
    source: str | os.PathLike[str] | np.ndarray,
    step: int | None = None,
    stride: int | None = None,
    size: int | None = None,
    batch_size: int = 4,
) -> tuple[np.ndarray, np.ndarray | dict[str, np.ndarray]]:
    """Predicts the class of each part of a long video, by a window that slides over it.

    Frames are read one after the other: the video need not fit into memory.

    Args:
        model, source, stride, size: As for `predict_views`, except volumes. Windows
            show the centre of the frames.
        step: Integer, frames between the starts of two windows. The default is half a
            window. The last window ends with the video.
        batch_size: Integer, windows that are predicted at once.

    Returns:
        Array `(windows,)`, int64, the first frame of each window; and an array
        `(windows, num_classes)`, float32, of probabilities, or a dictionary of them.

    Raises:
        ValueError: If an argument is wrong, or the source cannot be read.

    Example:
    >>> keras_vivit.data.predict_over_time(model, "match.mp4")[0]  # doctest: +SKIP
    array([   0,   16,   32, ..., 8960, 8970])
    """
    layout, facts = layout_of(model, stride, None, size), _facts_of(source)
    batch_size = validation.positive_int("batch_size", batch_size)
    offsets = layout.stride * np.arange(layout.shape[0])
    if layout.target_fps and facts.rate:
        offsets = clips.at_rate(offsets, facts.rate, layout.target_fps, np.inf)
    span = int(offsets[-1]) + 1
    step = max(span // 2, 1) if step is None else validation.positive_int("step", step)
    last = max(facts.frames - span, 0)
    starts = np.append(np.arange(0, last, step), last)
    windows = (starts[:, None] + offsets) % facts.frames
    outputs = [
        model.predict(np.stack(batch), batch_size=batch_size, verbose=0)
        for batch in _batches(
            _slide(_stream(source, facts, layout), windows), batch_size
        )
    ]
    kind = activation_of(model)
    return starts, keras.tree.map_structure(
        lambda *parts: _probabilities(np.concatenate(parts), kind), *outputs
    )


def _stream(
    source: Any, facts: clips.Facts, layout: clips.Layout
) -> Iterator[np.ndarray]:
    """Yields the centre of each frame."""
    size, spaces = clips.resized(facts, layout), clips.check_size(facts, layout)
    _, height, width, channels = layout.shape
    if hasattr(source, "shape"):
        frames: Iterator[np.ndarray] = (_resize(frame, size) for frame in source)
    else:
        frames = _decode(source, size)
    top, left = (space // 2 for space in spaces)
    for frame in frames:
        crop = frame[top : top + height, left : left + width]
        yield clips.with_channels(crop, channels)


def _decode(path: str | os.PathLike[str], size: Shape) -> Iterator[np.ndarray]:
    convert = None
    for _, frame in decoding.decode(path):
        convert = convert or video.Converter(path, frame, size, None)
        yield convert(frame)


def _slide(frames: Iterable[np.ndarray], windows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields windows as soon as their last frame is there, and forgets older frames."""
    kept = {}
    coming = iter(windows)
    window = next(coming)
    for number, frame in enumerate(frames):
        kept[number] = frame
        while window is not None and window.max() <= number:
            yield np.stack([kept[i] for i in window])
            window = next(coming, None)
        if window is None:
            return
        for old in [i for i in kept if i < window.min()]:
            del kept[old]


def _batches(items: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


# === Sources ===


def layout_of(
    model: keras.Model,
    stride: int | None = None,
    rule: str | None = None,
    size: int | None = None,
) -> clips.Layout:
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    shape = inputs[0].shape[1:] if isinstance(model, keras.Model) and inputs else ()
    if len(shape) != 4 or None in shape:
        raise ValueError(
            "`model` must be a Keras model that takes videos of one shape (frames, "
            f"height, width, channels). {validation.received('model', model)}, "
            f"shape={tuple(shape)}"
        )
    sampling = getattr(model, "sampling", None) or {}
    stride = sampling.get("stride", 1) if stride is None else stride
    rule = sampling.get("rule", "scenic") if rule is None else rule
    size = sampling.get("size", "crop") if size is None else size
    return clips.Layout(
        shape=tuple(shape),
        stride=validation.positive_int("stride", stride),
        rule=validation.choice("rule", rule, RULES),
        target_fps=sampling.get("fps"),
        resize=size
        if isinstance(size, str) and size == "crop"
        else validation.positive_int("size", size, MOST_PIXELS),
        training=False,
        window=sampling.get("window"),
        orientation=sampling.get("orientation", "RAS"),
    )


def _facts_of(
    source: Any, survey: Callable[[Any], dict[str, Any]] = decoding.survey
) -> clips.Facts:
    if hasattr(source, "shape"):
        validation.tensors("source", source)
        if len(source.shape) != 4 or not len(source):
            raise ValueError(
                "`source` must be a path or an array (frames, height, width, channels)."
                f" Received: shape={tuple(source.shape)}"
            )
        return clips.Facts("source", len(source), None, tuple(source.shape[1:3]))
    optional_package("av", video.EXTRA)
    facts = survey(validation.path("source", source))
    return clips.Facts(source, facts["frames"], facts["rate"], tuple(facts["size"]))


def _resize(frame: np.ndarray, size: Shape) -> np.ndarray:
    """Resizes a frame of an array."""
    frame = np.asarray(frame)
    if frame.shape[:2] == size:
        return frame
    scales = [old / new for old, new in zip(frame.shape, size, strict=False)]
    resized = resample(frame.astype("float32"), size, scales)
    return np.rint(resized).astype("uint8") if frame.dtype == "uint8" else resized


# === Outputs ===


def activation_of(model: keras.Model) -> str | None:
    """Returns the name of the function that gives the model's outputs, or `None`."""
    activation = getattr(model, "classifier_activation", None)
    if activation is None:
        activation = getattr(model.layers[-1], "activation", None)
    if activation is None:
        return None
    name = keras.activations.serialize(activation)
    return validation.choice(
        "model's activation", name, ("softmax", "sigmoid", "linear")
    )


def _logits(outputs: np.ndarray, kind: str | None) -> np.ndarray:
    outputs = outputs.astype("float32")
    if not np.isfinite(outputs).all():
        raise ValueError(
            "`source` must have finite pixels, and `model` finite outputs for them. "
            f"Received: outputs={outputs}"
        )
    if kind is None:  # Told by the values.
        sums = np.abs(outputs.sum(axis=-1) - 1)
        kind = "softmax" if outputs.min() >= 0 and sums.max() < 1e-3 else "linear"
    if kind == "softmax":  # Log-probabilities: logits, but for a constant.
        return np.log(np.maximum(outputs, TINY))
    if kind == "sigmoid":
        return np.log(np.maximum(outputs, TINY)) - np.log(np.maximum(1 - outputs, TINY))
    return outputs


def _probabilities(outputs: np.ndarray, kind: str | None) -> np.ndarray:
    return _squash(_logits(outputs, kind), kind)


def _squash(logits: np.ndarray, kind: str | None) -> np.ndarray:
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def merge(outputs: np.ndarray, kind: str | None, average: str) -> np.ndarray:
    """Averages over the views."""
    if average == "probabilities":
        return _probabilities(outputs, kind).mean(axis=0)
    return _squash(_logits(outputs, kind).mean(axis=0), kind)
