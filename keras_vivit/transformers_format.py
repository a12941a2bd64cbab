"""The format of `transformers`: its names and layouts, and Scenic's, both ways."""

import functools
import json
import math
import re

import keras
import numpy as np

from keras_vivit.blocks import gelu_tanh
from keras_vivit.formats import (
    Checkpoint,
    Tensors,
    open_weights,
    optional_package,
    read_json,
)
from keras_vivit.weight_map import BLOCK, HEAD, TABLE, grid_of, tubelet_of

ATTENTION = BLOCK["attention"]
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": "relu",
    "silu": "silu",
}
# The names in files, then those that transformers 5 has in memory.
_LAYERS = {
    "layernorm_before": "LayerNorm_0",
    "layernorm_after": "LayerNorm_1",
    "attention.attention.query": f"{ATTENTION}/query",
    "attention.attention.key": f"{ATTENTION}/key",
    "attention.attention.value": f"{ATTENTION}/value",
    "attention.output.dense": f"{ATTENTION}/out",
    "intermediate.dense": "MlpBlock_0/Dense_0",
    "output.dense": "MlpBlock_0/Dense_1",
    "attention.q_proj": f"{ATTENTION}/query",
    "attention.k_proj": f"{ATTENTION}/key",
    "attention.v_proj": f"{ATTENTION}/value",
    "attention.o_proj": f"{ATTENTION}/out",
    "mlp.fc1": "MlpBlock_0/Dense_0",
    "mlp.fc2": "MlpBlock_0/Dense_1",
}
_OTHERS = {
    "embeddings.cls_token": "cls",
    "embeddings.position_embeddings": TABLE,
    "embeddings.patch_embeddings.projection.weight": "embedding/kernel",
    "embeddings.patch_embeddings.projection.bias": "embedding/bias",
    "layernorm.weight": "Transformer/encoder_norm/scale",
    "layernorm.bias": "Transformer/encoder_norm/bias",
    "classifier.weight": f"{HEAD}/kernel",
    "classifier.bias": f"{HEAD}/bias",
}
_LAYER = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)")


def read(folder):
    """Opens a ViViT or an image ViT."""
    config = read_json(folder / "config.json")
    if config.get("model_type") not in ("vivit", "vit"):
        raise ValueError(
            "`model_type` in config.json must be 'vivit' or 'vit'. Received: "
            f"{config.get('model_type')!r} in {folder}"
        )
    raw = open_weights(folder)
    try:
        heads, activation = int(config["num_attention_heads"]), config["hidden_act"]
        epsilon = float(config["layer_norm_eps"])
        size, channels = config["image_size"], int(config["num_channels"])
        height, width = size if isinstance(size, list) else (int(size), int(size))
        frames = int(config["num_frames"]) if config["model_type"] == "vivit" else 1
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"config.json must describe a ViViT or ViT. Received: {folder} ({error!r})"
        ) from error
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"`hidden_act` in config.json must be one of {', '.join(ACTIVATIONS)}. "
            f"Received: {activation!r} in {folder}"
        )
    tensors: Tensors = {}
    for name, load in raw.items():
        short = re.sub(r"^(vivit|vit)\.", "", name)
        if not short.startswith("pooler."):  # The classifiers do not use it.
            scenic, convert = _to_scenic(short, heads)
            if scenic in tensors:
                raise ValueError(
                    f"{folder} must hold {scenic} once, not as {name} too."
                )
            tensors[scenic] = functools.partial(_converted, load, convert)
    video_shape = (frames, height, width, channels)
    _check_grid(tensors, video_shape, folder)
    if not config.get("qkv_bias", True):
        _add_zero_biases(tensors)
    settings = {
        "video_shape": video_shape,
        "activation": ACTIVATIONS[activation],
        "layer_norm_epsilon": epsilon,
    }
    return Checkpoint(tensors, settings)


def _as_it_is(array):
    return array


def _converted(load, convert):
    return convert(load())


def _to_scenic(name, heads):
    """Scenic's name of a tensor, and the function that gives it Scenic's layout."""
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _LAYERS:
        scenic = _OTHERS.get(name, name)
        if scenic == "embedding/kernel":  # (d, c, [t,] h, w) to ([t,] h, w, c, d)
            return scenic, lambda w: np.moveaxis(w, (0, 1), (-1, -2))
        head = scenic == f"{HEAD}/kernel"
        return scenic, np.transpose if head else _as_it_is
    index, layer, kind = match.groups()
    scenic = f"Transformer/encoderblock_{index}/{_LAYERS[layer]}"
    if "LayerNorm" in scenic:
        return f"{scenic}/{'scale' if kind == 'weight' else kind}", _as_it_is
    if kind == "bias":
        out = not scenic.endswith(("query", "key", "value"))
        return f"{scenic}/bias", _as_it_is if out else lambda b: b.reshape(heads, -1)
    scenic += "/kernel"
    if scenic.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return scenic, lambda w: w.T.reshape(w.shape[1], heads, -1)
    if scenic.endswith("out/kernel"):
        return scenic, lambda w: w.T.reshape(heads, -1, w.shape[0])
    return scenic, np.transpose


def _check_grid(tensors, video_shape, folder):
    """Before a model of an absurd size is built from what config.json says."""
    names = ("embedding/kernel", TABLE)
    if not set(names) <= set(tensors):
        return  # Said elsewhere, with all other names.
    kernel, table = (tensors[name]().shape for name in names)
    tokens = math.prod(grid_of(video_shape, tubelet_of(kernel)))
    if table[1] - tokens not in (0, 1):
        raise ValueError(
            "config.json must describe videos with one token for each row of the "
            f"position table. Received: {folder}, where {video_shape} gives {tokens} "
            f"tokens and the table has {table[1]} rows."
        )


def _add_zero_biases(tensors):
    for name in [n for n in tensors if re.search("(query|key|value)/kernel$", n)]:
        shape = tensors[name]().shape[1:]
        bias = name.replace("/kernel", "/bias")
        tensors.setdefault(bias, functools.partial(np.zeros, shape, "float32"))


# === Writing ===


def write(folder, tensors, config):
    """Writes tensors under Scenic's names as a ViViT classifier."""
    safetensors = optional_package("safetensors.numpy", "keras-vivit[hf]")
    others = {scenic: name for name, scenic in _OTHERS.items()}
    layers = {scenic: name for name, scenic in reversed(_LAYERS.items())}
    state = {}
    for scenic, array in tensors.items():
        match = re.fullmatch(r"Transformer/encoderblock_(\d+)/(.+)/(\w+)", scenic)
        if match is None:
            name = others[scenic]
            name = name if name.startswith("classifier") else f"vivit.{name}"
        else:
            kind = {"kernel": "weight", "scale": "weight"}.get(match[3], match[3])
            name = f"vivit.encoder.layer.{match[1]}.{layers[match[2]]}.{kind}"
        state[name] = np.ascontiguousarray(_from_scenic(scenic, array))
    folder.mkdir(parents=True, exist_ok=True)
    # The weights go last, under another name first: a folder is complete or not one.
    text = json.dumps({"model_type": "vivit", "qkv_bias": True, **config}, indent=2)
    (folder / "config.json").write_text(text)
    partial = folder / "model.safetensors.part"
    safetensors.save_file(state, partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")


def _from_scenic(name, array):
    """Undoes `_to_scenic`."""
    if name == "embedding/kernel":
        return np.moveaxis(array, (-1, -2), (0, 1))
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return array.reshape(len(array), -1).T
    if name.endswith("out/kernel"):
        return array.reshape(-1, array.shape[-1]).T
    if name.endswith(("query/bias", "key/bias", "value/bias")):
        return array.reshape(-1)
    return array.T if name.endswith("kernel") else array


def activation_name(activation):
    """The name that `transformers` has for an activation."""
    for name, ours in ACTIVATIONS.items():
        if keras.activations.get(ours) is activation:
            return name
    raise ValueError(
        f"`activation` must be one of {', '.join(ACTIVATIONS)}. Received: {activation}"
    )
