"""What a masked autoencoder makes of the tubelets that it does not see."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vivit.embeddings import split_into_tubelets
from keras_vivit.masking import normalize, take, visible_first


def reconstruct(
    model: keras.Model, videos: Any, means_alone: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Fills hidden tubelets with what a masked autoencoder predicts, for pictures.

    The model predicts normalized voxels: mean and deviation of each tubelet are those
    of the video itself.

    Args:
        model: A `ViViTMaskedAutoencoder`.
        videos: Array `(batch, frames, height, width, channels)`, or a dictionary, as
            the model takes them. Without `hidden_input` it hides the same places at
            each call.
        means_alone: Boolean, fills hidden tubelets with their means, to compare with: a
            model that has learned nothing predicts these.

    Returns:
        Tuple of the videos with the predictions at the hidden voxels, and of a boolean
        array `(batch, frames, height, width)`, True where a voxel is hidden. Where
        tubelets overlap, these are the voxels that no visible one has, and a prediction
        is the mean of all that cover it.

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
    layer, channels = model.get_layer("voxels"), video.shape[-1]
    hidden = np.asarray(hidden, bool)
    places = visible_first(ops.convert_to_tensor(hidden))[:, -predicted.shape[1] :]
    tubelets = take(_tubelets(video, layer), places)
    _, mean, deviation = normalize(tubelets * layer.scale, channels)
    mean, deviation = map(ops.convert_to_numpy, (mean, deviation))
    voxels = predicted.reshape(*predicted.shape[:2], -1, channels)
    voxels = (voxels * deviation * (not means_alone) + mean) / layer.scale

    # The number of each voxel in its video, by tubelet.
    numbers = np.arange(video[0, ..., 0].size).reshape(1, *video.shape[1:4], 1)
    numbers = ops.convert_to_numpy(_tubelets(numbers, layer))[0]
    filled = np.array(video).reshape(len(video), -1, channels)
    covered = np.zeros(filled.shape[:2], bool)
    for i, is_hidden in enumerate(hidden):
        total, count = np.zeros_like(filled[i]), np.zeros((filled.shape[1], 1))
        np.add.at(total, numbers[is_hidden], voxels[i])
        np.add.at(count, numbers[is_hidden], 1)
        count[numbers[~is_hidden]] = 0  # A visible tubelet shows these voxels.
        covered[i] = count[:, 0] > 0
        filled[i, covered[i]] = total[covered[i]] / count[covered[i]]
    return filled.reshape(video.shape), covered.reshape(video.shape[:-1])


def _tubelets(video: np.ndarray, layer: keras.layers.Layer) -> Any:
    x = ops.convert_to_tensor(video)
    return split_into_tubelets(x, layer.tubelet_size, layer.strides)
