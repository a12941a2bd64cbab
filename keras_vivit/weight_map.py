"""Where each tensor of a checkpoint, under Scenic's name, belongs in a model."""

import functools
import math
import re

import keras
import numpy as np

from keras_vivit import initializers
from keras_vivit.blocks import FactorizedSelfAttentionBlock
from keras_vivit.positions import resize_position_table

HEAD = "output_projection"
TABLE = "Transformer/posembed_input/pos_embedding"
# Prefix of our layers: Scenic's encoder, and its class token.
ENCODERS = {
    "encoder": ("Transformer", "cls"),
    "spatial": ("SpatialTransformer", "cls_SpatialTransformer"),
    "temporal": ("TemporalTransformer", "cls_TemporalTransformer"),
}
ATTENTION, MLP = "MultiHeadDotProductAttention", "MlpBlock"
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


def match(layers, tensors, grid=None, fresh="", stretch=initializers.resample):
    """Finds the tensor of each weight, or raises.

    Args:
        layers: List of a model's layers, named as `ViViTBackbone` names them.
        tensors: Dictionary name -> function that reads the tensor.
        grid: The `(t, h, w)` of the checkpoint's table; by default the model's.
        fresh: Regular expression: names of tensors that may be missing.
        stretch: Function `(kernel, frames)`, for another length of the tubelet.

    Returns:
        List of pairs: a weight, and a function that reads its value.

    Raises:
        ValueError: If a tensor is left over, missing or of the wrong shape.
    """
    found = list(places(layers))
    missing = [
        (name, weight)
        for weight, name, _ in found
        if name not in tensors and not (fresh and re.match(fresh, name))
    ]
    unused = sorted(set(tensors) - {name for _, name, _ in found})
    if missing or unused:
        raise ValueError(
            "The checkpoint and the model must hold the same tensors. Missing in the "
            f"checkpoint: {_list((n, w.shape) for n, w in missing)}. Not in the model: "
            f"{_list((n, tensors[n]().shape) for n in unused)}."
        )

    def read(name, part, shape):
        value = np.asarray(tensors[name](), "float32")
        if name == "embedding/kernel":
            value = _fit_kernel(value, shape, stretch)
        return value if part is None else part(value, grid)

    pairs = [
        (weight, functools.partial(read, name, part, tuple(weight.shape)))
        for weight, name, part in found
        if name in tensors
    ]
    for weight, reader in pairs:  # All of them, before any weight is set.
        if (shape := reader().shape) != tuple(weight.shape):
            raise ValueError(
                f"{reader.args[0]} must have the shape of {weight.path}, "
                f"{tuple(weight.shape)}. Received: {shape}"
            )
    return pairs


def tubelet_of(kernel_shape):
    """The `(frames, height, width)` of a kernel; an image kernel has one frame."""
    return (1, *kernel_shape[:-2])[-3:]


def grid_of(video_shape, tubelet_size, strides=None):
    """The `(t, h, w)` of tubelets inside the video, by default side by side."""
    steps = strides or tubelet_size
    sizes = zip(video_shape, tubelet_size, steps, strict=False)
    return tuple((n - p) // step + 1 for n, p, step in sizes)


def tensors_of(model):
    """A variant 1's tensors under Scenic's names and in its layout."""
    tensors, rows = {}, {}
    for weight, name, _ in places(layers_of(model)):
        value = keras.ops.convert_to_numpy(weight)
        if name.endswith("pos_embedding"):
            rows[weight.name] = value.reshape(-1, value.shape[-1])
            continue
        tensors[name] = value[None, None] if name == "cls" else value
    # The class token's row, if there is one, comes first.
    table = np.concatenate(
        [rows[name] for name in ("position", "table") if name in rows]
    )
    return {**tensors, TABLE: table[None]}


def _list(pairs):
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in pairs) or "none"


def layers_of(model):
    backbone = getattr(model, "backbone", model)
    return backbone.layers if backbone is model else [*backbone.layers, *model.layers]


def places(layers):
    """Triples of a weight, its tensor's name, and how to take it out of the tensor."""
    start = 0
    for layer in layers:
        encoder, _, role = layer.name.partition("_")
        transformer, token = ENCODERS.get(encoder, ("", ""))
        table = f"{transformer}/posembed_input/pos_embedding"
        for weight in layer.weights:
            path = weight.path.removeprefix(f"{layer.path}/")
            if layer.name == "tubelet_embedding":
                yield weight, f"embedding/{path}", None
            elif layer.name == "head" or layer.name.endswith("_head"):
                columns = slice(start, start + weight.shape[-1])
                yield weight, f"{HEAD}/{path}", lambda x, _, c=columns: x[..., c]
            elif role == "position":
                yield weight, table, functools.partial(_rows, own=weight.shape[:-1])
            elif path == "token":
                yield weight, token, lambda x, _: x.reshape(-1)
            elif path == "position":
                yield weight, table, lambda x, _: x[0, 0]
            elif role == "norm":
                yield weight, f"{transformer}/encoder_norm/{_weight_name(path)}", None
            elif role.startswith("block_"):
                index = role.removeprefix("block_")
                name = _name_in_block(layer, path)
                yield weight, f"{transformer}/encoderblock_{index}/{name}", None
        if layer.name.endswith("_head"):
            start += layer.units


def _weight_name(name):
    return {"gamma": "scale", "beta": "bias"}.get(name, name)


def _name_in_block(block, path):
    """`"mlp/hidden/kernel"` becomes `"MlpBlock_0/Dense_0/kernel"`."""
    layer, *inner, weight = path.split("/")
    outputs = {"output": "out"} if "attention" in layer else {"output": "Dense_1"}
    outputs["hidden"] = "Dense_0"
    names = [outputs.get(name, name) for name in inner]
    factorized = isinstance(block, FactorizedSelfAttentionBlock)
    layers = FACTORIZED_BLOCK if factorized else BLOCK
    return "/".join([layers[layer], *names, _weight_name(weight)])


def _rows(table, grid, own):
    """Takes a layer's rows out of Scenic's table, resampled to its own grid."""
    own = tuple(own)
    if grid is None:
        grid = own
    elif len(own) < 3:  # The encoders of variant 2: over space, and over time.
        grid = grid[1:] if len(own) == 2 else grid[:1]
    rows, tokens = table[0], math.prod(grid)
    if len(rows) == tokens + 1:  # The class token's comes first.
        rows = rows[1:]
    if len(rows) != tokens:
        raise ValueError(
            f"The position table must have one row for each token of the grid {grid}. "
            f"Received: {len(rows)} rows (`source_video_shape` names the size of the "
            "videos that a Scenic checkpoint was trained on)."
        )
    return resize_position_table(rows.reshape(*grid, -1), own)


def _fit_kernel(kernel, shape, stretch):
    """Fits a tubelet kernel to another length, and to one channel instead of three."""
    if kernel.ndim == 4:  # Uniform frame sampling, or an image model.
        kernel = kernel[None]
    if shape[3] == 1 < kernel.shape[3]:
        kernel = kernel.sum(axis=3, keepdims=True)
    return kernel if len(kernel) == shape[0] else stretch(kernel, shape[0])
