"""Positions on the token grid, and their tables at other sizes."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vivit import validation
from keras_vivit.layer import Layer
from keras_vivit.types import Config, DType, Regularizer, Shape, Tensor

KINDS = ("learned", "factorized", "sincos", "sequence")


@keras.saving.register_keras_serializable("keras_vivit")
class PositionalEncoder(Layer):
    """Adds a vector for its place on the grid to each token.

    Weights saved for another grid are resampled when they are loaded, see
    `resize_position_table`.

    Args:
        kind: `"learned"`: one table over the whole grid, N(0, 0.02), as in the
            paper. `"factorized"`: a table `(t, D)` plus a table `(h, w, D)`,
            for a grid `(t, h, w)`. `"sincos"`: fixed sines and cosines, an
            equal share of the channels for each axis, without weights and for
            any size. `"sequence"`: VideoMAE's fixed sines and cosines of the
            token's index, a table that does not train.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, ..., embed_dim)`, usually `(batch, t, h, w,
            embed_dim)`.

    Returns:
        Tensor of the same shape.

    Raises:
        ValueError: If `kind` needs a table and the grid is unknown, or is
            factorized and the grid is not `(t, h, w)`.

    Example:
    >>> keras_vivit.PositionalEncoder()(np.zeros((2, 4, 4, 4, 64))).shape
    (2, 4, 4, 4, 64)

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691), equation 1
    """

    def __init__(
        self,
        kind: str = "learned",
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = True,
    ) -> None:
        super().__init__(
            name=name,
            dtype=dtype,
            trainable=trainable,
            activity_regularizer=activity_regularizer,
            autocast=autocast,
        )
        self.kind = validation.choice("kind", kind, KINDS)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        dim = validation.features("inputs", input_shape, 3, "(batch, ..., embed_dim)")
        grid = input_shape[1:-1]
        if self.kind == "sincos":
            if dim < 2 * len(grid):
                raise ValueError(
                    f"`embed_dim` must be at least {2 * len(grid)}, a sine and a "
                    f'cosine for each axis, for kind="sincos". Received: {dim}'
                )
            return
        if None in grid:
            raise ValueError(
                f"`kind={self.kind!r}` needs a grid of known size. "
                f"Received: shape={tuple(input_shape)}"
            )
        validation.elements(grid=grid, embed_dim=dim)
        if self.kind == "learned":
            self.table = self._add_table("table", (*grid, dim))
        elif self.kind == "sequence":
            self.table = self.add_weight(
                name="table",
                shape=(*grid, dim),
                initializer=_sequence_initializer,
                trainable=False,
            )
        else:
            if len(grid) != 3:
                raise ValueError(
                    '`kind="factorized"` needs the shape (batch, t, h, w, embed_dim). '
                    f"Received: shape={tuple(input_shape)}"
                )
            self.time_table = self._add_table("time_table", (grid[0], dim))
            self.space_table = self._add_table("space_table", (*grid[1:], dim))
        self.input_spec = keras.InputSpec(shape=(None, *grid, dim))

    def call(self, inputs: Tensor) -> Tensor:
        inputs = ops.cast(inputs, self.compute_dtype)  # Keras leaves integers alone.
        if self.kind in ("learned", "sequence"):
            return inputs + self.table
        if self.kind == "factorized":
            return inputs + self.time_table[:, None, None] + self.space_table
        return inputs + ops.cast(_sincos(ops.shape(inputs)[1:]), inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "kind": self.kind}

    def load_own_variables(self, store: Any) -> None:
        tables = [np.asarray(store[str(i)]) for i in range(len(store.keys()))]
        ranks = [len(variable.shape) for variable in self.weights]
        if [table.ndim for table in tables] != ranks:
            raise ValueError(
                "`position_kind` must be that of the saved model: "
                f"{self.kind!r} has {len(ranks)} tables of rank {ranks}. "
                f"Received: tables of shape {[table.shape for table in tables]}"
            )
        for table, variable in zip(tables, self.weights, strict=True):
            variable.assign(resize_position_table(table, variable.shape[:-1]))

    def _add_table(self, name: str, shape: Shape) -> keras.Variable:
        initializer = keras.initializers.RandomNormal(stddev=0.02)
        return self.add_weight(name=name, shape=shape, initializer=initializer)


def sequence_table(tokens: int, embed_dim: int) -> np.ndarray:
    """Returns VideoMAE's table `(tokens, embed_dim)` of sines and cosines.

    They alternate along the channels, and are computed in float64: in float32 the
    angles of long sequences are off.
    """
    channels = np.arange(embed_dim)
    angles = np.arange(tokens)[:, None] / 1e4 ** (2 * (channels // 2) / embed_dim)
    table = np.where(channels % 2, np.cos(angles), np.sin(angles))
    return table.astype("float32")


def _sequence_initializer(shape: Shape, dtype: DType = None) -> Tensor:
    *grid, dim = shape
    table = sequence_table(math.prod(grid), dim).reshape(shape)
    return ops.convert_to_tensor(table, dtype)


def _sincos(shape: Shape) -> Tensor:
    *grid, dim = shape
    frequencies = dim // (2 * len(grid))
    omega = 1e4 ** -(ops.arange(frequencies, dtype="float32") / frequencies)
    parts = []
    for axis, n in enumerate(grid):
        angles = ops.arange(n, dtype="float32")[:, None] * omega
        part = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
        place = [1] * len(grid)
        place[axis] = n
        part = ops.reshape(part, (*place, 2 * frequencies))
        parts.append(ops.broadcast_to(part, (*grid, 2 * frequencies)))
    # Channels that do not divide by the axes stay zero.
    rest = dim - 2 * frequencies * len(grid)
    return ops.pad(
        ops.concatenate(parts, axis=-1), ((0, 0),) * len(grid) + ((0, rest),)
    )


def resize_position_table(table: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Resamples a position table to another grid, linearly along each axis.

    Cell centres are aligned and edges held, as in `align_corners=False` of
    PyTorch's interpolation. It is computed in NumPy, so that every backend gets
    the same table.

    Args:
        table: Array `(*old_grid, embed_dim)`, for example `(t, h, w, embed_dim)`.
        grid: Tuple of integers, the new size of each axis but the last.

    Returns:
        Array `(*grid, embed_dim)` of the table's dtype.

    Raises:
        ValueError: If `grid` has not one size for each axis of the table's grid.

    Example:
    >>> keras_vivit.resize_position_table(np.zeros((4, 7, 7, 64)), (8, 14, 14)).shape
    (8, 14, 14, 64)
    """
    table = validation.array("table", table)
    if table.ndim < 2 or 0 in table.shape:
        raise ValueError(
            "`table` must have the shape (*grid, embed_dim), none of it empty. "
            f"Received: shape={table.shape}"
        )
    axes = [f"axis {i}" for i in range(table.ndim - 1)]
    if hasattr(grid, "as_list"):  # the shape of a variable of TensorFlow
        grid = grid.as_list()
    grid = validation.positive_ints("grid", grid, axes)
    validation.elements(grid=grid, embed_dim=table.shape[-1])
    resized = table
    for axis, (old, new) in enumerate(zip(table.shape, grid, strict=False)):
        if old != new:
            resized = np.tensordot(_interpolation(old, new), resized, (1, axis))
            resized = np.moveaxis(resized, 0, axis)
    return resized.astype(table.dtype)


def _interpolation(old: int, new: int) -> np.ndarray:
    """The matrix `(new, old)` of linear interpolation between cell centres."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(old)))
