"""Mirror images, and the labels that have sides."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vivit import backends, validation
from keras_vivit.augmentation.base import Augmentation, Data, is_integer, per_sample
from keras_vivit.embeddings import AXES
from keras_vivit.types import Config, DType, Regularizer, Tensor


@keras.saving.register_keras_serializable("keras_vivit")
class RandomFlip(Augmentation):
    """Mirrors videos along one axis, and swaps the labels that have sides.

    Segmentation masks are mirrored too, and along the frames the frame mask.

    Args:
        axis: `"frames"`, `"height"` or `"width"`.
        rate: Float in [0, 1], the share of samples that are mirrored.
        label_permutation: Tuple of integers: what label `i` becomes in a mirrored
            sample, for example `(0, 2, 1)` where 1 and 2 are the right and left of a
            pair. Labels must then be given: integers `(batch,)` or `(batch, 1)`, or
            soft ones `(batch, classes)`. Defaults to no change.
        mask_permutation: The same for the labels of voxels, which must then be given
            as integer segmentation masks. Defaults to no change.
        seed: Optional integer.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`, or a dictionary with
            `"videos"` and what belongs to them.
        training: Boolean.

    Returns:
        The same structure and shapes.

    Raises:
        ValueError: If a permutation is none; if the labels are missing, have another
            shape, or, in calls outside of compiled functions, lie outside of it.
    """

    def __init__(
        self,
        axis: str = "width",
        rate: float = 0.5,
        label_permutation: Sequence[int] | None = None,
        mask_permutation: Sequence[int] | None = None,
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        super().__init__(seed, name, dtype, trainable, activity_regularizer, autocast)
        self.axis = validation.choice("axis", axis, AXES)
        self.rate = validation.between("rate", rate, 0, 1)
        self.label_permutation = _permutation("label_permutation", label_permutation)
        self.mask_permutation = _permutation("mask_permutation", mask_permutation)
        self.permutations = {
            name: permutation
            for name, permutation in (
                ("labels", self.label_permutation),
                ("segmentation_masks", self.mask_permutation),
            )
            if permutation is not None
        }
        self.needs = tuple(self.permutations)

    def check_shapes(self, shapes: Data) -> None:
        super().check_shapes(shapes)
        if self.label_permutation is None:
            return
        shape, n = shapes["labels"], len(self.label_permutation)
        if isinstance(shape, dict) or tuple(shape[1:]) not in ((), (1,), (n,)):
            raise ValueError(
                "`labels` must have the shape (batch,), (batch, 1) or "
                f"(batch, {n}), as `label_permutation` has {n} labels. "
                f"Received: shape={shape}"
            )

    def check_dtypes(self, data: Data) -> None:
        for name in self.permutations:
            if _holds_numbers(name, data[name]) and not is_integer(data[name]):
                raise ValueError(
                    f"`{name}` must be integers to be permuted. Received: "
                    f"shape={tuple(data[name].shape)}, dtype={data[name].dtype}"
                )

    def check_values(self, data: Data) -> None:
        for name, permutation in self.permutations.items():
            if _holds_numbers(name, data[name]) and backends.has_values(data[name]):
                numbers = ops.convert_to_numpy(data[name])
                wrong = numbers[(numbers < 0) | (numbers >= len(permutation))]
                if wrong.size:
                    raise ValueError(
                        f"`{name}` must lie in [0, {len(permutation)}), as their "
                        f"permutation does. Received: {np.unique(wrong).tolist()}"
                    )

    def augment(self, data: Data) -> Data:
        flip = self.uniform(data["videos"], 0, 1) < self.rate  # (batch, 1)
        axis = 1 + AXES.index(self.axis)
        moved = {
            name: _choose(flip, ops.flip(x, axis), x)
            for name, x in data.items()
            # A frame mask has no other axis than the frames.
            if name != "labels" and axis < len(x.shape)
        }
        for name, permutation in self.permutations.items():
            x = moved.get(name, data[name])
            moved[name] = _choose(flip, _permuted(name, x, permutation), x)
        return moved

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "axis": self.axis,
            "rate": self.rate,
            "label_permutation": self.label_permutation,
            "mask_permutation": self.mask_permutation,
        }


def _permutation(name: str, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    numbers = list(value) if isinstance(value, list | tuple | np.ndarray) else []
    labels = all(isinstance(x, Integral) for x in numbers)
    if not numbers or not labels or sorted(numbers) != [*range(len(numbers))]:
        raise ValueError(
            f"`{name}` must hold each label once. {validation.received(name, value)}"
        )
    return tuple(map(int, numbers))


def _holds_numbers(name: str, x: Tensor) -> bool:
    """Whether these are numbers of classes, not a column for each class."""
    return name != "labels" or len(x.shape) == 1 or x.shape[1] == 1


def _permuted(name: str, x: Tensor, permutation: tuple[int, ...]) -> Tensor:
    if _holds_numbers(name, x):
        # Not every backend can look up by, or choose among, bytes.
        table = ops.convert_to_tensor(permutation, "int32")
        return ops.cast(ops.take(table, ops.cast(x, "int32"), axis=0), x.dtype)
    # Column `permutation[i]` of the new labels is column `i` of the old.
    return ops.take(x, np.argsort(permutation), axis=1)


def _choose(condition: Tensor, x: Tensor, other: Tensor) -> Tensor:
    """Samples of `x` where the condition `(batch, 1)` holds, else of the other."""
    return ops.where(per_sample(condition, len(x.shape)), x, other)
