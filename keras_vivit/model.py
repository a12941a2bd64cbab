"""What the models of this library share."""

from typing import Any, Self

import keras

from keras_vivit import checkpoints, freezing, validation
from keras_vivit.types import Config


class Model(keras.Model):
    """A model of Keras that refuses wrong inputs in words, and fits other grids."""

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        validation.call_arguments(inputs, **kwargs)
        return super().__call__(inputs, *args, **kwargs)

    def load_weights(
        self, filepath: Any, skip_mismatch: bool = False, **kwargs: Any
    ) -> None:
        # Position tables are resampled; the optimizer's state of them has to follow.
        with checkpoints.other_grids(self):
            super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)

    @classmethod
    def from_config(
        cls, config: Config, custom_objects: dict[str, Any] | None = None
    ) -> Self:
        return freezing.from_config(lambda arguments: cls(**arguments), config)
