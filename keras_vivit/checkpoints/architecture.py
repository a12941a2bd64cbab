"""What a checkpoint's tensors tell of the model."""

import re
from typing import Any

from keras_vivit.checkpoints.names import (
    BLOCK,
    DECODER,
    DECODER_EMBEDDING,
    FACTORIZED_BLOCK,
    HEAD,
    KERNEL,
    tubelet_of,
)
from keras_vivit.checkpoints.tensors import Tensors
from keras_vivit.types import Shape


def arguments_of(tensors: Tensors, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the constructor arguments that a checkpoint's tensors tell.

    Raises:
        ValueError: If they leave a choice that `settings` does not make.
    """

    def shape(name: str) -> Shape:
        if name not in tensors:
            raise ValueError(
                f"The checkpoint must hold the tensor {name}, as ViViT's do. "
                f"Received: {', '.join(sorted(tensors)[:5])}, ..."
            )
        return tensors[name].shape

    def depth(encoder: str) -> int:
        blocks = map(re.compile(rf"{encoder}/encoderblock_(\d+)/").match, tensors)
        return len({block[1] for block in blocks if block})

    kernel = shape(KERNEL)
    arguments = {
        "tubelet_size": tubelet_of(kernel),
        "embed_dim": kernel[-1],
        "variant": "spatio_temporal",
        "pooling": "mean",
    }
    encoder, layers = "Transformer", BLOCK
    if depth("SpatialTransformer"):
        encoder = "SpatialTransformer"
        arguments["variant"] = "factorized_encoder"
        arguments["num_temporal_layers"] = depth("TemporalTransformer")
    elif any("/LayerNorm_space/" in name for name in tensors):
        layers = FACTORIZED_BLOCK
        arguments["variant"] = "factorized_self_attention"
        _require("attention_order", settings)
    elif "cls" not in tensors:
        # Variant 1 with mean pooling has the tensors of variant 4.
        arguments["variant"] = _require("variant", settings)
    if {"cls", "cls_SpatialTransformer"} & set(tensors):
        arguments["pooling"] = "token"
    block = f"{encoder}/encoderblock_0"
    attention = layers.get("attention") or layers["space_attention"]
    arguments["num_heads"] = shape(f"{block}/{attention}/query/kernel")[1]
    arguments["mlp_dim"] = shape(f"{block}/{layers['mlp']}/Dense_0/kernel")[1]
    arguments["num_layers"] = depth(encoder)
    if f"{HEAD}/kernel" in tensors:
        arguments["num_classes"] = shape(f"{HEAD}/kernel")[1]
    if DECODER_EMBEDDING in tensors:
        block = f"{DECODER}/encoderblock_0"
        arguments["decoder_dim"] = shape(DECODER_EMBEDDING)[1]
        arguments["decoder_num_layers"] = depth(DECODER)
        arguments["decoder_num_heads"] = shape(f"{block}/{attention}/query/kernel")[1]
        mlp = f"{block}/{layers['mlp']}/Dense_0/kernel"
        arguments["decoder_mlp_dim"] = shape(mlp)[1]
    return arguments


def _require(argument: str, settings: dict[str, Any]) -> Any:
    if argument not in settings:
        raise ValueError(
            f"`{argument}` must be given: the checkpoint does not tell it."
        )
    return settings[argument]
