"""Predicts the classes of videos or volumes with a model that `train.py` saved.

    python examples/video/predict.py VIDEO --model runs/clips-scratch-seed0/preset
    python examples/video/predict.py FOLDER --csv predictions.csv

A video gets a line for each of its clips, one after the other, and one for all of them.
With `--csv`, FOLDER is read as by `train.py`, or holds files without classes, and each
file becomes a row of the table.
"""

import argparse
import csv
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common.command_line import (
    InputError,
    choose_backend,
    exit_status,
    input_errors,
    positive,
)


def main(arguments=None):
    return exit_status(run, parse(arguments))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="a video, a volume, or a folder")
    add(
        "--model",
        metavar="PRESET",
        help="what `from_preset` loads (default: runs/*/preset, the newest one)",
    )
    add("--csv", type=Path, metavar="FILE", help="predict all files of a folder")
    add("--clips", type=positive, default=4, metavar="N", help="to average over")
    add("--crops", type=int, choices=(1, 3), default=1, help="of each clip")
    add("--top", type=positive, default=5, metavar="N", help="classes to print")
    return parser.parse_args(arguments)


def run(options):
    if not options.source.exists():
        raise InputError(
            f"SOURCE must be a file or a folder. Received: {options.source}."
        )
    preset = options.model or newest_preset()
    choose_backend()

    # Keras starts a backend when it is imported: only now, when nothing is wrong.
    from keras_vivit import ViViTClassifier

    with input_errors():
        model = ViViTClassifier.from_preset(preset)
    if not isinstance(model.num_classes, int):
        raise InputError(
            f"`--model` must have one head. Received: {', '.join(model.num_classes)}."
        )
    names = model.class_names or [str(i) for i in range(model.num_classes)]
    print(f"Model: {preset}.")
    with input_errors():
        if options.csv:
            write_table(options, model, names)
        else:
            show(options, model, names)


def newest_preset():
    found = sorted(Path("runs").glob("*/preset"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(
            "`--model` must be given where there is no runs/*/preset, as `train.py` "
            "writes it. Received: none."
        )
    return found[-1]


# === One file ===


def show(options, model, names):
    from keras_vivit.data import listing, predict_over_time, video_info

    whole = predict(options, model, options.source)
    if listing.is_volume(options.source):
        print(line(options.source.name, whole, names, options.top))
        return
    rate = video_info(options.source).rate
    starts, parts = predict_over_time(model, options.source, step=span_of(model, rate))
    for start, probabilities in zip(starts, parts, strict=True):
        title = f"{start / rate:.1f} s" if rate else f"frame {start}"
        print(line(title, probabilities, names, options.top))
    print(line("whole video", whole, names, options.top))


def predict(options, model, source):
    from keras_vivit.data import predict_views

    return predict_views(
        model, source, num_clips=options.clips, num_crops=options.crops
    )


def span_of(model, rate):
    """Returns how many frames of a file a clip reaches over."""
    sampling = model.sampling or {}
    span = model.input_shape[1] * sampling.get("stride", 1)
    fps = sampling.get("fps")
    return max(1, round(span * rate / fps)) if rate and fps else span


def line(title, probabilities, names, top):
    best = (-probabilities).argsort(kind="stable")[:top]
    shares = ", ".join(f"{names[i]} {probabilities[i]:.3f}" for i in best)
    return f"{title:>12}: {shares}"


# === A folder ===


def write_table(options, model, names):
    files, skipped = files_of(options.source, model)
    with options.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "prediction", *names, "error"])
        for path in files:
            values = predict(options, model, path)
            shares = [f"{value:.4f}" for value in values]
            writer.writerow([path, names[values.argmax()], *shares, ""])
        for path, reason in skipped.items():
            writer.writerow([path, "", *[""] * len(names), reason])
    errors = f", {len(skipped)} cannot be read" if skipped else ""
    print(f"{len(files)} files predicted{errors}: {options.csv}")


def files_of(folder, model):
    """Returns the files that can be read, and a dictionary of the others."""
    from keras_vivit.data import VideoFolder

    sampling = model.sampling or {}
    with warnings.catch_warnings(action="ignore"):  # They get a row of the table.
        found = VideoFolder(
            folder,
            model.input_shape[1:],
            split=None,
            label_mode=None,
            window=sampling.get("window"),
            on_error="skip",
        )
    return found.files, found.skipped


if __name__ == "__main__":
    sys.exit(main())
