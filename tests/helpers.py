"""Random inputs and weights, outputs as NumPy arrays, and a mark for backends."""

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


def only(*backends):
    """Marks what these backends alone do."""
    return pytest.mark.skipif(
        keras.config.backend() not in backends,
        reason=f"a matter of {' and '.join(backends)}",
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
