"""From a video to tokens on a grid: tubelets and the class token."""

import math
import warnings

import keras
import numpy as np
from keras import ops

from keras_vivit import fast, validation
from keras_vivit.layer import Layer
from keras_vivit.types import Config, DType, Initializer, Regularizer, Shape, Tensor

AXES = ("frames", "height", "width")
PADDINGS = ("valid", "same")


@keras.saving.register_keras_serializable("keras_vivit")
class TubeletEmbedding(Layer):
    """Splits a video into tubelets and projects each one to a token.

    The kernel has `Conv3D`'s layout `(frames, height, width, channels,
    embed_dim)`. Where the strides equal the tubelet, which is the paper's
    non-overlapping case, the projection is a reshape and one matrix product;
    otherwise it is a convolution. A tubelet of one frame, with a stride along
    time, is the paper's uniform frame sampling (section 3.2).

    Masked voxels are set to zero, and a token is kept if any of its voxels is.

    Args:
        embed_dim: Integer, size of a token.
        tubelet_size: Tuple `(frames, height, width)` in pixels.
        strides: Tuple `(frames, height, width)`, the step from one tubelet to
            the next. Defaults to `tubelet_size`.
        padding: `"valid"` drops what does not fill a tubelet (and warns once,
            saying how much that is), `"same"` pads with zeros on both sides so
            that nothing is dropped.
        kernel_initializer: Initializer of the kernel.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`.
        mask: Optional boolean tensor, True = keep: `(batch, frames)` or
            `(batch, frames, height, width)`.

    Returns:
        Tensor `(batch, t, h, w, embed_dim)`, with a mask `(batch, t, h, w)` if
        one was given.

    Raises:
        ValueError: If the tubelet is larger than the input.

    Example:
    >>> keras_vivit.TubeletEmbedding(64, (7, 7, 7))(np.zeros((2, 28, 28, 28, 1))).shape
    (2, 4, 4, 4, 64)

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691), section 3.2
    """

    def __init__(
        self,
        embed_dim: int,
        tubelet_size: tuple[int, int, int],
        strides: tuple[int, int, int] | None = None,
        padding: str = "valid",
        kernel_initializer: Initializer = "lecun_normal",
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
        self.embed_dim = validation.positive_int("embed_dim", embed_dim)
        self.tubelet_size = validation.positive_ints("tubelet_size", tubelet_size, AXES)
        self.strides = validation.positive_ints(
            "strides", tubelet_size if strides is None else strides, AXES
        )
        self.padding = validation.choice("padding", padding, PADDINGS)
        self.kernel_initializer = validation.interpreted(
            "kernel_initializer", keras.initializers.get, kernel_initializer
        )
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        axes = "(batch, frames, height, width, channels)"
        channels = validation.features("inputs", input_shape, 5, axes, 5)
        self._check_grid(input_shape[1:4])
        validation.elements(
            tubelet_size=self.tubelet_size, channels=channels, embed_dim=self.embed_dim
        )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.tubelet_size, channels, self.embed_dim),
            initializer=self.kernel_initializer,
        )
        self.bias = self.add_weight(
            name="bias", shape=(self.embed_dim,), initializer="zeros"
        )
        self.input_spec = keras.InputSpec(ndim=5, axes={-1: channels})

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        inputs = ops.cast(inputs, self.compute_dtype)
        if mask is not None:
            inputs = validation.keep_tokens(inputs, _per_voxel(mask, inputs))
        inputs = self._pad(inputs)
        if self.strides == self.tubelet_size:
            tubelets = split_into_tubelets(inputs, self.tubelet_size, self.strides)
            kernel = ops.reshape(self.kernel, (-1, self.embed_dim))
            rows = ops.reshape(tubelets, (-1, tubelets.shape[-1]))
            tokens = fast.product(rows, kernel, ops.convert_to_tensor(self.bias))
            return ops.reshape(tokens, (-1, *ops.shape(tubelets)[1:-1], self.embed_dim))
        # Not `Conv3D`, which ONNX cannot export from PyTorch.
        tokens = ops.conv(inputs, self.kernel, self.strides, "valid", "channels_last")
        return tokens + self.bias

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        if mask is None:
            return None
        mask = ops.cast(_per_voxel(mask, inputs), "float32")[..., None]
        kept = ops.max_pool(
            self._pad(mask), self.tubelet_size, self.strides, "valid", "channels_last"
        )
        return kept[..., 0] > 0

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        grid = (
            None if n is None else (n + sum(pad) - k) // s + 1
            for n, k, s, pad in zip(
                input_shape[1:4],
                self.tubelet_size,
                self.strides,
                self._padding(input_shape[1:4]),
                strict=True,
            )
        )
        return (input_shape[0], *grid, self.embed_dim)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "tubelet_size": self.tubelet_size,
            "strides": self.strides,
            "padding": self.padding,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    def _check_grid(self, size: Shape) -> None:
        if self.padding == "same":
            if None in size:
                raise ValueError(
                    '`padding="same"` needs known frames, height and width. '
                    f"Received: (frames, height, width)={tuple(size)}"
                )
            return
        used = 1.0
        for i, (axis, n) in enumerate(zip(AXES, size, strict=True)):
            tubelet, stride = self.tubelet_size[i], self.strides[i]
            if n is None:
                continue
            if tubelet > n:
                raise ValueError(
                    "`tubelet_size` must not exceed the input. "
                    f"Received: {axis}={n}, tubelet_size[{i}]={tubelet}."
                )
            # Gaps between tubelets are the caller's wish; what is lost is the end.
            used *= min(
                1.0, ((n - tubelet) // stride * stride + max(tubelet, stride)) / n
            )
        if used < 1:
            warnings.warn(
                f"`{self.name}` ignores {1 - used:.0%} of its input: tubelets of "
                f"{self.tubelet_size} with strides {self.strides} do not fill "
                f'{tuple(size)}. Use padding="same" or other sizes to keep it all.',
                stacklevel=2,
            )

    def _padding(self, size: Shape) -> tuple[tuple[int, int], ...]:
        if self.padding == "valid":
            return ((0, 0),) * 3
        totals = (
            max((math.ceil(n / s) - 1) * s + k - n, 0)
            for n, k, s in zip(size, self.tubelet_size, self.strides, strict=True)
        )
        return tuple((total // 2, total - total // 2) for total in totals)

    def _pad(self, x: Tensor) -> Tensor:
        pads = self._padding(x.shape[1:4])
        if not any(map(any, pads)):
            return x
        return ops.pad(x, ((0, 0), *pads, (0, 0)))


def split_into_tubelets(x: Tensor, tubelet_size: Shape, strides: Shape) -> Tensor:
    """Returns the voxels of tubelets, `(batch, t, h, w, voxels)`.

    Those of a tubelet are in the order of frames, height, width and channels. Axes
    along which tubelets do not lie side by side must be known.
    """
    for axis, (n, stride) in enumerate(zip(tubelet_size, strides, strict=True), 1):
        if n != stride:
            starts = np.arange(0, x.shape[axis] - n + 1, stride)
            x = ops.take(x, np.ravel(starts[:, None] + np.arange(n)), axis)
    _, *size, channels = ops.shape(x)
    p, q, r = tubelet_size
    t, h, w = size[0] // p, size[1] // q, size[2] // r
    x = x[:, : t * p, : h * q, : w * r]
    x = ops.reshape(x, (-1, t, p, h, q, w, r, channels))
    x = ops.transpose(x, (0, 1, 3, 5, 2, 4, 6, 7))
    return ops.reshape(x, (-1, t, h, w, p * q * r * channels))


def _per_voxel(mask: Tensor, video: Tensor) -> Tensor:
    """Broadcasts a mask `(batch, frames)` or one per voxel to `(b, f, h, w)`."""
    mask = ops.cast(mask, "bool")
    voxels, known = tuple(video.shape[:-1]), tuple(mask.shape)
    pairs = zip(voxels, known, strict=False)
    differing = any(None not in pair and pair[0] != pair[1] for pair in pairs)
    if len(known) not in (2, 4) or differing:
        raise ValueError(
            "`mask` must have the shape (batch, frames) or (batch, frames, height, "
            f"width) of the video. Received: mask {known}, video {tuple(video.shape)}"
        )
    if len(known) == 2:
        mask = mask[:, :, None, None]
    return ops.logical_and(mask, ops.ones_like(video[..., 0], dtype="bool"))


@keras.saving.register_keras_serializable("keras_vivit")
class ClassToken(Layer):
    """Flattens the grid, time-major, and puts a learned class token in front.

    The layer owns the token and the token's row of the position table, so that
    the table of the other tokens (`PositionalEncoder`) always is a grid. The
    token starts at zero, its position at N(0, 0.02).

    Args:
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, ..., embed_dim)`, a grid or a sequence.
        mask: Optional boolean tensor `(batch, ...)`, True = keep.

    Returns:
        Tensor `(batch, 1 + tokens, embed_dim)`; a mask gets True in front.

    Example:
    >>> keras_vivit.ClassToken()(np.zeros((2, 4, 4, 4, 64))).shape
    (2, 65, 64)

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691), equation 1
    """

    def __init__(
        self,
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
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        dim = validation.features("inputs", input_shape, 3, "(batch, ..., embed_dim)")
        self.token = self.add_weight(name="token", shape=(dim,), initializer="zeros")
        self.position = self.add_weight(
            name="position",
            shape=(dim,),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.input_spec = keras.InputSpec(min_ndim=3, axes={-1: dim})

    def call(self, inputs: Tensor) -> Tensor:
        shape = ops.shape(inputs)
        tokens = ops.reshape(inputs, (-1, math.prod(shape[1:-1]), shape[-1]))
        token = ops.broadcast_to(self.token + self.position, (shape[0], 1, shape[-1]))
        return ops.concatenate([ops.cast(token, tokens.dtype), tokens], axis=1)

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        if mask is None:
            return None
        mask = validation.mask_of(inputs, mask)
        mask = ops.reshape(mask, (-1, math.prod(ops.shape(mask)[1:])))
        return ops.concatenate([ops.ones_like(mask[:, :1]), mask], axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        grid = input_shape[1:-1]
        tokens = None if None in grid else 1 + math.prod(grid)
        return (input_shape[0], tokens, input_shape[-1])

    def get_config(self) -> Config:  # Keras' own fails if `dtype` is a policy.
        return super().get_config()
