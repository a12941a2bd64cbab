"""Tubelet kernels from image kernels, and from kernels of another length."""

import numpy as np

from keras_vivit import validation


def central_frame(kernel, frames):
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
    validation.positive_int("frames", frames)
    kernel = np.asarray(kernel)
    tubelet = np.zeros((frames, *kernel.shape), kernel.dtype)
    tubelet[frames // 2] = kernel
    return tubelet


def inflate(kernel, frames):
    """Spreads an image kernel evenly over the tubelet's frames.

    Args:
        kernel: Array `(height, width, channels, embed_dim)`.
        frames: Integer, length of the tubelet.

    Returns:
        Array `(frames, height, width, channels, embed_dim)`.

    Reference:
        [ViViT, Arnab et al., 2021](https://arxiv.org/abs/2103.15691), equation 8
    """
    return resample(np.asarray(kernel)[None], frames)


def resample(kernel, frames):
    """Stretches or shrinks a tubelet kernel in time.

    Each old frame is divided among the new ones that it overlaps with, so that the
    tokens of a still video stay the same. From one frame it is `inflate`.

    Args:
        kernel: Array `(old_frames, height, width, channels, embed_dim)`.
        frames: Integer, new length of the tubelet.

    Returns:
        Array `(frames, height, width, channels, embed_dim)`.
    """
    validation.positive_int("frames", frames)
    kernel = np.asarray(kernel)
    new = np.linspace(0, len(kernel), frames + 1)[:, None]
    old = np.arange(len(kernel) + 1)
    overlap = np.minimum(new[1:], old[1:]) - np.maximum(new[:-1], old[:-1])
    return np.tensordot(np.maximum(overlap, 0), kernel, 1).astype(kernel.dtype)
