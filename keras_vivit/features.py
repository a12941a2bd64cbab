"""Tokens between the blocks of a backbone, as grids."""

from numbers import Integral
from typing import Any

import keras
from keras import ops

from keras_vivit import validation
from keras_vivit.blocks import VARIANTS
from keras_vivit.types import Config, DType, Regularizer, Shape, Tensor


def blocks_of(backbone: keras.Model) -> list[Any]:
    """Returns the blocks in the order in which they apply."""
    kind = VARIANTS[backbone.variant].block
    return [layer for layer in backbone.layers if isinstance(layer, kind)]


def choose_blocks(backbone: keras.Model, layers: Any) -> list[Any]:
    """Returns the blocks that `layers` names, by index or by name; `None` names all."""
    blocks = blocks_of(backbone)
    if layers is None:
        return blocks
    names = {block.name: block for block in blocks}
    if not isinstance(layers, list | tuple) or not layers:
        raise ValueError(
            f"`layers` must be None or a list of blocks. Received: layers={layers!r}"
        )
    chosen = []
    for layer in layers:
        is_index = isinstance(layer, Integral) and not isinstance(layer, bool)
        if is_index and -len(blocks) <= layer < len(blocks):
            chosen.append(blocks[layer])
        elif isinstance(layer, str) and layer in names:
            chosen.append(names[layer])
        else:
            raise ValueError(
                f"`layers` must hold integers from {-len(blocks)} to "
                f"{len(blocks) - 1}, or names: {', '.join(names)}. Received: {layer!r}"
            )
    return chosen


def grids_after(backbone: keras.Model, blocks: list[Any], videos: Any) -> list[Tensor]:
    """Returns the blocks' outputs for videos, see `ViViTBackbone.features`."""
    validation.tensors("videos", videos)
    layers = [backbone.get_layer("tubelet_embedding"), *blocks]
    model = keras.Model(backbone.input, [layer.output for layer in layers])
    grid, *outputs = model(videos)
    skipped = int(backbone.pooling == "token")
    folded = backbone.variant == "factorized_encoder"
    grids = []
    for block, tokens in zip(blocks, outputs, strict=True):
        if block.name.startswith("temporal"):
            tokens = tokens[:, skipped:]
        elif skipped or folded:
            tokens = RestoreGrid(skipped, dtype=block.dtype_policy)([tokens, grid])
        grids.append(tokens)
    return grids


@keras.saving.register_keras_serializable("keras_vivit")
class RestoreGrid(keras.layers.Layer):
    """Drops the class token and restores the grid.

    Args:
        skipped: Integer, the first tokens that are dropped.

    Call arguments:
        inputs: List of the tokens `(batch, tokens, d)`, or of folded frames `(batch *
            t, ..., d)`, and of a tensor `(batch, t, h, w, d)` with the grid's shape.

    Returns:
        Tensor `(batch, t, h, w, d)`.
    """

    def __init__(
        self,
        skipped: int = 0,
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
        self.skipped = skipped
        self.supports_masking = True

    def call(self, inputs: list[Tensor]) -> Tensor:
        tokens, grid = inputs
        sizes = ops.shape(grid)[1:-1]
        return ops.reshape(tokens[:, self.skipped :], (-1, *sizes, tokens.shape[-1]))

    def compute_mask(self, inputs: list[Tensor], previous_mask: Any) -> Any:
        return previous_mask[1]  # the grid's

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return (*input_shape[1][:-1], input_shape[0][-1])

    def get_config(self) -> Config:
        return {**super().get_config(), "skipped": self.skipped}
