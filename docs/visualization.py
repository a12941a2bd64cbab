"""Draws the pictures of `visualization.md`, and prints its tables.

python docs/visualization.py FILE.npz
"""

import json
import sys
from pathlib import Path

import numpy as np
from organmnist3d import NAMES

import keras_vivit
from keras_vivit import visualization

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
SHOWN = ("liver", "heart", "bladder", "spleen")
SLICES = (8, 13, 18)  # of 28
MAPS = {
    "relevance": visualization.relevance,
    "rollout": visualization.attention_rollout,
    "Grad-CAM": visualization.grad_cam,
}
TITLES = {
    "organmnist3d": "OrganMNIST3D, shipped model",
    "squares": "moving squares",
    "videos": "moving shapes, video example",
}


def read(name):
    return json.loads((RESULTS / f"explanations-{name}.json").read_text())


def table(record):
    """Returns the lines of the table of areas."""
    methods = record["methods"]
    columns = {"deletion ↓": "deletion_area", "insertion ↑": "insertion_area"}
    if "inside" in methods["relevance"]:
        columns["inside ↑"] = "inside"
    yield f"| map | {' | '.join(columns)} |"
    yield f"|---|{'--:|' * len(columns)}"
    for name, row in methods.items():
        cells = [f"{row[key]:.1f}" if key == "inside" else f"{row[key]:.3f}"
                 for key in columns.values()]  # fmt: skip
        yield f"| {name} | {' | '.join(cells)} |"


def tables():
    """Returns the lines of all tables of the page."""
    return [line for name in TITLES for line in table(read(name))]


def draw_curves(path):
    from matplotlib.figure import Figure

    figure = Figure((8.4, 3 * len(TITLES)), layout="constrained")
    grid = figure.subplots(len(TITLES), 2, sharex=True)
    colors = ("#1769aa", "#2a8a5b", "#c0601a", "#999999")
    for row, (name, title) in zip(grid, TITLES.items(), strict=True):
        record = read(name)
        for axes, kind in zip(row, ("deletion", "insertion"), strict=True):
            for (method, values), color in zip(
                record["methods"].items(), colors, strict=True
            ):
                axes.plot(record["fractions"], values[kind], color=color, label=method)
            axes.set(title=f"{title}: {kind}", ylim=(0, 1.02))
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("probability of the class")
    grid[0][0].legend(frameon=False)
    for axes, word in zip(grid[-1], ("blanked", "shown"), strict=True):
        axes.set_xlabel(f"share of voxels {word}")
    figure.savefig(path, dpi=90)


def draw_organs(path, volumes, model):
    """Draws slices of volumes, and the same with each map over them."""
    from matplotlib.figure import Figure

    columns = {"": volumes[..., None].repeat(3, axis=-1)}
    for name, function in MAPS.items():
        maps = function(model, volumes[..., None])
        columns[name] = visualization.overlay(volumes[..., None], maps)
    figure = Figure((9.6, 4 * 0.78 + 0.3), facecolor="black")
    width = len(SLICES)
    for place, (title, frames) in enumerate(columns.items()):
        left = 0.075 + 0.232 * place
        grid = figure.add_gridspec(
            len(volumes), width, left=left, right=left + 0.222, bottom=0.01, top=0.91,
            wspace=0.03, hspace=0.03,
        )  # fmt: skip
        for row, video in enumerate(frames):
            for column, index in enumerate(SLICES):
                axes = figure.add_subplot(grid[row, column])
                axes.imshow(video[index], interpolation="bicubic")
                axes.set_axis_off()
        figure.text(left + 0.111, 0.94, title, color="white", ha="center", fontsize=10)
    for row, name in enumerate(SHOWN):
        figure.text(0.068, 0.8 - 0.225 * row, name, color="white", ha="right", size=9)
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 85})


def rows_of(model, volumes, labels):
    """The first volume of each organ, of five, that is predicted right."""
    for name in SHOWN:
        label = NAMES.index(name)
        rows = np.flatnonzero(labels == label)[:5]
        predicted = model.predict(volumes[rows][..., None], verbose=0).argmax(axis=1)
        yield rows[predicted == label][0]


def main():
    target = Path(__file__).with_name
    with np.load(sys.argv[1]) as file:
        volumes, labels = file["test_images"], file["test_labels"][:, 0]
    model = keras_vivit.ViViTClassifier.from_preset("vivit_organmnist3d")
    rows = list(rows_of(model, volumes, labels))
    draw_organs(target("visualization-organs.jpg"), volumes[rows], model)
    draw_curves(target("visualization-curves.png"))
    print(*tables(), sep="\n")


if __name__ == "__main__":
    main()
