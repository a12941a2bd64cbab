"""Transformer blocks: one per way of attending, all pre-norm (section 3.3)."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from keras_vivit import divided_attention, fast, freezing, policies, validation
from keras_vivit.attention import MultiHeadSelfAttention
from keras_vivit.dropout import DrawnSeed, drop_path, dropout, seed_generator
from keras_vivit.layer import Layer
from keras_vivit.mlp import MLP, gelu_tanh
from keras_vivit.normalization import LayerNormalization
from keras_vivit.types import Activation, Config, DType, Regularizer, Shape, Tensor

ATTENTION_ORDERS = ("space_time", "time_space")


class _EncoderBlock(Layer):
    """Residual branches: some attentions, then the MLP.

    Each is `x + drop_path(dropout(branch(norm(x))))`. Subclasses say in
    `_attentions` which attentions they have, as `{name: axes}`.
    """

    _attentions: ClassVar[dict[str, tuple[str, ...]]]

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        activation: Activation = gelu_tanh,
        layer_norm_epsilon: float = 1e-6,
        remat: bool = False,
        seed: int | None = None,
        **layer_arguments: Any,
    ) -> None:
        super().__init__(**layer_arguments)
        self.num_heads = validation.positive_int("num_heads", num_heads)
        self.mlp_dim = validation.positive_int("mlp_dim", mlp_dim)
        self.dropout_rate = validation.rate("dropout_rate", dropout_rate)
        self.attention_dropout_rate = validation.rate(
            "attention_dropout_rate", attention_dropout_rate
        )
        self.drop_path_rate = validation.rate("drop_path_rate", drop_path_rate)
        self.activation = validation.activation("activation", activation)
        self.layer_norm_epsilon = validation.positive_number(
            "layer_norm_epsilon", layer_norm_epsilon
        )
        self.remat = validation.boolean("remat", remat)
        self.seed: Any = validation.seed(seed)
        self.supports_masking = True
        self.frozen_when_built: list[str] = []
        if max(self.dropout_rate, self.attention_dropout_rate, self.drop_path_rate):
            seed = self.seed_generator = seed_generator(self.seed)
        for name, axes in self._attentions.items():
            self._add_branch(
                MultiHeadSelfAttention(
                    num_heads,
                    axes,
                    attention_dropout_rate,
                    seed,
                    name=name,
                    dtype=self.dtype_policy,
                )
            )
        self._add_branch(
            MLP(
                mlp_dim,
                self.activation,
                dropout_rate,
                seed,
                name="mlp",
                dtype=self.dtype_policy,
            )
        )

    def _add_branch(self, layer: keras.layers.Layer) -> None:
        norm = LayerNormalization(
            epsilon=self.layer_norm_epsilon,
            name=_norm_name(layer.name),
            dtype=self.dtype_policy,
        )
        setattr(self, norm.name, norm)
        setattr(self, layer.name, layer)

    def _branches(self) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
        """Pairs of norm and layer, in the order in which they apply."""
        names = (*self._attentions, "mlp")
        return [(getattr(self, _norm_name(n)), getattr(self, n)) for n in names]

    def attention_layers(self) -> list[MultiHeadSelfAttention]:
        """Returns the block's attentions, in the order in which they apply."""
        return [layer for _, layer in self._branches()[:-1]]

    def build(self, input_shape: Shape) -> None:
        dim = validation.features("inputs", input_shape, 3, "(batch, ..., embed_dim)")
        validation.elements(embed_dim=dim, mlp_dim=self.mlp_dim)
        grid_shape = self._grid_shape(input_shape)
        for norm, layer in self._branches():
            norm.build(input_shape)
            layer.build(grid_shape)
        self.input_spec = keras.InputSpec(min_ndim=3, axes={-1: dim})
        freezing.freeze(self, self.frozen_when_built)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = None,
        attend: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        if mask is not None:
            inputs = validation.keep_tokens(inputs, mask)
        seeds: Iterator[Any] | None = None
        if training and hasattr(self, "seed_generator"):
            seeds = itertools.repeat(self.seed_generator)
        repeat = training and self.remat
        draws: list[DrawnSeed] | None = None
        if seeds and repeat:
            # At most four draws a branch, made before the pass is repeated.
            generators = itertools.islice(seeds, 4 * len(self._branches()))
            draws = [DrawnSeed(generator.next()) for generator in generators]

        def forward(tokens: Tensor) -> Tensor:
            again = seeds if draws is None else iter(draws)
            return self._forward(tokens, mask, training, again, attend)

        if attend is not None:  # It may keep tensors: no inner scope may own them.
            return forward(inputs)
        run = functools.partial(fast.run_block, forward)
        return (fast.remat(run) if repeat else run)(inputs)

    def _forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        training: bool | None,
        seeds: Iterator[Any] | None,
        attend: Callable[..., Tensor] | None,
    ) -> Tensor:
        options: dict[str, Any] = {"training": training, "seeds": seeds}
        if attend is not None:
            options["attend"] = attend
        for norm, layer in self._branches():
            y = fast.call(norm, x, training=training)
            if layer is self.mlp:
                y = fast.call(layer, y, training=training, seeds=seeds)
            else:
                y = self._attend(layer, y, mask, **options)
            if y.dtype != x.dtype:  # A branch has a dtype policy of its own.
                y = ops.cast(y, x.dtype)
            y = dropout(y, self.dropout_rate, seeds)
            x = x + drop_path(y, self.drop_path_rate, seeds)
        return x

    def _grid_shape(self, input_shape: Shape) -> Shape:
        """Returns the shape that the attentions take."""
        return input_shape

    def _attend(
        self,
        layer: keras.layers.Layer,
        tokens: Tensor,
        mask: Tensor | None,
        **options: Any,
    ) -> Tensor:
        return fast.call(layer, tokens, mask=mask, **options)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            **freezing.config_of(self),
            "dtype": policies.serialize(self),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "drop_path_rate": self.drop_path_rate,
            "activation": keras.activations.serialize(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "remat": self.remat,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: Config) -> "_EncoderBlock":
        return freezing.from_config(super().from_config, config)


def _norm_name(branch: str) -> str:
    return f"{branch.removesuffix('_attention')}_norm"


@keras.saving.register_keras_serializable("keras_vivit")
class ViViTEncoderBlock(_EncoderBlock):
    """Encoder block with joint attention over all tokens (variant 1).

    It attends over every axis between batch and features, so that it serves the
    grid `(batch, t, h, w, embed_dim)` and a plain sequence `(batch, tokens,
    embed_dim)`, with or without a class token in front.

    Args:
        num_heads: Integer, number of heads; must divide the size of a token.
        mlp_dim: Integer, size of the MLP's hidden layer.
        dropout_rate: Float, dropout after each branch and inside the MLP.
        attention_dropout_rate: Float, dropout of the attention weights. Fused
            attention kernels are used in training only if it is 0.
        drop_path_rate: Float, stochastic depth of each branch, see `DropPath`.
        activation: Function, or its name in Keras. Defaults to GELU in the tanh
            approximation, as ViViT has it.
        layer_norm_epsilon: Float.
        remat: Boolean, gradient checkpointing: what happens inside the block is
            computed again in the backward pass instead of kept in memory.
        seed: Optional integer, for dropout and stochastic depth.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, ..., embed_dim)`.
        mask: Optional boolean tensor `(batch, ...)`: only tokens at True are
            attended to. It travels on with the output.
        training: Boolean.
        attend: Optional function of query, key and value `(batch, tokens, heads,
            head_dim)` and of a mask `(batch, 1, 1, tokens)` or `None`. It attends in
            place of the block's own attention and returns a tensor like the value.

    Returns:
        Tensor of the inputs' shape.

    Raises:
        ValueError: If `num_heads` does not divide the size of a token.

    Example:
    >>> block = keras_vivit.ViViTEncoderBlock(num_heads=4, mlp_dim=128)
    >>> block(np.zeros((2, 4, 4, 4, 64))).shape
    (2, 4, 4, 4, 64)

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691),
        section 3.3, model 1, equations 2 and 3
    """

    _attentions: ClassVar = {"attention": ("all",)}

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        activation: Activation = gelu_tanh,
        layer_norm_epsilon: float = 1e-6,
        remat: bool = False,
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = True,
    ) -> None:
        super().__init__(
            num_heads,
            mlp_dim,
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            drop_path_rate=drop_path_rate,
            activation=activation,
            layer_norm_epsilon=layer_norm_epsilon,
            remat=remat,
            seed=seed,
            name=name,
            dtype=dtype,
            trainable=trainable,
            activity_regularizer=activity_regularizer,
            autocast=autocast,
        )


@keras.saving.register_keras_serializable("keras_vivit")
class FactorizedSelfAttentionBlock(_EncoderBlock):
    """Encoder block that attends over space, then over time (variant 3).

    With `frames`, the input is a sequence with a class token in front, as `ClassToken`
    makes it of a grid. The class token is treated as in TimeSformer: it has no part in
    the attention over time, a copy of it attends over space with each frame, and the
    mean of the copies' outputs is its own. A frame whose tokens all are masked does not
    count in this mean.

    Args:
        attention_order: `"space_time"` as in the paper, or `"time_space"`.
        frames: Optional integer, t, for a sequence with a class token.

    All other arguments are those of `ViViTEncoderBlock`.

    Call arguments:
        inputs: Tensor `(batch, t, ..., embed_dim)`; axis 1 is time. With `frames`
            `(batch, 1 + t * s, embed_dim)`, time-major.
        mask, training, attend: As for `ViViTEncoderBlock`.

    Returns:
        Tensor of the inputs' shape.

    Raises:
        ValueError: If `num_heads` does not divide the size of a token, the input has
            no axis for space, or `frames` does not divide its tokens.

    Example:
    >>> block = keras_vivit.FactorizedSelfAttentionBlock(num_heads=4, mlp_dim=128)
    >>> block(np.zeros((2, 4, 4, 4, 64))).shape
    (2, 4, 4, 4, 64)

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691),
        section 3.3, model 3, equations 4 to 6;
        [TimeSformer, Bertasius et al., 2021](https://arxiv.org/abs/2102.05095)
    """

    _attentions: ClassVar = {
        "space_attention": ("space",),
        "time_attention": ("time",),
    }

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        activation: Activation = gelu_tanh,
        layer_norm_epsilon: float = 1e-6,
        remat: bool = False,
        seed: int | None = None,
        attention_order: str = "space_time",
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = True,
        frames: int | None = None,
    ) -> None:
        super().__init__(
            num_heads,
            mlp_dim,
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            drop_path_rate=drop_path_rate,
            activation=activation,
            layer_norm_epsilon=layer_norm_epsilon,
            remat=remat,
            seed=seed,
            name=name,
            dtype=dtype,
            trainable=trainable,
            activity_regularizer=activity_regularizer,
            autocast=autocast,
        )
        self.attention_order = validation.choice(
            "attention_order", attention_order, ATTENTION_ORDERS
        )
        self.frames = (
            None if frames is None else validation.positive_int("frames", frames)
        )

    def _branches(self) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
        space, time, mlp = super()._branches()
        first = (space, time) if self.attention_order == "space_time" else (time, space)
        return [*first, mlp]

    def _grid_shape(self, input_shape: Shape) -> Shape:
        if self.frames is None:
            return input_shape
        tokens = input_shape[1]
        if len(input_shape) != 3 or (
            tokens is not None and (tokens == 1 or (tokens - 1) % self.frames)
        ):
            raise ValueError(
                "`inputs` must have the shape (batch, 1 + frames * places, embed_dim), "
                f"the class token first. Received: shape={tuple(input_shape)}, "
                f"frames={self.frames}"
            )
        return (input_shape[0], self.frames, None, input_shape[2])

    def _attend(
        self,
        layer: keras.layers.Layer,
        tokens: Tensor,
        mask: Tensor | None,
        **options: Any,
    ) -> Tensor:
        if self.frames is None:
            return super()._attend(layer, tokens, mask, **options)
        attend = functools.partial(super()._attend, layer, **options)
        if layer is self.time_attention:
            return divided_attention.over_time(attend, tokens, self.frames, mask)
        return divided_attention.over_space(attend, tokens, self.frames, mask)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "attention_order": self.attention_order,
            "frames": self.frames,
        }


@keras.saving.register_keras_serializable("keras_vivit")
class FactorizedDotProductBlock(_EncoderBlock):
    """Encoder block with half of its heads over time, half over space (variant 4).

    The first half of the heads attends over time, the second over space; both
    meet in one output projection.

    Args:
        num_heads: Integer, even, number of heads; must divide the size of a token.

    All other arguments are those of `ViViTEncoderBlock`.

    Call arguments:
        inputs: Tensor `(batch, t, ..., embed_dim)`; axis 1 is time.
        mask, training, attend: As for `ViViTEncoderBlock`.

    Returns:
        Tensor of the inputs' shape.

    Raises:
        ValueError: If `num_heads` is odd or does not divide the size of a token,
            or the input has no axis for space.

    Example:
    >>> block = keras_vivit.FactorizedDotProductBlock(num_heads=4, mlp_dim=128)
    >>> block(np.zeros((2, 4, 4, 4, 64))).shape
    (2, 4, 4, 4, 64)

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691),
        section 3.3, model 4, equation 7
    """

    _attentions: ClassVar = {"attention": ("time", "space")}

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        activation: Activation = gelu_tanh,
        layer_norm_epsilon: float = 1e-6,
        remat: bool = False,
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = True,
    ) -> None:
        super().__init__(
            num_heads,
            mlp_dim,
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            drop_path_rate=drop_path_rate,
            activation=activation,
            layer_norm_epsilon=layer_norm_epsilon,
            remat=remat,
            seed=seed,
            name=name,
            dtype=dtype,
            trainable=trainable,
            activity_regularizer=activity_regularizer,
            autocast=autocast,
        )


class Variant(NamedTuple):
    """What the variants of the paper differ in.

    Variants 3 and 4 attend along the axes of a grid, in which a class token has no
    place; TimeSformer gives it one in variant 3.
    """

    block: type[_EncoderBlock]
    has_class_token: bool


VARIANTS = {
    "spatio_temporal": Variant(ViViTEncoderBlock, has_class_token=True),
    "factorized_encoder": Variant(ViViTEncoderBlock, has_class_token=True),
    "factorized_self_attention": Variant(
        FactorizedSelfAttentionBlock, has_class_token=True
    ),
    "factorized_dot_product": Variant(FactorizedDotProductBlock, has_class_token=False),
}
