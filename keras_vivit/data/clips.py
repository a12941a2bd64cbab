"""One sample of a folder: which frames, where they are cut out, and the cache."""

import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_vivit.data import video, volume
from keras_vivit.data.sampling import sample_clips
from keras_vivit.types import Shape

GREY = np.array([0.299, 0.587, 0.114], "float32")  # ITU-R BT.601


class Layout(NamedTuple):
    """What all clips have in common, see `VideoFolder`."""

    shape: Shape
    stride: int
    rule: str
    target_fps: float | None
    resize: str | int
    training: bool
    window: tuple[float, float] | None
    orientation: str


class Facts(NamedTuple):
    """A file, and what decoding it once has found."""

    path: str | os.PathLike[str]
    frames: int
    rate: float | None
    size: Shape


class Cache:
    """Keeps decoded files until the memory for them is used up."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.arrays: dict[object, np.ndarray | None] = {}
        self.lock = threading.Lock()

    def get(
        self, path: object, size: int, read: Callable[[], np.ndarray]
    ) -> np.ndarray | None:
        """Returns what `read()` returns, or `None` if there is no room for it."""
        with self.lock:
            found = self.arrays.get(path)
            if path in self.arrays or self.used + size > self.limit:
                return found  # `None` while another thread reads it.
            self.used += size
            self.arrays[path] = None
        self.arrays[path] = read()
        return self.arrays[path]


def sample_frames(
    facts: Facts,
    layout: Layout,
    rng: np.random.Generator | None = None,
    num_clips: int = 1,
) -> np.ndarray:
    """Returns the indices of the frames of clips, `(num_clips, frames)`."""
    length, target = facts.frames, layout.target_fps
    rate: Any = facts.rate or target
    options: dict[str, Any] = {
        "rule": layout.rule,
        "training": layout.training,
        "seed": rng,
    }
    if layout.rule == "slowfast" and rate:
        options |= {"fps": rate, "target_fps": target or 30}
    elif target:
        length = max(1, round(length * target / rate))
    frames = sample_clips(length, layout.shape[0], layout.stride, num_clips, **options)
    if layout.rule == "slowfast" or not target:
        return frames
    return at_rate(frames, rate, target, facts.frames)


def at_rate(
    frames: np.ndarray, rate: float, target: float, length: float
) -> np.ndarray:
    """Returns the frames that a video shows in the middle of those of another rate."""
    return np.minimum(((frames + 0.5) * rate / target).astype("int64"), length - 1)


def resized(facts: Facts, layout: Layout) -> Shape:
    """Returns the height and width to which a video's frames are resized."""
    _, height, width, _ = layout.shape
    if layout.resize == "stretch":
        return height, width
    if isinstance(layout.resize, int):
        return video.resized(facts.size, layout.resize)
    return covering(facts.size, (height, width))


def covering(size: Shape, wanted: Shape) -> Shape:
    """Returns the smallest size of the same shape that covers another one."""
    scale = max(new / old for new, old in zip(wanted, size, strict=True))
    return tuple(
        max(new, int(old * scale + 0.5)) for new, old in zip(wanted, size, strict=True)
    )


def check_size(facts: Facts, layout: Layout) -> list[int]:
    """Returns by how much resized frames exceed the crop, along height and width."""
    size = resized(facts, layout)
    spaces = [size[axis] - layout.shape[1 + axis] for axis in (0, 1)]
    if min(spaces) < 0:
        raise ValueError(
            f"Frames must hold {layout.shape[1:3]} after resizing (`size` or "
            "`resize`). Received: "
            f"{facts.path}, resized to {size} by {layout.resize!r}"
        )
    return spaces


def read_clip(
    facts: Facts, layout: Layout, cache: Cache, rng: np.random.Generator
) -> np.ndarray:
    """Reads one clip, uint8, with the wanted number of channels."""
    size, spaces = resized(facts, layout), check_size(facts, layout)
    indices = sample_frames(facts, layout, rng)[0].tolist()
    if layout.training:
        top, left = rng.integers(np.add(spaces, 1))
    else:
        top, left = (space // 2 for space in spaces)

    def read(frames: list[int] | None = None) -> np.ndarray:
        return video.read_frames(facts.path, frames, size, threads=1)

    whole = cache.get(facts.path, facts.frames * size[0] * size[1] * 3, read)
    frames = read(indices) if whole is None else whole[indices]
    _, height, width, channels = layout.shape
    return with_channels(frames[:, top : top + height, left : left + width], channels)


def read_scan(path: str | os.PathLike[str], layout: Layout, cache: Cache) -> np.ndarray:
    """Reads a volume at the wanted size."""
    shape, channels = layout.shape[:3], layout.shape[3]

    def read() -> np.ndarray:
        found = volume.read_volume(
            path, shape, window=layout.window, orientation=layout.orientation
        )
        return with_channels(found, channels)

    size = int(np.prod(layout.shape)) * (1 if layout.window else 4)
    found = cache.get(path, size, read)
    return read() if found is None else found


def with_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """Makes colours grey, or repeats grey ones."""
    given = array.shape[-1]
    if given == channels:
        return array
    if channels == 1 and given == 3:
        grey = (array @ GREY)[..., None]
        return np.rint(grey).astype("uint8") if array.dtype == "uint8" else grey
    if given == 1:
        return np.repeat(array, channels, axis=-1)
    raise ValueError(
        f"The last axis of the shape must be {given}, the channels of the file. "
        f"Received: {channels}"
    )
