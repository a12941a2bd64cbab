"""The four variants of ViViT, in the order of the paper."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_vivit import (
    checkpoints,
    fast,
    features,
    freezing,
    lora,
    policies,
    presets,
    validation,
)
from keras_vivit.blocks import ATTENTION_ORDERS, VARIANTS
from keras_vivit.embeddings import AXES, PADDINGS, ClassToken, TubeletEmbedding
from keras_vivit.mlp import gelu_tanh
from keras_vivit.model import Model
from keras_vivit.normalization import LayerNormalization
from keras_vivit.pooling import MODES, FoldFrames, FramePooling
from keras_vivit.positions import KINDS, PositionalEncoder
from keras_vivit.types import Activation, Config, DType, Shape, Tensor


@keras.saving.register_keras_serializable("keras_vivit")
class ViViTBackbone(Model):
    """ViViT without a head: from videos to tokens.

    | `variant` | attends over (section 3.3) |
    |---|---|
    | `"spatio_temporal"` | all tokens at once |
    | `"factorized_encoder"` | space in one encoder, then time in a second one |
    | `"factorized_self_attention"` | space, then time, in every block |
    | `"factorized_dot_product"` | time in half of the heads, space in the others |

    The sizes default to ViViT-B/16x2.

    Args:
        video_shape: Tuple `(frames, height, width, channels)`; with
            `position_kind="sincos"` all but the channels may be `None`.
        tubelet_size: Tuple `(frames, height, width)`, see `TubeletEmbedding`.
        strides: Tuple, the step between tubelets. Defaults to `tubelet_size`.
        padding: `"valid"` or `"same"`, see `TubeletEmbedding`.
        variant: One of the names above.
        embed_dim: Integer, size of a token.
        num_layers: Integer, number of blocks (spatial ones in
            `"factorized_encoder"`).
        num_temporal_layers: Integer, number of blocks of the temporal encoder;
            only `"factorized_encoder"` has one.
        num_heads: Integer, number of heads.
        mlp_dim: Integer, size of the MLPs' hidden layers.
        dropout_rate: Float, dropout of tokens, branches and MLPs.
        attention_dropout_rate: Float, dropout of attention weights.
        drop_path_rate: Float, stochastic depth: rises linearly from 0 in the
            first block of an encoder to this rate in its last.
        pooling: `"mean"`, or `"token"` for a class token in front of the
            sequence, which all variants but the last can have; in
            `"factorized_self_attention"` it is TimeSformer's, see
            `FactorizedSelfAttentionBlock`. `"first"` is for classifiers: the first
            token of the grid, see `TokenPooling`.
        position_kind: `"learned"`, `"factorized"`, `"sincos"` or `"sequence"`, see
            `PositionalEncoder`.
        attention_order: `"space_time"` or `"time_space"`, for
            `"factorized_self_attention"`.
        rescaling: Optional tuple `(scale, offset)` applied to the pixels first,
            for example `(1 / 127.5, -1)`; each a number, or one for each channel.
        activation: Function, or its name in Keras, of the MLPs. Defaults to
            GELU in the tanh approximation, as ViViT has it.
        layer_norm_epsilon: Float.
        masked: Boolean, adds a second input, a boolean mask `(batch, frames)`,
            True = keep: the model then takes `{"video": ..., "frame_mask": ...}`.
        remat: Boolean, gradient checkpointing of every block.
        seed: Optional integer, for dropout and stochastic depth.
        dtype: Keras dtype policy, for example `"mixed_bfloat16"`.
        name: Optional string.
        trainable: Boolean, False freezes all of it.
        final_norm: Boolean, False leaves out the normalization after the last block.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`, or the
            dictionary above.

    Returns:
        Tensor `(batch, t, h, w, embed_dim)`; with `pooling="token"` `(batch,
        1 + t * h * w, embed_dim)`. `"factorized_encoder"`: `(batch, t,
        embed_dim)`, with `pooling="token"` `(batch, 1 + t, embed_dim)`.

    Raises:
        ValueError: If an argument is out of its range, the tubelet exceeds the
            video, or the variant has no class token.

    Example:
    >>> backbone = keras_vivit.ViViTBackbone(
    ...     (28, 28, 28, 1), tubelet_size=(7, 7, 7), embed_dim=64,
    ...     num_layers=2, num_heads=4, mlp_dim=128)
    >>> backbone(np.zeros((2, 28, 28, 28, 1))).shape
    (2, 4, 4, 4, 64)

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691)
    """

    sampling: dict[str, Any] | None = None

    frozen_when_built: Sequence[str] = ()  # see freezing.py

    def __init__(
        self,
        video_shape: Shape,
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
        final_norm: bool = True,
    ) -> None:
        # === Arguments ===
        video_shape = _video_shape(video_shape, position_kind)
        tubelet_size = validation.positive_ints("tubelet_size", tubelet_size, AXES)
        if strides is not None:
            strides = validation.positive_ints("strides", strides, AXES)
        num_layers = validation.positive_int(
            "num_layers", num_layers, validation.MOST_LAYERS
        )
        num_temporal_layers = validation.positive_int(
            "num_temporal_layers", num_temporal_layers, validation.MOST_LAYERS
        )
        embed_dim = validation.positive_int("embed_dim", embed_dim)
        num_heads = validation.positive_int("num_heads", num_heads)
        mlp_dim = validation.positive_int("mlp_dim", mlp_dim)
        dropout_rate = validation.rate("dropout_rate", dropout_rate)
        attention_dropout_rate = validation.rate(
            "attention_dropout_rate", attention_dropout_rate
        )
        drop_path_rate = validation.rate("drop_path_rate", drop_path_rate)
        validation.choice("variant", variant, VARIANTS)
        validation.choice("pooling", pooling, MODES)
        validation.choice("padding", padding, PADDINGS)
        validation.choice("attention_order", attention_order, ATTENTION_ORDERS)
        if pooling == "token" and not VARIANTS[variant].has_class_token:
            raise ValueError(
                f'`pooling` must be "mean" for variant={variant!r}, which has no '
                f"class token. Received: pooling={pooling!r}"
            )
        class_token_of_frames = (
            pooling == "token" and variant == "factorized_self_attention"
        )
        if class_token_of_frames and video_shape[0] is None:
            raise ValueError(
                '`video_shape` must have known frames for pooling="token" with '
                f"variant={variant!r}. Received: video_shape={video_shape}"
            )
        if position_kind == "factorized" and variant == "factorized_encoder":
            raise ValueError(
                '`position_kind` must not be "factorized" for variant='
                f"{variant!r}, which has a table each for space and time anyway."
            )
        masked = validation.boolean("masked", masked)
        final_norm = validation.boolean("final_norm", final_norm)
        if (
            masked
            and None in video_shape
            and (pooling == "token" or variant == "factorized_encoder")
        ):
            raise ValueError(
                "`video_shape` must be known for masked=True with a class token or "
                f'variant="factorized_encoder". Received: video_shape={video_shape}'
            )
        rescaling = _check_rescaling(rescaling, video_shape[-1])
        activation = validation.activation("activation", activation)
        layer_norm_epsilon = validation.positive_number(
            "layer_norm_epsilon", layer_norm_epsilon
        )
        remat = validation.boolean("remat", remat)
        seed = validation.seed(seed)
        validation.layer_arguments(name=name, trainable=trainable)
        dtype = validation.dtype_policy(dtype)
        # Before any of them is allocated: the weights that may be large.
        sizes = {"embed_dim": embed_dim}
        channels = video_shape[-1]
        validation.elements(tubelet_size=tubelet_size, channels=channels, **sizes)
        validation.elements(mlp_dim=mlp_dim, **sizes)
        validation.elements(embed_dim=(embed_dim, embed_dim))

        # === Layers ===
        seeds = iter(_split_seed(seed, num_layers + num_temporal_layers + 2))
        block_options = {
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "dropout_rate": dropout_rate,
            "attention_dropout_rate": attention_dropout_rate,
            "activation": activation,
            "layer_norm_epsilon": layer_norm_epsilon,
            "remat": remat,
            "dtype": dtype,
        }
        if variant == "factorized_self_attention":
            block_options["attention_order"] = attention_order

        # The names of these layers are a contract: checkpoints/names.py finds the
        # place of each tensor by them.
        def encode(x: Tensor, name: str, num_layers: int) -> Tensor:
            x = PositionalEncoder(position_kind, name=f"{name}_position", dtype=dtype)(
                x
            )
            if class_token_of_frames:
                block_options["frames"] = x.shape[1]
            if pooling == "token":
                x = ClassToken(name=f"{name}_class_token", dtype=dtype)(x)
            x = keras.layers.Dropout(
                dropout_rate, seed=next(seeds), name=f"{name}_dropout", dtype=dtype
            )(x)
            for i in range(num_layers):
                x = VARIANTS[variant].block(
                    drop_path_rate=drop_path_rate * i / max(num_layers - 1, 1),
                    seed=next(seeds),
                    name=f"{name}_block_{i}",
                    **block_options,
                )(x)
            if name != "spatial" and not final_norm:
                return x
            return LayerNormalization(
                epsilon=layer_norm_epsilon, name=f"{name}_norm", dtype=dtype
            )(x)

        # === Functional model ===
        video = keras.Input(video_shape, name="video")
        inputs, frame_mask = video, None
        if masked:
            frame_mask = keras.Input(video_shape[:1], dtype="bool", name="frame_mask")
            inputs = {"video": video, "frame_mask": frame_mask}
        x = video
        if rescaling is not None:
            # In full precision: half precision would round the pixels.
            values: Any = rescaling
            if any(np.ndim(value) for value in rescaling):
                # Keras 3.11 loses channels where one is a number and one is a list.
                values = np.broadcast_arrays(*rescaling)
                values = [np.ravel(value).tolist() for value in values]
            x = keras.layers.Rescaling(
                *values, name="rescaling", dtype=dtype.variable_dtype
            )(x)
        x = TubeletEmbedding(
            embed_dim,
            tubelet_size,
            strides,
            padding,
            name="tubelet_embedding",
            dtype=dtype,
        )(x, mask=frame_mask)
        # From here on, the mask of tokens travels with them as a Keras mask.
        if variant == "factorized_encoder":
            grid, frames = x, x.shape[1]
            x = FoldFrames(name="fold_frames", dtype=dtype)(grid)
            x = encode(x, "spatial", num_layers)
            x = FramePooling(frames, pooling, name="frame_pooling", dtype=dtype)(
                x if frames else [x, grid]
            )
            x = encode(x, "temporal", num_temporal_layers)
        else:
            x = encode(x, "encoder", num_layers)
        super().__init__(inputs=inputs, outputs=x, name=name)

        # === Config ===
        self.trainable = trainable
        self.dtype_policy = dtype
        self.video_shape = video_shape
        self.tubelet_size = tubelet_size
        self.strides = strides
        self.padding = padding
        self.variant = variant
        self.embed_dim = embed_dim
        self.num_layers = num_layers
        self.num_temporal_layers = num_temporal_layers
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.drop_path_rate = drop_path_rate
        self.pooling = pooling
        self.position_kind = position_kind
        self.attention_order = attention_order
        self.rescaling = rescaling
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.final_norm = final_norm
        self.masked = masked
        self.remat = remat
        self.seed = seed

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> Tensor:
        chain = not self.masked and None not in self.video_shape
        if not chain or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        block = VARIANTS[self.variant].block
        return fast.run_layers(self, block, super().call, inputs, training)

    def features(
        self, videos: Any, layers: Sequence[int | str] | None = None
    ) -> list[Tensor]:
        """Returns the tokens after some blocks as grids, for heads of one's own.

        Videos may be symbolic, too: the features are then part of a functional model.

        Args:
            videos: Arrays, tensors or `keras.Input`s, as the backbone takes them.
            layers: List of blocks: their indices, negative ones from the last, or their
                names. Defaults to all.

        Returns:
            A list with a tensor `(batch, t, h, w, embed_dim)` for each block, before
            the final normalization and without class token; `(batch, t, embed_dim)`
            after temporal blocks of `"factorized_encoder"`.

        Raises:
            ValueError: If `layers` names no block.

        Example:
        >>> backbone = keras_vivit.ViViTBackbone(
        ...     (28, 28, 28, 1), tubelet_size=(7, 7, 7), embed_dim=64,
        ...     num_layers=3, num_heads=4, mlp_dim=128)
        >>> middle, last = backbone.features(np.zeros((2, 28, 28, 28, 1)), [1, -1])
        >>> middle.shape
        (2, 4, 4, 4, 64)
        """
        blocks = features.choose_blocks(self, layers)
        return features.grids_after(self, blocks, videos)

    def get_config(self) -> Config:
        return {
            **freezing.config_of(self),
            "name": self.name,
            "trainable": self.trainable,
            "dtype": policies.serialize(self),
            "video_shape": self.video_shape,
            "tubelet_size": self.tubelet_size,
            "strides": self.strides,
            "padding": self.padding,
            "variant": self.variant,
            "embed_dim": self.embed_dim,
            "num_layers": self.num_layers,
            "num_temporal_layers": self.num_temporal_layers,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "drop_path_rate": self.drop_path_rate,
            "pooling": self.pooling,
            "position_kind": self.position_kind,
            "attention_order": self.attention_order,
            "rescaling": self.rescaling,
            "activation": keras.activations.serialize(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "final_norm": self.final_norm,
            "masked": self.masked,
            "remat": self.remat,
            "seed": self.seed,
        }

    @classmethod
    def from_preset(
        cls,
        source: Any,
        load_weights: bool = True,
        source_video_shape: Shape | None = None,
        **overrides: Any,
    ) -> "ViViTBackbone":
        """Builds a backbone from a preset, or with the weights of a checkpoint.

        It takes the arguments of `ViViTClassifier.from_preset`, but `num_classes`, and
        leaves a checkpoint's head aside.
        """
        validation.known_arguments(overrides, cls)
        load_weights = validation.boolean("load_weights", load_weights)
        config = presets.find(source, load_weights)
        if config is None:
            return checkpoints.load(cls, source, False, source_video_shape, **overrides)
        for name in presets.HEAD_ARGUMENTS:
            config.pop(name, None)
        return cls(**{**config, **overrides})

    @classmethod
    def from_image_preset(
        cls,
        source: Any,
        video_shape: tuple[int, int, int, int],
        tubelet_size: tuple[int, int, int] | None = None,
        tubelet_init: str = "central_frame",
        **overrides: Any,
    ) -> "ViViTBackbone":
        """Builds a backbone with the weights of an image ViT.

        The position table is repeated over time. Variant 2 gets a new temporal encoder;
        in variant 3 the temporal attention starts as zero. Activation, epsilon and
        sizes are those of the image model.

        Args:
            source: A folder with a ViT, DINOv2 or ViTMAE in the `transformers` format,
                `hf://owner/name[@revision]`, or a `keras_hub.models.ViTBackbone`.
            video_shape: Tuple `(frames, height, width, channels)`. Tables are resampled
                to it; for one channel, kernels are summed over theirs.
            tubelet_size: Tuple `(frames, height, width)`. Defaults to two frames of the
                image model's patches.
            tubelet_init: `"central_frame"` or `"inflate"`, see
                `keras_vivit.initializers`.
            **overrides: Other arguments of the constructor, such as `variant` and
                `pooling` (`"token"` keeps the image model's class token).

        Returns:
            A `ViViTBackbone`.

        Raises:
            ValueError: If the source cannot be read or does not fit.
            TypeError: If the constructor has no argument of an override's name.

        Reference:
            [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691), section 3.4
        """
        validation.known_arguments(overrides, cls)
        return checkpoints.load_image_model(
            cls, source, video_shape, tubelet_size, tubelet_init, **overrides
        )

    def save_to_preset(
        self, directory: Any, sampling: dict[str, Any] | None = None
    ) -> None:
        """Writes the backbone into a folder, see `ViViTClassifier.save_to_preset`."""
        checkpoints.save_to_preset(self, directory, sampling)

    def enable_lora(
        self,
        rank: int,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
    ) -> None:
        """Freezes the backbone and adds low-rank adapters to its blocks, which train.

        Call it before `compile`. Saved files hold the merged weights, and load without
        adapters.

        Args:
            rank: Integer, rank of the adapters.
            alpha: Optional float; adapters are scaled by `alpha / rank`. Defaults to
                `rank`.
            targets: Sequence of strings, which `Dense` and `EinsumDense` layers of the
                blocks get an adapter: parts of their paths, for example `"query"`,
                `"mlp"` or `"attention/output"`. Defaults to all.

        Raises:
            ValueError: If `rank` is not positive, a target is not found, or the model
                has adapters already.

        Reference:
            [LoRA, Hu et al., 2021](https://arxiv.org/abs/2106.09685)
        """
        lora.enable(self, rank, alpha, targets)

    @classmethod
    def presets(cls) -> dict[str, str]:
        """Returns a dictionary of all presets, name -> one line about it."""
        return {name: preset["about"] for name, preset in presets.PRESETS.items()}


def _video_shape(video_shape: Any, position_kind: str) -> Shape:
    """Checks the shape; fixed positions are there for frames and sides of any size."""
    names = (*AXES, "channels")
    validation.choice("position_kind", position_kind, KINDS)
    if position_kind != "sincos" or not isinstance(video_shape, list | tuple):
        return validation.positive_ints("video_shape", video_shape, names)
    known = [1 if n is None and i < 3 else n for i, n in enumerate(video_shape)]
    sizes = validation.positive_ints("video_shape", known, names)
    return tuple(
        n if n is None else size for n, size in zip(video_shape, sizes, strict=True)
    )


def _check_rescaling(rescaling: Any, channels: int) -> tuple[Any, Any] | None:
    if rescaling is None:
        return None
    if not isinstance(rescaling, list | tuple) or len(rescaling) != 2:
        raise ValueError(
            "`rescaling` must be None or (scale, offset). "
            f"{validation.received('rescaling', rescaling)}"
        )
    values = []
    for value in rescaling:
        many = isinstance(value, list | tuple | np.ndarray) and np.ndim(value) > 0
        if many and np.shape(value) != (channels,):
            raise ValueError(
                "`rescaling` must hold numbers, or one for each channel. "
                f"{validation.received('rescaling', rescaling)}, channels={channels}"
            )
        numbers = [
            validation.finite("rescaling", x) for x in (value if many else [value])
        ]
        values.append(numbers if many else numbers[0])
    return values[0], values[1]


def _split_seed(seed: int | None, n: int) -> list[int | None]:
    """Returns `n` seeds that differ, so that no two layers drop the same units."""
    if seed is None:
        return [None] * n
    return [int(s) >> 1 for s in np.random.SeedSequence(seed).generate_state(n)]
