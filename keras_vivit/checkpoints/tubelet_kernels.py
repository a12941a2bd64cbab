"""Tubelet kernels from image kernels, and from kernels of another length."""

from typing import Any

import numpy as np

from keras_vivit import validation


def central_frame(kernel: np.ndarray, frames: int) -> np.ndarray:
    """Puts an image kernel into the tubelet's central frame, zeros elsewhere.

    The model then starts as the image model applied to every `frames`-th frame.

    Args:
        kernel: Array `(height, width, channels, embed_dim)`.
        frames: Integer, length of the tubelet.

    Returns:
        Array `(frames, height, width, channels, embed_dim)`.

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691), equation 9
    """
    frames = validation.positive_int("frames", frames)
    kernel = validation.array("kernel", kernel)
    validation.elements(frames=frames, kernel=kernel.shape)
    tubelet = np.zeros((frames, *kernel.shape), kernel.dtype)
    tubelet[frames // 2] = kernel
    return tubelet


def inflate(kernel: np.ndarray, frames: int) -> np.ndarray:
    """Spreads an image kernel evenly over the tubelet's frames.

    Args:
        kernel: Array `(height, width, channels, embed_dim)`.
        frames: Integer, length of the tubelet.

    Returns:
        Array `(frames, height, width, channels, embed_dim)`.

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691), equation 8
    """
    return resample(validation.array("kernel", kernel)[None], frames)


def sum_channels(
    kernel: np.ndarray, bias: np.ndarray, rescaling: tuple[Any, Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fits a kernel to one channel, for videos whose channels are equal.

    The tokens stay the same, unless voxels are masked or padded with zeros.

    Args:
        kernel: Array `(..., channels, embed_dim)`.
        bias: Array `(embed_dim,)`.
        rescaling: Tuple `(scale, offset)` that the channels are rescaled with, numbers
            or one for each channel. The new kernel is for those of the first channel.

    Returns:
        Arrays `(..., 1, embed_dim)` and `(embed_dim,)`.
    """
    kernel, bias = np.asarray(kernel), np.asarray(bias)
    scale, offset = (
        np.broadcast_to(np.asarray(x, float), kernel.shape[-2:-1])
        for x in rescaling or (1, 0)
    )
    # s_c x + o_c = w_c (s x + o) + (o_c - o w_c), where w_c = s_c / s
    weights = scale / scale[0]
    moved = np.einsum("...cd,c->...d", kernel, offset - offset[0] * weights)
    summed = np.einsum("...cd,c->...d", kernel, weights)[..., None, :]
    bias = bias + moved.reshape(-1, moved.shape[-1]).sum(axis=0)
    return summed.astype("float32"), bias.astype("float32")


def resample(kernel: np.ndarray, frames: int) -> np.ndarray:
    """Stretches or shrinks a tubelet kernel in time.

    Each old frame is divided among the new ones that it overlaps with, so that the
    tokens of a still video stay the same. From one frame it is `inflate`.

    Args:
        kernel: Array `(old_frames, height, width, channels, embed_dim)`.
        frames: Integer, new length of the tubelet.

    Returns:
        Array `(frames, height, width, channels, embed_dim)`.
    """
    frames = validation.positive_int("frames", frames)
    kernel = validation.array("kernel", kernel)
    if not kernel.ndim or not len(kernel):
        raise ValueError(
            "`kernel` must have the shape (frames, height, width, channels, "
            f"embed_dim), none of it empty. Received: shape={kernel.shape}"
        )
    validation.elements(frames=frames, kernel=kernel.shape)
    new = np.linspace(0, len(kernel), frames + 1)[:, None]
    old = np.arange(len(kernel) + 1)
    overlap = np.minimum(new[1:], old[1:]) - np.maximum(new[:-1], old[:-1])
    return np.tensordot(np.maximum(overlap, 0), kernel, 1).astype(kernel.dtype)
