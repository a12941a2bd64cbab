"""Layer normalization over the features of a token."""

import keras

from keras_vivit import fast
from keras_vivit.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_vivit")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` whose second derivatives are right.

    Keras 3.15's are wrong on TensorFlow. The class has Keras' name since the paths in
    weight files are made of class names. It normalizes the last axis only.
    """

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.axis = [-1]  # Keras 3.16 would keep the rank of these inputs.

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        outputs = fast.layer_norm(inputs, self.gamma, self.beta, self.epsilon, training)
        # A block of half precision may compute in float32: see fast/xla.py.
        same = inputs.dtype == outputs.dtype
        return outputs if same else keras.ops.cast(outputs, self.compute_dtype)
