"""ViViT with one head or several."""

import inspect
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_vivit import checkpoints, freezing, policies, presets, validation
from keras_vivit.backbone import ViViTBackbone
from keras_vivit.mlp import gelu_tanh
from keras_vivit.model import Model
from keras_vivit.normalization import LayerNormalization
from keras_vivit.pooling import TokenPooling
from keras_vivit.types import Activation, Config, DType, Shape, Tensor

ClassNames: TypeAlias = Sequence[str] | dict[str, Sequence[str]] | None

TAKEN = (
    "video",
    "frame_mask",
    "pooling",
    "head_norm",
)  # names of the model's other layers


@keras.saving.register_keras_serializable("keras_vivit")
class ViViTClassifier(Model):
    """ViViT for classification: backbone, pooling, head.

    The head's kernel starts at zero, as in Scenic, and its activation is
    computed in full precision.

    Args:
        video_shape: Tuple `(frames, height, width, channels)`; none with `backbone`.
        num_classes: Integer; or a dictionary name -> integer, for one head
            each, whose outputs are a dictionary with the same names. Names are made
            of ASCII letters, digits, `_` and `-`.
        classifier_activation: Function, or its name in Keras. `None` returns
            logits.
        backbone_name: String, name of the backbone: two classifiers whose backbones
            meet in one model need two names.
        head_norm_epsilon: Optional float, adds a layer normalization with this epsilon
            between pooling and head; usually with `final_norm=False`.
        class_names: Optional list of strings, one for each class, for
            `decode_predictions`; with several heads a dictionary of lists.
        backbone: Optional `ViViTBackbone`, for example a pre-trained one, whose weights
            the classifier shares. Its arguments are those of the model, and its own
            ones must be left out; they stand in the model's config in its place.

    All other arguments are those of `ViViTBackbone`.

    Call arguments:
        inputs: As for `ViViTBackbone`.

    Returns:
        Tensor `(batch, num_classes)`, or a dictionary of them.

    Raises:
        ValueError: As `ViViTBackbone`; if `num_classes` is not positive; if
            `video_shape` and `backbone` are both given or both missing.

    Example:
    >>> model = keras_vivit.ViViTClassifier(
    ...     (28, 28, 28, 1), num_classes=11, tubelet_size=(7, 7, 7), embed_dim=64,
    ...     num_layers=2, num_heads=4, mlp_dim=128)
    >>> model(np.zeros((2, 28, 28, 28, 1))).shape
    (2, 11)

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691)
    """

    sampling: dict[str, Any] | None = None
    frozen_when_built: Sequence[str] = ()  # see freezing.py

    def __init__(
        self,
        video_shape: Shape | None = None,
        num_classes: int | dict[str, int] | None = None,
        classifier_activation: Activation = "softmax",
        tubelet_size: tuple[int, int, int] = (2, 16, 16),
        strides: tuple[int, int, int] | None = None,
        padding: str = "valid",
        variant: str = "spatio_temporal",
        embed_dim: int = 768,
        num_layers: int = 12,
        num_temporal_layers: int = 4,
        num_heads: int = 12,
        mlp_dim: int = 3072,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        pooling: str = "mean",
        position_kind: str = "learned",
        attention_order: str = "space_time",
        rescaling: tuple[Any, Any] | None = None,
        activation: Activation = gelu_tanh,
        layer_norm_epsilon: float = 1e-6,
        masked: bool = False,
        remat: bool = False,
        seed: int | None = None,
        dtype: DType = None,
        name: str | None = None,
        trainable: bool = True,
        backbone_name: str = "backbone",
        final_norm: bool = True,
        head_norm_epsilon: float | None = None,
        class_names: ClassNames = None,
        backbone: ViViTBackbone | None = None,
    ) -> None:
        # === Layers ===
        if (backbone is None) == (video_shape is None):
            raise ValueError(
                "`video_shape` or `backbone` must be given, and not both. "
                f"Received: video_shape={video_shape}, backbone={backbone}"
            )
        validation.layer_arguments(name=name, trainable=trainable)
        validation.identifier("backbone_name", backbone_name)
        arguments: Config = {
            "tubelet_size": tubelet_size,
            "strides": strides,
            "padding": padding,
            "variant": variant,
            "embed_dim": embed_dim,
            "num_layers": num_layers,
            "num_temporal_layers": num_temporal_layers,
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "dropout_rate": dropout_rate,
            "attention_dropout_rate": attention_dropout_rate,
            "drop_path_rate": drop_path_rate,
            "pooling": pooling,
            "position_kind": position_kind,
            "attention_order": attention_order,
            "rescaling": rescaling,
            "activation": activation,
            "layer_norm_epsilon": layer_norm_epsilon,
            "masked": masked,
            "remat": remat,
            "seed": seed,
            "dtype": dtype,
            "final_norm": final_norm,
        }
        if backbone is not None:
            backbone_name = _check_backbone(backbone, arguments).name
        num_classes = _check_classes(num_classes, backbone_name)
        class_names = _check_class_names(class_names, num_classes)
        classifier_activation = validation.activation(
            "classifier_activation", classifier_activation
        )
        if video_shape is not None:
            backbone = ViViTBackbone(video_shape, **arguments, name=backbone_name)
        assert backbone is not None  # One of both is given.
        dtype = backbone.dtype_policy
        token_pooling = TokenPooling(backbone.pooling, name="pooling", dtype=dtype)

        # === Functional model ===
        x = token_pooling(backbone(backbone.input))
        if head_norm_epsilon is not None:
            x = LayerNormalization(
                epsilon=validation.positive_number(
                    "head_norm_epsilon", head_norm_epsilon
                ),
                name="head_norm",
                dtype=dtype,
            )(x)

        def head(classes: int, dense_name: str, output_name: str) -> Tensor:
            logits = keras.layers.Dense(
                classes,
                kernel_initializer="zeros",
                name=dense_name,
                dtype=policies.resolve(dtype, dense_name),
            )(x)
            return keras.layers.Activation(
                classifier_activation, name=output_name, dtype=dtype.variable_dtype
            )(logits)

        if isinstance(num_classes, dict):
            outputs: Any = {
                key: head(n, f"{key}_head", key) for key, n in num_classes.items()
            }
        else:
            outputs = head(num_classes, "head", "predictions")
        super().__init__(inputs=backbone.input, outputs=outputs, name=name)

        # === Config ===
        self.trainable = trainable
        self.dtype_policy = dtype
        self.backbone = backbone
        self.num_classes = num_classes
        self.classifier_activation = classifier_activation
        self.backbone_name = backbone_name
        self.head_norm_epsilon = head_norm_epsilon
        self.class_names = class_names

    def get_config(self) -> Config:
        backbone = self.backbone.get_config()
        backbone.pop(freezing.KEY, None)
        return {
            **backbone,
            **freezing.config_of(self),
            "name": self.name,
            "trainable": self.trainable,
            "dtype": policies.serialize(self),
            "num_classes": self.num_classes,
            "classifier_activation": keras.activations.serialize(
                self.classifier_activation
            ),
            "backbone_name": self.backbone_name,
            "head_norm_epsilon": self.head_norm_epsilon,
            "class_names": self.class_names,
        }

    @classmethod
    def from_preset(
        cls,
        source: Any,
        load_weights: bool = True,
        source_video_shape: Shape | None = None,
        **overrides: Any,
    ) -> "ViViTClassifier":
        """Builds a classifier from a preset, or with the weights of a checkpoint.

        What a checkpoint tells (variant, sizes, classes) need not be given. Position
        tables are resampled to another `video_shape`, tubelet kernels to another
        length, and summed for a single channel. With other `num_classes` the head is
        new, and a warning says so; a dictionary whose values sum up to the checkpoint's
        classes splits its head, in that order. Models with weights take raw pixels, 0
        to 255, unless `rescaling` says otherwise.

        Args:
            source: One of: a name from `presets()`, which says where a preset comes
                with weights (else they are random); a folder in the `transformers`
                format with a ViViT, a VideoMAE or a TimeSformer (`config.json`, and
                `model.safetensors` or `pytorch_model.bin`, whole or in shards);
                `hf://owner/name[@revision]` on the Hugging Face Hub; a Scenic
                checkpoint file, which does not tell `video_shape`, `attention_order`,
                and `variant` where that is 4 or 1 with mean pooling; a `.pth` file of
                VideoMAE, which does not tell `video_shape`; a state dict of MONAI's
                3-D `ViT` (`.pt`, `.safetensors`), which does not tell `video_shape`
                and `num_heads`, nor `tubelet_size` where its patch embedding is a
                `perceptron`. Files are recognised by their content.
            load_weights: Boolean, False leaves the weights of a preset random.
            source_video_shape: Tuple, the size of the videos that a checkpoint file
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
        validation.known_arguments(overrides, cls)
        load_weights = validation.boolean("load_weights", load_weights)
        config = presets.find(source, load_weights)
        if config is None:
            return checkpoints.load(cls, source, True, source_video_shape, **overrides)
        return cls(**presets.override(config, overrides))

    def save_to_preset(
        self, directory: Any, sampling: dict[str, Any] | None = None
    ) -> None:
        """Writes the model into a folder that `from_preset` loads.

        The files have KerasHub's names: `config.json` and `model.weights.h5` hold the
        whole model without its optimizer, `metadata.json` versions, parameters and
        `sampling`; `README.md` is a model card to fill in. Low-rank adapters are
        merged. The folder appears whole or not at all.

        Args:
            directory: Folder: new, empty, or one of an earlier call.
            sampling: Optional dictionary, what a predictor must know of the videos, for
                example `{"stride": 2, "fps": 30}`. It is `model.sampling` after
                `from_preset`.

        Raises:
            ValueError: If the folder holds something else, or an activation is a
                function of one's own.
        """
        checkpoints.save_to_preset(self, directory, sampling)

    def enable_lora(
        self,
        rank: int,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
    ) -> None:
        """Adds adapters to the backbone, see `ViViTBackbone.enable_lora`.

        Only they and the head train.

        Args:
            rank: Integer, rank of the adapters.
            alpha: Optional float; adapters are scaled by `alpha / rank`.
            targets: Sequence of strings, which layers get an adapter.

        Raises:
            ValueError: If `rank` is not positive, a target is not found, or the model
                has adapters already.
        """
        self.backbone.enable_lora(rank, alpha, targets)

    def decode_predictions(self, probabilities: Any, top: int = 5) -> Any:
        """Names the classes with the highest values for each sample.

        Args:
            probabilities: Array `(batch, num_classes)`, as `predict` returns it; with
                several heads a dictionary of them.
            top: Integer, how many classes. All, if there are less.

        Returns:
            A list with a list of pairs `(name, value)` for each sample, the highest
            value first; with several heads a dictionary of them.

        Raises:
            ValueError: If the model has no `class_names`, or the shape is another.
        """
        top = validation.positive_int("top", top)
        if self.class_names is None:
            raise ValueError("`class_names` must be given to the model.")
        if isinstance(self.class_names, dict):
            return {
                head: _decode(probabilities[head], names, top)
                for head, names in self.class_names.items()
            }
        return _decode(probabilities, self.class_names, top)

    @classmethod
    def presets(cls) -> dict[str, str]:
        """Returns a dictionary of all presets, name -> one line about it."""
        return ViViTBackbone.presets()


def _check_backbone(backbone: Any, arguments: Config) -> ViViTBackbone:
    """Checks that it is one, and that none of its arguments is given again."""
    if not isinstance(backbone, ViViTBackbone):
        raise ValueError(
            f"`backbone` must be a ViViTBackbone. Received: backbone={backbone!r}"
        )
    defaults = inspect.signature(ViViTBackbone).parameters
    for name, value in arguments.items():
        if value != defaults[name].default:
            raise ValueError(
                f"`{name}` must be left out where `backbone` is given. "
                f"Received: {name}={value!r}"
            )
    return backbone


def _check_classes(num_classes: Any, backbone_name: str) -> Any:
    """Checks the number of classes, of each head where there are several."""
    if not isinstance(num_classes, dict):
        return validation.positive_int("num_classes", num_classes)
    if not num_classes:
        raise ValueError("`num_classes` must name one head or more. Received: {}")
    taken = {*TAKEN, backbone_name, *(f"{name}_head" for name in num_classes)}
    for name in num_classes:
        if not isinstance(name, str) or not re.fullmatch(validation.NAME, name):
            raise ValueError(
                "`num_classes` must name its heads with ASCII letters, digits, '_' and "
                f"'-', the first one a letter or a digit. Received: {name!r}"
            )
        if name in taken:
            raise ValueError(
                "`num_classes` must not name a head like another layer of the model "
                f"({', '.join(sorted(taken))}). Received: {name!r}"
            )
    return {
        name: validation.positive_int(f"num_classes[{name!r}]", classes)
        for name, classes in num_classes.items()
    }


def _check_class_names(class_names: Any, num_classes: Any) -> Any:
    """Checks that there is a name for each class, of each head if there are several."""
    if class_names is None:
        return None
    if isinstance(num_classes, dict):
        if not isinstance(class_names, dict) or set(class_names) != set(num_classes):
            raise ValueError(
                "`class_names` must be a dictionary with the heads of `num_classes`, "
                f"{', '.join(num_classes)}. Received: class_names={class_names!r}"
            )
        return {
            head: _check_class_names(class_names[head], classes)
            for head, classes in num_classes.items()
        }
    if (
        not isinstance(class_names, list | tuple)
        or len(class_names) != num_classes
        or not all(isinstance(name, str) for name in class_names)
    ):
        raise ValueError(
            f"`class_names` must be {num_classes} strings, one for each class. "
            f"Received: class_names={class_names!r}"
        )
    return list(class_names)


def _decode(probabilities: Any, names: Sequence[str], top: int) -> list[Any]:
    validation.tensors("probabilities", probabilities)
    if keras.backend.is_keras_tensor(probabilities):
        raise ValueError(
            "`probabilities` must be an array. "
            f"{validation.received('probabilities', probabilities)}"
        )
    values = np.asarray(keras.ops.convert_to_numpy(probabilities))
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(
            f"`probabilities` must have the shape (batch, {len(names)}). "
            f"Received: shape={values.shape}"
        )
    best = np.argsort(-values, axis=1, kind="stable")[:, :top]
    return [
        [(names[i], float(row[i])) for i in indices]
        for row, indices in zip(values, best, strict=True)
    ]
