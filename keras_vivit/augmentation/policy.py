"""Random choices among many operations."""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from keras_vivit import validation
from keras_vivit.augmentation import pixels
from keras_vivit.augmentation.base import Augmentation, Data, per_sample
from keras_vivit.augmentation.lookup import take
from keras_vivit.types import Config, DType, Regularizer, Tensor

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
ENHANCING = ("brightness", "color", "contrast", "sharpness")
LEVELLING = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *GEOMETRIC, *ENHANCING, *LEVELLING)

# The largest changes, those of the paper's code.
SHEAR, TRANSLATION, ANGLE, FACTOR, BITS = 0.3, 0.45, math.radians(30), 0.9, 4


@keras.saving.register_keras_serializable("keras_vivit")
class RandAugment(Augmentation):
    """Does some operations, drawn anew for each video, the same in all its frames.

    What comes in from outside repeats the border. Segmentation masks take the nearest
    pixel's label. Histograms and means are those of the whole video, without the
    frames that a `frame_mask` leaves out.

    Args:
        num_ops: Integer, how many operations, one after another.
        magnitude: Float in [0, 1], the share of the largest change of each operation.
        operations: Tuple of names to draw from. Defaults to all: `"identity"`,
            `"shear_x"`, `"shear_y"`, `"translate_x"`, `"translate_y"`, `"rotate"`,
            `"brightness"`, `"color"`, `"contrast"`, `"sharpness"`, `"posterize"`,
            `"solarize"`, `"autocontrast"` and `"equalize"`.
        value_range: Tuple, the lowest and highest value; results are clipped to it.
        seed: Optional integer.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`, or a dictionary with
            `"videos"` and what belongs to them.
        training: Boolean.

    Returns:
        The same structure and shapes.

    Raises:
        ValueError: If an operation is unknown.

    Reference:
        [RandAugment, Cubuk et al., 2020](https://arxiv.org/abs/1909.13719)
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: float = 0.3,
        operations: Sequence[str] = OPERATIONS,
        value_range: tuple[float, float] = (0, 255),
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        super().__init__(seed, name, dtype, trainable, activity_regularizer, autocast)
        self.num_ops = validation.positive_int("num_ops", num_ops)
        self.magnitude = validation.between("magnitude", magnitude, 0, 1)
        given = operations if isinstance(operations, list | tuple) else ()
        self.operations = tuple(given)
        if not given or any(name not in OPERATIONS for name in given):
            raise ValueError(
                f"`operations` must be some of {', '.join(map(repr, OPERATIONS))}. "
                f"Received: operations={operations!r}"
            )
        self.value_range = validation.value_range("value_range", value_range)

    def augment(self, data: Data) -> Data:
        low, high = self.value_range
        mask, moved = data.get("frame_mask"), {}
        x = ops.clip((data["videos"] - low) / (high - low), 0, 1)
        masks = data.get("segmentation_masks")
        for _ in range(self.num_ops):
            numbers = self.uniform(x, 0, 1, 2)
            choice = ops.floor(numbers[:, :1] * len(self.operations))  # (batch, 1)
            sign = ops.where(numbers[:, 1:] < 0.5, -1.0, 1.0)
            if set(GEOMETRIC) & set(self.operations):
                rows, columns = self._sources(choice, sign, *x.shape[2:4])
                x = _bilinear(x, rows, columns)
                if masks is not None:
                    masks = moved["segmentation_masks"] = _nearest(masks, rows, columns)
            x = self._enhance(x, mask, choice, 1 + sign * self.magnitude * FACTOR)
            x = self._level(x, mask, choice)
        return {**moved, "videos": low + x * (high - low)}

    def _is(self, name: str, choice: Tensor) -> Tensor:
        """Where an operation was drawn, `(batch, 1)`."""
        drawn = [i for i, other in enumerate(self.operations) if other == name]
        found = ops.zeros_like(choice, dtype="bool")
        for i in drawn:
            found = ops.logical_or(found, choice == i)
        return found

    def _sources(
        self, choice: Tensor, sign: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """Rows and columns `(batch, pixels)` that pixels come from."""

        def amount(name: str, largest: float) -> Tensor:
            step = sign * (self.magnitude * largest)
            return ops.where(self._is(name, choice), step, 0.0)

        angle = amount("rotate", ANGLE)
        cos, sin = ops.cos(angle), ops.sin(angle)
        places = np.indices((height, width)).reshape(2, -1)
        places = ops.convert_to_tensor(places, "float32")
        middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
        row, column = places[0] - middle_row, places[1] - middle_column
        shear_x, shear_y = amount("shear_x", SHEAR), amount("shear_y", SHEAR)
        rows = cos * row + (sin + shear_y) * column
        columns = cos * column - (sin - shear_x) * row
        shift_y = amount("translate_y", TRANSLATION) * height
        shift_x = amount("translate_x", TRANSLATION) * width
        return rows + middle_row - shift_y, columns + middle_column - shift_x

    def _enhance(
        self, x: Tensor, mask: Tensor | None, choice: Tensor, factor: Tensor
    ) -> Tensor:
        others: dict[str, Callable[[], Tensor]] = {
            "brightness": lambda: ops.zeros_like(x),
            "color": lambda: pixels.grey(x),
            "contrast": lambda: pixels.mean_grey(x, mask),
            "sharpness": lambda: pixels.smooth(x),
        }
        changed = x
        for name, other in others.items():
            if name in self.operations:
                new = pixels.blend(x, other(), per_sample(factor))
                drawn = per_sample(self._is(name, choice))
                changed = ops.where(drawn, ops.clip(new, 0, 1), changed)
        return changed

    def _level(self, x: Tensor, mask: Tensor | None, choice: Tensor) -> Tensor:
        functions: dict[str, Callable[[], Tensor]] = {
            "posterize": lambda: pixels.posterize(x, round(self.magnitude * BITS)),
            "solarize": lambda: pixels.solarize(x, 1 - self.magnitude),
            "autocontrast": lambda: pixels.autocontrast(x, mask),
            "equalize": lambda: pixels.equalize(x, mask),
        }
        changed = x
        for name, function in functions.items():
            if name in self.operations:
                drawn = per_sample(self._is(name, choice))
                changed = ops.where(drawn, function(), changed)
        return changed

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_ops": self.num_ops,
            "magnitude": self.magnitude,
            "operations": self.operations,
            "value_range": self.value_range,
        }


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Samples frames at places `(batch, pixels)`, clamped to the border."""
    height, width = x.shape[2:4]
    rows, columns = ops.clip(rows, 0, height - 1), ops.clip(columns, 0, width - 1)
    top, left = ops.floor(rows), ops.floor(columns)
    down, right = (rows - top)[:, None, :, None], (columns - left)[:, None, :, None]
    low, far = ops.minimum(top + 1, height - 1), ops.minimum(left + 1, width - 1)
    flat = ops.reshape(x, (-1, x.shape[1], height * width, x.shape[4]))

    def between(row: Tensor) -> Tensor:
        first = take(flat, row * width + left, axis=2)
        return first + right * (take(flat, row * width + far, axis=2) - first)

    upper = between(top)
    return ops.reshape(upper + down * (between(low) - upper), ops.shape(x))


def _nearest(masks: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    height, width = masks.shape[2:4]
    rows = ops.clip(ops.floor(rows + 0.5), 0, height - 1)
    columns = ops.clip(ops.floor(columns + 0.5), 0, width - 1)
    shape = (-1, masks.shape[1], height * width, *masks.shape[4:])
    taken = take(ops.reshape(masks, shape), rows * width + columns, axis=2)
    return ops.reshape(taken, ops.shape(masks))
