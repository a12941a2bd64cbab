"""Random inputs and weights, and outputs as NumPy arrays."""

import keras
import numpy as np


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
