"""The format of `transformers`: folders of `config.json` and weights."""

import json
import math
import re
from pathlib import Path

import keras
import numpy as np

from keras_vivit.blocks import gelu_tanh
from keras_vivit.checkpoints import names, pixels
from keras_vivit.checkpoints.names import BIAS, BLOCK, HEAD, KERNEL, TABLE
from keras_vivit.checkpoints.tensors import (
    Checkpoint,
    Tensor,
    Tensors,
    open_weights,
    read_json,
)
from keras_vivit.extras import optional_package

ATTENTION, MLP = BLOCK["attention"], BLOCK["mlp"]
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
    "layernorm_before": BLOCK["attention_norm"],
    "layernorm_after": BLOCK["mlp_norm"],
    "attention.attention.query": f"{ATTENTION}/query",
    "attention.attention.key": f"{ATTENTION}/key",
    "attention.attention.value": f"{ATTENTION}/value",
    "attention.output.dense": f"{ATTENTION}/out",
    "intermediate.dense": f"{MLP}/Dense_0",
    "output.dense": f"{MLP}/Dense_1",
    "attention.q_proj": f"{ATTENTION}/query",
    "attention.k_proj": f"{ATTENTION}/key",
    "attention.v_proj": f"{ATTENTION}/value",
    "attention.o_proj": f"{ATTENTION}/out",
    "mlp.fc1": f"{MLP}/Dense_0",
    "mlp.fc2": f"{MLP}/Dense_1",
}
_OTHERS = {
    "embeddings.cls_token": "cls",
    "embeddings.position_embeddings": TABLE,
    "embeddings.patch_embeddings.projection.weight": KERNEL,
    "embeddings.patch_embeddings.projection.bias": BIAS,
    "layernorm.weight": "Transformer/encoder_norm/scale",
    "layernorm.bias": "Transformer/encoder_norm/bias",
    "classifier.weight": f"{HEAD}/kernel",
    "classifier.bias": f"{HEAD}/bias",
}
_LAYER = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)")


def read(folder):
    """Opens a folder with a ViViT or an image ViT.

    Raises:
        ValueError: If the folder holds no such model, or a damaged one.
        ImportError: If reading it needs a package that is not installed.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") not in ("vivit", "vit"):
        raise ValueError(
            "`model_type` in config.json must be 'vivit' or 'vit'. Received: "
            f"{config.get('model_type')!r} in {folder}"
        )
    stored = open_weights(folder)
    try:
        heads, activation = int(config["num_attention_heads"]), config["hidden_act"]
        epsilon = float(config["layer_norm_eps"])
        dropout = float(config.get("hidden_dropout_prob", 0))
        attention_dropout = float(config.get("attention_probs_dropout_prob", 0))
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
    tensors = _to_scenic(stored, heads, folder)
    video_shape = (frames, height, width, channels)
    _check_grid(tensors, video_shape, folder)
    if not config.get("qkv_bias", True):
        _add_zero_biases(tensors)
    settings = {
        "video_shape": video_shape,
        "activation": ACTIVATIONS[activation],
        "layer_norm_epsilon": epsilon,
        "dropout_rate": dropout,
        "attention_dropout_rate": attention_dropout,
        "rescaling": pixels.read(folder, config["model_type"]),
    }
    return Checkpoint(tensors, settings)


def _to_scenic(stored, heads, folder):
    """Gives the tensors of a file Scenic's names and layouts."""
    tensors: Tensors = {}
    for name, tensor in stored.items():
        short = re.sub(r"^(vivit|vit)\.", "", name)
        if short.startswith("pooler."):  # The classifiers do not use it.
            continue
        scenic = _scenic_name(short)
        if scenic in tensors:
            raise ValueError(f"{folder} must hold {scenic} once, not as {name} too.")
        try:
            tensors[scenic] = tensor.map(_to_scenic_layout(scenic, heads))
        except ValueError as error:
            raise ValueError(
                f"{name} must fit `num_attention_heads={heads}` of config.json. "
                f"Received: shape={tensor.shape} in {folder}"
            ) from error
    return tensors


def _scenic_name(name):
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _LAYERS:
        return _OTHERS.get(name, name)
    index, layer, kind = match.groups()
    if kind == "weight":
        kind = "scale" if "layernorm" in layer else "kernel"
    return f"Transformer/encoderblock_{index}/{_LAYERS[layer]}/{kind}"


def _to_scenic_layout(name, heads):
    """Returns the function that gives a tensor of PyTorch's layout Scenic's."""
    if name == KERNEL:  # (d, c, [t,] h, w) to ([t,] h, w, c, d)
        return lambda w: np.moveaxis(w, (0, 1), (-1, -2))
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return lambda w: w.T.reshape(w.shape[1], heads, -1)
    if name.endswith("out/kernel"):
        return lambda w: w.T.reshape(heads, -1, w.shape[0])
    if name.endswith(("query/bias", "key/bias", "value/bias")):
        return lambda b: b.reshape(heads, -1)
    return np.transpose if name.endswith("/kernel") else np.asarray


def _from_scenic_layout(name, array):
    """Undoes `_to_scenic_layout`."""
    if name == KERNEL:
        return np.moveaxis(array, (-1, -2), (0, 1))
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return array.reshape(len(array), -1).T
    if name.endswith("out/kernel"):
        return array.reshape(-1, array.shape[-1]).T
    if name.endswith(("query/bias", "key/bias", "value/bias")):
        return array.reshape(-1)
    return array.T if name.endswith("/kernel") else array


def _check_grid(tensors, video_shape, folder):
    """Refuses absurd sizes in config.json before a model is built from them."""
    if KERNEL not in tensors or TABLE not in tensors:
        return  # `names.architecture` and `names.match` report missing tensors.
    tubelet_size = names.tubelet_of(tensors[KERNEL].shape)
    tokens = math.prod(names.grid_of(video_shape, tubelet_size))
    rows = tensors[TABLE].shape[1]
    if rows - tokens not in (0, 1):
        raise ValueError(
            "config.json must describe videos with one token for each row of the "
            f"position table. Received: {folder}, where {video_shape} gives {tokens} "
            f"tokens and the table has {rows} rows."
        )


def _add_zero_biases(tensors):
    for name in [n for n in tensors if re.search("(query|key|value)/kernel$", n)]:
        zeros = np.zeros(tensors[name].shape[1:], "float32")
        bias = name.replace("/kernel", "/bias")
        tensors.setdefault(bias, Tensor(zeros.shape, zeros.copy))


# === Writing ===


def save_to_transformers(model, directory):
    """Writes a classifier in the format of `transformers`.

    `transformers.VivitForVideoClassification.from_pretrained(directory)` gives the same
    logits; it takes videos `(batch, frames, channels, height, width)` whose pixels
    `transformers.AutoImageProcessor` rescales as the model's `rescaling` does. Low-rank
    adapters are merged.

    Args:
        model: A `ViViTClassifier` of variant 1 with a class token, learned positions,
            tubelets side by side and one head.
        directory: Folder to write `config.json`, `preprocessor_config.json` and
            `model.safetensors` into.

    Raises:
        ValueError: If `transformers` has no such model.
    """
    config = model.get_config()
    layer = model.backbone.get_layer("tubelet_embedding")
    _check_that_transformers_has(model, config, layer)
    frames, height, _, channels = config["video_shape"]
    _write(
        Path(directory),
        names.tensors_of(model),
        {
            "image_size": height,
            "num_frames": frames,
            "num_channels": channels,
            "tubelet_size": list(layer.tubelet_size),
            "hidden_size": config["embed_dim"],
            "num_hidden_layers": config["num_layers"],
            "num_attention_heads": config["num_heads"],
            "intermediate_size": config["mlp_dim"],
            "hidden_act": _activation_name(model.backbone.activation),
            "hidden_dropout_prob": config["dropout_rate"],
            "attention_probs_dropout_prob": config["attention_dropout_rate"],
            "layer_norm_eps": config["layer_norm_epsilon"],
            "id2label": {str(i): f"LABEL_{i}" for i in range(model.num_classes)},
            "label2id": {f"LABEL_{i}": i for i in range(model.num_classes)},
        },
        pixels.processor(config["rescaling"], config["video_shape"]),
    )


def _check_that_transformers_has(model, config, layer):
    for name, value in {
        "variant": "spatio_temporal",
        "pooling": "token",
        "position_kind": "learned",
    }.items():
        if config[name] != value:
            raise ValueError(
                f"`{name}` must be {value!r}: transformers has nothing else. "
                f"Received: {name}={config[name]!r}"
            )
    _, height, width, _ = config["video_shape"]
    if layer.strides != layer.tubelet_size or height != width:
        raise ValueError(
            "`video_shape` must be square and `strides` equal to `tubelet_size`. "
            f"Received: video_shape={config['video_shape']}, strides={layer.strides}, "
            f"tubelet_size={layer.tubelet_size}"
        )
    if any(layer.dtype_policy.quantization_mode for layer in model._flatten_layers()):
        raise ValueError("`model` must not be quantized: the format has no integers.")
    if isinstance(model.num_classes, dict):
        raise ValueError(
            "`num_classes` must be an integer: transformers has one head. "
            f"Received: num_classes={dict(model.num_classes)}"
        )


def _activation_name(activation):
    """Returns the name that `transformers` has for an activation."""
    for name, ours in ACTIVATIONS.items():
        if keras.activations.get(ours) is activation:
            return name
    raise ValueError(
        f"`activation` must be one of {', '.join(ACTIVATIONS)}. Received: {activation}"
    )


def _write(folder, tensors, config, processor):
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
        state[name] = np.ascontiguousarray(_from_scenic_layout(scenic, array))
    folder.mkdir(parents=True, exist_ok=True)
    # The weights come last, under another name until they are complete: a folder that
    # was cut off has none.
    config = {"model_type": "vivit", "qkv_bias": True, **config}
    for name, content in {"config.json": config, pixels.FILE: processor}.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    partial = folder / "model.safetensors.part"
    safetensors.save_file(state, partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")
