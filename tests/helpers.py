"""Random inputs and weights, outputs as arrays, files to read, a mark for backends."""

import os
import pathlib
from importlib import import_module
from importlib.util import find_spec

import keras
import numpy as np
import pytest

import keras_vivit
from keras_vivit import augmentation

# Changes to videos of 4 x 5 x 6 voxels, or 2 frames of them.
AUGMENTATIONS = {
    augmentation.CutMix: {},
    augmentation.MixUp: {},
    augmentation.RandAugment: {
        "num_ops": 3,
        "magnitude": 0.8,
        "value_range": (-4, 4),
    },
    augmentation.RandomAffine: {"rotation": 20, "scale": 0.2, "shift": 0.2},
    augmentation.RandomClip: {"num_frames": 2, "rate": (0.5, 2.0)},
    augmentation.RandomColorJitter: {
        "brightness": 0.4,
        "contrast": 0.4,
        "value_range": (-4, 4),
    },
    augmentation.RandomErasing: {"tubelet_size": (2, 2, 2), "rate": 0.3},
    augmentation.RandomFlip: {},
    augmentation.RandomIntensity: {
        "gain": 0.1,
        "offset": 0.1,
        "gamma": 0.1,
        "noise": 0.1,
    },
    augmentation.RandomResizedCrop: {"size": (3, 4), "scale": (0.2, 0.9)},
}

SMALL_VIDEO = (4, 16, 16, 1)
SMALL = {
    "tubelet_size": (2, 8, 8),
    "embed_dim": 32,
    "num_layers": 2,
    "num_temporal_layers": 1,
    "num_heads": 2,
    "mlp_dim": 64,
}


def augmentation_of(class_name, **changes):
    """A layer that changes almost every sample, with a seed."""
    layer = getattr(augmentation, class_name)
    return layer(**{**AUGMENTATIONS[layer], "seed": 0, **changes})


def augmented(layer, training=True, **data):
    """A dictionary of arrays."""
    outputs = layer(data, training=training)
    assert list(outputs) == list(data)
    return {name: keras.ops.convert_to_numpy(x) for name, x in outputs.items()}


def only(*backends, reason=None):
    """Marks what these backends alone do."""
    return pytest.mark.skipif(
        keras.config.backend() not in backends,
        reason=reason or f"a matter of {' and '.join(backends)}",
    )


def slow(*values):
    """Parameters that the tests marked `slow` have more than the others."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


needs_transformers = pytest.mark.skipif(
    not (find_spec("transformers") and find_spec("torch")),
    reason="transformers is not installed",
)
# Files of `transformers`: those that are stored, and as the installed one writes them.
STORED_OR_NOW = [
    "stored",
    pytest.param("now", marks=[pytest.mark.slow, needs_transformers]),
]
once = only("torch", reason="is the same on each backend")
# Keras warns of layers that have nothing to quantize: of each one, or of all from 3.16.
some_layers_stay = pytest.mark.filterwarnings(
    "ignore:Layer .* does not have a `quantize`",
    r"ignore:.model.quantize\(\)`. .* were skipped",
)


def small_classifier(variant="spatio_temporal", **arguments):
    """A classifier with three classes and random weights."""
    sizes = {"video_shape": SMALL_VIDEO, "num_classes": 3, **SMALL}
    model = keras_vivit.ViViTClassifier(**{**sizes, "variant": variant, **arguments})
    randomize(model)
    return model


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def arrays(shapes, seed=0):
    """A random array, or a structure of them."""
    return keras.tree.map_shape_structure(lambda s: normal(*s, seed=seed), shapes)


def randomize(layer, seed=1):
    """Zero-initialised weights would hide mistakes."""
    rng = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(size=variable.shape, scale=0.5))


def flat(outputs):
    """A list of float32 arrays, one for each tensor."""
    leaves = keras.tree.flatten(outputs)
    return [keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in leaves]


# === Files ===

needs_av = pytest.mark.skipif(not find_spec("av"), reason="needs the package av")


def moving_video(frames=8, height=24, width=32, seed=0):
    """Noise that moves to the right by a pixel each frame, uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), "uint8")
    return np.stack([np.roll(noise, shift, axis=1) for shift in range(frames)])


def write_video(path, frames, rate=10, codec="png", pix_fmt="rgb24"):
    """Encodes frames `(frames, height, width, 3)`, by default without loss."""
    av = import_module("av")
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def data_folder(*parts):
    """A folder or file of the data that tests may use, or skips."""
    root = os.environ.get("KERAS_VIVIT_DATA")
    path = pathlib.Path(root or "", *parts)
    if not root or not path.exists():
        pytest.skip(f"KERAS_VIVIT_DATA names no folder with {'/'.join(parts)}")
    return path
