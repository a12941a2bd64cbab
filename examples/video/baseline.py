"""What a ridge classifier of pixels reaches: a model should be well above it.

    python examples/video/baseline.py FOLDER [--classes NAME ...] --out RUN_FOLDER

The classifier sees the mean and the standard deviation of each video's frames, grey and
of 16 x 16 pixels. `collect.py` takes the folder as that of a training.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from common.command_line import choose_backend, exit_status, input_errors

SIZE = (16, 16)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with train and test videos")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="leave out others")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN_FOLDER")
    return exit_status(run, parser.parse_args(arguments))


def run(options):
    choose_backend()

    from common import versions
    from sklearn.linear_model import RidgeClassifierCV

    from keras_vivit.data import VideoFolder

    with input_errors():
        train, test = (
            VideoFolder(options.folder, (1, *SIZE, 3), split, classes=options.classes)
            for split in ("train", "test")
        )
    model = RidgeClassifierCV(np.logspace(-2, 4, 13), class_weight="balanced")
    model.fit(features(train.files), train.labels)
    predicted = model.predict(features(test.files))
    recalls = [
        float((predicted == label)[test.labels == label].mean())
        for label in np.unique(test.labels)
    ]
    metrics = {
        "dataset": options.folder.stem,
        "test_videos": len(test.files),
        "accuracy": float((predicted == test.labels).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "versions": versions.installed(),
        "configuration": {
            "config": "pixel ridge",
            "variant": "none",
            "seed": 0,
            "classes": options.classes,
            "data_path": str(options.folder),
            "checkpoint": None,
            "image_vit": None,
        },
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(f"Balanced accuracy {metrics['balanced_accuracy']:.3f} on test videos.")


def features(files):
    """Returns an array `(files, 512)`, from 0 to 1."""
    from keras_vivit.data import read_video

    rows = []
    for path in files:
        frames = read_video(path, size=SIZE).mean(axis=-1) / 255
        rows.append(np.stack([frames.mean(axis=0), frames.std(axis=0)]).ravel())
    return np.array(rows)


if __name__ == "__main__":
    sys.exit(main())
