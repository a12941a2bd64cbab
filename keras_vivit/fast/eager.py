"""What JAX and TensorFlow share where eager calls of augmentation are compiled."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_vivit.types import Function, Tensor

Data = dict[str, Any]
Compiler = Callable[[Function], Function]
# What has no part in the result; the state of the random numbers is an argument.
OTHERS = ("name", "dtype", "trainable", "activity_regularizer", "seed")


def augment(layer: keras.layers.Layer, data: Data, compiler: Compiler) -> Data:
    """Runs `layer.augment` compiled, and moves its random numbers on as it would."""
    state = layer.seed_generator.state
    outputs, new_state = _compiled(_Settings(layer), compiler)(state.value, data)
    state.assign(new_state)
    return outputs


class _Settings:
    """A layer, equal to all layers that change data as it does.

    So that a new layer does not compile again, and one whose settings were changed
    does.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        config = layer.get_config()
        kept = sorted((k, repr(v)) for k, v in config.items() if k not in OTHERS)
        self.layer = layer
        self.key = (type(layer), *kept)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Settings) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@functools.lru_cache(maxsize=64)
def _compiled(settings: _Settings, compiler: Compiler) -> Function:
    # Not a closure: TensorFlow takes all closures of one code for one function, and
    # would warn that it is traced too often.
    return compiler(functools.partial(_augment, settings.layer))


def _augment(
    layer: keras.layers.Layer, state: Tensor, data: Data
) -> tuple[Data, Tensor]:
    variable = layer.seed_generator.state
    with keras.StatelessScope(state_mapping=[(variable, state)]) as scope:
        outputs = layer.augment(data)
    return outputs, scope.get_current_value(variable)
