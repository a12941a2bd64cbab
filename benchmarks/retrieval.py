"""Retrieval by nearest neighbours: features after each block, and pixels.

    python benchmarks/retrieval.py organmnist3d.npz adrenalmnist3d.npz
    python benchmarks/retrieval.py FOLDER ... --image-vit SOURCE [--picture FILE]

For each set: the share of test samples, averaged over the classes, whose nearest
training sample by cosine has the same class. Features are averaged over the grid.

For files of MedMNIST they are those of the model that is shipped with weights. It was
trained on OrganMNIST3D alone: for other sets the features are new. For folders of
videos they are those of an image model that `from_image_preset` loads, on four frames
of each video. It has never seen such videos, and nothing is trained.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np

import keras_vivit
from keras_vivit import data

RESULTS = Path(__file__).parent / "results"
PATCH, STRIDE = 14, 12
SHAPE = (4, 8 * PATCH, 8 * PATCH, 3)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("sources", nargs="+", type=Path, metavar="FILE or FOLDER")
    add("--image-vit", metavar="SOURCE", help="for folders of videos")
    add("--classes", nargs="+", metavar="NAME", help="leave out videos of others")
    add(
        "--picture",
        type=Path,
        help="file for neighbours by the best features",
    )
    add("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.image_vit:
        name, model = "retrieval-videos.json", image_model(options.image_vit)
    else:
        name, model = "retrieval.json", shipped_model()
    path = options.out / name
    record = json.loads(path.read_text()) if path.exists() else {}
    for source in options.sources:
        read = read_folder if source.is_dir() else read_file
        library, queries = read(source, options.classes)
        features = features_of(model, library[0], queries[0])
        record[source.stem] = measure(features, library[1], queries[1])
        if options.picture:
            best = max(features, key=record[source.stem].get)
            draw(options.picture, ranking(*features[best]), library, queries)
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(*table(record), sep="\n")


# === Videos ===


def read_file(path, _):
    """Returns the volumes and the labels of both splits of a file of MedMNIST."""
    with np.load(path) as file:
        return [
            (file[f"{split}_images"][..., None], file[f"{split}_labels"][:, 0])
            for split in ("train", "test")
        ]


def read_folder(folder, classes):
    """Returns a clip from the middle of each video, and the names of its class."""
    options = {"training": False, "stride": STRIDE, "classes": classes}
    sets = []
    for split in ("train", "test"):
        files = data.VideoFolder(folder, SHAPE, split, **options)
        clips = [np.rint(files[i][0]).astype("uint8") for i in range(len(files))]
        sets.append((np.concatenate(clips), np.array(files.class_names)[files.labels]))
    return sets


# === Features ===


def extractor(backbone, layers):
    """Returns a model with a vector for each of these blocks.

    Args:
        backbone: `ViViTBackbone`.
        layers: Dictionary of names -> block, as `features` takes them.
    """
    video = keras.Input(backbone.video_shape)
    grids = backbone.features(video, list(layers.values()))
    vectors = [keras.ops.mean(grid, axis=(1, 2, 3)) for grid in grids]
    return keras.Model(video, dict(zip(layers, vectors, strict=True)))


def shipped_model():
    backbone = keras_vivit.ViViTClassifier.from_preset("vivit_organmnist3d").backbone
    return extractor(backbone, {f"block {i}": i for i in range(backbone.num_layers)})


def image_model(source):
    """Returns the extractor of an image model, which sees each frame for itself."""
    backbone = keras_vivit.ViViTBackbone.from_image_preset(
        source,
        SHAPE,
        tubelet_size=(1, PATCH, PATCH),
        variant="factorized_encoder",
        num_temporal_layers=1,
        pooling="token",
    )
    blocks = range(2, backbone.num_layers, 3)
    return extractor(backbone, {f"block {i}": f"spatial_block_{i}" for i in blocks})


def features_of(model, library, queries):
    """Returns pairs of arrays: of pixels, and of each vector of the model."""
    found = [model.predict(x, batch_size=8, verbose=0) for x in (library, queries)]
    return {
        "pixels": [x.reshape(len(x), -1) for x in (library, queries)],
        # Keras sorts the outputs by name: block 11 before block 2.
        **{
            name: [vectors[name] for vectors in found]
            for name in sorted(found[0], key=lambda name: (len(name), name))
        },
    }


def measure(features, labels, wanted):
    return {
        name: round(balanced(labels[ranking(*pair)[:, 0]], wanted), 4)
        for name, pair in features.items()
    }


def ranking(library, queries):
    """The rows of the library for each query, that with the highest cosine first."""
    library, queries = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (np.asarray(library, "float32"), np.asarray(queries, "float32"))
    )
    return np.argsort(-queries @ library.T, axis=1, kind="stable")


def draw(path, ranks, library, queries, shown=4):
    """Draws a test sample of each class, and the training samples nearest to it."""
    from matplotlib.figure import Figure

    names = np.unique(queries[1])
    figure = Figure((1.6 * (shown + 1), 1.9 * len(names)), layout="constrained")
    for row, name in zip(figure.subplots(len(names), shown + 1), names, strict=True):
        query = np.flatnonzero(queries[1] == name)[0]
        samples = [(queries, query), *((library, i) for i in ranks[query, :shown])]
        for axes, ((videos, labels), i) in zip(row, samples, strict=True):
            axes.imshow(videos[i][len(videos[i]) // 2])
            axes.set(xticks=[], yticks=[])
            color = "#2a8a5b" if labels[i] == name else "#c0401a"
            axes.set_xlabel(labels[i].replace("_", " "), color=color, size=9)
        row[0].set_title("test" if name == names[0] else "", size=9)
        row[1].set_title("nearest training videos" if name == names[0] else "", size=9)
    figure.savefig(path, dpi=80)


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
