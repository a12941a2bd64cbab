"""VideoMAE: what differs from ViViT, and the files of the original repository.

The position table is in no file: it is `positions.sequence_table`. Query and value have
biases, the key has none: softmax drops what is the same for all keys.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_vivit import validation
from keras_vivit.checkpoints import names, pixels, torch_layout
from keras_vivit.checkpoints.names import FINAL_NORM, HEAD, HEAD_NORM
from keras_vivit.checkpoints.tensors import Checkpoint, Tensors

# `transformers` has PyTorch's default in the norm before the head, whatever config.json
# says of the others.
HEAD_NORM_EPSILON = 1e-5
_DECODER_NAMES = {  # to those of an encoder, or to Scenic's
    r"^decoder\.decoder_layers\.": "encoder.layer.",
    r"^decoder\.norm\.": "layernorm.",
    r"^decoder\.head\.weight": f"{names.DECODER}/output/kernel",
    r"^decoder\.head\.bias": f"{names.DECODER}/output/bias",
    r"^encoder_to_decoder\.weight": names.DECODER_EMBEDDING,
    r"^mask_token": f"{names.DECODER}/mask_token/token",
}
DECODER = re.compile(r"decoder\.|encoder_to_decoder\.|mask_token$")


def without_decoder(stored: Tensors) -> Tensors:
    """Drops what only pre-training uses."""
    return {name: x for name, x in stored.items() if not DECODER.match(name)}


def decoder_of_transformers(
    stored: Tensors, config: dict[str, Any], folder: Path
) -> Tensors:
    """Returns the decoder's tensors under Scenic's names, if the model has one."""
    heads = config.get("decoder_num_attention_heads")
    if any(map(DECODER.match, stored)) and (not isinstance(heads, int) or heads < 1):
        raise ValueError(
            "`decoder_num_attention_heads` in config.json must be a positive integer. "
            f"Received: {heads!r} in {folder}"
        )
    return _decoder(stored, heads or 1, folder)


def _decoder(stored: Tensors, heads: int, source: Path) -> Tensors:
    renamed = {}
    for name, tensor in stored.items():
        if DECODER.match(name):
            for pattern, new in _DECODER_NAMES.items():
                name = re.sub(pattern, new, name)
            renamed[name] = tensor
    tensors = torch_layout.to_scenic(renamed, heads, source)
    return {
        re.sub("^Transformer/", f"{names.DECODER}/", name): tensor
        for name, tensor in tensors.items()
    }


def of_transformers(
    tensors: Tensors, settings: dict[str, Any], config: dict[str, Any]
) -> Checkpoint:
    """Adds the biases of the keys, and what `config` tells of the head."""
    torch_layout.add_zero_biases(tensors, ["key"])
    mean_pooling = bool(config.get("use_mean_pooling", True))
    return checkpoint(tensors, settings, mean_pooling, HEAD_NORM_EPSILON)


def checkpoint(
    tensors: Tensors,
    settings: dict[str, Any],
    mean_pooling: bool,
    head_norm_epsilon: float,
) -> Checkpoint:
    """Adds what follows from the kind of model, fine-tuned or pre-trained.

    A new classifier on a pre-trained model ends as a fine-tuned one with mean pooling.
    """
    fine_tuned = f"{HEAD}/kernel" in tensors
    first = fine_tuned and not mean_pooling
    settings = {
        **settings,
        "variant": "spatio_temporal",
        "position_kind": "sequence",
        "pooling": "first" if first else "mean",
        "final_norm": first if fine_tuned else f"{FINAL_NORM}/scale" in tensors,
    }
    head_end = {"final_norm": False, "head_norm_epsilon": head_norm_epsilon}
    if fine_tuned:
        return Checkpoint(tensors, {**settings, **({} if first else head_end)})
    return Checkpoint(tensors, settings, head_end)


def biases_of_attention(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gives biases the names in `transformers`' files; there is none of the key."""
    renamed = {}
    for name, array in state.items():
        if not name.endswith(".key.bias"):
            name = name.replace(".query.bias", ".q_bias")
            renamed[name.replace(".value.bias", ".v_bias")] = array
    return renamed


# === Files of the original repository ===

_NAMES = {  # to those of `transformers`
    r"^blocks\.": "encoder.layer.",
    r"^decoder\.blocks\.": "decoder.decoder_layers.",
    r"\.norm1\.": ".layernorm_before.",
    r"\.norm2\.": ".layernorm_after.",
    r"\.attn\.proj\.": ".attention.output.dense.",
    r"\.attn\.": ".attention.attention.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"^pos_embed$": "embeddings.position_embeddings",
    r"^norm\.": "layernorm.",
    r"^head\.": "classifier.",
}
PATCHES = "patch_embed.proj.weight"
_HEAD_SIZE = 64
_EPSILON = 1e-6


def read(stored: Tensors, given: dict[str, Any], path: Path) -> Checkpoint:
    """Returns the checkpoint that a file holds, which does not tell `video_shape`.

    Args:
        stored: Tensors under the repository's names.
        given: Dictionary of constructor arguments. `num_heads` and `decoder_num_heads`
            default to one head for each 64 channels.
        path: The file, for errors.

    Raises:
        ValueError: If the file does not hold such a model.
    """
    kernel = stored[PATCHES]
    if len(kernel.shape) != 5:
        raise ValueError(
            f"{PATCHES} must have five axes, as VideoMAE's has: this is a file of an "
            f"image model. Received: shape={kernel.shape} in {path}"
        )
    renamed: Tensors = {}
    for name, tensor in stored.items():
        for pattern, new in _NAMES.items():
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    renamed = torch_layout.split_projections(renamed)
    heads = given.get("num_heads") or max(kernel.shape[0] // _HEAD_SIZE, 1)
    tensors = torch_layout.to_scenic(without_decoder(renamed), heads, path)
    if embedding := stored.get("encoder_to_decoder.weight"):
        heads = max(sum(embedding.shape[:1]) // _HEAD_SIZE, 1)
        heads = given.get("decoder_num_heads", heads)
        heads = validation.positive_int("decoder_num_heads", heads)
        tensors |= _decoder(renamed, heads, path)
    has_bias = any(name.endswith("q_bias") for name in stored)
    torch_layout.add_zero_biases(
        tensors, ["key"] if has_bias else torch_layout.PROJECTIONS
    )
    settings = {
        "activation": "gelu",
        "layer_norm_epsilon": _EPSILON,
        "rescaling": pixels.IMAGENET,
    }
    mean_pooling = f"{HEAD_NORM}/scale" in tensors
    return checkpoint(tensors, settings, mean_pooling, _EPSILON)
