"""What all augmentations share."""

import keras
from keras import ops


class Augmentation(keras.layers.Layer):
    """Splits inputs into videos and labels; subclasses change them in `augment`."""

    needs_labels = False

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        labelled = isinstance(input_shape, dict)
        if self.needs_labels and not (labelled and "labels" in input_shape):
            raise ValueError(
                "`inputs` must be a dictionary with 'videos' and 'labels', since the "
                f"labels change, too. Received: shape={input_shape}"
            )
        shape = input_shape["videos"] if labelled else input_shape
        if len(shape) != 5 or None in shape[1:4]:
            raise ValueError(
                "`inputs` must have the shape (batch, frames, height, width, "
                "channels), with known frames, height and width. "
                f"Received: shape={tuple(shape)}"
            )

    def call(self, inputs, training=None):
        if not training:
            return inputs
        labelled = isinstance(inputs, dict)
        videos = inputs["videos"] if labelled else inputs
        labels = inputs.get("labels") if labelled else None
        videos, labels = self.augment(ops.cast(videos, self.compute_dtype), labels)
        if not labelled:
            return videos
        changed = {"videos": videos, "labels": labels}
        return {name: changed.get(name, value) for name, value in inputs.items()}

    def augment(self, videos, labels):
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}

    def uniform(self, videos, low, high, n=1):
        """Random numbers `(batch, n)`."""
        shape = (ops.shape(videos)[0], n)
        return keras.random.uniform(
            shape, low, high, dtype=videos.dtype, seed=self.seed_generator
        )


def per_sample(numbers):
    """`(batch, 1)` to `(batch, 1, 1, 1, 1)`."""
    return ops.reshape(numbers, (-1, 1, 1, 1, 1))
