"""What a masked autoencoder makes of the tubelets that it does not see."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vivit.embeddings import split_into_tubelets
from keras_vivit.masking import normalize, take, visible_first


def reconstruct(model: keras.Model, videos: Any) -> tuple[np.ndarray, np.ndarray]:
    """Fills hidden tubelets with what a masked autoencoder predicts, for pictures.

    The model predicts normalized voxels: mean and deviation of each tubelet are those
    of the video itself.

    Args:
        model: A `ViViTMaskedAutoencoder`.
        videos: Array `(batch, frames, height, width, channels)`, or a dictionary, as
            the model takes them. Without `hidden_input` it hides the same places at
            each call.

    Returns:
        Tuple of the videos with the predictions at the hidden voxels, and of a boolean
        array `(batch, frames, height, width)`, True where a voxel is hidden.

    Raises:
        ValueError: If a mask does not hide as many tokens as the model does.

    Example:
    >>> model = keras_vivit.ViViTMaskedAutoencoder(
    ...     (4, 16, 16, 1), tubelet_size=(2, 4, 4), mask_ratio=0.75, embed_dim=16,
    ...     num_layers=1, num_heads=2, mlp_dim=32, decoder_dim=8, decoder_num_layers=1,
    ...     decoder_num_heads=2, decoder_mlp_dim=16)
    >>> filled, hidden = keras_vivit.visualization.reconstruct(
    ...     model, np.zeros((2, 4, 16, 16, 1)))
    >>> filled.shape, hidden.shape, float(hidden.mean())
    ((2, 4, 16, 16, 1), (2, 4, 16, 16), 0.75)
    """
    outputs = keras.Model(model.input, model.get_layer("voxels").input)
    predicted, video, hidden = outputs.predict_on_batch(videos)
    if np.isnan(predicted).any():
        raise ValueError(
            '`videos["hidden"]` must hide as many tokens as `mask_ratio` says, in the '
            "same places of all frames where the variant is factorized. Received: "
            f"{np.reshape(hidden, (len(hidden), -1)).sum(1).tolist()} hidden tokens, "
            f"mask_ratio={model.mask_ratio}"
        )
    size, channels = model.backbone.tubelet_size, video.shape[-1]
    scale = 1 / (model.value_range[1] - model.value_range[0])
    hidden = np.asarray(hidden, bool)
    places = visible_first(ops.convert_to_tensor(hidden))[:, -predicted.shape[1] :]
    tubelets = split_into_tubelets(ops.convert_to_tensor(video), size)
    _, mean, deviation = normalize(take(tubelets, places) * scale, channels)
    mean, deviation = map(ops.convert_to_numpy, (mean, deviation))
    voxels = predicted.reshape(*predicted.shape[:2], -1, channels)
    grid = np.array(ops.convert_to_numpy(tubelets))
    grid[hidden] = ((voxels * deviation + mean) / scale).reshape(-1, grid.shape[-1])
    filled, covered = np.array(video), np.zeros(video.shape[:-1], bool)
    t, h, w = (n * p for n, p in zip(hidden.shape[1:], size, strict=True))
    filled[:, :t, :h, :w] = _join(grid, size, channels)
    for axis, n in enumerate(size, start=1):
        hidden = hidden.repeat(n, axis)
    covered[:, :t, :h, :w] = hidden
    return filled, covered


def _join(tubelets: np.ndarray, size: tuple[int, ...], channels: int) -> np.ndarray:
    """Undoes `split_into_tubelets`."""
    batch, t, h, w, _ = tubelets.shape
    p, q, r = size
    x = tubelets.reshape(batch, t, h, w, p, q, r, channels)
    x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, t * p, h * q, w * r, channels)
