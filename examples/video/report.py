"""The report of a run: numbers, and a page with animations of the files."""

import csv
from html import escape
from types import SimpleNamespace

import numpy as np
from common import run_folder
from common.report import writing
from common.report.page import About

from video import training

NOTICES = {
    "synthetic": "<strong>Made-up videos.</strong> Shapes that a program drew. The "
    "numbers show that training works; they say nothing about real videos.",
    "validation": "<strong>No test files.</strong> The numbers are those of the "
    "validation files, which chose the epoch: they are too good. Put files that "
    "training does not see into a folder <code>test</code>.",
    "test": "<strong>Your own files.</strong> The numbers hold for files like these: "
    "the same cameras, places or scanners, unless the split keeps them apart.",
}


class Clips:
    """The clips of a `VideoFolder`, read when they are asked for."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files.files)

    def __getitem__(self, row):
        return np.rint(self.files.read(int(row))).astype("uint8")


def write(folder, sets, probabilities, explain=None):
    """Writes metrics, predictions and the page into a run's folder.

    Args:
        folder: The run's folder, with its `run.json` and `history.csv`.
        sets: `training.Sets`.
        probabilities: Array `(n, num_classes)` for the test files.
        explain: As for `common.report.writing.write`.
    """
    record = run_folder.record_of(folder)
    test, names = sets.test, sets.train.class_names
    labels = test.labels.argmax(axis=1)
    data = SimpleNamespace(
        task="multi-class",
        class_names=names,
        test=SimpleNamespace(images=Clips(test), labels=labels),
    )
    facts = {"dataset": record["dataset"], "data": record["data"]}
    facts |= {"tested_on": sets.tested}
    page = about(sets, record)
    metrics = writing.write(folder, data, page, facts, probabilities, explain=explain)
    write_table(folder / "predictions.csv", test.files, labels, probabilities, names)
    print(writing.summary(metrics, page))
    print(f"The model is in {folder / 'preset'}; open {folder / 'report.html'}")


def write_table(path, files, labels, probabilities, names):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "prediction", *names])
        for row in zip(files, labels, probabilities, strict=True):
            path, label, values = row
            shares = [f"{value:.4f}" for value in values]
            writer.writerow([path, names[label], names[values.argmax()], *shares])


def about(sets, record):
    about = about_files(sets, record, ("train", "validation", "test"))
    made_up = record["data"] == "synthetic"
    notice = "synthetic" if made_up else sets.tested
    size = " &times; ".join(map(str, training.shape_of(record)[:3]))
    trained, tested = len(sets.train.files), len(sets.test.files)
    return about._replace(
        lead=f"Trained on {trained:,} {about.kind}{about.noun}s, of which the model "
        f"sees {size} pixels, to tell {len(sets.train.class_names)} classes apart; "
        f"tested on {tested:,} {sets.tested} {about.noun}s.",
        notice=f'<p class="notice {notice}">{NOTICES[notice]}</p>',
    )


def about_pretraining(sets, record):
    about = about_files(sets, record, ("train", "validation"))
    size = " &times; ".join(map(str, training.shape_of(record)[:3]))
    return about._replace(
        lead=f"Pre-trained without labels on {len(sets.train.files):,} {about.kind}"
        f"{about.noun}s of {size} pixels, validated on "
        f"{len(sets.validation.files):,}."
    )


def about_files(sets, record, splits):
    """Returns what the report says of any training on these files."""
    noun, part = ("volume", "slice") if sets.train.volumes else ("video", "frame")
    made_up = record["data"] == "synthetic"
    counts = {f"{name} {noun}s": len(getattr(sets, name).files) for name in splits}
    return About(
        name=escape(record["dataset"]),
        noun=noun,
        part=part,
        kind="made-up " if made_up else "",
        lead="",
        notice="",
        facts={"name": record["dataset"], **counts},
        ribbon='<p class="ribbon">Made-up videos</p>' if made_up else "",
    )
