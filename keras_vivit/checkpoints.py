"""Weights of other implementations: Scenic, `transformers`, and image ViTs.

A checkpoint is a dictionary of tensors under Scenic's names (see `formats.py`), each
of which is used once, or named in an error.
"""

import re
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_vivit import (
    formats,
    initializers,
    presets,
    transformers_format,
    validation,
    weight_map,
)
from keras_vivit.blocks import FactorizedSelfAttentionBlock
from keras_vivit.weight_map import ATTENTION, BLOCK, FACTORIZED_BLOCK, HEAD, MLP

# Scenic trains on pixels in [-1, 1].
RESCALING = (1 / 127.5, -1.0)


def read(source):
    """Opens a checkpoint: see `ViViTClassifier.from_preset` for what `source` may be.

    Raises:
        ValueError: If it is none, or damaged.
        ImportError: If reading it needs a package that is not installed.
    """
    if isinstance(source, keras.Model):
        return formats.from_keras_hub(source)
    if source in presets.PRESETS:
        preset = presets.PRESETS[source]
        return formats.read_npz(preset["weights"], preset["config"])
    if str(source).startswith("hf://"):
        return transformers_format.read(formats.download(source))
    path = Path(source).expanduser()
    if path.is_dir():
        return transformers_format.read(path)
    if path.is_file():
        return formats.read_scenic(path)
    raise ValueError(
        "`source` must be the name of a preset (see `presets()`), a folder in the "
        "`transformers` format, 'hf://owner/name', or a Scenic checkpoint file. "
        f"Received: source={str(source)!r}"
    )


def load(model_class, source, head, source_video_shape=None, **overrides):
    """Builds a model with a checkpoint's weights, see `ViViTClassifier.from_preset`.

    `head` says whether `model_class` has one.
    """
    tensors, told = read(source)
    known = {"rescaling": RESCALING, **told}
    told = {**known, **architecture(tensors, {**known, **overrides})}
    arguments = {**told, **overrides}
    if "video_shape" not in arguments:
        raise ValueError(
            "`video_shape` must be given: the checkpoint does not tell it. "
            f"Received: source={str(source)!r}"
        )
    fresh = ""
    if not head or not _same_classes(arguments, told):
        tensors = {n: t for n, t in tensors.items() if not n.startswith(HEAD)}
        fresh = HEAD
    if not head:
        arguments.pop("num_classes", None)
    grid = _grid(told, source_video_shape or told.get("video_shape"))
    return _build(model_class, arguments, lambda _: (tensors, grid, fresh))


def load_image_model(
    model_class, source, video_shape, tubelet_size=None, tubelet_init=None, **overrides
):
    """See `ViViTBackbone.from_image_preset`."""
    stretch = {
        "central_frame": lambda kernel, n: initializers.central_frame(kernel[0], n),
        "inflate": initializers.resample,
    }[validation.choice("tubelet_init", tubelet_init, ("central_frame", "inflate"))]
    tensors, told = read(source)
    told = {"rescaling": RESCALING, **told, **architecture(tensors, {})}
    if told["tubelet_size"][0] != 1:
        raise ValueError(f"`source` must be an image model. Received: {source}")
    del told["pooling"], told["variant"]
    grid = _grid(told, told.pop("video_shape"))
    told.pop("num_classes", None)
    tubelet_size = tubelet_size or (2, *told["tubelet_size"][1:])
    arguments = {
        **told,
        **overrides,
        "video_shape": video_shape,
        "tubelet_size": tubelet_size,
    }

    def matching(model):
        kept = {
            _video_name(name, model.variant): tensor
            for name, tensor in tensors.items()
            if not name.startswith(HEAD) and (name != "cls" or model.pooling == "token")
        }
        fresh = "TemporalTransformer|cls_Temporal|.*_time/"
        return kept, grid, fresh, stretch

    model = _build(model_class, arguments, matching)
    if model.variant == "factorized_self_attention":
        # The model starts as the image model; its time attention grows from nothing.
        for layer in model.layers:
            if isinstance(layer, FactorizedSelfAttentionBlock):
                kernel = layer.time_attention.output_dense.kernel
                kernel.assign(np.zeros(kernel.shape))
    return model


def _build(model_class, arguments, matching):
    """Builds a model whose weights start as a checkpoint's tensors.

    `matching` gives, for a model, what `weight_map.match` takes beside its layers.
    """
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = model_class(**arguments)
        layers = weight_map.layers_of(model)
        for weight, read in weight_map.match(layers, *matching(model)):
            # Keras has no public way to leave the random weights out. Without them
            # ViViT-B/16x2 loads on JAX in 1.0 s instead of 4.9, at a peak memory of
            # 1.2 times the checkpoint instead of 2.5 (benchmarks/checkpoints.py).
            weight._initializer = lambda shape, dtype, read=read: keras.ops.cast(
                read(), dtype
            )
    finally:
        with keras.StatelessScope():
            pass  # Its end initializes all that still waits for it.
    return model


def _grid(told, video_shape):
    """The grid of a checkpoint's position table; None: that of the new model."""
    if video_shape is None:
        return None
    return weight_map.grid_of(video_shape, told["tubelet_size"], told.get("strides"))


def _video_name(name, variant):
    """The tensor of a variant that starts as the tensor `name` of an image model."""
    if variant == "factorized_encoder":
        name = re.sub("^Transformer/", "SpatialTransformer/", name)
        return "cls_SpatialTransformer" if name == "cls" else name
    if variant == "factorized_self_attention":
        space = {BLOCK["mlp_norm"]: "LayerNorm_mlp", BLOCK["mlp"]: MLP}
        space |= {f"{n}_0": f"{n}_space" for n in ("LayerNorm", ATTENTION)}
        return "/".join(space.get(part, part) for part in name.split("/"))
    return name


def architecture(tensors, overrides):
    """The constructor arguments that a checkpoint's tensors tell.

    Raises:
        ValueError: If they leave a choice that `overrides` does not make.
    """

    def shape(name):
        if name not in tensors:
            raise ValueError(
                f"The checkpoint must hold the tensor {name}, as ViViT's do. "
                f"Received: {', '.join(sorted(tensors)[:5])}, ..."
            )
        return tensors[name]().shape

    def depth(encoder):
        found = re.compile(rf"{encoder}/encoderblock_(\d+)/")
        return len({m[1] for m in map(found.match, tensors) if m})

    kernel = shape("embedding/kernel")
    told = {
        "tubelet_size": weight_map.tubelet_of(kernel),
        "embed_dim": kernel[-1],
        "variant": "spatio_temporal",
        "pooling": "mean",
    }
    encoder, names = "Transformer", BLOCK
    if depth("SpatialTransformer"):
        encoder = "SpatialTransformer"
        told["variant"] = "factorized_encoder"
        told["num_temporal_layers"] = depth("TemporalTransformer")
    elif any("/LayerNorm_space/" in name for name in tensors):
        names = FACTORIZED_BLOCK
        told["variant"] = "factorized_self_attention"
        _require("attention_order", overrides)
    elif "cls" not in tensors:
        # Joint attention with mean pooling and dot-product attention look the same.
        told["variant"] = _require("variant", overrides)
    if {"cls", "cls_SpatialTransformer"} & set(tensors):
        told["pooling"] = "token"
    block = f"{encoder}/encoderblock_0"
    attention = names.get("attention") or names["space_attention"]
    told["num_heads"] = shape(f"{block}/{attention}/query/kernel")[1]
    told["mlp_dim"] = shape(f"{block}/{names['mlp']}/Dense_0/kernel")[1]
    told["num_layers"] = depth(encoder)
    if f"{HEAD}/kernel" in tensors:
        told["num_classes"] = shape(f"{HEAD}/kernel")[1]
    return told


def _require(argument, overrides):
    if argument not in overrides:
        raise ValueError(
            f"`{argument}` must be given: the checkpoint does not tell it."
        )
    return overrides[argument]


def _same_classes(arguments, told):
    if "num_classes" not in arguments:
        raise ValueError("`num_classes` must be given: the checkpoint has no head.")
    classes = arguments["num_classes"]
    total = sum(classes.values()) if isinstance(classes, dict) else classes
    if "num_classes" in told and total != told["num_classes"]:
        warnings.warn(
            f"The checkpoint's head for {told['num_classes']} classes gives way to a "
            f"new one, not yet trained. Received: num_classes={classes}",
            stacklevel=4,
        )
    return total == told.get("num_classes")


# === Checkpoints from models ===


def save_to_transformers(model, directory):
    """Writes a classifier in the format of `transformers`.

    `transformers.VivitForVideoClassification.from_pretrained(directory)` gives the same
    logits; it takes videos `(batch, frames, channels, height, width)` whose pixels are
    rescaled already (`rescaling` is not part of the format).

    Args:
        model: A `ViViTClassifier` of variant 1 with a class token, learned positions,
            tubelets side by side and one head.
        directory: Folder to write `config.json` and `model.safetensors` into.

    Raises:
        ValueError: If `transformers` has no such model.
    """
    config = model.get_config()
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
    layer = model.backbone.get_layer("tubelet_embedding")
    frames, height, width, channels = config["video_shape"]
    if layer.strides != layer.tubelet_size or height != width:
        raise ValueError(
            "`video_shape` must be square and `strides` equal to `tubelet_size`. "
            f"Received: video_shape={config['video_shape']}, strides={layer.strides}, "
            f"tubelet_size={layer.tubelet_size}"
        )
    if any(w.dtype == "int8" for w in model.weights):
        raise ValueError("`model` must not be quantized: the format has no integers.")
    if isinstance(model.num_classes, dict):
        raise ValueError(
            "`num_classes` must be an integer: transformers has one head. "
            f"Received: num_classes={dict(model.num_classes)}"
        )
    activation = transformers_format.activation_name(model.backbone.activation)
    transformers_format.write(
        Path(directory),
        weight_map.tensors_of(model),
        {
            "image_size": height,
            "num_frames": frames,
            "num_channels": channels,
            "tubelet_size": list(layer.tubelet_size),
            "hidden_size": config["embed_dim"],
            "num_hidden_layers": config["num_layers"],
            "num_attention_heads": config["num_heads"],
            "intermediate_size": config["mlp_dim"],
            "hidden_act": activation,
            "hidden_dropout_prob": config["dropout_rate"],
            "attention_probs_dropout_prob": config["attention_dropout_rate"],
            "layer_norm_eps": config["layer_norm_epsilon"],
            "id2label": {str(i): f"LABEL_{i}" for i in range(model.num_classes)},
            "label2id": {f"LABEL_{i}": i for i in range(model.num_classes)},
        },
    )
