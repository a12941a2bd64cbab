"""Videos as arrays."""

import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_vivit import validation
from keras_vivit.data import decoding
from keras_vivit.data.decoding import UnreadableError
from keras_vivit.extras import optional_package
from keras_vivit.types import Shape

EXTRA = "keras-vivit[video]"
LIMIT = 4 * 2**30  # bytes


class VideoInfo(NamedTuple):
    """What a video file declares; `size` is `(height, width)` before rotation."""

    frames: int | None
    rate: float | None
    size: tuple[int, int]
    rotation: int
    codec: str | None


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Returns what a video file declares, and decodes its first frame alone.

    Files may declare frames that do not decode, none at all, or a wrong rate:
    `read_video` counts by decoding.

    Args:
        path: A video file, or a folder of images, one for each frame.

    Returns:
        A named tuple: `frames`, an integer, or `None` where the file declares none;
        `rate`, frames per second, or `None`; `size`, `(height, width)` as stored;
        `rotation`, by how many degrees counter-clockwise frames must be turned;
        `codec`, a string.

    Raises:
        ValueError: If the file is no video that can be decoded.
        ImportError: If PyAV is not installed.
    """
    optional_package("av", EXTRA)
    path = validation.path("path", path)
    frames = decoding.decode(path)
    stream, frame = next(frames)
    images = len(decoding.files_of(path)) if Path(path).is_dir() else None
    rate = None if images else stream.average_rate
    info = VideoInfo(
        frames=images or stream.frames or None,
        rate=float(rate) if rate else None,
        size=(frame.height, frame.width),
        rotation=frame.rotation,
        codec=stream.codec_context.name,
    )
    frames.close()
    return info


def read_video(
    path: str | os.PathLike[str],
    indices: Sequence[int] | np.ndarray | None = None,
    size: int | Shape | None = None,
    crop: Shape | None = None,
) -> np.ndarray:
    """Reads frames of a video file, upright, as RGB.

    Frames are counted by decoding from the start: no index of the file is trusted.

    Args:
        path: A video file of any kind that PyAV reads, a GIF included, or a folder of
            images, one for each frame, in the order of the numbers in their names.
        indices: Integers, the frames to return, in any order and repeated at will.
            `None` returns all of them.
        size: Frames are resized to it by the decoder: `(height, width)`, or an integer
            for the shorter side. `None` leaves them as they are.
        crop: `(height, width)`, the centre to cut out after resizing.

    Returns:
        Array `(frames, height, width, 3)`, uint8.

    Raises:
        ValueError: If an argument is wrong, the file cannot be decoded up to the last
            frame that is needed, an index exceeds its frames, or the result would
            exceed 4 GiB.
        ImportError: If PyAV is not installed.

    Example:
    >>> keras_vivit.data.read_video("dance.mp4", size=256).shape  # doctest: +SKIP
    (300, 256, 340, 3)
    """
    optional_package("av", EXTRA)
    path = validation.path("path", path)
    return read_frames(path, check_indices(indices), check_size(size), check_crop(crop))


def read_frames(
    path: str | os.PathLike[str],
    indices: list[int] | None = None,
    size: int | Shape | None = None,
    crop: Shape | None = None,
    threads: int = 0,
) -> np.ndarray:
    """Does what `read_video` does, with checked arguments and so many threads."""
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices or ()):
        places.setdefault(index, []).append(place)
    last = max(places, default=None)
    convert, count = None, 0
    for stream, frame in decoding.decode(path, threads):
        if convert is None:
            convert = Converter(path, frame, size, crop)
            video = convert.allocate(len(indices or ()) or _expected(stream, convert))
        if indices is None:
            if count == len(video):  # The file holds more frames than it declares.
                more = convert.allocate(2 * count)
                more[:count], video = video, more
            video[count] = convert(frame)
        elif count in places:
            video[places[count]] = convert(frame)
        count += 1
        if count - 1 == last:
            return video
    if indices is None:
        return video[:count]
    raise ValueError(
        f"`indices` must be below the {count} frames of {path}. Received: {last}"
    )


def _expected(stream: Any, convert: "Converter") -> int:
    """Returns how many frames to allocate memory for; a file may declare anything."""
    if Path(convert.path).is_dir():
        return len(decoding.files_of(convert.path))
    if stream.frames and convert.fits(stream.frames):
        return stream.frames
    return max(decoding.count_packets(convert.path), 1)


class Converter:
    """Makes upright RGB arrays of one size of a video's frames."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        frame: Any,
        size: int | Shape | None,
        crop: Shape | None,
    ) -> None:
        av = optional_package("av", EXTRA)
        self.path = path
        self.reformatter = av.video.reformatter.VideoReformatter()
        self.pose = decoding.pose_of(frame)
        shown = resized(decoding.shown_size(frame), size)
        self.size = shown[::-1] if self.pose.transposed else shown
        self.corner = _centre(shown, crop)
        self.shape = crop or shown

    def __call__(self, frame: Any) -> np.ndarray:
        height, width = self.size
        rgb = self.reformatter.reformat(frame, width, height, "rgb24", threads=1)
        array = rgb.to_ndarray()
        if self.pose.transposed:
            array = array.swapaxes(0, 1)
        if self.pose.reversed_rows:
            array = array[::-1]
        if self.pose.reversed_columns:
            array = array[:, ::-1]
        (top, left), (height, width) = self.corner, self.shape
        return array[top : top + height, left : left + width]

    def fits(self, frames: int) -> bool:
        height, width = self.shape
        return frames * height * width * 3 <= LIMIT

    def allocate(self, frames: int) -> np.ndarray:
        height, width = self.shape
        if not self.fits(frames):
            raise UnreadableError(
                self.path,
                f"{frames} frames of {height} x {width} exceed 4 GiB: "
                "give `indices` or a smaller `size`",
            )
        return np.empty((frames, height, width, 3), "uint8")


def resized(shown: Shape, size: int | Shape | None) -> Shape:
    """Returns the height and width that frames get by the argument `size`."""
    if size is None:
        return shown
    if isinstance(size, tuple):
        return size
    # Rounded down, as Scenic, SlowFast and VideoMAE do.
    short = min(shown)
    return tuple(max(size, length * size // short) for length in shown)


def _centre(shown: Shape, crop: Shape | None) -> tuple[int, int]:
    if crop is None:
        return 0, 0
    if crop[0] > shown[0] or crop[1] > shown[1]:
        raise ValueError(
            f"`crop` must not exceed the frames, {shown[0]} x {shown[1]} after "
            f"resizing. Received: crop={crop}"
        )
    return (shown[0] - crop[0]) // 2, (shown[1] - crop[1]) // 2


# === Arguments ===


def check_indices(indices: Any) -> list[int] | None:
    if indices is None:
        return None
    if hasattr(indices, "dtype"):
        indices = validation.array("indices", indices).tolist()
    rule = (
        isinstance(indices, Sequence)
        and not isinstance(indices, str)
        and len(indices) > 0
        and all(isinstance(i, Integral) and int(i) >= 0 for i in indices)
    )
    if not rule:
        raise ValueError(
            "`indices` must be integers from 0, one or more. "
            f"Received: indices={indices!r}"
        )
    return [int(i) for i in indices]


def check_size(size: Any) -> int | Shape | None:
    if size is None:
        return None
    if isinstance(size, Integral):
        return validation.positive_int("size", size)
    return validation.positive_ints("size", size, ("height", "width"))


def check_crop(crop: Any) -> Shape | None:
    if crop is None:
        return None
    return validation.positive_ints("crop", crop, ("height", "width"))
