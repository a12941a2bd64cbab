"""Draws the picture of `augmentation.md`: eight videos, changed by each layer.

python docs/augmentation.py
"""

from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_vivit import augmentation

LAYERS = (
    augmentation.RandomFlip("width", seed=1),
    augmentation.RandomAffine(rotation=15, scale=0.15, shift=0.1, seed=1),
    augmentation.RandomIntensity(gain=0.3, offset=0.2, gamma=0.5, noise=0.1, seed=1),
    augmentation.RandomErasing((7, 7, 7), rate=0.25, seed=1),
    augmentation.RandomResizedCrop((28, 28), scale=(0.2, 1.0), seed=1),
    augmentation.RandomClip(8, rate=(0.5, 2.0), seed=1),
    augmentation.RandomColorJitter(0.4, 0.4, 0.6, 0.2, seed=1),
    augmentation.RandAugment(num_ops=2, magnitude=0.6, seed=3),
    augmentation.MixUp(seed=32),
    augmentation.CutMix(seed=50),
)


def volumes():
    """A bright ball with a dark corner cut out, and a box: four samples of each."""
    grid = (np.indices((28, 28, 28)) - 13.5) / 14
    ball = np.where(np.linalg.norm(grid, axis=0) < 0.75, 200.0, 40.0)
    ball[:, :13, 15:] *= 0.4
    box = np.where(np.abs(grid).max(axis=0) < 0.55, 150.0, 20.0)
    colors = np.array([[1.2, 0.9, 0.5], [0.5, 0.8, 1.2]])
    pair = np.stack([ball, box])[..., None] * colors[:, None, None, None]
    return np.tile(pair, (4, 1, 1, 1, 1)).astype("float32")


def main():
    videos, labels = volumes(), np.eye(2, dtype="float32")[[0, 1] * 4]
    rows = {"original": (videos, labels)}
    for layer in LAYERS:
        outputs = layer({"videos": videos, "labels": labels})
        arrays = (outputs[name] for name in ("videos", "labels"))
        rows[type(layer).__name__] = tuple(map(keras.ops.convert_to_numpy, arrays))
    figure = Figure(figsize=(8.4, 12.8), layout="constrained")
    for axes, (name, (videos, labels)) in zip(
        figure.subplots(len(rows), 8), rows.items(), strict=True
    ):
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axis, video, label in zip(axes, videos, labels, strict=True):
            axis.imshow(np.clip(video[len(video) // 2] / 255, 0, 1))
            axis.set_title(f"{label[0]:.2f}", fontsize=8)
            axis.set(xticks=[], yticks=[])
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)


if __name__ == "__main__":
    main()
