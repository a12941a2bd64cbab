"""Low-rank adapters (Hu et al., arXiv 2106.09685) for the blocks of a backbone."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_vivit import validation

KINDS = (keras.layers.Dense, keras.layers.EinsumDense)


def enable(backbone: Any, rank: int, alpha: float | None, targets: Any) -> None:
    """See `ViViTBackbone.enable_lora`."""
    rank = validation.positive_int("rank", rank)
    validation.elements(rank=rank, mlp_dim=max(backbone.mlp_dim, backbone.embed_dim))
    if alpha is not None:
        alpha = validation.positive_number("alpha", alpha)
    layers = [x for x in backbone._flatten_layers() if isinstance(x, KINDS)]
    if targets is not None:
        targets = validation.strings("targets", targets)
    if any(layer.lora_enabled for layer in layers):
        raise ValueError("`enable_lora` must be called once: adapters are there.")
    if targets is not None:
        layers = _chosen(layers, targets)
    for variable in backbone.weights:
        variable.trainable = False
    for layer in layers:
        layer.enable_lora(rank, **({} if alpha is None else {"lora_alpha": alpha}))


def _chosen(
    layers: list[keras.layers.Layer], targets: Sequence[str]
) -> list[keras.layers.Layer]:
    for target in targets:
        if not any(_is_target(layer, target) for layer in layers):
            raise ValueError(
                "`targets` must be parts of paths of dense layers, such as "
                f"'query' or 'mlp/hidden'. Received: {target!r}"
            )
    return [x for x in layers if any(_is_target(x, target) for target in targets)]


def _is_target(layer: keras.layers.Layer, target: str) -> bool:
    return f"/{target}/" in f"/{layer.path}/"
