"""Which map finds what a classifier looks at: deletion and insertion curves.

    python benchmarks/explanations.py organmnist3d FILE.npz
    python benchmarks/explanations.py squares
    python benchmarks/explanations.py videos FOLDER --model PRESET

`organmnist3d` explains the shipped model on test volumes. `squares` trains a small
model to tell in which of four directions a square moves among noise, and explains that.
`videos` explains a model of `examples/video/train.py` on the test videos of its folder.

Deletion replaces the highest voxels of a map first, insertion adds them first to an
empty video; empty is the mean of the video. A good map has a low curve of the predicted
class's probability by deletion, and a high one by insertion. `random` orders voxels by
noise of the grid's size. For `squares`, where the object is known, there is also the
share of a map that lies in the tokens that the square touches, divided by the share of
these tokens.
"""

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np

import keras_vivit
from keras_vivit import data, visualization

RESULTS = Path(__file__).parent / "results"
FRACTIONS = np.linspace(0, 1, 11)
METHODS = {
    "relevance": visualization.relevance,
    "rollout": visualization.attention_rollout,
    "Grad-CAM": visualization.grad_cam,
    "random": lambda model, videos: noise(model, videos),
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("organmnist3d", "squares", "videos"))
    parser.add_argument(
        "source", nargs="?", type=Path, help="npz file of MedMNIST, or folder of videos"
    )
    parser.add_argument("--model", metavar="PRESET", help="for videos")
    parser.add_argument("--videos", type=int, default=304)
    parser.add_argument("--epochs", type=int, default=16, help="of training, squares")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--gif", type=Path, help="file for relevance of three videos")
    options = parser.parse_args(arguments)
    if options.data != "squares" and options.source is None:
        parser.error(f"{options.data} needs a file or a folder")
    if options.data == "videos" and options.model is None:
        parser.error("videos needs --model")
    keras.utils.set_random_seed(0)
    boxes = None
    if options.data == "squares":
        model = train(options.epochs)
        videos, labels, boxes = squares(options.videos, seed=2)
    elif options.data == "videos":
        model = keras_vivit.ViViTClassifier.from_preset(options.model)
        videos, labels = clips(model, options.source)
        videos, labels = videos[: options.videos], labels[: options.videos]
    else:
        model = keras_vivit.ViViTClassifier.from_preset("vivit_organmnist3d")
        with np.load(options.source) as file:
            videos, labels = file["test_images"][..., None], file["test_labels"][:, 0]
        videos, labels = videos[: options.videos], labels[: options.videos]
    if options.gif:
        maps = visualization.relevance(model, videos[:3])
        frames = visualization.overlay(videos[:3], maps)
        visualization.save_gif(options.gif, frames, fps=4, scale=5)
    record = measure(model, videos, labels, boxes)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"explanations-{options.data}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(table(record))


def clips(model, folder):
    """Returns the middle of each test video, as the model takes it, and its label."""
    files = data.VideoFolder(
        folder,
        model.input_shape[1:],
        "test",
        stride=model.sampling["stride"],
        target_fps=model.sampling.get("fps"),
        classes=model.class_names,
    )
    batches = [files[i] for i in range(len(files))]
    return [np.concatenate(arrays) for arrays in zip(*batches, strict=True)]


def measure(model, videos, labels, boxes=None):
    """Returns the curves of each method, and their areas."""
    probabilities = model.predict(videos, verbose=0)
    predicted = probabilities.argmax(axis=1)
    record = {
        "videos": len(videos),
        "accuracy": float((predicted == labels).mean()),
        "fractions": FRACTIONS.tolist(),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "methods": {},
    }
    for name, function in METHODS.items():
        start = time.perf_counter()
        maps = function(model, videos)
        seconds = (time.perf_counter() - start) / len(videos)
        ranks = ranks_of(maps, videos.shape[1:-1])
        row = {"ms_per_video": round(1000 * seconds, 2)}
        for kind in ("deletion", "insertion"):
            curve = curve_of(model, videos, ranks, predicted, kind)
            row[kind] = [round(float(value), 4) for value in curve]
            row[f"{kind}_area"] = round(float(np.trapezoid(curve, FRACTIONS)), 4)
        if boxes is not None:
            row["inside"] = round(inside(maps, boxes), 2)
        record["methods"][name] = row
        print(name, {k: v for k, v in row.items() if not isinstance(v, list)})
    return record


def noise(model, videos):
    grid = visualization.attention_rollout(model, videos[:1]).shape[1:]
    return np.random.default_rng(0).random((len(videos), *grid), "float32")


def ranks_of(maps, shape):
    """The place of each voxel in the order of its map, from 0 (highest) to 1."""
    ranks = []
    for heat in maps:
        heat = keras_vivit.resize_position_table(heat[..., None], shape)
        order = np.argsort(-heat.ravel(), kind="stable")
        rank = np.empty(order.size, "float32")
        rank[order] = np.arange(order.size) / order.size
        ranks.append(rank.reshape(*shape, 1))
    return np.stack(ranks)


def curve_of(model, videos, ranks, predicted, kind):
    """The mean probability of the predicted classes, for each of `FRACTIONS`."""
    empty = videos.mean(axis=(1, 2, 3, 4), keepdims=True)
    curve = []
    for fraction in FRACTIONS:
        highest = ranks < fraction
        shown = ~highest if kind == "deletion" else highest
        changed = np.where(shown, videos, empty).astype("float32")
        probabilities = model.predict(changed, verbose=0)
        curve.append(probabilities[np.arange(len(videos)), predicted].mean())
    return np.array(curve)


def inside(maps, boxes):
    """How many times the mean of all tokens those have that the square touches."""
    grid = maps.shape[1:]
    sizes = [n // g for n, g in zip(boxes.shape[1:], grid, strict=True)]
    tokens = boxes.reshape(len(boxes), *sum(zip(grid, sizes, strict=True), ()))
    touched = tokens.any(axis=(2, 4, 6))
    shares = (maps * touched).sum(axis=(1, 2, 3)) / (maps.sum(axis=(1, 2, 3)) + 1e-12)
    return float((shares / touched.mean(axis=(1, 2, 3))).mean())


# === Squares ===

SHAPE, SIDE, STEP = (8, 24, 24, 1), 6, 2


def squares(number, seed):
    """Videos `(number, 8, 24, 24, 1)` of noise and a square that moves.

    Returns them with labels, the direction (left, right, up, down), and with a boolean
    array of where the square is.
    """
    rng = np.random.default_rng(seed)
    frames, height, width, _ = SHAPE
    labels = rng.integers(0, 4, number)
    boxes = np.zeros((number, frames, height, width), bool)
    way = STEP * (frames - 1)
    for box, label in zip(boxes, labels, strict=True):
        start = rng.integers(
            0, [height - SIDE - way, width - SIDE - way], endpoint=True
        )
        across = rng.integers(0, way, endpoint=True)
        for i, frame in enumerate(box):
            moved = STEP * i if label % 2 else way - STEP * i
            shift = (across, moved) if label < 2 else (moved, across)
            top, left = start + shift
            frame[top : top + SIDE, left : left + SIDE] = True
    videos = rng.normal(size=(number, *SHAPE)).astype("float32")
    videos += 1.5 * boxes[..., None]
    return videos, labels, boxes


def train(epochs):
    model = keras_vivit.ViViTClassifier(
        SHAPE,
        num_classes=4,
        tubelet_size=(2, 4, 4),
        variant="spatio_temporal",
        embed_dim=48,
        num_layers=3,
        num_heads=4,
        mlp_dim=96,
        seed=0,
    )
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, 30 * epochs)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.05, global_clipnorm=1.0),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    for epoch in range(epochs):
        videos, labels, _ = squares(960, seed=100 + epoch)
        model.fit(videos, labels, batch_size=32, verbose=0)
    return model


# === Table ===


def table(record):
    """Returns the areas as a table in Markdown."""
    squares_too = any("inside" in row for row in record["methods"].values())
    lines = ["| map | deletion ↓ | insertion ↑ |", "|---|--:|--:|"]
    if squares_too:
        lines = ["| map | deletion ↓ | insertion ↑ | inside ↑ |", "|---|--:|--:|--:|"]
    for name, row in record["methods"].items():
        cells = [f"{row['deletion_area']:.3f}", f"{row['insertion_area']:.3f}"]
        if squares_too:
            cells.append(f"{row['inside']:.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
