"""The format of `transformers`: folders of `config.json` and weights."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_vivit import validation
from keras_vivit.checkpoints import (
    image_models,
    names,
    pixels,
    timesformer,
    torch_layout,
    videomae,
)
from keras_vivit.checkpoints.names import HEAD, KERNEL, TABLE, TIME_TABLE
from keras_vivit.checkpoints.tensors import (
    Checkpoint,
    Tensors,
    open_weights,
    read_json,
    without_wrappers,
)
from keras_vivit.extras import optional_package
from keras_vivit.mlp import gelu_tanh
from keras_vivit.positions import sequence_table
from keras_vivit.types import Activation, Config, Shape


class Model(NamedTuple):
    """What the models differ in.

    `prepare` takes the tensors of a file and the configuration, and returns tensors
    that `torch_layout` knows. `finish` makes a checkpoint of those with Scenic's names.
    `decoder` returns what only pre-training uses, under Scenic's names.
    """

    prepare: Callable[[Tensors, Config], Tensors]
    finish: Callable[[Tensors, Config, Config], Checkpoint]
    is_of_images: bool = False
    decoder: Callable[[Tensors, Config, Path], Tensors] = lambda *_: {}


def _as_stored(stored: Tensors, config: Config) -> Tensors:
    return stored


def _without_more(tensors: Tensors, settings: Config, config: Config) -> Checkpoint:
    return Checkpoint(tensors, settings)


MODELS = {
    "vivit": Model(_as_stored, _without_more),
    "vit": Model(_as_stored, _without_more, is_of_images=True),
    "videomae": Model(
        lambda stored, _: videomae.without_decoder(stored),
        videomae.of_transformers,
        decoder=videomae.decoder_of_transformers,
    ),
    "timesformer": Model(timesformer.prepare, timesformer.checkpoint),
    "dinov2": Model(
        image_models.prepare_dinov2, image_models.fold_layer_scale, is_of_images=True
    ),
    "vit_mae": Model(
        lambda stored, _: videomae.without_decoder(stored),
        _without_more,
        is_of_images=True,
    ),
}
REFUSED = {
    "deit": "it has a distillation token, which ViViT has not",
    "dinov2_with_registers": "it has register tokens, which ViViT has not",
    "dinov3_vit": "it has rotary positions, which ViViT has not",
}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": "relu",
    "silu": "silu",
}
# No video has more; what config.json says of VideoMAE has no table to be compared with.
_MAX_TOKENS = 2**17


def read(folder: Path, num_heads: int | None = None) -> Checkpoint:
    """Opens a folder with one of `MODELS`.

    Args:
        folder: Folder with `config.json` and weights.
        num_heads: Optional integer: replaces the number of heads of a VideoMAE.

    Raises:
        ValueError: If the folder holds no such model, or a damaged one.
        ImportError: If reading it needs a package that is not installed.
    """
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in MODELS:
        reason = f": {REFUSED[str(kind)]}" if str(kind) in REFUSED else ""
        raise ValueError(
            f"`model_type` in config.json must be one of {', '.join(MODELS)}. "
            f"Received: {kind!r} in {folder}{reason}"
        )
    model = MODELS[kind]
    stored = without_wrappers(open_weights(folder), folder)
    decoder = model.decoder(stored, config, folder)
    stored = model.prepare(stored, config)
    try:
        heads, activation = int(config["num_attention_heads"]), config["hidden_act"]
        epsilon = float(config["layer_norm_eps"])
        dropout = float(config.get("hidden_dropout_prob", 0))
        attention_dropout = float(config.get("attention_probs_dropout_prob", 0))
        size, channels = config["image_size"], int(config["num_channels"])
        height, width = map(int, size if isinstance(size, list) else (size, size))
        frames = 1 if model.is_of_images else int(config["num_frames"])
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            "config.json must describe a model as `transformers` does. Received: "
            f"{folder}, model_type={kind!r} ({error!r})"
        ) from error
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"`hidden_act` in config.json must be one of {', '.join(ACTIVATIONS)}. "
            f"Received: {activation!r} in {folder}"
        )
    if kind == "videomae":
        heads = num_heads or heads
    tensors = {**torch_layout.to_scenic(stored, heads, folder), **decoder}
    video_shape = (frames, height, width, channels)
    _check_grid(tensors, video_shape, folder)
    if not config.get("qkv_bias", config.get("qv_bias", True)):
        torch_layout.add_zero_biases(tensors)
    settings = {
        "video_shape": video_shape,
        "activation": ACTIVATIONS[activation],
        "layer_norm_epsilon": epsilon,
        "dropout_rate": dropout,
        "attention_dropout_rate": attention_dropout,
        "rescaling": pixels.read(folder, kind),
        "class_names": _class_names(config, tensors),
    }
    return model.finish(tensors, settings, config)


def _check_grid(tensors: Tensors, video_shape: Shape, folder: Path) -> None:
    """Refuses absurd sizes in config.json before a model is built from them."""
    if KERNEL not in tensors:
        return  # `architecture.arguments_of` reports it.
    tubelet_size = names.tubelet_of(tensors[KERNEL].shape)
    if TIME_TABLE in tensors:  # Time has a table of its own.
        video_shape = (tubelet_size[0], *video_shape[1:])
    tokens = math.prod(names.grid_of(video_shape, tubelet_size))
    rows = tensors[TABLE].shape[1] if TABLE in tensors else tokens
    if rows - tokens not in (0, 1) or not 0 < tokens < _MAX_TOKENS:
        raise ValueError(
            "config.json must describe videos with one token for each row of the "
            f"position table. Received: {folder}, where {video_shape} gives {tokens} "
            f"tokens and the table has {rows} rows."
        )


def _class_names(config: dict[str, Any], tensors: Tensors) -> list[str] | None:
    """Returns the names of the classes, if they are more than numbers."""
    labels = config.get("id2label")
    if not isinstance(labels, dict) or f"{HEAD}/kernel" not in tensors:
        return None
    classes = range(tensors[f"{HEAD}/kernel"].shape[1])
    found = [str(labels.get(str(i), "")) for i in classes]
    if found == _labels(len(found)) or len(labels) != len(found) or not all(found):
        return None
    return found


def _labels(count: int) -> list[str]:
    """Returns the names that `transformers` gives to classes without names."""
    return [f"LABEL_{i}" for i in range(count)]


# === Writing ===


def save_to_transformers(model: keras.Model, directory: str | Path) -> None:
    """Writes a classifier in the format of `transformers`.

    `from_pretrained(directory)` of `transformers.VivitForVideoClassification` gives the
    same logits, or that of `VideoMAEForVideoClassification` for a model that came from
    VideoMAE. They take videos `(batch, frames, channels, height, width)` whose pixels
    `transformers.AutoImageProcessor` rescales as the model's `rescaling` does. Low-rank
    adapters are merged.

    Args:
        model: A `ViViTClassifier` of variant 1 with tubelets side by side and one head:
            with a class token and learned positions (ViViT), or with
            `position_kind="sequence"` and one of VideoMAE's two head ends.
        directory: Folder to write `config.json`, `preprocessor_config.json` and
            `model.safetensors` into.

    Raises:
        ValueError: If `transformers` has no such model.
    """
    if not hasattr(model, "num_classes"):
        raise ValueError(
            f"`model` must be a ViViTClassifier. {validation.received('model', model)}"
        )
    folder = validation.path("directory", directory)
    config = model.get_config()
    layer = model.backbone.get_layer("tubelet_embedding")
    kind = "videomae" if config["position_kind"] == "sequence" else "vivit"
    _check_that_transformers_has(model, config, layer, kind)
    frames, height, _, channels = config["video_shape"]
    tensors = names.tensors_of(model)
    labels = model.class_names or _labels(model.num_classes)
    settings = {
        "model_type": kind,
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
        "qkv_bias": True,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    processor = "VivitImageProcessor"
    if kind == "videomae":
        processor = "VideoMAEImageProcessor"
        tubelet, *patch = layer.tubelet_size
        settings["tubelet_size"] = tubelet
        settings["patch_size"] = patch[0] if patch[0] == patch[1] else patch
        settings["use_mean_pooling"] = config["pooling"] == "mean"
        _check_table(tensors.pop(TABLE))
    state = torch_layout.to_transformers(tensors, kind)
    if kind == "videomae":
        state = videomae.biases_of_attention(state)
    files = {
        "config.json": settings,
        pixels.FILE: pixels.processor(
            config["rescaling"], config["video_shape"], processor
        ),
    }
    _write(folder, state, files)


_ENDS: dict[str, list[dict[str, Any]]] = {
    "vivit": [
        {"pooling": "token", "final_norm": True, "head_norm_epsilon": None},
    ],
    "videomae": [
        {
            "pooling": "mean",
            "final_norm": False,
            "head_norm_epsilon": videomae.HEAD_NORM_EPSILON,
        },
        {"pooling": "first", "final_norm": True, "head_norm_epsilon": None},
    ],
}


def _check_that_transformers_has(
    model: keras.Model, config: dict[str, Any], layer: keras.layers.Layer, kind: str
) -> None:
    ends = {end["pooling"]: end for end in _ENDS[kind]}
    if config["pooling"] not in ends:
        raise ValueError(
            f"`pooling` must be {' or '.join(map(repr, ends))}: transformers has "
            f"nothing else. Received: pooling={config['pooling']!r}"
        )
    positions = {"vivit": "learned", "videomae": "sequence"}[kind]
    for name, value in {
        "variant": "spatio_temporal",
        "position_kind": positions,
        **ends[config["pooling"]],
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


def _check_table(table: np.ndarray) -> None:
    if not np.allclose(table[0], sequence_table(*table.shape[1:]), rtol=0, atol=1e-6):
        raise ValueError(
            "The position table must be VideoMAE's for the model's own `video_shape`: "
            "transformers computes it. Received: a table resampled from another size."
        )


def _activation_name(activation: Activation) -> str:
    """Returns the name that `transformers` has for an activation."""
    for name, ours in ACTIVATIONS.items():
        if keras.activations.get(ours) is activation:
            return name
    raise ValueError(
        f"`activation` must be one of {', '.join(ACTIVATIONS)}. Received: {activation}"
    )


def _write(folder: Path, state: dict[str, np.ndarray], files: dict[str, Any]) -> None:
    """Writes tensors and JSON files into a folder."""
    safetensors = optional_package("safetensors.numpy", "keras-vivit[hf]")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    # The weights come last, under another name until they are complete: a folder that
    # was cut off has none.
    partial = folder / "model.safetensors.part"
    safetensors.save_file(state, partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")
