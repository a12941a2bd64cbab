"""Where each tensor of a checkpoint belongs in a model.

Tensors have Scenic's names, in all formats. The layers of a model are found by the
names that `ViViTBackbone` and `ViViTClassifier` give them, which saved files hold, too:

| layer | tensors |
|---|---|
| `tubelet_embedding` | `embedding` |
| `ENCODER_position`, `ENCODER_class_token` | position table; class token and its row |
| `ENCODER_block_N`, `ENCODER_norm` | `encoderblock_N`, `encoder_norm` |
| `head_norm` | `head_norm` |
| `head`, or one `NAME_head` each | `output_projection`, split in that order |
| `decoder_embedding`, `_mask_token`, `_output` | `Decoder/embedding`, ... |

`ENCODER` is `encoder`; in the factorized encoder `spatial` and `temporal`; `decoder` in
a masked autoencoder. A layer with weights and any other name is an error.
"""

import collections
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import keras
import numpy as np

from keras_vivit.blocks import (
    FactorizedDotProductBlock,
    FactorizedSelfAttentionBlock,
    ViViTEncoderBlock,
)
from keras_vivit.checkpoints import tubelet_kernels
from keras_vivit.checkpoints.tensors import Tensor, Tensors
from keras_vivit.positions import resize_position_table
from keras_vivit.types import Shape

Layers: TypeAlias = Sequence[keras.layers.Layer]
Stretch: TypeAlias = Callable[[np.ndarray, int], np.ndarray]

KERNEL, BIAS = "embedding/kernel", "embedding/bias"
HEAD, HEAD_NORM = "output_projection", "head_norm"
FINAL_NORM = "Transformer/encoder_norm"
TABLE_NAME = "posembed_input/pos_embedding"
TABLE = f"Transformer/{TABLE_NAME}"
DECODER = "Decoder"
DECODER_TABLE = f"{DECODER}/{TABLE_NAME}"
DECODER_EMBEDDING = f"{DECODER}/embedding/kernel"
TIME_TABLE, SPACE_TABLE = (
    f"Transformer/posembed_input/{axis}_table" for axis in ("time", "space")
)
# Prefix of our layers: Scenic's encoder, and its class token.
ENCODERS = {
    "encoder": ("Transformer", "cls"),
    "spatial": ("SpatialTransformer", "cls_SpatialTransformer"),
    "temporal": ("TemporalTransformer", "cls_TemporalTransformer"),
    "decoder": (DECODER, ""),
}
ATTENTION, MLP = "MultiHeadDotProductAttention", "MlpBlock"
# Layers of a block: Scenic's modules.
BLOCK = {
    "attention_norm": "LayerNorm_0",
    "attention": f"{ATTENTION}_0",
    "mlp_norm": "LayerNorm_1",
    "mlp": f"{MLP}_0",
}
FACTORIZED_BLOCK = {
    "space_norm": "LayerNorm_space",
    "space_attention": f"{ATTENTION}_space",
    "time_norm": "LayerNorm_time",
    "time_attention": f"{ATTENTION}_time",
    "mlp_norm": "LayerNorm_mlp",
    "mlp": MLP,
}
BLOCKS = {
    ViViTEncoderBlock: BLOCK,
    FactorizedDotProductBlock: BLOCK,
    FactorizedSelfAttentionBlock: FACTORIZED_BLOCK,
}


def match(
    layers: Layers,
    tensors: Tensors,
    grid: Shape | None = None,
    new: str = "",
    stretch: Stretch = tubelet_kernels.resample,
) -> list[tuple[keras.Variable, Callable[[], np.ndarray]]]:
    """Finds the tensor of each weight.

    Args:
        layers: List of a model's layers, named as `ViViTBackbone` names them.
        tensors: Dictionary name -> `Tensor`.
        grid: The `(t, h, w)` of the checkpoint's table. Defaults to the model's.
        new: Regular expression: names of tensors that the checkpoint may lack.
        stretch: Function `(kernel, frames)`, for another length of the tubelet.

    Returns:
        List of pairs: a weight, and a function that reads its value. A tensor that
        several weights share is read once.

    Raises:
        ValueError: If a tensor is left over, missing or of the wrong shape.
    """
    found = list(places(layers, grid, stretch))
    uses = collections.Counter(name for _, name, _ in found)
    missing = [
        (name, weight)
        for weight, name, _ in found
        if name not in tensors and not (new and re.match(new, name))
    ]
    unused = sorted(set(tensors) - set(uses))
    if missing or unused:
        raise ValueError(
            "The checkpoint and the model must hold the same tensors. Missing in the "
            f"checkpoint: {_list((n, w.shape) for n, w in missing)}. Not in the model: "
            f"{_list((n, tensors[n].shape) for n in unused)}."
        )
    shared = {
        name: Tensor(tensor.shape, functools.cache(tensor.read))
        if uses[name] > 1
        else tensor
        for name, tensor in tensors.items()
    }
    pairs = []
    for weight, name, part in found:
        if name not in tensors:
            continue
        tensor = shared[name].map(_as_float32).map(part)
        if tensor.shape != tuple(weight.shape):
            raise ValueError(
                f"{name} must have the shape of {weight.path}, "
                f"{tuple(weight.shape)}. Received: {tensor.shape}"
            )
        pairs.append((weight, tensor.read))
    return pairs


def places(
    layers: Layers,
    grid: Shape | None = None,
    stretch: Stretch = tubelet_kernels.resample,
) -> Iterator[tuple[keras.Variable, str, Callable[[np.ndarray], np.ndarray]]]:
    """Yields each weight, its tensor's name, and a function that takes it out of it."""
    start = 0  # The first class of a head among several.
    for layer in layers:
        encoder, _, role = layer.name.partition("_")
        transformer, token = ENCODERS.get(encoder, ("", ""))
        table = f"{transformer}/{TABLE_NAME}"
        for weight in layer.weights:
            path = weight.path.removeprefix(f"{layer.path}/")
            shape = tuple(weight.shape)
            if layer.name == "tubelet_embedding":
                fit = functools.partial(_fit_kernel, shape=shape, stretch=stretch)
                yield weight, f"embedding/{path}", fit if path == "kernel" else _all
            elif layer.name == "head" or layer.name.endswith("_head"):
                classes = slice(start, start + shape[-1])
                take = functools.partial(_columns, columns=classes)
                yield weight, f"{HEAD}/{path}", take
            elif layer.name == HEAD_NORM:
                yield weight, f"{HEAD_NORM}/{_weight_name(path)}", _all
            elif not transformer:
                raise ValueError(f"{weight.path} must have a name in checkpoints.")
            elif role == "position" and path != "table":  # Of factorized positions.
                resize = functools.partial(resize_position_table, grid=shape[:-1])
                yield weight, f"{transformer}/posembed_input/{path}", resize
            elif role == "position":
                yield weight, table, functools.partial(_rows, grid=grid, own=shape[:-1])
            elif role == "class_token" and path == "token":
                yield weight, token, np.ravel
            elif role == "class_token" and path == "position":
                yield weight, table, lambda x: x[0, 0]
            elif role == "norm":
                yield weight, f"{transformer}/encoder_norm/{_weight_name(path)}", _all
            elif role.startswith("block_"):
                index = role.removeprefix("block_")
                name = _name_in_block(layer, path)
                yield weight, f"{transformer}/encoderblock_{index}/{name}", _all
            elif role == "mask_token":
                yield weight, f"{transformer}/{role}/{path}", np.ravel
            elif role in ("embedding", "output"):
                yield weight, f"{transformer}/{role}/{path}", _all
            else:
                raise ValueError(f"{weight.path} must have a name in checkpoints.")
        if layer.name.endswith("_head"):
            start += layer.units


def layers_of(model: keras.Model) -> Layers:
    """Returns the layers of a backbone, or of a model and its backbone, each once."""
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return model.layers
    own = (x for x in model.layers if x is not backbone and x not in backbone.layers)
    return [*backbone.layers, *own]


def tensors_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the arrays of a model, under Scenic's names and in its shapes.

    Low-rank adapters are merged into the kernels.
    """
    merged = {
        weight.path: layer.kernel
        for layer in model._flatten_layers()
        if getattr(layer, "lora_enabled", False)
        for weight in layer.weights
        if weight.name == "kernel"
    }
    parts: dict[str, list[np.ndarray]] = {}
    for weight, name, _ in places(layers_of(model)):
        if weight.name.startswith("lora_"):
            continue
        value = keras.ops.convert_to_numpy(
            keras.ops.cast(merged.get(weight.path, weight), "float32")
        )
        if name.endswith(TABLE_NAME):
            value = value.reshape(-1, value.shape[-1])
        # The class token's row of the table comes first.
        first = weight.name == "position"
        values = parts.setdefault(name, [])
        values.insert(0 if first else len(values), value)
    tensors = {}
    for name, values in parts.items():
        axis = -1 if name.startswith(HEAD) else 0  # Heads share a layer.
        value = np.concatenate(values, axis)
        is_token = name in {token for _, token in ENCODERS.values()}
        tensors[name] = (
            value[None, None]
            if is_token
            else value[None]
            if name.endswith(TABLE_NAME)
            else value
        )
    return tensors


def in_variant(name: str, variant: str) -> str:
    """Returns the tensor of a variant that is the tensor `name` of variant 1."""
    if variant == "factorized_encoder":
        name = re.sub("^Transformer/", "SpatialTransformer/", name)
        return "cls_SpatialTransformer" if name == "cls" else name
    if variant == "factorized_self_attention":
        space = {BLOCK["mlp_norm"]: "LayerNorm_mlp", BLOCK["mlp"]: MLP}
        space |= {f"{n}_0": f"{n}_space" for n in ("LayerNorm", ATTENTION)}
        return "/".join(space.get(part, part) for part in name.split("/"))
    return name


def tubelet_of(kernel_shape: Shape) -> Shape:
    """Returns the `(frames, height, width)` of a kernel; one frame for an image's."""
    return (1, *kernel_shape[:-2])[-3:]


def grid_of(
    video_shape: Shape,
    tubelet_size: Shape,
    strides: Shape | None = None,
    padding: str = "valid",
) -> Shape:
    """Returns the `(t, h, w)` of tubelets inside the video, by default side by side."""
    steps = strides or tubelet_size
    sizes = zip(video_shape, tubelet_size, steps, strict=False)
    if padding == "same":
        return tuple(math.ceil(n / step) for n, _, step in sizes)
    return tuple((n - p) // step + 1 for n, p, step in sizes)


def _list(pairs: Iterable[tuple[str, Shape]]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in pairs) or "none"


def _weight_name(name: str) -> str:
    return {"gamma": "scale", "beta": "bias"}.get(name, name)


def _name_in_block(block: keras.layers.Layer, path: str) -> str:
    """`"mlp/hidden/kernel"` becomes `"MlpBlock_0/Dense_0/kernel"`."""
    layer, *inner, weight = path.split("/")
    outputs = {"output": "out"} if "attention" in layer else {"output": "Dense_1"}
    outputs["hidden"] = "Dense_0"
    names = [outputs.get(name, name) for name in inner]
    return "/".join([BLOCKS[type(block)][layer], *names, _weight_name(weight)])


# === From a tensor to a weight ===


def _as_float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, "float32")


def _all(array: np.ndarray) -> np.ndarray:
    return array


def _columns(array: np.ndarray, columns: slice) -> np.ndarray:
    return array[..., columns]


def _rows(table: np.ndarray, grid: Shape | None, own: Shape) -> np.ndarray:
    """Takes a layer's rows out of Scenic's table, resampled to its own grid."""
    if grid is None:
        grid = own
    elif len(own) < 3:  # The factorized encoder has a table for space, one for time.
        grid = grid[1:] if len(own) == 2 else grid[:1]
    rows, tokens = table[0], math.prod(grid)
    if len(rows) == tokens + 1:  # The class token's comes first.
        rows = rows[1:]
    if len(rows) != tokens:
        raise ValueError(
            f"The position table must have one row for each token of the grid {grid}. "
            f"Received: {len(rows)} rows (`source_video_shape` names the size of the "
            "videos that the checkpoint was trained on)."
        )
    return resize_position_table(rows.reshape(*grid, -1), own)


def _fit_kernel(kernel: np.ndarray, shape: Shape, stretch: Stretch) -> np.ndarray:
    """Fits a tubelet kernel to another length."""
    if kernel.ndim == 4:  # Uniform frame sampling, or an image model.
        kernel = kernel[None]
    return kernel if len(kernel) == shape[0] else stretch(kernel, shape[0])
