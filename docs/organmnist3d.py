"""Draws the pictures of `organmnist3d.md`: what the shipped model says of test volumes.

python docs/organmnist3d.py FILE.npz
"""

import sys
from pathlib import Path

import numpy as np
from drawing import Drawing

import keras_vivit

NAMES = (
    *("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder"),
    *("heart", "lung-right", "lung-left", "spleen", "pancreas"),
)
PRESET = "vivit_organmnist3d_v2"
EARLIER = "vivit_organmnist3d"  # It mistakes sides more often.
SIDES = np.array([0, 2, 1, 4, 3, 5, 6, 8, 7, 9, 10])  # of the mirror image
SLICES = 8  # of 28, evenly spread
MISTAKES = 6
SCANS = 14
SPLITS = {"train": "training", "val": "validation", "test": "test"}
CELL, LEFT, TOP = 26, 104, 112  # pixels; room for the names


def predict(path):
    """The model, test volumes, their labels, and the probabilities of one view."""
    with np.load(path) as file:
        volumes, labels = file["test_images"], file["test_labels"][:, 0]
    model = keras_vivit.ViViTClassifier.from_preset(PRESET)
    return model, volumes, labels, model.predict(volumes[..., None], verbose=0)


def with_relevance(model, volumes):
    """Returns each volume, and after it the same with what speaks for the answer."""
    from keras_vivit.visualization import overlay, relevance

    volumes = volumes[..., None]
    shown = overlay(volumes, relevance(model, volumes))
    pairs = np.stack([np.broadcast_to(volumes, shown.shape), shown], axis=1)
    return pairs.reshape(-1, *shown.shape[1:])


def confusion(labels, predicted):
    """Draws counts of volumes: a row for each class, a column for each answer."""
    counts = np.zeros((len(NAMES), len(NAMES)), int)
    np.add.at(counts, (labels, predicted), 1)
    side = len(NAMES) * CELL
    title = "Confusion matrix: actual classes in rows, predicted ones in columns"
    drawing = Drawing(title, LEFT + side + 12, TOP + side + 12)
    drawing.text(1, TOP - 28, "predicted →", "title")
    drawing.text(1, TOP - 8, "actual ↓", "title")
    for i, name in enumerate(NAMES):
        drawing.text(1, TOP + i * CELL + 18, name, "note")
        drawing.text(LEFT + i * CELL + 17, TOP - 8, name, "note", upwards=True)
    for (row, column), count in np.ndenumerate(counts):
        x, y = LEFT + column * CELL, TOP + row * CELL
        css = "cell" if not count else "key" if row == column else "query"
        drawing.rectangle(x + 1, y + 1, CELL - 2, CELL - 2, css)
        if count:
            drawing.text(x + CELL / 2, y + 18, str(count), "middle")
    return str(drawing)


def draw_slices(path, rows, volumes, labels, probabilities):
    """Draws slices of volumes in two columns, with the label and the prediction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 0.52 * -(-len(rows) // 2)), facecolor="black")
    spaces = {"wspace": 0.04, "hspace": 0.08, "bottom": 0, "top": 1}
    columns = (rows[0::2], 0.15, 0.5), (rows[1::2], 0.65, 1)
    for column, left, right in columns:
        grid = figure.add_gridspec(
            len(rows[0::2]), SLICES, left=left, right=right, **spaces
        )
        for line, row in enumerate(column):
            axes = [figure.add_subplot(grid[line, i]) for i in range(SLICES)]
            draw_volume(axes, volumes[row], labels[row], probabilities[row])
    figure.savefig(path, dpi=150, pil_kwargs={"quality": 85})


def draw_volume(axes, volume, label, probabilities):
    predicted = probabilities.argmax()
    right = predicted == label
    mark = "✓" if right else "✗"
    text = f"{mark} {NAMES[predicted]} {probabilities[predicted]:.2f}"
    style = {"ha": "right", "transform": axes[0].transAxes, "fontsize": 7.5}
    axes[0].text(-0.15, 0.58, NAMES[label], color="white", **style)
    color = "#8fc1f7" if right else "#f0a35e"
    axes[0].text(-0.15, 0.18, text, color=color, **style)
    places = np.linspace(0, len(volume) - 1, SLICES + 2).round().astype(int)
    for axis, place in zip(axes, places[1:-1], strict=True):
        show(axis, volume[place])


def show(axis, picture):
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axis.set_axis_off()


def draw_scans(path, file):
    """Draws the first livers and right kidneys: one slice across the body of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 2.96), facecolor="black")
    axes = figure.subplots(
        4,
        SCANS,
        gridspec_kw={
            **{"wspace": 0.04, "hspace": 0.04},
            **{"left": 0.15, "right": 1, "bottom": 0, "top": 1},
        },
    )
    cases = [(split, label) for label in (0, 1) for split in ("train", "val")]
    for line, (split, label) in zip(axes, cases, strict=True):
        rows = np.flatnonzero(file[f"{split}_labels"][:, 0] == label)[:SCANS]
        place = {"ha": "right", "va": "center", "transform": line[0].transAxes}
        text = f"{NAMES[label]}\n{SPLITS[split]}"
        line[0].text(-0.15, 0.5, text, color="white", fontsize=7.5, **place)
        for axis, volume in zip(line, file[f"{split}_images"][rows], strict=True):
            show(axis, volume[:, :, volume.shape[2] // 2].T)
    figure.savefig(path, dpi=150, pil_kwargs={"quality": 85})


def spines_in_front(file, split):
    """How many livers have their bone nearer to the low end of axis 1, and of how many.

    Bone saturates the voxels' range.
    """
    livers = file[f"{split}_images"][file[f"{split}_labels"][:, 0] == 0]
    bone = (livers >= 250).mean(axis=(1, 3))
    middle = bone @ np.arange(bone.shape[1]) / bone.sum(axis=1)
    return int((middle < (bone.shape[1] - 1) / 2).sum()), len(livers)


def main():
    with np.load(sys.argv[1]) as file:
        draw_scans(Path(__file__).with_name("organmnist3d-scans.jpg"), file)
        for split in SPLITS:
            print(
                split, "livers with the spine in front:", spines_in_front(file, split)
            )
    model, volumes, labels, probabilities = predict(sys.argv[1])
    predicted = probabilities.argmax(axis=1)
    target = Path(__file__).with_name
    target("organmnist3d-confusion.svg").write_text(confusion(labels, predicted))
    wrong = np.flatnonzero(predicted != labels)
    confident = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])]
    for name, rows in (
        ("classes", [np.argmax(labels == label) for label in range(len(NAMES))]),
        ("mistakes", confident[:MISTAKES]),
    ):
        path = target(f"organmnist3d-{name}.jpg")
        draw_slices(path, rows, volumes, labels, probabilities)
    print(f"{len(wrong)} of {len(labels)} are wrong.")
    model = keras_vivit.ViViTClassifier.from_preset(EARLIER)
    probabilities = model.predict(volumes[..., None], verbose=0)
    others = SIDES[labels]
    swapped = np.flatnonzero(
        (others != labels) & (others == probabilities.argmax(axis=1))
    )
    print(f"{EARLIER}: {len(swapped)} of the side.")
    some = np.repeat(swapped[:MISTAKES], 2)
    draw_slices(
        target("organmnist3d-sides.jpg"),
        range(len(some)),
        with_relevance(model, volumes[some[::2]]),
        labels[some],
        probabilities[some],
    )


if __name__ == "__main__":
    main()
