"""A forward pass whose steps can be repeated, block by block."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

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

    They are a list: the grid, and for each encoder what enters each block (tokens, and
    their mask if they have one), and what leaves the last.
    """
    grid = backbone.get_layer("tubelet_embedding").output
    encoders = [
        [[_inputs_of(block) for block in blocks], blocks[-1].output]
        for blocks in _blocks_by_encoder(backbone).values()
    ]
    return [grid, *encoders]


def _inputs_of(block: Any) -> list[Any]:
    # Up to Keras 3.15, `block.input` has the mask, too.
    x = keras.tree.flatten(block.input)[0]
    mask = getattr(x, "_keras_mask", None)
    return [x] if mask is None else [x, mask]


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


# === Rows ===


def pooled_rows(
    forward: Pass, matrices: Iterable[list[Tensor]], averaged: bool
) -> tuple[Tensor, Tensor]:
    """Follows what the model pools back to the tokens of the grid.

    Rows are multiplied from the left, one block after the other from the last to the
    first, so that no product of two matrices is needed.

    Args:
        forward: A pass.
        matrices: For each block, the last one first, a tensor `(n, tokens, tokens)`
            for each share of heads.
        averaged: Whether an attention A counts as `(A + I) / 2`; else as `A + I`.

    Returns:
        Two tensors `(batch, t, h, w)`: the rows, and the sum of the rows times the
        attentions of the (first) encoder.
    """
    remaining = iter(matrices)
    pooling = forward.backbone.pooling
    rows = None
    for encoder in reversed(forward.encoders):
        start = _pooling_rows(encoder.steps[0], pooling)
        if rows is not None:
            start = start * ops.reshape(rows, (-1, 1))  # Each frame's weight in time.
        rows, total = start, ops.zeros_like(start)
        for step in reversed(encoder.steps):
            for shares in _attentions(step.block, next(remaining)):
                moved = _times(rows, shares, step, averaged)
                rows = (rows + moved) / 2 if averaged else rows + moved
                total = total + moved
        if pooling == "token":
            rows, total = rows[:, 1:], total[:, 1:]
    shape = (-1, *grid_of(forward.grid))
    return ops.reshape(rows, shape), ops.reshape(total, shape)


def _pooling_rows(step: Step, pooling: str) -> Tensor:
    """Returns the weight `(n, tokens)` that pooling gives to each token."""
    _, x, mask = step
    kept = ops.ones_like(x[..., 0]) if mask is None else mask
    kept = ops.cast(ops.reshape(kept, (-1, math.prod(grid_of(x)))), "float32")
    if pooling == "mean":
        return kept / ops.maximum(ops.sum(kept, axis=1, keepdims=True), 1)
    rest = ops.zeros_like(kept[:, 1:])
    return ops.concatenate([kept[:, :1], rest], axis=1)


Shares: TypeAlias = list[tuple[str, Tensor]]  # axes and matrices


def _attentions(block: Any, matrices: list[Tensor]) -> Iterator[Shares]:
    """Yields the shares of each attention of a block, the last attention first."""
    remaining = list(matrices)
    for axes in reversed(share_axes(block)):
        shares, remaining = remaining[-len(axes) :], remaining[: -len(axes)]
        yield list(zip(axes, shares, strict=True))


def _times(rows: Tensor, shares: Shares, step: Step, averaged: bool) -> Tensor:
    """Multiplies rows by an attention, averaged over its shares of heads."""
    if frames_of(step.block):
        ((axis, matrix),) = shares
        times = _times_space if axis == "space" else _times_time
        return times(rows, matrix, step, averaged)
    grid = grid_of(step.x)
    products = [
        unfold(_product(fold(rows, grid, axes), matrix), grid, axes)
        for axes, matrix in shares
    ]
    return sum(products) / len(products)


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    return (rows[:, None] @ matrix)[:, 0]


# Blocks with a class token beside their frames, see divided_attention.py.


def frames_of(block: Any) -> int | None:
    return getattr(block, "frames", None)


def _times_time(rows: Tensor, matrix: Tensor, step: Step, averaged: bool) -> Tensor:
    """The class token attends to nothing: on the average, to itself."""
    frames = step.block.frames
    grid = [frames, (ops.shape(rows)[1] - 1) // frames]
    moved = unfold(_product(fold(rows[:, 1:], grid, "time"), matrix), grid, "time")
    token = rows[:, :1] if averaged else ops.zeros_like(rows[:, :1])
    return ops.concatenate([token, moved], axis=1)


def _times_space(rows: Tensor, matrix: Tensor, step: Step, averaged: bool) -> Tensor:
    """The class token is the mean of its copies in the frames that are kept."""
    frames, size = step.block.frames, matrix.shape[-1]
    kept = ops.ones_like(rows[:, 1:]) if step.mask is None else step.mask[:, 1:]
    kept = ops.any(ops.reshape(kept, (-1, frames, size - 1)), axis=2, keepdims=True)
    kept = ops.cast(kept, "float32")
    copies = kept / ops.maximum(ops.sum(kept, axis=1, keepdims=True), 1)
    copies = copies * rows[:, :1, None]  # (b, t, 1)
    grid = ops.reshape(rows[:, 1:], (-1, frames, size - 1))
    framed = ops.reshape(ops.concatenate([copies, grid], axis=2), (-1, size))
    moved = ops.reshape(_product(framed, matrix), (-1, frames, size))
    token = ops.sum(moved[:, :, :1], axis=1)
    others = ops.reshape(moved[:, :, 1:], (-1, frames * (size - 1)))
    return ops.concatenate([token, others], axis=1)


# === Batches ===


def in_batches(
    function: Callable[[Any, slice], Any], videos: Any, batch_size: int
) -> Any:
    """Calls a function for a few videos at a time and joins the results as arrays.

    The function gets the videos and their place among all of them, and returns a
    structure of tensors, of which no gradients are taken.
    """
    validation.positive_int("batch_size", batch_size)
    validation.tensors("videos", videos)
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
