"""VideoMAE: what differs from ViViT, and the files of the original repository.

The position table is in no file: it is `positions.sequence_table`. Query and value have
biases, the key has none: softmax drops what is the same for all keys.
"""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_vivit.checkpoints import pixels, torch_layout
from keras_vivit.checkpoints.names import FINAL_NORM, HEAD, HEAD_NORM
from keras_vivit.checkpoints.tensors import (
    Checkpoint,
    Tensor,
    Tensors,
    open_pytorch,
)

# `transformers` has PyTorch's default in the norm before the head, whatever config.json
# says of the others.
HEAD_NORM_EPSILON = 1e-5
_DECODER = re.compile(r"decoder\.|encoder_to_decoder\.|mask_token$")


def without_decoder(stored: Tensors) -> Tensors:
    """Drops what only pre-training uses."""
    return {name: x for name, x in stored.items() if not _DECODER.match(name)}


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
_PATCHES = "patch_embed.proj.weight"
_HEAD_SIZE = 64
_EPSILON = 1e-6


def read(path: Path, num_heads: int | None = None) -> Checkpoint:
    """Opens a file of the original repository, which does not tell `video_shape`.

    Args:
        path: `.pth` file of PyTorch.
        num_heads: Integer. Defaults to one head for each 64 channels.

    Raises:
        ValueError: If the file does not hold such a model, or is damaged.
        ImportError: If PyTorch is not installed.
    """
    opened = open_pytorch(path, roots=("model", "module"))
    stored = without_decoder(
        {name.removeprefix("encoder."): x for name, x in opened.items()}
    )
    if _PATCHES not in stored:
        raise ValueError(
            f"`source` must be a file of VideoMAE, with the tensor {_PATCHES}. "
            f"Received: {path} with {', '.join(sorted(stored)[:5])}, ..."
        )
    renamed: Tensors = {}
    for name, tensor in stored.items():
        for pattern, new in _NAMES.items():
            name = re.sub(pattern, new, name)
        renamed |= _split(name, tensor)
    heads = num_heads or max(stored[_PATCHES].shape[0] // _HEAD_SIZE, 1)
    tensors = torch_layout.to_scenic(renamed, heads, path)
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


def _split(name: str, tensor: Tensor) -> Tensors:
    """Splits the kernels of query, key and value, which are stacked in this order."""
    if not name.endswith(".qkv.weight"):
        return {name: tensor}
    return {
        name.replace("qkv", projection): tensor.map(functools.partial(_third, index=i))
        for i, projection in enumerate(torch_layout.PROJECTIONS)
    }


def _third(kernel: np.ndarray, index: int) -> np.ndarray:
    return np.split(kernel, 3)[index]
