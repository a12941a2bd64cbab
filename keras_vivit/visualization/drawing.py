"""Maps as pictures: drawn over videos, and written as GIFs."""

import os
from typing import Any

import numpy as np

from keras_vivit import validation
from keras_vivit.extras import optional_package
from keras_vivit.positions import resize_position_table

# From low to high, of even steps in lightness: legible without colour vision, too.
COLORS = np.array(
    [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], float
)


def overlay(
    videos: Any,
    maps: Any,
    alpha: float = 0.7,
    value_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """Draws maps over videos.

    Each map is resized to its video, linearly along all axes, and scaled by its
    maximum. The higher its value, the more of a pixel it covers: what the map leaves
    out stays visible. A map of zeros changes nothing.

    Args:
        videos: Array `(batch, frames, height, width, channels)` with 1 or 3 channels.
        maps: Array `(batch, t, h, w)`, not negative.
        alpha: Float, how much of a pixel the highest value covers.
        value_range: Optional tuple, the values that are black and white. Defaults to
            `(0, 255)` for uint8 videos, else to their minimum and maximum.

    Returns:
        Array `(batch, frames, height, width, 3)`, uint8.

    Raises:
        ValueError: If shapes or values are others.

    Example:
    >>> videos, maps = np.zeros((2, 8, 64, 64, 3), "uint8"), np.ones((2, 4, 4, 4))
    >>> keras_vivit.visualization.overlay(videos, maps).shape
    (2, 8, 64, 64, 3)
    """
    videos = validation.array("videos", videos)
    maps = validation.array("maps", maps).astype("float32")
    if not np.isfinite(videos).all():
        raise ValueError("`videos` must be finite. Received: NaN or infinite values")
    if videos.ndim != 5 or videos.shape[-1] not in (1, 3) or not videos.size:
        raise ValueError(
            "`videos` must have the shape (batch, frames, height, width, channels), "
            f"with 1 or 3 channels, no axis empty. Received: shape={videos.shape}"
        )
    if maps.ndim != 4 or len(maps) != len(videos):
        raise ValueError(
            f"`maps` must have the shape ({len(videos)}, t, h, w). "
            f"Received: shape={maps.shape}"
        )
    if not (maps >= 0).all():
        raise ValueError(f"`maps` must not be negative. Received: min={maps.min()}")
    alpha = validation.between("alpha", alpha, 0, 1)
    if value_range is None and videos.dtype == "uint8":
        value_range = (0, 255)
    elif value_range is None:
        value_range = (videos.min(), videos.max())
    else:
        value_range = validation.value_range("value_range", value_range)
    low, high = map(float, value_range)
    pixels = (videos.astype("float32") - low) / max(high - low, 1e-12) * 255
    pixels = np.broadcast_to(np.clip(pixels, 0, 255), (*videos.shape[:-1], 3))
    return np.stack([_draw(*pair, alpha) for pair in zip(pixels, maps, strict=True)])


def _draw(pixels: np.ndarray, heat: np.ndarray, alpha: float) -> np.ndarray:
    heat = resize_position_table(heat[..., None], pixels.shape[:-1])
    heat = heat / max(heat.max(), np.finfo("float32").tiny)
    steps = np.linspace(0, 1, len(COLORS))
    colors = np.stack([np.interp(heat[..., 0], steps, c) for c in COLORS.T], -1)
    # The root shows low values, too, which are most of a map.
    cover = alpha * np.sqrt(heat)
    return np.rint(pixels + cover * (colors - pixels)).astype("uint8")


def save_gif(
    path: str | os.PathLike[str], frames: Any, fps: float = 8, scale: int = 1
) -> None:
    """Writes frames as an endless GIF; several videos side by side.

    Args:
        path: Path of the file.
        frames: Array `(frames, height, width, 3)`, uint8, or `(batch, frames, height,
            width, 3)`, as `overlay` returns it.
        fps: Number, frames for each second.
        scale: Integer, how many pixels each pixel becomes, along both sides.

    Raises:
        ValueError: If the frames are of another shape or dtype.
        ImportError: If Pillow is not installed.

    Example:
    >>> keras_vivit.visualization.save_gif("map.gif", frames)  # doctest: +SKIP
    """
    path = validation.path("path", path)
    frames = validation.array("frames", frames)
    if (
        frames.ndim not in (4, 5)
        or not frames.size
        or frames.shape[-1] != 3
        or frames.dtype != "uint8"
    ):
        raise ValueError(
            "`frames` must be uint8 of shape (frames, height, width, 3) or (batch, "
            f"frames, height, width, 3). Received: {frames.dtype}, {frames.shape}"
        )
    fps = validation.positive_number("fps", fps)
    scale = validation.positive_int("scale", scale)
    validation.elements(scale=(scale, scale), frames=frames.shape)
    image = optional_package("PIL.Image", "pillow")
    if frames.ndim == 5:
        frames = np.concatenate(frames, axis=2)
    frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    first, *others = (image.fromarray(frame) for frame in frames)
    duration = round(1000 / fps)
    first.save(
        path, "gif", save_all=True, append_images=others, duration=duration, loop=0
    )
