"""Retrieval by nearest neighbours: features after each block, and pixels.

    python benchmarks/retrieval.py organmnist3d.npz adrenalmnist3d.npz

For each file of MedMNIST: the share of test volumes, averaged over the classes, whose
nearest training volume by cosine has the same class. Features are those of the model
that is shipped with weights, averaged over the grid. It was trained on OrganMNIST3D
alone: for other sets the features are new.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np

import keras_vivit

RESULTS = Path(__file__).parent / "results"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    backbone = keras_vivit.ViViTClassifier.from_preset("vivit_organmnist3d").backbone
    record = {path.stem: measure(path, extractor(backbone)) for path in options.files}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "retrieval.json").write_text(json.dumps(record, indent=2) + "\n")
    print(*table(record), sep="\n")


def extractor(backbone):
    """Returns a model with a vector for each block."""
    video = keras.Input(backbone.video_shape)
    grids = backbone.features(video)
    return keras.Model(video, [keras.ops.mean(grid, axis=(1, 2, 3)) for grid in grids])


def measure(path, model):
    with np.load(path) as file:
        train, test = (file[f"{split}_images"] for split in ("train", "test"))
        labels, wanted = (file[f"{split}_labels"][:, 0] for split in ("train", "test"))
    features = {"pixels": [x.reshape(len(x), -1) for x in (train, test)]}
    found = [model.predict(x[..., None], verbose=0) for x in (train, test)]
    for i, pair in enumerate(zip(*found, strict=True)):
        features[f"block {i}"] = pair
    return {
        name: round(balanced(labels[nearest(*pair)], wanted), 4)
        for name, pair in features.items()
    }


def nearest(library, queries):
    """The row of the library with the highest cosine, for each query."""
    library, queries = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (np.asarray(library, "float32"), np.asarray(queries, "float32"))
    )
    return (queries @ library.T).argmax(axis=1)


def balanced(found, wanted):
    """The mean over the classes of the share that is right."""
    classes = np.unique(wanted)
    return float(
        np.mean([(found == wanted)[wanted == label].mean() for label in classes])
    )


def table(record):
    names = list(next(iter(record.values())))
    yield f"| features | {' | '.join(record)} |"
    yield f"|---|{'--:|' * len(record)}"
    for name in names:
        cells = (f"{rows[name]:.3f}" for rows in record.values())
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
