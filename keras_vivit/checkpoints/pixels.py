"""The pixels that a checkpoint expects: `preprocessor_config.json`."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from keras_vivit.checkpoints.tensors import read_json
from keras_vivit.types import Shape

Rescaling: TypeAlias = tuple[Any, Any] | None

FILE = "preprocessor_config.json"
# Scenic trains on pixels in [-1, 1].
RESCALING = (1 / 127.5, -1.0)
# VideoMAE on pixels with ImageNet's mean and deviation.
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
IMAGENET = ((1 / (255 * _STD)).tolist(), (-_MEAN / _STD).tolist())
# Where a folder of `transformers` does not tell.
DEFAULTS: dict[str, Rescaling] = {
    **dict.fromkeys(("videomae", "dinov2", "vit_mae"), IMAGENET),
    "timesformer": (1 / (255 * 0.225), -0.45 / 0.225),
}


def read(folder: Path, model_type: str) -> Rescaling:
    """Returns the `rescaling` of a folder in the `transformers` format.

    Raises:
        ValueError: If the file is there, but cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return DEFAULTS.get(model_type, RESCALING)
    config = read_json(path)
    # Only ViViT's processor has an offset.
    vivit = "Vivit" in str(config.get("image_processor_type", "VivitImageProcessor"))
    offset = model_type == "vivit" and bool(config.get("offset", vivit))
    normalize = config.get("do_normalize", True)
    if offset and normalize:
        # The processor of google/vivit-b-16x2-kinetics400 rescales to [-1, 1] and then
        # normalizes to [-3, 1]; its weights come from Scenic, which does the former.
        return RESCALING
    scale = 1.0
    if config.get("do_rescale", True):
        scale = config.get("rescale_factor", 1 / 127.5 if offset else 1 / 255)
    mean = config.get("image_mean", 0.5) if normalize else 0.0
    std = config.get("image_std", 0.5) if normalize else 1.0
    try:
        numbers = np.broadcast_arrays(
            *(np.asarray(x, float) for x in (scale, mean, std))
        )
        if (
            not np.isfinite(numbers).all()
            or not numbers[2].all()
            or numbers[0].ndim > 1
            or not numbers[0].size
        ):
            raise ValueError("no finite numbers, or a deviation of zero")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must hold numbers, one or one for each channel, as "
            f"`rescale_factor`, `image_mean` and `image_std`. Received: {error}"
        ) from error
    scales, means, stds = map(np.ravel, numbers)
    rescaling = scales / stds, (-float(offset) - means) / stds
    if all((x == x[0]).all() for x in rescaling):  # One for all channels.
        rescaling = tuple(x[0] for x in rescaling)
        if rescaling == (1, 0):
            return None
    return rescaling[0].tolist(), rescaling[1].tolist()


def processor(
    rescaling: Rescaling, video_shape: Shape, name: str = "VivitImageProcessor"
) -> dict[str, Any]:
    """Returns the configuration of a processor that rescales as a model does.

    Args:
        rescaling: The model's `(scale, offset)`, or None.
        video_shape: The model's `(frames, height, width, channels)`.
        name: The processor's class.

    Returns:
        Dictionary for `preprocessor_config.json`.
    """
    _, height, width, channels = video_shape
    scale, offset = (
        np.broadcast_to(np.asarray(x, float), (channels,))
        for x in ((1, 0) if rescaling is None else rescaling)
    )
    vivit = "Vivit" in name
    by_offset = vivit and (scale == scale[0]).all() and (offset == -1).all()
    normalize = rescaling is not None and not by_offset
    # ViViT's video processor subtracts 1 whenever it rescales, so that other offsets
    # are written as a mean and a deviation of raw pixels.
    factor = (
        float(scale[0]) if by_offset else 1.0 if vivit or not normalize else 1 / 255
    )
    return {
        "image_processor_type": name,
        "do_resize": True,
        "size": {"shortest_edge": min(height, width)},
        "resample": 2,  # Bilinear.
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": bool(by_offset) or factor != 1,
        "rescale_factor": factor,
        "offset": bool(by_offset),
        "do_normalize": normalize,
        "image_mean": (-offset / scale * factor if normalize else 0 * scale).tolist(),
        "image_std": (factor / scale if normalize else 1 + 0 * scale).tolist(),
    }
