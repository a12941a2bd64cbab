"""Which frames of a video, and which part of each frame."""

import math

import keras
from keras import ops

from keras_vivit import validation
from keras_vivit.augmentation.base import Augmentation, Data
from keras_vivit.augmentation.lookup import interpolate, take
from keras_vivit.types import Config, DType, Regularizer, Tensor


@keras.saving.register_keras_serializable("keras_vivit")
class RandomResizedCrop(Augmentation):
    """Cuts a box out of all frames of a video and resizes it, bilinearly.

    Segmentation masks take the nearest pixel's label. In inference it is the largest
    box of the new proportions, in the middle.

    Args:
        size: Tuple `(height, width)` of the new frames.
        scale: Tuple, the smallest and the largest share of the frame's area.
        ratio: Tuple, the smallest and the largest width as a multiple of the height.
        seed: Optional integer.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`, or a dictionary with
            `"videos"` and what belongs to them.
        training: Boolean.

    Returns:
        The same structure, videos and segmentation masks with frames of the new size.

    Reference:
        [Going Deeper with Convolutions, Szegedy et al., 2015](https://arxiv.org/abs/1409.4842)
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        super().__init__(seed, name, dtype, trainable, activity_regularizer, autocast)
        self.size = validation.positive_ints("size", size, ("height", "width"))
        self.scale = validation.interval("scale", scale, 1e-6, 1)
        self.ratio = validation.interval("ratio", ratio, 1e-3, 1e3)

    def augment(self, data: Data) -> Data:
        videos = data["videos"]
        height, width = videos.shape[2:4]
        area = self.uniform(videos, *self.scale) * (height * width)  # (batch, 1)
        ratio = ops.exp(self.uniform(videos, *_logarithms(self.ratio)))
        sides = (
            ops.minimum(ops.sqrt(area / ratio), height),
            ops.minimum(ops.sqrt(area * ratio), width),
        )
        places = self.uniform(videos, 0, 1, 2)
        starts = (
            places[:, :1] * (height - sides[0]),
            places[:, 1:] * (width - sides[1]),
        )
        return self._cut(data, starts, sides)

    def fit_shapes(self, data: Data) -> Data:
        height, width = data["videos"].shape[2:4]
        scale = min(height / self.size[0], width / self.size[1])
        sides = [ops.full((1, 1), n * scale, "float32") for n in self.size]
        starts = [
            (n - side) / 2 for n, side in zip((height, width), sides, strict=True)
        ]
        return self._cut(data, starts, sides)

    def _cut(self, data: Data, starts: Tensor, sides: Tensor) -> Data:
        places = []  # Of the new pixels' middles, (batch, n) for each axis.
        for n, start, side in zip(self.size, starts, sides, strict=True):
            middles = (ops.arange(n, dtype="float32") + 0.5) * (1 / n)
            place = start + middles * side - 0.5
            batch = ops.shape(data["videos"])[0]
            places.append(ops.broadcast_to(place, (batch, n)))
        x, masks = data["videos"], data.get("segmentation_masks")
        for axis, place in enumerate(places, start=2):
            x = interpolate(x, place, axis)
            if masks is not None:
                masks = take(masks, ops.floor(place + 0.5), axis)
        return {"videos": x} | ({} if masks is None else {"segmentation_masks": masks})

    def new_shapes(self, shapes: Data) -> Data:
        return {
            name: (*shapes[name][:2], *self.size, *shapes[name][4:])
            for name in ("videos", "segmentation_masks")
            if name in shapes
        }

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "size": self.size,
            "scale": self.scale,
            "ratio": self.ratio,
        }


@keras.saving.register_keras_serializable("keras_vivit")
class RandomClip(Augmentation):
    """Takes some frames of each video, from a random start and at a random rate.

    Frames are taken whole, the nearest ones. Rates that are too fast for a video are
    slowed down to its length. With a `frame_mask` the clip starts where it still fits
    among the kept frames. In inference it is the clip in the middle, at the rate of 1.

    Args:
        num_frames: Integer, the length of a clip.
        rate: Tuple, the smallest and the largest step from frame to frame: 2 takes
            every other one, 0.5 each of them twice.
        seed: Optional integer.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`, or a dictionary with
            `"videos"` and what belongs to them.
        training: Boolean.

    Returns:
        The same structure, with `num_frames` frames.

    Raises:
        ValueError: If a clip is longer than the videos.
    """

    def __init__(
        self,
        num_frames: int,
        rate: tuple[float, float] = (1.0, 1.0),
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        super().__init__(seed, name, dtype, trainable, activity_regularizer, autocast)
        self.num_frames = validation.positive_int("num_frames", num_frames)
        self.rate = validation.interval("rate", rate, 0.01, 100)

    def check_shapes(self, shapes: Data) -> None:
        super().check_shapes(shapes)
        frames = shapes["videos"][1]
        if self.num_frames > frames:
            raise ValueError(
                "`num_frames` must not exceed the frames of the videos. "
                f"Received: num_frames={self.num_frames}, frames={frames}"
            )

    def augment(self, data: Data) -> Data:
        videos = data["videos"]
        rate = ops.exp(self.uniform(videos, *_logarithms(self.rate)))  # (batch, 1)
        return self._cut(data, self.uniform(videos, 0, 1), rate)

    def fit_shapes(self, data: Data) -> Data:
        half = ops.full((ops.shape(data["videos"])[0], 1), 0.5, "float32")
        return self._cut(data, half, 2 * half)

    def _cut(self, data: Data, place: Tensor, rate: Tensor) -> Data:
        """Clips that start at a share of what is left, of `(batch, 1)`."""
        frames, steps = data["videos"].shape[1], self.num_frames - 1
        rate = ops.minimum(rate, (frames - 1) / max(steps, 1))
        first, last = ops.zeros_like(rate), ops.full_like(rate, frames - 1)
        if "frame_mask" in data:
            mask = ops.cast(data["frame_mask"], "int32")
            first = ops.cast(ops.argmax(mask, axis=1, keepdims=True), "float32")
            behind = ops.argmax(ops.flip(mask, 1), axis=1, keepdims=True)
            last = last - ops.cast(behind, "float32")
        length = rate * steps
        # A clip that is longer than what is kept starts with it, where there is room.
        start = first + place * ops.maximum(last - first - length, 0)
        start = ops.minimum(start, frames - 1 - length)
        index = start + rate * ops.arange(self.num_frames, dtype="float32")
        index = ops.floor(index + 0.5)  # (batch, num_frames)
        return {n: take(x, index, 1) for n, x in data.items() if n != "labels"}

    def new_shapes(self, shapes: Data) -> Data:
        return {
            name: (shape[0], self.num_frames, *shape[2:])
            for name, shape in shapes.items()
            if name != "labels"
        }

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_frames": self.num_frames,
            "rate": self.rate,
        }


def _logarithms(interval: tuple[float, float]) -> tuple[float, float]:
    return math.log(interval[0]), math.log(interval[1])
