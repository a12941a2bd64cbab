"""What the layers of this library share."""

from typing import Any

import keras

from keras_vivit import validation


class Layer(keras.layers.Layer):
    """A layer of Keras that refuses wrong arguments and inputs in words."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**validation.layer_arguments(**arguments))

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        validation.tensors("inputs", inputs)
        if kwargs.get("mask") is not None:
            validation.tensors("mask", kwargs["mask"])
        if "training" in kwargs and kwargs["training"] is not None:
            validation.boolean("training", kwargs["training"])
        return super().__call__(inputs, *args, **kwargs)
