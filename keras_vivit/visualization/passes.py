"""A forward pass whose steps can be repeated, block by block."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_vivit import backends, features, validation
from keras_vivit.attention import attention_weights, fold, unfold, weighted_values
from keras_vivit.backbone import ViViTBackbone
from keras_vivit.types import Tensor


class Step(NamedTuple):
    """A block, what entered it, and its mask of tokens, if it got one."""

    block: Any
    x: Tensor
    mask: Tensor | None


class Encoder(NamedTuple):
    """Blocks that follow each other, and what left the last of them."""

    name: str
    steps: list[Step]
    output: Tensor


class Pass(NamedTuple):
    """A forward pass of a backbone; `grid` is a tensor `(batch, t, h, w, d)`."""

    backbone: ViViTBackbone
    grid: Tensor
    encoders: list[Encoder]


def backbone_of(model: Any) -> ViViTBackbone:
    backbone = getattr(model, "backbone", model)
    if not isinstance(backbone, ViViTBackbone):
        raise ValueError(
            "`model` must be a ViViTBackbone or a ViViTClassifier. "
            f"Received: {type(model).__name__}"
        )
    return backbone


def run(backbone: ViViTBackbone, videos: Any) -> Pass:
    """Runs the backbone with its fused kernels, and keeps what enters each block."""
    model = keras.Model(backbone.input, symbolic_tensors(backbone))
    return pass_of(backbone, model(videos, training=False))


def symbolic_tensors(backbone: ViViTBackbone) -> list[Any]:
    """Returns the tensors of a pass in the backbone's own graph.

    They are a list: the grid, and for each encoder what enters each block, and what
    leaves the last. In the graph of a masked model, blocks have a mask as an input.
    """
    grid = backbone.get_layer("tubelet_embedding").output
    encoders = [
        [[keras.tree.flatten(block.input) for block in blocks], blocks[-1].output]
        for blocks in _blocks_by_encoder(backbone).values()
    ]
    return [grid, *encoders]


def pass_of(backbone: ViViTBackbone, tensors: list[Any]) -> Pass:
    """Makes a pass of tensors in the structure of `symbolic_tensors`."""
    grid, *parts = tensors
    encoders = []
    for (name, blocks), (inputs, output) in zip(
        _blocks_by_encoder(backbone).items(), parts, strict=True
    ):
        steps = [
            Step(block, x, *(mask or [None]))
            for block, (x, *mask) in zip(blocks, inputs, strict=True)
        ]
        encoders.append(Encoder(name, steps, output))
    return Pass(backbone, grid, encoders)


def _blocks_by_encoder(backbone: ViViTBackbone) -> dict[str, list[Any]]:
    encoders: dict[str, list[Any]] = {}
    for block in features.blocks_of(backbone):
        encoders.setdefault(block.name.partition("_block_")[0], []).append(block)
    return encoders


# === Blocks ===


def run_block(
    block: Any, x: Tensor, mask: Tensor | None, offsets: Iterable[Tensor] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Runs a block without fused attention.

    Args:
        block: A block.
        x, mask: What entered it.
        offsets: Optional tensors that are added to the attention weights.

    Returns:
        The block's output, and the attention weights `(n, heads, tokens, tokens)` of
        each share of heads of each attention. A query none of whose keys is kept has
        no weights.
    """
    shares: list[Tensor] = []
    remaining = iter(offsets)

    def attend(
        query: Tensor, key: Tensor, value: Tensor, kept: Tensor | None
    ) -> Tensor:
        weights = attention_weights(query, key, kept)
        if kept is not None:
            weights = ops.where(kept, weights, ops.zeros((), weights.dtype))
        offset = next(remaining, None)
        if offset is not None:
            weights = weights + offset
        shares.append(weights)
        return weighted_values(weights, value)

    return block(x, mask=mask, attend=attend), shares


def share_axes(block: Any) -> list[list[str]]:
    """Returns what each share of heads of each attention attends over."""
    return [list(layer.axes) for layer in block.attention_layers()]


def grid_of(x: Tensor) -> list[Any]:
    return list(ops.shape(x))[1:-1]


def has_divided_attention(block: Any) -> bool:
    """Whether it is a block of variant 3 with a class token."""
    return getattr(block, "frames", None) is not None


def divided_grid(block: Any, x: Tensor) -> list[Any]:
    """Returns frames and places of a sequence with a class token."""
    return [block.frames, (ops.shape(x)[1] - 1) // block.frames]


# === Rows ===


def pooled_rows(
    forward: Pass,
    matrices: Iterable[list[Tensor]],
    residual: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Follows what the model pools back to the tokens of the grid.

    Rows are multiplied from the left, one block after the other from the last to the
    first, so that no product of two matrices is needed.

    Args:
        forward: A pass.
        matrices: For each block, the last one first, a tensor `(n, tokens, tokens)`
            for each share of heads.
        residual: Function of the rows and of the rows times an attention, that
            returns the rows before that attention.

    Returns:
        Two tensors `(batch, t, h, w)`: the rows, and how they would be without any
        block of the (first) encoder.
    """
    remaining = iter(matrices)
    pooling = forward.backbone.pooling
    rows = None
    for encoder in reversed(forward.encoders):
        start = _pooling_rows(encoder.steps[0], pooling)
        if rows is not None:
            start = start * ops.reshape(rows, (-1, 1))  # Each frame's weight in time.
        rows = start
        for step in reversed(encoder.steps):
            before = _before_divided if has_divided_attention(step.block) else _before
            rows = before(step, rows, next(remaining), residual)
        if pooling == "token":
            rows, start = rows[:, 1:], start[:, 1:]
    shape = (-1, *grid_of(forward.grid))
    return ops.reshape(rows, shape), ops.reshape(start, shape)


def _pooling_rows(step: Step, pooling: str) -> Tensor:
    """Returns the weight `(n, tokens)` that pooling gives to each token."""
    _, x, mask = step
    kept = ops.ones_like(x[..., 0]) if mask is None else mask
    kept = ops.cast(ops.reshape(kept, (-1, math.prod(grid_of(x)))), "float32")
    if pooling == "mean":
        return kept / ops.maximum(ops.sum(kept, axis=1, keepdims=True), 1)
    rest = ops.zeros_like(kept[:, 1:])
    return ops.concatenate([kept[:, :1], rest], axis=1)


def _before(
    step: Step,
    rows: Tensor,
    matrices: list[Tensor],
    residual: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Goes back through the attentions of a block."""
    grid, remaining = grid_of(step.x), list(matrices)
    for axes in reversed(share_axes(step.block)):
        shares, remaining = remaining[-len(axes) :], remaining[: -len(axes)]
        moved = [
            unfold(_times(fold(rows, grid, axis), share), grid, axis)
            for axis, share in zip(axes, shares, strict=True)
        ]
        rows = residual(rows, sum(moved) / len(moved))
    return rows


def _before_divided(
    step: Step,
    rows: Tensor,
    matrices: list[Tensor],
    residual: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Goes back through divided attention, see `keras_vivit.divided_attention`."""
    grid = divided_grid(step.block, step.x)
    for (axis,), matrix in reversed([*zip(share_axes(step.block), matrices, strict=True)]):
        token, others = rows[:, :1], rows[:, 1:]
        if axis == "time":
            moved = unfold(_times(fold(others, grid, axis), matrix), grid, axis)
            rows = ops.concatenate([token, residual(others, moved)], axis=1)
            continue
        copies = token * _shares_of_frames(step, grid)
        frames = [copies[..., None], ops.reshape(others, (-1, *grid))]
        rows_of_frames = ops.concatenate(frames, axis=2)  # (b, t, 1 + s)
        length = 1 + grid[1]
        moved = _times(ops.reshape(rows_of_frames, (-1, length)), matrix)
        moved = ops.reshape(moved, (-1, grid[0], length))
        others = ops.reshape(moved[:, :, 1:], (-1, math.prod(grid)))
        token = ops.sum(moved[:, :, 0], axis=1, keepdims=True)
        rows = residual(rows, ops.concatenate([token, others], axis=1))
    return rows


def _shares_of_frames(step: Step, grid: list[Any]) -> Tensor:
    """Returns how much each frame counts for the class token: `(batch or 1, t)`."""
    if step.mask is None:
        return ops.full((1, grid[0]), 1 / grid[0])
    kept = ops.any(ops.reshape(step.mask[:, 1:], (-1, *grid)), axis=2)
    kept = ops.cast(kept, "float32")
    return kept / ops.maximum(ops.sum(kept, axis=1, keepdims=True), 1)


def _times(rows: Tensor, matrices: Tensor) -> Tensor:
    return (rows[:, None] @ matrices)[:, 0]


# === Batches ===


def in_batches(
    function: Callable[[Any, slice], Any], videos: Any, batch_size: int
) -> Any:
    """Calls a function for a few videos at a time and joins the results as arrays.

    The function gets the videos and their place among all of them, and returns a
    structure of tensors, of which no gradients are taken.
    """
    validation.positive_int("batch_size", batch_size)
    videos = keras.tree.map_structure(_array, videos)
    number = len(keras.tree.flatten(videos)[0])
    if not number:
        raise ValueError("`videos` must hold at least one video. Received: 0")
    results = []
    for start in range(0, number, batch_size):
        piece = slice(start, start + batch_size)
        batch = keras.tree.map_structure(lambda x, piece=piece: x[piece], videos)
        with backends.without_gradients():
            result = function(batch, piece)
        results.append(keras.tree.map_structure(_array, result))
    return keras.tree.map_structure(lambda *x: np.concatenate(x), *results)


def _array(x: Any) -> np.ndarray:
    if isinstance(x, np.ndarray | list | tuple):
        return np.asarray(x)
    if keras.backend.standardize_dtype(x.dtype) in ("bfloat16", "float16"):
        x = ops.cast(x, "float32")
    return ops.convert_to_numpy(x)
