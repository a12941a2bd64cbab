"""Random changes of videos and volumes, which Keras' own layers do only for images.

Each layer takes videos `(batch, frames, height, width, channels)`, or a dictionary of
them and what belongs to them, and then returns one:

- `"videos"`,
- `"labels"`: integers `(batch,)` or `(batch, 1)`, or soft, `(batch, classes)`,
- `"frame_mask"`: `(batch, frames)`, true for the frames that are to be kept,
- `"segmentation_masks"`: `(batch, frames, height, width)`, a label for each voxel, or
  `(batch, frames, height, width, channels)`.

What a layer moves it moves in all of them; any other key is an error. Every sample is
changed in its own way. A bare call augments, as with Keras' own layers, and so do calls
in `tf.data` on every backend; inside a model `fit` augments, and `predict` and
`evaluate` do not. Pixels and soft labels are float32 whatever the dtype policy.
"""

from keras_vivit.augmentation.color import RandomColorJitter
from keras_vivit.augmentation.flips import RandomFlip
from keras_vivit.augmentation.geometry import RandomAffine
from keras_vivit.augmentation.intensity import RandomErasing, RandomIntensity
from keras_vivit.augmentation.mixing import CutMix, MixUp
from keras_vivit.augmentation.policy import RandAugment
from keras_vivit.augmentation.sampling import RandomClip, RandomResizedCrop

__all__ = [
    "CutMix",
    "MixUp",
    "RandAugment",
    "RandomAffine",
    "RandomClip",
    "RandomColorJitter",
    "RandomErasing",
    "RandomFlip",
    "RandomIntensity",
    "RandomResizedCrop",
]
