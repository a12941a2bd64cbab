"""Measures a trained model on the test volumes, and draws what it does.

    python examples/organmnist3d/report.py RUN_FOLDER

makes `metrics.json`, `predictions.npz` and the pictures of a run again from its saved
model; `train.py` calls `write` when it is done.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import pictures
import runs
from backends import choose_backend
from data import InputError, load


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--data", help="npz file, if it has moved since the training")
    options = parser.parse_args(arguments)
    try:
        run(options.folder, options.data)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(folder, path=None):
    record = runs.record_of(folder)
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

    write(folder, data, training.predict(training.load(folder), data.test))


def write(folder, data, probabilities):
    """Writes predictions, metrics and pictures into a run's folder."""
    record, history = runs.record_of(folder), runs.read_history(folder)
    labels = data.test.labels
    np.savez(folder / "predictions.npz", probabilities=probabilities, labels=labels)
    metrics = {
        "dataset": data.name,
        "data": data.source,
        "data_md5": data.md5,
        **measure(labels, probabilities, data.task, data.class_names),
        **timing(history),
        "versions": record["versions"],
        "configuration": {k: v for k, v in record.items() if k != "versions"},
    }
    text = json.dumps(metrics, indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n")
    title = describe(record)
    predicted = decide(probabilities, data.task)
    pictures.draw_curves(folder / "curves.png", title, history)
    pictures.draw_confusion(
        folder / "confusion_matrix.png", title, labels, predicted, data.class_names
    )
    pictures.animate_volumes(
        folder / "volumes.gif", title, data, predicted, record["seed"]
    )
    print(summary(metrics), f"Results: {folder}", sep="\n")


def describe(record):
    name = "synthetic volumes" if record["data"] == "synthetic" else record["dataset"]
    return f"{name}, {record['config']}, {record['backend']}, seed {record['seed']}"


def measure(labels, probabilities, task, class_names):
    """Returns what `medmnist.Evaluator` computes, and more of its kind.

    Args:
        labels: Integer array `(n,)`.
        probabilities: Array `(n, num_classes)`.
        task: `"multi-class"`, or `"binary-class"` (MedMNIST then looks only at the
            last column: its AUC, and > 0.5 as the decision).
        class_names: The class names, in the order of the labels.

    Returns:
        A dict for JSON. An AUC is `None` where the labels are all of one kind.
    """
    predicted = decide(probabilities, task)
    correct = int((predicted == labels).sum())
    per_class = [
        measure_class(index, name, labels, predicted, probabilities[:, index])
        for index, name in enumerate(class_names)
    ]
    aucs = [row["auc"] for row in per_class]
    if task == "binary-class":
        aucs = aucs[-1:]
    metrics = {
        "test_volumes": len(labels),
        "accuracy": correct / len(labels),
        "accuracy_95": binomial_interval(correct, len(labels)),
        "auc": None if None in aucs else sum(aucs) / len(aucs),
    }
    if len(class_names) > 5:
        best = np.argsort(-probabilities, axis=1)[:, :5]
        hits = (best == labels[:, None]).any(axis=1)
        metrics["top5_accuracy"] = float(hits.mean())
    return {**metrics, "per_class": per_class}


def decide(probabilities, task):
    if task == "binary-class":
        return (probabilities[:, -1] > 0.5).astype("int64")
    return probabilities.argmax(axis=1)


def measure_class(index, name, labels, predicted, scores):
    from sklearn.metrics import roc_auc_score

    truth, chosen = labels == index, predicted == index
    hits = int((truth & chosen).sum())
    return {
        "name": name,
        "test_volumes": int(truth.sum()),
        "recall": hits / int(truth.sum()) if truth.any() else None,
        "precision": hits / int(chosen.sum()) if chosen.any() else None,
        "auc": float(roc_auc_score(truth, scores)) if 0 < truth.mean() < 1 else None,
    }


def binomial_interval(successes, trials, z=1.96):
    """Returns Wilson's 95 % interval, which stays in [0, 1] even at either end."""
    rate, weight = successes / trials, z * z / trials
    center = (rate + weight / 2) / (1 + weight)
    spread = rate * (1 - rate) + weight / 4
    half = z * math.sqrt(spread / trials) / (1 + weight)
    return [max(0.0, center - half), min(1.0, center + half)]


def timing(history):
    seconds = [row["seconds"] for row in history]
    return {
        "epochs": len(history),
        "best_epoch": 1 + int(np.argmin([row["val_loss"] for row in history])),
        "seconds_total": round(sum(seconds), 3),
        "seconds_per_epoch": round(float(np.median(seconds)), 3),
    }


def summary(metrics):
    low, high = metrics["accuracy_95"]
    parts = [
        f"Test accuracy {metrics['accuracy']:.4f} "
        f"(95 % interval {low:.3f} to {high:.3f}, n = {metrics['test_volumes']})"
    ]
    if "top5_accuracy" in metrics:
        parts.append(f"top-5 {metrics['top5_accuracy']:.4f}")
    if metrics["auc"] is not None:
        parts.append(f"AUC {metrics['auc']:.4f}")
    if metrics["data"] == "synthetic":
        parts.append("on synthetic volumes")
    return ", ".join(parts) + "."


if __name__ == "__main__":
    sys.exit(main())
