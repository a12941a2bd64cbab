"""Dropout and stochastic depth of residual branches."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras

from keras_vivit import validation
from keras_vivit.layer import Layer
from keras_vivit.types import Config, DType, Regularizer, Shape, Tensor


@keras.saving.register_keras_serializable("keras_vivit")
class DropPath(Layer):
    """Stochastic depth: zeroes a residual branch for whole samples, in training.

    The samples kept are scaled by `1 / (1 - rate)`, so that the expected output
    stays the same (Scenic's own version does not rescale).

    Args:
        rate: Float in [0, 1), the share of samples that lose the branch.
        seed: Optional integer.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, ...)`.
        training: Boolean.

    Returns:
        Tensor of the same shape.

    Example:
    >>> keras_vivit.DropPath(0.1)(np.zeros((2, 4, 4, 4, 64))).shape
    (2, 4, 4, 4, 64)

    Reference:
        [Deep Networks with Stochastic Depth, Huang et al., 2016](https://arxiv.org/abs/1603.09382)
    """

    def __init__(
        self,
        rate: float,
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = True,
    ) -> None:
        super().__init__(
            name=name,
            dtype=dtype,
            trainable=trainable,
            activity_regularizer=activity_regularizer,
            autocast=autocast,
        )
        self.rate = validation.rate("rate", rate)
        self.seed = validation.seed(seed)
        if self.rate:
            self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.supports_masking = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if not training or not self.rate:
            return inputs
        return drop_path(inputs, self.rate, itertools.repeat(self.seed_generator))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


def drop_path(x: Tensor, rate: float, seeds: Iterator[Any] | None) -> Tensor:
    """Zeroes whole samples; `seeds` is `None` where nothing is to be dropped."""
    noise_shape = (None,) + (1,) * (len(x.shape) - 1)
    return dropout(x, rate, seeds, noise_shape)


def dropout(
    x: Tensor,
    rate: float,
    seeds: Iterator[Any] | None,
    noise_shape: tuple[int | None, ...] | None = None,
) -> Tensor:
    """`keras.random.dropout` with the next seed; `None` drops nothing."""
    if seeds is None or not rate:
        return x
    return keras.random.dropout(x, rate, noise_shape, next(seeds))


def seed_generator(seed: Any) -> keras.random.SeedGenerator:
    """Returns the generator of a parent, or a new one."""
    shared = isinstance(seed, keras.random.SeedGenerator)
    return seed if shared else keras.random.SeedGenerator(seed)


class DrawnSeed(keras.random.SeedGenerator):
    """A seed drawn before a rematerialized call, the same when it is recomputed.

    A generator would move on between the two passes, and JAX would leak a
    tracer into its state.
    """

    _initial_seed = 0  # Read by PyTorch's dropout; it only must not be None.

    def __init__(self, value: Tensor) -> None:  # No state: no `super().__init__()`.
        self._value = value

    def next(self, ordered: bool = True) -> Tensor:
        return self._value
