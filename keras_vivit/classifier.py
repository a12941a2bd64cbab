"""ViViT with one head or several."""

import keras

from keras_vivit import presets, validation
from keras_vivit.backbone import ViViTBackbone
from keras_vivit.pooling import TokenPooling


@keras.saving.register_keras_serializable("keras_vivit")
class ViViTClassifier(keras.Model):
    """ViViT for classification: backbone, pooling, head.

    The head's kernel starts at zero, as in Scenic, and its activation is
    computed in full precision.

    Args:
        video_shape: Tuple `(frames, height, width, channels)`.
        num_classes: Integer; or a dictionary name -> integer, for one head
            each, whose outputs are a dictionary with the same names.
        classifier_activation: Function, or its name in Keras. `None` returns
            logits.
        **kwargs: All other arguments of `ViViTBackbone`.

    Call arguments:
        inputs: As for `ViViTBackbone`.

    Returns:
        Tensor `(batch, num_classes)`, or a dictionary of them.

    Raises:
        ValueError: As `ViViTBackbone`, or if `num_classes` is not positive.

    Example:
    >>> model = keras_vivit.ViViTClassifier(
    ...     (28, 28, 28, 1), num_classes=11, tubelet_size=(7, 7, 7), embed_dim=64,
    ...     num_layers=2, num_heads=4, mlp_dim=128)
    >>> model(np.zeros((2, 28, 28, 28, 1))).shape
    (2, 11)

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691)
    """

    def __init__(
        self,
        video_shape,
        num_classes,
        classifier_activation="softmax",
        dtype=None,
        name=None,
        trainable=True,
        **kwargs,
    ):
        # === Layers ===
        dtype = keras.dtype_policies.get(dtype)
        backbone = ViViTBackbone(video_shape, dtype=dtype, name="backbone", **kwargs)
        pooling = TokenPooling(backbone.pooling, name="pooling", dtype=dtype)
        activation = keras.activations.get(classifier_activation)

        # === Functional model ===
        x = pooling(backbone(backbone.input))

        def head(classes, dense_name, output_name):
            logits = keras.layers.Dense(
                classes, kernel_initializer="zeros", name=dense_name, dtype=dtype
            )(x)
            return keras.layers.Activation(
                activation, name=output_name, dtype=dtype.variable_dtype
            )(logits)

        if num_classes == {}:
            raise ValueError("`num_classes` must name one head or more. Received: {}")
        if isinstance(num_classes, dict):
            outputs = {
                key: head(_classes(key, n), f"{key}_head", key)
                for key, n in num_classes.items()
            }
        else:
            outputs = head(_classes(None, num_classes), "head", "predictions")
        super().__init__(
            inputs=backbone.input, outputs=outputs, name=name, trainable=trainable
        )

        # === Config ===
        self.dtype_policy = dtype
        self.backbone = backbone
        self.num_classes = num_classes
        self.classifier_activation = activation

    def get_config(self):
        return {
            **self.backbone.get_config(),
            "name": self.name,
            "trainable": self.trainable,
            "num_classes": self.num_classes,
            "classifier_activation": keras.activations.serialize(
                self.classifier_activation
            ),
        }

    @classmethod
    def from_preset(cls, source, **overrides):
        """Builds a classifier from a preset.

        Args:
            source: String, a name from `presets()`.
            **overrides: Constructor arguments that replace the preset's.

        Returns:
            A `ViViTClassifier` with new random weights.

        Raises:
            ValueError: If there is no such preset.
        """
        return cls(**{**presets.find(source), **overrides})

    @classmethod
    def presets(cls):
        """Returns a dictionary of all presets, name -> one line about it."""
        return ViViTBackbone.presets()


def _classes(head, classes):
    if head is not None and (not isinstance(head, str) or not head or "/" in head):
        raise ValueError(
            "`num_classes` must name its heads with strings that hold no '/'. "
            f"Received: {head!r}"
        )
    name = "num_classes" if head is None else f"num_classes[{head!r}]"
    return validation.positive_int(name, classes)
