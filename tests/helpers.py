"""Random inputs and weights, outputs as NumPy arrays, and a mark for backends."""

import keras
import numpy as np
import pytest

import keras_vivit

SMALL_VIDEO = (4, 16, 16, 1)
SMALL = {
    "tubelet_size": (2, 8, 8),
    "embed_dim": 32,
    "num_layers": 2,
    "num_temporal_layers": 1,
    "num_heads": 2,
    "mlp_dim": 64,
}


def only(*backends):
    """Marks what these backends alone do."""
    return pytest.mark.skipif(
        keras.config.backend() not in backends,
        reason=f"a matter of {' and '.join(backends)}",
    )


def small_classifier(variant="spatio_temporal", **arguments):
    """A classifier with three classes and random weights."""
    arguments = {**SMALL, "variant": variant, **arguments}
    model = keras_vivit.ViViTClassifier(SMALL_VIDEO, 3, **arguments)
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
