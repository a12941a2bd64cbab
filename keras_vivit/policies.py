"""Dtypes of computations, and dtype policies of layers within layers."""

from typing import Any

import keras
from keras.dtype_policies import DTypePolicyMap
from keras.dtype_policies import serialize as serialize_policy

from keras_vivit.types import DType


def serialize(layer: keras.layers.Layer) -> Any:
    """Returns the config of a layer's dtype policy, and of its quantized sublayers.

    Sublayers are made anew from their parent's arguments, so that these have to say
    which ones `quantize` has changed: by path, in Keras' own kind of map.
    """
    policy = layer.dtype_policy
    layers = [x for x in layer._flatten_layers() if x.dtype_policy.quantization_mode]
    if layers:
        default = getattr(policy, "default_policy", policy)
        policy = DTypePolicyMap(default, {x.path: x.dtype_policy for x in layers})
    return serialize_policy(policy)


def resolve(policy: DType, path: str) -> DType:
    """Returns the policy of one layer, where a map may have those of many.

    Keras' layers cannot be saved if they are quantized by a map.
    """
    return policy[path] if isinstance(policy, DTypePolicyMap) else policy


def at_least_float32(dtype: Any) -> str:
    """Returns float64 for float64, else float32; Keras' promotion has float32 alone."""
    name = keras.backend.standardize_dtype(dtype)
    return name if name == "float64" else "float32"
