"""ViViT with one head or several."""

import keras

from keras_vivit import checkpoints, policies, presets, validation
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
                classes,
                kernel_initializer="zeros",
                name=dense_name,
                dtype=policies.resolve(dtype, dense_name),
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
            "dtype": policies.serialize(self),
            "num_classes": self.num_classes,
            "classifier_activation": keras.activations.serialize(
                self.classifier_activation
            ),
        }

    @classmethod
    def from_preset(
        cls, source, load_weights=True, source_video_shape=None, **overrides
    ):
        """Builds a classifier from a preset, or with the weights of a checkpoint.

        What a checkpoint tells (variant, sizes, classes) need not be given. Position
        tables are resampled to another `video_shape`, tubelet kernels to another
        length, and summed for a single channel. With other `num_classes` the head is
        new, and a warning says so; a dictionary whose values sum up to the checkpoint's
        classes splits its head, in that order. Models with weights take raw pixels, 0
        to 255, unless `rescaling` says otherwise.

        Args:
            source: One of: a name from `presets()`, which says where a preset comes
                with weights (else they are random); a folder
                in the `transformers` format (`config.json`, and `model.safetensors` or
                `pytorch_model.bin`, whole or in shards);
                `hf://owner/name[@revision]` on the Hugging Face Hub; a Scenic
                checkpoint file, which does not tell `video_shape`, `attention_order`,
                and `variant` where that is 4 or 1 with mean pooling.
            load_weights: Boolean, False leaves the weights of a preset random.
            source_video_shape: Tuple, the size of the videos that a Scenic checkpoint
                was trained on, if `video_shape` is another.
            **overrides: Constructor arguments that replace the source's.

        Returns:
            A `ViViTClassifier`.

        Raises:
            ValueError: If the source cannot be read, an argument is missing, or a
                tensor is left over, missing or of the wrong shape.
            TypeError: If the constructor has no argument of an override's name.
            ImportError: If reading the source needs a package that is not installed.
        """
        validation.known_arguments(overrides, cls, ViViTBackbone)
        config = presets.find(source, load_weights)
        if config is None:
            return checkpoints.load(cls, source, True, source_video_shape, **overrides)
        return cls(**{**config, **overrides})

    def enable_lora(self, rank):
        """Adds adapters to the backbone, see `ViViTBackbone.enable_lora`.

        Only they and the head train.

        Args:
            rank: Integer, rank of the adapters.

        Raises:
            ValueError: If `rank` is not positive, or the model has adapters already.
        """
        self.backbone.enable_lora(rank)

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
