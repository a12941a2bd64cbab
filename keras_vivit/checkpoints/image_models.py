"""Image models of `transformers` whose tensors are not those of its `vit`."""

import functools
import re
from typing import Any

import numpy as np

from keras_vivit.checkpoints.names import BLOCK
from keras_vivit.checkpoints.tensors import Checkpoint, Tensor, Tensors

_LAYER_SCALE = re.compile(
    r"(?:encoder\.layer|layers)\.(\d+)\.(layer_scale[12])\.lambda1"
)
_SCALED = {
    "layer_scale1": f"{BLOCK['attention']}/out",
    "layer_scale2": f"{BLOCK['mlp']}/Dense_1",
}


def prepare_dinov2(stored: Tensors, config: dict[str, Any]) -> Tensors:
    """Drops the mask token, which only pre-training uses.

    Raises:
        ValueError: If the model has layers that a ViT has not.
    """
    if config.get("use_swiglu_ffn"):
        raise ValueError(
            "`use_swiglu_ffn` in config.json must be false: no block of a ViT has "
            "a gated MLP. Received: use_swiglu_ffn=True"
        )
    if any(name.endswith("register_tokens") for name in stored):
        raise ValueError(
            "The checkpoint must have no register tokens: a ViT has one class token. "
            "Received: the tensor register_tokens"
        )
    return {name: x for name, x in stored.items() if not name.endswith("mask_token")}


def fold_layer_scale(
    tensors: Tensors, settings: dict[str, Any], config: dict[str, Any]
) -> Checkpoint:
    """Multiplies the scale at the end of each branch into its last projection."""
    for name in list(tensors):
        match = _LAYER_SCALE.fullmatch(name)
        if match is None:
            continue
        layer = f"Transformer/encoderblock_{match[1]}/{_SCALED[match[2]]}"
        targets = {f"{layer}/kernel", f"{layer}/bias"}
        if targets <= set(tensors):  # `names.match` reports what is left over.
            scale = tensors.pop(name)
            for target in targets:
                tensors[target] = _scaled(tensors[target], scale, name)
    return Checkpoint(tensors, settings)


def _scaled(tensor: Tensor, scale: Tensor, name: str) -> Tensor:
    if scale.shape != tensor.shape[-1:]:
        raise ValueError(
            f"{name} must have the shape {tensor.shape[-1:]}. Received: {scale.shape}"
        )
    return Tensor(tensor.shape, functools.partial(_product, tensor, scale))


def _product(tensor: Tensor, scale: Tensor) -> np.ndarray:
    return tensor.read().astype("float32") * scale.read().astype("float32")
