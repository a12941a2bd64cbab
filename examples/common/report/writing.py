"""Writes the results of a run: its numbers, its predictions, and the page."""

import io
import json

import numpy as np

from common import run_folder
from common.report import gallery, page
from common.report.measures import measure


def write(folder, data, about, facts, probabilities, two_views=None, explain=None):
    """Writes `predictions.npz`, `metrics.json` and `report.html` into a run's folder.

    Args:
        folder: The run's folder, with its `run.json` and `history.csv`.
        data: Has `task`, `class_names`, and `test` with `images` and `labels`.
        about: `page.About`.
        facts: Dictionary, what `metrics.json` says of the data.
        probabilities: Array `(n, num_classes)` for the test samples.
        two_views: The same, averaged with those of a second view, or `None`.
        explain: Optional function of samples and of a class each, that returns maps of
            what speaks for it.

    Returns:
        The metrics.
    """
    record, history = run_folder.record_of(folder), run_folder.read_history(folder)
    labels = data.test.labels
    views = {"probabilities": probabilities}
    if two_views is not None:
        views["two_views"] = two_views
    content = io.BytesIO()
    np.savez(content, **views, labels=labels)
    run_folder.replace(folder / "predictions.npz", content.getvalue())
    metrics = {
        **facts,
        **measure_views(data, about.noun, **views),
        **timing(history, record),
        "versions": record["versions"],
        "configuration": {k: v for k, v in record.items() if k != "versions"},
    }
    text = json.dumps(metrics, indent=2, allow_nan=False)
    run_folder.replace(folder / "metrics.json", text + "\n")
    shown = gallery.choose(len(labels), record["seed"])
    text = page.build(
        data, about, record, history, metrics, probabilities, shown, explain
    )
    run_folder.replace(folder / "report.html", text)
    return metrics


def measure_views(data, noun, probabilities, two_views=None):
    sides = getattr(data, "sides", None)
    about = (data.task, data.class_names, noun, sides)
    metrics = measure(data.test.labels, probabilities, *about)
    if two_views is not None:
        second = measure(data.test.labels, two_views, *about)
        for key in (f"test_{noun}s", "per_class"):
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


def summary(metrics, about):
    """Returns a line on the test samples, and one on two views where there are any."""
    count = metrics[f"test_{about.noun}s"]
    lines = [f"Test {numbers(metrics, count)}."]
    if about.kind:
        lines[0] = f"{lines[0].removesuffix('.')}, on {about.kind}{about.noun}s."
    if "two_views" in metrics:
        second = numbers(metrics["two_views"], count)
        lines.append(f"With two views, which is test-time augmentation: {second}.")
    return "\n".join(lines)


def numbers(metrics, count):
    low, high = metrics["accuracy_95"]
    parts = [
        f"accuracy {metrics['accuracy']:.4f} "
        f"(95 % interval {low:.3f} to {high:.3f}, n = {count})",
        f"balanced {metrics['balanced_accuracy']:.4f}",
    ]
    if "top5_accuracy" in metrics:
        parts.append(f"top-5 {metrics['top5_accuracy']:.4f}")
    if metrics["auc"] is not None:
        parts.append(f"AUC {metrics['auc']:.4f}")
    if "mistakes_of_side" in metrics:
        swaps = metrics["mistakes_of_side"]
        parts.append(f"{metrics['mistakes']} mistakes, {swaps} of them of the side")
    return ", ".join(parts)
