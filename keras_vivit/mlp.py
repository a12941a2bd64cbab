"""The MLP of a transformer block."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_vivit import fast, policies, validation
from keras_vivit.dropout import dropout, seed_generator
from keras_vivit.types import Activation, Config, DType, Regularizer, Shape, Tensor


@keras.saving.register_keras_serializable("keras_vivit")
def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in the tanh approximation, which ViViT's weights were trained with.

    Registered under its own name, since Keras saves `keras.ops.gelu` as
    `"gelu"`, which is the exact function when it comes back.
    """
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable("keras_vivit")
class MLP(keras.layers.Layer):
    """Two dense layers over the features, the first with the activation.

    Args:
        hidden_dim: Integer, size of the hidden layer.
        activation: Function, or its name in Keras.
        dropout_rate: Float, dropout of the hidden layer in training.
        seed: Optional integer, or the `keras.random.SeedGenerator` of a parent.

    Call arguments:
        inputs: Tensor `(batch, ..., embed_dim)`.
        training: Boolean, whether hidden units are dropped.
        seeds: Optional iterator over the seeds of the dropout, which otherwise come
            from the layer's own generator.

    Returns:
        Tensor of the inputs' shape.
    """

    def __init__(
        self,
        hidden_dim: int,
        activation: Activation = gelu_tanh,
        dropout_rate: float = 0.0,
        seed: Any = None,
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
        self.hidden_dim = validation.positive_int("hidden_dim", hidden_dim)
        self.activation = keras.activations.get(activation)
        self.dropout_rate = validation.rate("dropout_rate", dropout_rate)
        self.seed = seed
        if self.dropout_rate:
            self.seed_generator = seed_generator(seed)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        # N(0, 1e-6) is Scenic's choice for the biases.
        for name, units in (("hidden", self.hidden_dim), ("output", input_shape[-1])):
            layer = keras.layers.Dense(
                units,
                bias_initializer=keras.initializers.RandomNormal(stddev=1e-6),
                name=name,
                dtype=policies.resolve(self.dtype_policy, f"{self.path}/{name}"),
            )
            layer.build(input_shape)
            setattr(self, f"{name}_dense", layer)
            input_shape = (*input_shape[:-1], units)

    def call(
        self,
        inputs: Tensor,
        training: bool | None = None,
        seeds: Iterator[Any] | None = None,
    ) -> Tensor:
        if training and self.dropout_rate:
            seeds = seeds or itertools.repeat(self.seed_generator)
        rows = fast.reshape(inputs, (-1, inputs.shape[-1]))
        hidden = fast.activate(self.activation, fast.dense(self.hidden_dense, rows))
        hidden = dropout(hidden, self.dropout_rate, seeds if training else None)
        output = fast.dense(self.output_dense, hidden)
        return fast.reshape(output, (-1, *ops.shape(inputs)[1:]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "activation": keras.activations.serialize(self.activation),
            "dropout_rate": self.dropout_rate,
            "seed": self.seed,
        }
