"""Draws the picture of `volumes.md`: a body, stored askew, and read into directions.

python docs/volumes.py
"""

import tempfile
from pathlib import Path

import nibabel
import numpy as np
from matplotlib.figure import Figure

from keras_vivit.data import read_volume

SPACING = (2.0, 2.0, 6.0)  # along R, A, S: thick slices
# Rows of a picture and columns of it, as axes of an RAS volume.
VIEWS = {"coronal": (1, "R", "S"), "axial": (2, "R", "A"), "sagittal": (0, "A", "S")}


def body():
    """A trunk with a liver on the right, a spine behind and a heart at the left."""
    r, a, s = np.meshgrid(
        np.linspace(-1, 1, 80),
        np.linspace(-1, 1, 60),
        np.linspace(-1, 1, 30),
        indexing="ij",
    )

    def ball(centre, radii):
        distances = (
            (x - c) / q for x, c, q in zip((r, a, s), centre, radii, strict=True)
        )
        return sum(d**2 for d in distances) < 1

    volume = np.where(r**2 / 0.8 + a**2 / 0.5 < 1, 40.0, -1000.0)
    volume[ball((0.4, 0.1, -0.3), (0.4, 0.4, 0.35))] = 120
    volume[ball((-0.25, 0.2, 0.4), (0.25, 0.25, 0.3))] = 180
    volume[(r**2 + (a + 0.5) ** 2) < 0.015] = 400
    return volume


def draw(axes, volume, title, labels=True):
    for axis, (name, (along, across, up)) in zip(axes, VIEWS.items(), strict=True):
        picture = np.take(volume, volume.shape[along] // 2, axis=along)
        axis.imshow(picture.T, cmap="gray", origin="lower", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[], title=f"{title}, {name}" if labels else title)
        if labels:
            axis.set_xlabel(f"to {across} →")
            axis.set_ylabel(f"to {up} →")


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scan.nii.gz")
        # Stored as scanners do: slices first, from the head down, axes reversed.
        stored = body().transpose(2, 1, 0)[::-1, ::-1, ::-1]
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2] = -SPACING[2], -SPACING[1], -SPACING[0]
        affine[3, 3] = 1
        nibabel.save(nibabel.Nifti1Image(stored, affine), path)
        turned = read_volume(path, window=(-160, 240))[..., 0]
        even = read_volume(path, window=(-160, 240), spacing=2)[..., 0]
    figure = Figure(figsize=(9, 8.5), layout="constrained")
    rows = figure.subplots(3, 3)
    scaled = np.clip((stored + 160) / 400 * 255, 0, 255)
    draw(rows[0], scaled, "as stored", labels=False)
    draw(rows[1], turned, "RAS")
    draw(rows[2], even, "RAS, spacing=2")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=90)


if __name__ == "__main__":
    main()
