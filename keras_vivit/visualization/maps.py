"""Attention maps of each block, and their rollout over all blocks."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_vivit import features, validation
from keras_vivit.types import Tensor
from keras_vivit.visualization import passes


class FactorizedMaps(NamedTuple):
    """Attention maps of a block that attends over space and over time.

    `space` has the shape `(batch, t, [heads,] h * w, h * w)`, `time` the shape `(batch,
    h * w, [heads,] t, t)`.
    """

    space: np.ndarray
    time: np.ndarray


def attention_maps(
    model: keras.Model,
    videos: Any,
    layers: Sequence[int | str] | None = None,
    reduce: str | None = "mean",
    batch_size: int = 8,
) -> list[np.ndarray | FactorizedMaps]:
    """Returns the attention weights of each block.

    Rows are queries and sum to 1, columns are keys. A masked token is no key: its
    column is 0. Tokens are in the order of the flattened grid, behind the class token
    where there is one. The device holds the weights of one block at a time.

    Args:
        model: A `ViViTClassifier` or a `ViViTBackbone`.
        videos: Arrays, as the model takes them.
        layers: List of blocks: their indices, negative ones from the last, or their
            names. Defaults to all, which takes much memory for long sequences.
        reduce: `"mean"` averages over the heads, `None` keeps them.
        batch_size: Integer, videos that are processed at once.

    Returns:
        A list with a float32 array `(batch, tokens, tokens)` for each block, or
        `(batch, heads, tokens, tokens)` without `reduce`. For spatial blocks of
        `"factorized_encoder"` there is an axis t behind the batch. For blocks of the
        other factorized variants a pair `(space, time)`: arrays `(batch, t, [heads,]
        h * w, h * w)` and `(batch, h * w, [heads,] t, t)`.

    Raises:
        ValueError: If the model is another, or `layers` names no block.

    Example:
    >>> model = keras_vivit.ViViTBackbone(
    ...     (4, 16, 16, 1), tubelet_size=(2, 8, 8), embed_dim=16, num_layers=2,
    ...     num_heads=2, mlp_dim=32)
    >>> videos = np.zeros((1, 4, 16, 16, 1))
    >>> keras_vivit.visualization.attention_maps(model, videos)[-1].shape
    (1, 8, 8)
    """
    backbone = passes.backbone_of(model)
    chosen = features.choose_blocks(backbone, layers)
    validation.choice("reduce", reduce, ("mean", None))

    def maps_of(batch: Any, _: slice) -> list[Any]:
        forward = passes.run(backbone, batch)
        steps = {
            step.block.name: step
            for encoder in forward.encoders
            for step in encoder.steps
        }
        number = len(forward.grid)
        return [_maps(steps[block.name], reduce, number) for block in chosen]

    results = passes.in_batches(maps_of, videos, batch_size)
    return [
        FactorizedMaps(**result) if isinstance(result, dict) else result
        for result in results
    ]


def _maps(step: passes.Step, reduce: str | None, number: int) -> Any:
    block = step.block
    shares = passes.run_block(*step)[1]
    axes = [axis for axes in passes.share_axes(block) for axis in axes]
    maps = {}
    for axis, weights in zip(axes, shares, strict=True):
        if reduce == "mean":
            weights = ops.mean(ops.cast(weights, "float32"), axis=1)
        shape = tuple(weights.shape[1:])
        if axis != "all" or block.name.startswith("spatial"):
            shape = (-1, *shape)  # frames or places
        # To NumPy at once: the next block's weights take the place of these.
        weights = ops.cast(ops.reshape(weights, (number, *shape)), "float32")
        maps[axis] = ops.convert_to_numpy(weights)
    return maps.get("all", maps)


def attention_rollout(
    model: keras.Model, videos: Any, batch_size: int = 8
) -> np.ndarray:
    """Follows attention from what the model pools back to the tokens of the video.

    Each attention counts as the mean of its weights, averaged over heads, and of the
    residual connection. It is the same for all classes. In `"factorized_encoder"` it is
    the spatial map of each frame times the frame's weight in time.

    Args:
        model: A `ViViTClassifier` or a `ViViTBackbone`.
        videos: Arrays, as the model takes them.
        batch_size: Integer, videos that are processed at once.

    Returns:
        Array `(batch, t, h, w)`, float32, not negative. It sums to 1 for each video;
        with a class token to less, the rest being the token's own.

    Raises:
        ValueError: If the model is another.

    Example:
    >>> model = keras_vivit.ViViTBackbone(
    ...     (4, 16, 16, 1), tubelet_size=(2, 8, 8), embed_dim=16, num_layers=2,
    ...     num_heads=2, mlp_dim=32)
    >>> keras_vivit.visualization.attention_rollout(
    ...     model, np.zeros((1, 4, 16, 16, 1))).shape
    (1, 2, 2, 2)

    Reference:
        [Quantifying Attention Flow in Transformers, Abnar and Zuidema,
        2020](https://arxiv.org/abs/2005.00928)
    """
    backbone = passes.backbone_of(model)
    return passes.in_batches(
        lambda batch, _: rollout(passes.run(backbone, batch)), videos, batch_size
    )


def rollout(forward: passes.Pass) -> Tensor:
    """Returns the rollout `(batch, t, h, w)` of a pass."""
    return passes.pooled_rows(forward, _mean_weights(forward), averaged=True)[0]


def _mean_weights(forward: passes.Pass) -> Iterator[list[Tensor]]:
    for encoder in reversed(forward.encoders):
        for step in reversed(encoder.steps):
            yield _averaged(passes.run_block(*step)[1])


def _averaged(shares: list[Tensor]) -> list[Tensor]:
    """Averages over heads. Nothing may hold the weights while the next block runs."""
    return [ops.mean(ops.cast(share, "float32"), axis=1) for share in shares]
