"""What the layers of this library share."""

from typing import Any

import keras

from keras_vivit import validation


class Layer(keras.layers.Layer):
    """A layer of Keras that refuses wrong arguments and inputs in words."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**validation.layer_arguments(**arguments))

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        validation.call_arguments(inputs, **kwargs)
        return super().__call__(inputs, *args, **kwargs)
