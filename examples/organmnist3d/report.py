"""Measures a trained model on the test volumes and writes the report.

    python examples/organmnist3d/report.py RUN_FOLDER

writes `report.html`, `metrics.json` and `predictions.npz` of a run again, from its
saved model. `train.py` calls `write` at the end of a training.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from data import load

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import run_folder
from common.command_line import InputError, choose_backend, exit_status
from common.report import gallery, page
from common.report.measures import measure


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--data", help="npz file, if it has moved since the training")
    options = parser.parse_args(arguments)
    return exit_status(run, options.folder, options.data)


def run(folder, path=None):
    record = run_folder.record_of(folder)
    if not (folder / "model.keras").exists():
        raise InputError(
            "The run folder must hold a model.keras. "
            f"Received: {folder} (`train.py --resume` finishes an interrupted run)."
        )
    trained_on = record["data_path"] or "synthetic"
    if path and (path == "synthetic") != (trained_on == "synthetic"):
        raise InputError(
            f"`--data` must be the set that the run was trained on, {trained_on}. "
            f"Received: {path}."
        )
    data = load(record["dataset"], record["size"], path or trained_on)
    choose_backend(record["backend"])

    import training  # Keras, and with it the backend

    model = training.load(folder)
    predictions = training.predict_two_views(model, data)
    write(folder, data, *predictions, training.explain(model))


def write(folder, data, probabilities, two_views=None, explain=None):
    """Writes predictions, metrics and the page into a run's folder.

    Args:
        folder: The run's folder, with its `run.json` and `history.csv`.
        data: A `Dataset`.
        probabilities: Array `(n, num_classes)` for the test volumes.
        two_views: The same, averaged with what the mirrored volumes give, or `None`.
        explain: Optional function of volumes and of a class each, that returns maps of
            what speaks for it.
    """
    record, history = run_folder.record_of(folder), run_folder.read_history(folder)
    labels = data.test.labels
    views = {"probabilities": probabilities}
    if two_views is not None:
        views["two_views"] = two_views
    np.savez(folder / "predictions.npz", **views, labels=labels)
    metrics = {
        "dataset": data.name,
        "data": data.source,
        "data_md5": data.md5,
        **measure_views(data, **views),
        **timing(history, record),
        "versions": record["versions"],
        "configuration": {k: v for k, v in record.items() if k != "versions"},
    }
    text = json.dumps(metrics, indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n")
    shown = gallery.choose(len(labels), record["seed"])
    text = page.build(data, record, history, metrics, probabilities, shown, explain)
    (folder / "report.html").write_text(text, "utf-8")
    print(summary(metrics))
    print(f"Open {folder / 'report.html'}")


def measure_views(data, probabilities, two_views=None):
    about = (data.task, data.class_names)
    metrics = measure(data.test.labels, probabilities, *about)
    if two_views is not None:
        second = measure(data.test.labels, two_views, *about)
        for key in ("test_volumes", "per_class"):
            del second[key]
        metrics["two_views"] = second
    return metrics


def timing(history, record):
    seconds = [row["seconds"] for row in history]
    best = 1 + int(np.argmin([row["val_loss"] for row in history]))
    stops_early = record.get("patience") is not None
    return {
        "epochs": len(history),
        "best_epoch": best,
        "kept_epoch": best if stops_early else len(history),
        "seconds_total": round(sum(seconds), 3),
        "seconds_per_epoch": round(float(np.median(seconds)), 3),
    }


def summary(metrics):
    """Returns a line on the test volumes, and one on two views where there are any."""
    lines = [f"Test {numbers(metrics, metrics['test_volumes'])}."]
    if metrics["data"] == "synthetic":
        lines[0] = lines[0].removesuffix(".") + ", on synthetic volumes."
    if "two_views" in metrics:
        said = numbers(metrics["two_views"], metrics["test_volumes"])
        lines.append(f"With two views, which is test-time augmentation: {said}.")
    return "\n".join(lines)


def numbers(metrics, test_volumes):
    low, high = metrics["accuracy_95"]
    parts = [
        f"accuracy {metrics['accuracy']:.4f} "
        f"(95 % interval {low:.3f} to {high:.3f}, n = {test_volumes})"
    ]
    if "top5_accuracy" in metrics:
        parts.append(f"top-5 {metrics['top5_accuracy']:.4f}")
    if metrics["auc"] is not None:
        parts.append(f"AUC {metrics['auc']:.4f}")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
