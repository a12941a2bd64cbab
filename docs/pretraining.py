"""Draws the pictures of `pretraining.md`: validation samples, hidden parts filled in.

    python docs/pretraining.py FILE.npz VOLUMES_RUN CLIPS_RUN

VOLUMES_RUN is a run of `examples/organmnist3d/pretrain.py` on FILE.npz, CLIPS_RUN one
of `examples/video/pretrain.py`.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from common import run_folder
from common.report import reconstructions

import keras_vivit

FRAMES = 4  # of each sample
SAMPLES = 2
LEFT = 0.09  # room for the names of the rows


def draw(path, model, samples):
    """Draws frames of two samples, and below them what the model sees and predicts."""
    from matplotlib.figure import Figure

    rows = np.linspace(0, len(samples) - 1, SAMPLES).astype(int)
    steps = reconstructions.steps(model, np.stack([samples[row] for row in rows]))
    figure = Figure((9.6, 4.35), facecolor="black")
    width = (1 - LEFT) / SAMPLES
    for column in range(SAMPLES):
        left = LEFT + column * width
        grid = figure.add_gridspec(
            len(steps), FRAMES, left=left, right=left + width - 0.01,
            bottom=0.01, top=0.99, wspace=0.03, hspace=0.03,
        )  # fmt: skip
        for line, videos in enumerate(steps.values()):
            video = videos[column]
            places = np.linspace(0, len(video) - 1, FRAMES + 2).round().astype(int)
            for i, place in enumerate(places[1:-1]):
                axes = figure.add_subplot(grid[line, i])
                axes.imshow(np.broadcast_to(video[place], (*video.shape[1:3], 3)))
                axes.set_axis_off()
    for line, name in enumerate(steps):
        height = 1 - (line + 0.5) / len(steps)
        style = {"color": "white", "ha": "right", "va": "center", "fontsize": 9}
        figure.text(LEFT - 0.01, height, name.replace(" ", "\n"), **style)
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 85})


def main():
    from video import report, training

    file, volumes_run, clips_run = map(Path, sys.argv[1:])
    record = run_folder.record_of(clips_run)
    clips = training.read(record, label_mode=None).validation
    with np.load(file) as arrays:
        volumes = arrays["val_images"][..., None]
    for name, preset, samples in (
        ("clips", clips_run / "preset", report.Clips(clips)),
        ("volumes", volumes_run / "model", volumes),
    ):
        model = keras_vivit.ViViTMaskedAutoencoder.from_preset(preset)
        draw(Path(__file__).with_name(f"pretraining-{name}.jpg"), model, samples)
    for run in (clips_run, volumes_run):
        history = run_folder.read_history(run)
        print(f"{run.name}: {len(history)} epochs, loss {history[-1]['val_loss']:.3f}")


if __name__ == "__main__":
    main()
