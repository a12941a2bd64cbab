"""Sizes, settings and shipped weights by name. Data only, and how to look it up."""

import itertools
from pathlib import Path
from typing import Any

from keras_vivit.blocks import VARIANTS

# Table 8 of the ViT paper and section 4.1 of ViViT. Ti and S were never published
# for ViViT: they are this library's own.
_SIZES = {
    "ti16x2": ("ViViT-Ti/16x2 (our own size)", (2, 16, 16), 192, 12, 3, 768),
    "s16x2": ("ViViT-S/16x2 (our own size)", (2, 16, 16), 384, 12, 6, 1536),
    "b16x2": ("ViViT-B/16x2", (2, 16, 16), 768, 12, 12, 3072),
    "l16x2": ("ViViT-L/16x2", (2, 16, 16), 1024, 24, 16, 4096),
    "h14x2": ("ViViT-H/14x2", (2, 14, 14), 1280, 32, 16, 5120),
}

# In the paper; `pooling="token"` of variant 3 is TimeSformer's.
_WITH_CLASS_TOKEN = ("spatio_temporal", "factorized_encoder")

# Arguments of the classifier that the backbone does not have.
HEAD_ARGUMENTS = (
    "num_classes",
    "classifier_activation",
    "class_names",
    "head_norm_epsilon",
    "backbone_name",
)

PRESETS: dict[str, dict[str, Any]] = {
    f"vivit_{size}_{variant}": {
        "about": f"{title}, {variant.replace('_', ' ')}, 32x224x224x3, 400 classes",
        "config": {
            "video_shape": (32, 224, 224, 3),
            "num_classes": 400,
            "tubelet_size": tubelet_size,
            "variant": variant,
            "embed_dim": embed_dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "pooling": "token" if variant in _WITH_CLASS_TOKEN else "mean",
        },
    }
    for size, (title, tubelet_size, embed_dim, num_layers, num_heads, mlp_dim) in (
        _SIZES.items()
    )
    for variant in VARIANTS
    # The paper has H/14x2 in variant 1 alone; variant 4 halves the heads, Ti has three.
    if (size != "h14x2" or variant == "spatio_temporal")
    and (num_heads % 2 == 0 or variant != "factorized_dot_product")
}

_ORGANS = [
    "liver",
    "kidney-right",
    "kidney-left",
    "femur-right",
    "femur-left",
    "bladder",
    "heart",
    "lung-right",
    "lung-left",
    "spleen",
    "pancreas",
]

PRESETS |= {
    name: {
        "about": f"28x28x28 CT volumes, strides of {stride}, 11 organs, raw pixels "
        "0-255; with weights",
        "config": {
            "video_shape": (28, 28, 28, 1),
            "num_classes": 11,
            "class_names": _ORGANS,
            "tubelet_size": (8, 8, 8),
            "strides": (stride, stride, stride),
            "variant": "spatio_temporal",
            "embed_dim": 96,
            "num_layers": 4,
            "num_temporal_layers": 2,
            "num_heads": 3,
            "mlp_dim": 384,
            "drop_path_rate": 0.1,
            "rescaling": (1 / 127.5, -1.0),
        },
        "weights": Path(__file__).parent / "weights" / f"{name}.npz",
    }
    for name, stride in {"vivit_organmnist3d": 4, "vivit_organmnist3d_v2": 5}.items()
}

PRESETS["vivit_organmnist3d_baseline"] = {
    "about": "28x28x28 volumes, 11 classes, raw pixels 0-255: the Keras example's size",
    "config": {
        "video_shape": (28, 28, 28, 1),
        "num_classes": 11,
        "class_names": _ORGANS,
        "tubelet_size": (8, 8, 8),
        "embed_dim": 128,
        "num_layers": 8,
        "num_heads": 8,
        "mlp_dim": 512,
        "attention_dropout_rate": 0.1,
        "rescaling": (1 / 255, 0.0),
        "activation": "gelu",  # The exact function.
    },
}


def find(name: Any, load_weights: bool = True) -> dict[str, Any] | None:
    """Returns a preset's constructor arguments where no weights are to be loaded.

    `None` if there are: those of the preset, or those of another source than a preset.
    """
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None or (load_weights and "weights" in preset):
        return None
    return dict(preset["config"])


def override(config: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Returns constructor arguments, some replaced.

    Class names are split among several heads, and left out for other classes.
    """
    arguments = {**config, **overrides}
    names, classes = config.get("class_names"), overrides.get("num_classes")
    if names is None or classes is None or "class_names" in overrides:
        return arguments
    if classes == config["num_classes"]:
        return arguments
    del arguments["class_names"]
    if isinstance(classes, dict) and sum(classes.values()) == len(names):
        ends = list(itertools.accumulate(classes.values()))
        arguments["class_names"] = {
            head: list(names[end - n : end])
            for (head, n), end in zip(classes.items(), ends, strict=True)
        }
    return arguments
