"""Random changes of videos and volumes, which Keras' own layers do only for images.

Each layer takes videos `(batch, frames, height, width, channels)`, or a dictionary
`{"videos": ..., "labels": ...}` and then returns one. Labels are integers `(batch,)` or
soft, `(batch, classes)`. Every sample is changed in its own way, in training alone:
inside a model `fit` takes care of that, in a data pipeline call the layer with
`training=True`.
"""

from keras_vivit.augmentation.geometry import RandomAffine, RandomFlip
from keras_vivit.augmentation.intensity import RandomErasing, RandomIntensity
from keras_vivit.augmentation.mixing import CutMix, MixUp

__all__ = [
    "CutMix",
    "MixUp",
    "RandomAffine",
    "RandomErasing",
    "RandomFlip",
    "RandomIntensity",
]
