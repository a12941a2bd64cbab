"""Transformer blocks: one per way of attending, all pre-norm (section 3.3)."""

import functools
import itertools
from collections.abc import Iterable
from typing import Any, ClassVar

import keras
from keras import ops

from keras_vivit import policies, validation
from keras_vivit.attention import MultiHeadSelfAttention
from keras_vivit.fast import (
    activate,
    direct,
    for_xla_on_cpu,
    in_float32,
    layer_norm,
    remat,
    reshape,
)
from keras_vivit.products import dense


@keras.saving.register_keras_serializable("keras_vivit")
def gelu_tanh(x):
    """GELU in the tanh approximation, which ViViT's weights were trained with.

    Registered under its own name, since Keras saves `keras.ops.gelu` as
    `"gelu"`, which is the exact function when it comes back.
    """
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable("keras_vivit")
class DropPath(keras.layers.Layer):
    """Stochastic depth: zeroes a residual branch for whole samples, in training.

    The samples kept are scaled by `1 / (1 - rate)`, so that the expected output
    stays the same (Scenic's own version does not rescale).

    Args:
        rate: Float in [0, 1), the share of samples that lose the branch.
        seed: Optional integer.

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

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = validation.rate("rate", rate)
        self.seed = seed
        if self.rate:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True
        self.built = True

    def call(self, inputs, training=None):
        if not training or not self.rate:
            return inputs
        return _drop_path(inputs, self.rate, itertools.repeat(self.seed_generator))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


def _drop_path(x, rate, seeds):
    noise_shape = (None,) + (1,) * (len(x.shape) - 1)
    return _dropout(x, rate, seeds, noise_shape)


def _dropout(x, rate, seeds, noise_shape=None):
    if seeds is None or not rate:
        return x
    return keras.random.dropout(x, rate, noise_shape, next(seeds))


@keras.saving.register_keras_serializable("keras_vivit")
class MLP(keras.layers.Layer):
    """Two dense layers over the features, the first with the activation.

    Args:
        hidden_dim: Integer, size of the hidden layer.
        activation: Function, or its name in Keras.
        dropout_rate: Float, dropout of the hidden layer.

    Call arguments:
        inputs: Tensor `(batch, ..., embed_dim)`.
        seeds: Iterator over what `keras.random.dropout` takes as a seed;
            dropout happens only if it is given.

    Returns:
        Tensor of the inputs' shape.
    """

    def __init__(self, hidden_dim, activation=gelu_tanh, dropout_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = validation.positive_int("hidden_dim", hidden_dim)
        self.activation = keras.activations.get(activation)
        self.dropout_rate = validation.rate("dropout_rate", dropout_rate)
        self.supports_masking = True

    def build(self, input_shape):
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

    def call(self, inputs, seeds=None):
        hidden = activate(self.activation, dense(self.hidden_dense, inputs))
        hidden = _dropout(hidden, self.dropout_rate, seeds)
        return reshape(dense(self.output_dense, hidden), ops.shape(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "activation": keras.activations.serialize(self.activation),
            "dropout_rate": self.dropout_rate,
        }


class _DrawnSeed(keras.random.SeedGenerator):
    """A seed drawn before a rematerialized call, the same when it is recomputed.

    A generator would move on between the two passes, and JAX would leak a
    tracer into its state.
    """

    _initial_seed = 0  # Read by PyTorch's dropout; it only must not be None.

    def __init__(self, value):  # No state, hence no `super().__init__()`.
        self._value = value

    def next(self, ordered=True):
        return self._value


class _EncoderBlock(keras.layers.Layer):
    """Residual branches: some attentions, then the MLP.

    Each is `x + drop_path(dropout(branch(norm(x))))`. Subclasses say in
    `_attentions` which attentions they have, as `{name: axes}`.
    """

    _attentions: ClassVar[dict[str, tuple[str, ...]]]

    def __init__(
        self,
        num_heads,
        mlp_dim,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        drop_path_rate=0.0,
        activation=gelu_tanh,
        layer_norm_epsilon=1e-6,
        remat=False,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = validation.positive_int("num_heads", num_heads)
        self.mlp_dim = validation.positive_int("mlp_dim", mlp_dim)
        self.dropout_rate = validation.rate("dropout_rate", dropout_rate)
        self.attention_dropout_rate = validation.rate(
            "attention_dropout_rate", attention_dropout_rate
        )
        self.drop_path_rate = validation.rate("drop_path_rate", drop_path_rate)
        self.activation = keras.activations.get(activation)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.remat = remat
        self.seed = seed
        self.supports_masking = True
        for name, axes in self._attentions.items():
            self._add_branch(
                name, MultiHeadSelfAttention, num_heads, axes, attention_dropout_rate
            )
        self._add_branch("mlp", MLP, mlp_dim, self.activation, dropout_rate)
        if max(self.dropout_rate, self.attention_dropout_rate, self.drop_path_rate):
            self.seed_generator = keras.random.SeedGenerator(seed)

    def _add_branch(self, name, layer_class, *args):
        options = {"dtype": self.dtype_policy}
        norm = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, name=_norm_name(name), **options
        )
        setattr(self, norm.name, norm)
        setattr(self, name, layer_class(*args, name=name, **options))

    def _branches(self):
        """Pairs of norm and layer, in the order in which they apply."""
        names = (*self._attentions, "mlp")
        return [(getattr(self, _norm_name(n)), getattr(self, n)) for n in names]

    def build(self, input_shape):
        for norm, layer in self._branches():
            norm.build(input_shape)
            layer.build(input_shape)

    def call(self, inputs, mask=None, training=None):
        seeds: Iterable[Any] | None = None
        if training and hasattr(self, "seed_generator"):
            seeds = itertools.repeat(self.seed_generator)
        repeat = training and self.remat
        if seeds and repeat:
            # At most four draws a branch, made before the pass is repeated.
            draws = itertools.islice(seeds, 4 * len(self._branches()))
            seeds = [_DrawnSeed(generator.next()) for generator in draws]
        options = {"mask": mask, "seeds": seeds, "training": training}
        forward = functools.partial(self._forward, **options)
        forward = functools.partial(in_float32, for_xla_on_cpu(), forward)
        return (remat(forward) if repeat else forward)(inputs)

    def _forward(self, x, mask, seeds, training):
        seeds = seeds and iter(seeds)
        for norm, layer in self._branches():
            options = {} if layer is self.mlp else {"mask": mask, "training": training}
            y = layer_norm(norm, x, training)
            y = direct(layer)(y, seeds=seeds, **options)
            y = _dropout(y, self.dropout_rate, seeds)
            x = x + _drop_path(y, self.drop_path_rate, seeds)
        return x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
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


def _norm_name(branch):
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

    Call arguments:
        inputs: Tensor `(batch, ..., embed_dim)`.
        mask: Optional boolean tensor `(batch, ...)`: only tokens at True are
            attended to. It travels on with the output.
        training: Boolean.

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


@keras.saving.register_keras_serializable("keras_vivit")
class FactorizedSelfAttentionBlock(_EncoderBlock):
    """Encoder block that attends over space, then over time (variant 3).

    Args:
        attention_order: `"space_time"` as in the paper, or `"time_space"`.
        **kwargs: As for `ViViTEncoderBlock`.

    Call arguments:
        inputs: Tensor `(batch, t, ..., embed_dim)`; axis 1 is time.
        mask: As for `ViViTEncoderBlock`.
        training: Boolean.

    Returns:
        Tensor of the inputs' shape.

    Raises:
        ValueError: If `num_heads` does not divide the size of a token, or the
            input has no axis for space.

    Example:
    >>> block = keras_vivit.FactorizedSelfAttentionBlock(num_heads=4, mlp_dim=128)
    >>> block(np.zeros((2, 4, 4, 4, 64))).shape
    (2, 4, 4, 4, 64)

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691),
        section 3.3, model 3, equations 4 to 6
    """

    _attentions: ClassVar = {
        "space_attention": ("space",),
        "time_attention": ("time",),
    }

    def __init__(self, *args, attention_order="space_time", **kwargs):
        super().__init__(*args, **kwargs)
        self.attention_order = validation.choice(
            "attention_order", attention_order, ("space_time", "time_space")
        )

    def _branches(self):
        space, time, mlp = super()._branches()
        first = (space, time) if self.attention_order == "space_time" else (time, space)
        return [*first, mlp]

    def get_config(self):
        return {**super().get_config(), "attention_order": self.attention_order}


@keras.saving.register_keras_serializable("keras_vivit")
class FactorizedDotProductBlock(_EncoderBlock):
    """Encoder block with half of its heads over time, half over space (variant 4).

    The first half of the heads attends over time, the second over space; both
    meet in one output projection.

    Args:
        num_heads: Integer, even, number of heads; must divide the size of a token.
        **kwargs: As for `ViViTEncoderBlock`.

    Call arguments:
        inputs: Tensor `(batch, t, ..., embed_dim)`; axis 1 is time.
        mask: As for `ViViTEncoderBlock`.
        training: Boolean.

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
