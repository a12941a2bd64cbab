"""MONAI's 3-D `ViT`: state dicts of models for volumes.

MONAI calls the axes of a volume height, width and depth. In memory they have the order
of our frames, height and width.
"""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_vivit import validation
from keras_vivit.checkpoints import torch_layout
from keras_vivit.checkpoints.names import HEAD, TABLE
from keras_vivit.checkpoints.tensors import Checkpoint, Tensor, Tensors
from keras_vivit.embeddings import AXES

PATCHES = "patch_embedding.patch_embeddings.weight"
PERCEPTRON = "patch_embedding.patch_embeddings.1.weight"
# What surrounds the ViT of a UNETR, which calls it `vit`.
UNETR = re.compile(r"(encoder[1-4]|decoder[2-5]|out)\.")
_NAMES = {  # to those of `transformers`
    r"^blocks\.": "encoder.layer.",
    r"\.norm1\.": ".layernorm_before.",
    r"\.norm2\.": ".layernorm_after.",
    r"\.attn\.qkv\.": ".attention.attention.qkv.",
    r"\.attn\.out_proj\.": ".attention.output.dense.",
    r"\.mlp\.linear1\.": ".intermediate.dense.",
    r"\.mlp\.linear2\.": ".output.dense.",
    r"^norm\.": "layernorm.",
    r"^patch_embedding\.patch_embeddings\.(1\.)?": (
        "embeddings.patch_embeddings.projection."
    ),
    r"^patch_embedding\.position_embeddings$": "embeddings.position_embeddings",
    r"^cls_token$": "embeddings.cls_token",
    r"^classification_head\.(0\.)?": "classifier.",
}
# Layers for attention to a second input, which no ViT calls, and the decoders of
# `MaskedAutoEncoderViT` and `ViTAutoEnc`.
_UNUSED = re.compile(
    r"blocks\.\d+\.(norm_cross_attn|cross_attn)\.|decoder_|mask_tokens$"
    r"|conv3d_transpose(_1)?\."
)
_EPSILON = 1e-5


def read(stored: Tensors, given: dict[str, Any], path: Path) -> Checkpoint:
    """Returns the checkpoint that a state dict holds.

    Args:
        stored: Tensors under MONAI's names.
        given: Dictionary of constructor arguments: `video_shape`, `num_heads`, and
            `tubelet_size`, if the file has the kernel of a `perceptron` embedding.
        path: The file, for errors.

    Raises:
        ValueError: If an argument is missing or does not fit the file.
    """
    needed = ["video_shape", "num_heads"]
    if PERCEPTRON in stored:
        needed.append("tubelet_size")
    missing = [f"`{name}`" for name in needed if given.get(name) is None]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} must be given: a state dict of MONAI does not tell "
            f"{'it' if len(missing) == 1 else 'them'}. Received: {path}"
        )
    heads = validation.positive_int("num_heads", given["num_heads"])
    renamed: Tensors = {}
    for name, tensor in stored.items():
        if _UNUSED.match(name) or UNETR.match(name):
            continue
        if name == PERCEPTRON:
            tensor = _convolution(tensor, given["tubelet_size"], path)
        for pattern, new in _NAMES.items():
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    renamed = torch_layout.split_projections(renamed)
    tensors = torch_layout.to_scenic(renamed, heads, path)
    torch_layout.add_zero_biases(tensors)
    if {"cls", TABLE} <= set(tensors):  # The class token has no position.
        tensors[TABLE] = tensors[TABLE].map(
            lambda table: np.pad(table, ((0, 0), (1, 0), (0, 0)))
        )
    settings = {
        "variant": "spatio_temporal",
        "activation": "gelu",
        "layer_norm_epsilon": _EPSILON,
        "rescaling": None,
    }
    if f"{HEAD}/kernel" in tensors:
        classes = tensors[f"{HEAD}/kernel"].shape[1]
        number = given.get("num_classes", classes)
        if not isinstance(number, int) or number == classes:
            tanh = "classification_head.0.weight" in stored
            settings["classifier_activation"] = "tanh" if tanh else None
    return Checkpoint(tensors, settings)


def _convolution(kernel: Tensor, tubelet_size: Any, path: Path) -> Tensor:
    """Gives the kernel of a linear layer on flattened patches the shape of `Conv3d`'s.

    `(embed_dim, p * q * r * channels)` becomes `(embed_dim, channels, p, q, r)`.
    """
    sizes = validation.positive_ints("tubelet_size", tubelet_size, AXES)
    if len(kernel.shape) != 2 or kernel.shape[1] % np.prod(sizes):
        raise ValueError(
            "`tubelet_size` must be the file's patch size: its voxels divide the "
            f"second axis of {PERCEPTRON}. Received: tubelet_size={sizes}, "
            f"shape={kernel.shape} in {path}"
        )
    return kernel.map(functools.partial(_unflatten, sizes=sizes))


def _unflatten(kernel: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    return np.moveaxis(kernel.reshape(len(kernel), *sizes, -1), -1, 1)
