"""Pre-training without labels: a masked autoencoder of videos and volumes."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_vivit import checkpoints, freezing, policies, presets, validation
from keras_vivit.backbone import ViViTBackbone
from keras_vivit.blocks import VARIANTS
from keras_vivit.features import blocks_of
from keras_vivit.masking import (
    MASKINGS,
    DrawMask,
    MaskToken,
    ReconstructionLoss,
    SelectTokens,
    count_hidden,
)
from keras_vivit.mlp import gelu_tanh
from keras_vivit.model import Model
from keras_vivit.normalization import LayerNormalization
from keras_vivit.positions import PositionalEncoder
from keras_vivit.types import Activation, Config, DType, Shape

_DECODER_NORM_EPSILON = 1e-5  # as in `transformers`, whatever the blocks have


@keras.saving.register_keras_serializable("keras_vivit")
class ViViTMaskedAutoencoder(Model):
    """Learns from videos without labels: predicts the tubelets that are hidden from it.

    The encoder is a `ViViTBackbone` that sees the visible tokens alone, which is what
    makes a step cheap. A light decoder gets its tokens, and a learned token at each
    hidden place. The target is a tubelet's voxels, normalized by channel; the mean
    squared error is a loss of the model itself, so that `compile` needs an optimizer
    and nothing else, and `fit` takes videos alone. Labels are ignored.

    The mask is drawn for each step from `seed`. Outside of training it always is the
    same, so that losses of `evaluate` can be compared.

    The sizes default to ViT-B and VideoMAE's decoder for it.

    Args:
        video_shape: Tuple `(frames, height, width, channels)`.
        tubelet_size: Tuple `(frames, height, width)`.
        strides: Tuple, the step between tubelets. Defaults to `tubelet_size`. Where
            they overlap, a visible tubelet shows voxels of its hidden neighbours.
        variant: `"spatio_temporal"`, `"factorized_self_attention"` or
            `"factorized_dot_product"`, see `ViViTBackbone`. The temporal encoder of
            `"factorized_encoder"` would see no single token: it has no such model.
        mask_ratio: Float in (0, 1), the share of tokens that is hidden, rounded down.
        masking: `"tube"` hides the same places in all frames, which keeps a grid;
            `"random"`, for `"spatio_temporal"` alone, hides any token.
        decoder_dim: Integer, size of a token in the decoder.
        decoder_num_layers: Integer, number of blocks of the decoder; they are those of
            the variant.
        decoder_num_heads: Integer.
        decoder_mlp_dim: Integer.
        value_range: Tuple, the lowest and highest pixel: the target is of pixels scaled
            to [0, 1], which counts where a tubelet is nearly constant.
        masked: Boolean, adds the input `"frame_mask"`, see `ViViTBackbone`. Masked
            tokens are not attended to and have no loss.
        hidden_input: Boolean, adds the input `"hidden"`, a boolean mask `(batch, t, h,
            w)`, True = hidden, in place of the drawn one. Each sample must hide as many
            tokens as `mask_ratio` says, and the factorized variants need the same
            places in all frames: other samples give NaN.

    All other arguments are those of `ViViTBackbone`.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`; with more inputs a
            dictionary of them and of `"video"`.

    Returns:
        Tensor `(batch, hidden, voxels)`, the normalized voxels of the hidden tubelets
        in the order of the grid, time-major. Those of a tubelet are in the order of
        frames, height, width and channels.

    Attributes:
        backbone: The encoder, a `ViViTBackbone` with the same weights.

    Raises:
        ValueError: If an argument is out of its range, or `mask_ratio` hides all tokens
            or none.

    Example:
    >>> model = keras_vivit.ViViTMaskedAutoencoder(
    ...     (28, 28, 28, 1), tubelet_size=(7, 7, 7), mask_ratio=0.75, embed_dim=64,
    ...     num_layers=2, num_heads=4, mlp_dim=128, decoder_dim=32,
    ...     decoder_num_layers=1, decoder_num_heads=2, decoder_mlp_dim=64)
    >>> model(np.zeros((2, 28, 28, 28, 1))).shape
    (2, 48, 343)

    Reference:
        [VideoMAE, Tong et al., 2022](https://arxiv.org/abs/2203.12602)
    """

    sampling: dict[str, Any] | None = None
    frozen_when_built: Sequence[str] = ()  # see freezing.py

    def __init__(
        self,
        video_shape: Shape,
        tubelet_size: tuple[int, int, int] = (2, 16, 16),
        strides: tuple[int, int, int] | None = None,
        variant: str = "spatio_temporal",
        mask_ratio: float = 0.9,
        masking: str = "tube",
        embed_dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_dim: int = 3072,
        decoder_dim: int = 384,
        decoder_num_layers: int = 4,
        decoder_num_heads: int = 6,
        decoder_mlp_dim: int = 1536,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        position_kind: str = "learned",
        attention_order: str = "space_time",
        rescaling: tuple[Any, Any] | None = None,
        value_range: tuple[float, float] = (0, 255),
        activation: Activation = gelu_tanh,
        layer_norm_epsilon: float = 1e-6,
        final_norm: bool = True,
        masked: bool = False,
        hidden_input: bool = False,
        remat: bool = False,
        seed: int | None = None,
        dtype: DType = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        # === Arguments ===
        if variant == "factorized_encoder":
            raise ValueError(
                "`variant` must have one encoder: the temporal one of "
                "'factorized_encoder' sees no single token. "
                f"Received: variant={variant!r}"
            )
        joint = variant == "spatio_temporal"
        validation.choice("masking", masking, MASKINGS if joint else MASKINGS[:1])
        mask_ratio = validation.rate("mask_ratio", mask_ratio)
        decoder_dim = validation.positive_int("decoder_dim", decoder_dim)
        decoder_num_layers = validation.positive_int(
            "decoder_num_layers", decoder_num_layers
        )
        value_range = validation.value_range("value_range", value_range)
        dtype = validation.dtype_policy(dtype)
        embed_dim = validation.positive_int("embed_dim", embed_dim)
        validation.elements(embed_dim=embed_dim, decoder_dim=decoder_dim)

        # === Layers ===
        backbone = ViViTBackbone(
            video_shape,
            tubelet_size=tubelet_size,
            strides=strides,
            variant=variant,
            embed_dim=embed_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            drop_path_rate=drop_path_rate,
            position_kind=position_kind,
            attention_order=attention_order,
            rescaling=rescaling,
            activation=activation,
            layer_norm_epsilon=layer_norm_epsilon,
            masked=masked,
            remat=remat,
            seed=seed,
            dtype=dtype,
            name="backbone",
            final_norm=final_norm,
        )
        embedded = backbone.get_layer("encoder_dropout").output
        grid = embedded.shape[1:-1]
        if None in grid:
            raise ValueError(
                "`video_shape` must be known. "
                f"Received: video_shape={backbone.video_shape}"
            )
        num_hidden = count_hidden(masking, mask_ratio, grid)
        if not 0 < num_hidden < math.prod(grid):
            raise ValueError(
                "`mask_ratio` must hide one token or more of a frame, and leave one "
                f"visible. Received: mask_ratio={mask_ratio} of the grid {grid}"
            )

        # === Functional model ===
        # The names of the decoder's layers are a contract, as in ViViTBackbone.
        inputs = backbone.input
        video = inputs["video"] if masked else inputs
        if hidden_input:
            hidden = keras.Input(grid, dtype="bool", name="hidden")
            frame_mask = {"frame_mask": inputs["frame_mask"]} if masked else {}
            inputs = {"video": video, **frame_mask, "hidden": hidden}
        else:
            hidden = DrawMask(masking, num_hidden, seed, name="mask", dtype=dtype)(
                embedded
            )
        x = SelectTokens(
            num_hidden, by_frame=not joint, name="visible_tokens", dtype=dtype
        )([embedded, hidden])
        encoder = blocks_of(backbone)
        if final_norm:
            encoder.append(backbone.get_layer("encoder_norm"))
        for layer in encoder:
            x = layer(x)
        x = keras.layers.Dense(
            decoder_dim,
            use_bias=False,
            name="decoder_embedding",
            dtype=policies.resolve(dtype, "decoder_embedding"),
        )(x)
        x = MaskToken(name="decoder_mask_token", dtype=dtype)([x, embedded, hidden])
        x = PositionalEncoder("sequence", name="decoder_position", dtype=dtype)(x)
        block_options: dict[str, Any] = {}
        if variant == "factorized_self_attention":
            block_options["attention_order"] = attention_order
        for i in range(decoder_num_layers):
            x = VARIANTS[variant].block(
                num_heads=decoder_num_heads,
                mlp_dim=decoder_mlp_dim,
                dropout_rate=dropout_rate,
                attention_dropout_rate=attention_dropout_rate,
                activation=backbone.activation,
                layer_norm_epsilon=layer_norm_epsilon,
                remat=remat,
                seed=None if seed is None else seed + 1 + i,
                name=f"decoder_block_{i}",
                dtype=dtype,
                **block_options,
            )(x)
        x = SelectTokens(num_hidden, hidden=True, name="hidden_tokens", dtype=dtype)(
            [x, hidden]
        )
        x = LayerNormalization(
            epsilon=_DECODER_NORM_EPSILON, name="decoder_norm", dtype=dtype
        )(x)
        x = keras.layers.Dense(
            math.prod(backbone.tubelet_size) * video.shape[-1],
            name="decoder_output",
            dtype=policies.resolve(dtype, "decoder_output"),
        )(x)
        low, high = value_range
        voxels = ReconstructionLoss(
            backbone.tubelet_size,
            backbone.get_layer("tubelet_embedding").strides,
            1 / (high - low),
            name="voxels",
            dtype=dtype.variable_dtype,
        )([x, video, hidden])
        super().__init__(inputs=inputs, outputs=voxels, name=name)

        # === Config ===
        self.trainable = trainable
        self.dtype_policy = dtype
        self.backbone = backbone
        self.mask_ratio = mask_ratio
        self.masking = masking
        self.decoder_dim = decoder_dim
        self.decoder_num_layers = decoder_num_layers
        self.decoder_num_heads = decoder_num_heads
        self.decoder_mlp_dim = decoder_mlp_dim
        self.value_range = value_range
        self.hidden_input = hidden_input

    def get_config(self) -> Config:
        backbone = self.backbone.get_config()
        for name in (freezing.KEY, *_BACKBONE_ONLY):
            backbone.pop(name, None)
        return {
            **backbone,
            **freezing.config_of(self),
            "name": self.name,
            "trainable": self.trainable,
            "dtype": policies.serialize(self),
            "mask_ratio": self.mask_ratio,
            "masking": self.masking,
            "decoder_dim": self.decoder_dim,
            "decoder_num_layers": self.decoder_num_layers,
            "decoder_num_heads": self.decoder_num_heads,
            "decoder_mlp_dim": self.decoder_mlp_dim,
            "value_range": self.value_range,
            "hidden_input": self.hidden_input,
        }

    @classmethod
    def from_preset(
        cls,
        source: Any,
        load_weights: bool = True,
        source_video_shape: Shape | None = None,
        **overrides: Any,
    ) -> "ViViTMaskedAutoencoder":
        """Builds the model from a preset, or with the weights of a checkpoint.

        It takes what `ViViTBackbone.from_preset` takes. A pre-trained VideoMAE, in the
        `transformers` format or as the original `.pth` file, and a folder of
        `save_to_preset` bring their decoder; with other sources it is new. A `.pth`
        file does not tell the heads: `num_heads` and `decoder_num_heads` default to one
        for each 64 channels. What does not fill a tubelet is dropped, whatever the
        `padding` of the source is.
        """
        validation.known_arguments(overrides, cls)
        config = presets.find(source, load_weights)
        if config is None:
            return checkpoints.load(cls, source, False, source_video_shape, **overrides)
        return cls(**{**checkpoints.arguments_for(cls, config), **overrides})

    def save_to_preset(
        self, directory: Any, sampling: dict[str, Any] | None = None
    ) -> None:
        """Writes the model into a folder, see `ViViTClassifier.save_to_preset`.

        `ViViTClassifier.from_preset` and `ViViTBackbone.from_preset` load its encoder.
        """
        checkpoints.save_to_preset(self, directory, sampling)

    @classmethod
    def presets(cls) -> dict[str, str]:
        """Returns a dictionary of all presets, name -> one line about it."""
        return ViViTBackbone.presets()


_BACKBONE_ONLY = ("num_temporal_layers", "padding", "pooling")
