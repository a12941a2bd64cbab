"""TimeSformer: variant 3, time before space, with a class token.

Its attention over time ends with two projections in a row, which are folded into one.
"""

import functools
from typing import Any

import numpy as np

from keras_vivit.checkpoints import names, torch_layout
from keras_vivit.checkpoints.names import (
    KERNEL,
    SPACE_TABLE,
    TABLE,
    TIME_TABLE,
)
from keras_vivit.checkpoints.tensors import Checkpoint, Tensor, Tensors

VARIANT = "factorized_self_attention"
_ATTENTION = "divided_space_time"
_INNER, _OUTER = "temporal_attention.output.dense", "temporal_dense"


def prepare(stored: Tensors, config: dict[str, Any]) -> Tensors:
    """Splits and folds the projections of a file of `transformers`.

    Raises:
        ValueError: If the model attends in another way.
    """
    attention_type = config.get("attention_type", _ATTENTION)
    if attention_type != _ATTENTION:
        raise ValueError(
            f"`attention_type` in config.json must be {_ATTENTION!r}: the others are "
            f"no variant of ViViT. Received: attention_type={attention_type!r}"
        )
    tensors = torch_layout.split_projections(stored)
    for name in list(tensors):
        if name.endswith(f".{_OUTER}.weight"):
            _fold(tensors, name.removesuffix(f"{_OUTER}.weight"))
    return tensors


def _fold(tensors: Tensors, layer: str) -> None:
    """Makes one projection of the two at the end of the attention over time."""
    kernel, bias, outer_kernel, outer_bias = parts = [
        f"{layer}{dense}.{kind}"
        for dense in (_INNER, _OUTER)
        for kind in ("weight", "bias")
    ]
    if not set(parts) <= set(tensors):
        return  # `names.match` reports what is missing.
    first, second = tensors[kernel], tensors.pop(outer_kernel)
    first_bias, second_bias = tensors[bias], tensors.pop(outer_bias)

    def folded_kernel() -> np.ndarray:
        return second.read().astype("float64") @ first.read()

    def folded_bias() -> np.ndarray:
        return second.read().astype("float64") @ first_bias.read() + second_bias.read()

    tensors[kernel] = Tensor(first.shape, folded_kernel)
    tensors[bias] = Tensor(first_bias.shape, folded_bias)


def checkpoint(
    tensors: Tensors, settings: dict[str, Any], config: dict[str, Any]
) -> Checkpoint:
    """Adds what follows from the kind of model, and splits the position table.

    Raises:
        ValueError: If the table over time does not fit the videos.
    """
    tensors = {names.in_variant(name, VARIANT): x for name, x in tensors.items()}
    video_shape = settings["video_shape"]
    if TIME_TABLE in tensors:
        rows = tensors[TIME_TABLE].shape[0]
        if rows != video_shape[0]:
            raise ValueError(
                "`num_frames` in config.json must be the number of rows of "
                f"`time_embeddings`, {rows}. Received: num_frames={video_shape[0]}"
            )
    if TABLE in tensors:
        table = tensors[TABLE]
        grid = names.grid_of(video_shape, names.tubelet_of(tensors[KERNEL].shape))
        take = functools.partial(_space_table, grid=grid[1:])
        tensors |= {SPACE_TABLE: table.map(take), TABLE: table.map(lambda x: x[:, :1])}
    settings = {
        **settings,
        "variant": VARIANT,
        "attention_order": "time_space",
        "position_kind": "factorized",
    }
    return Checkpoint(tensors, settings)


def _space_table(table: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    return table[0, 1:].reshape(*grid, -1)
