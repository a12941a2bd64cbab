"""`python -m keras_vivit`: what a bug report needs to say."""

import keras

from keras_vivit.classifier import ViViTClassifier
from keras_vivit.environment import describe

try:
    devices = keras.distribution.list_devices()
except AttributeError:  # On PyTorch, Keras has no list: the one that it uses.
    devices = [str(keras.ops.zeros(()).device)]

describe(
    backend=keras.backend.backend(),
    devices=", ".join(devices),
    presets=f"\n{15 * ' '}".join(ViViTClassifier.presets()),
)
