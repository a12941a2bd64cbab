"""What a run reached on the test samples: accuracy, AUC, and how sure both are."""

import math

import numpy as np


def measure(labels, probabilities, task, class_names, noun="volume", sides=None):
    """Returns what `medmnist.Evaluator` computes, and more of its kind.

    Args:
        labels: Integer array `(n,)`.
        probabilities: Array `(n, num_classes)`.
        task: `"multi-class"`, or `"binary-class"` (MedMNIST then looks only at the
            last column: its AUC, and > 0.5 as the decision).
        class_names: The class names, in the order of the labels.
        noun: What a sample is called: `test_volumes` is the number of them.
        sides: The class on the other side of the body, for each class, or `None`.

    Returns:
        A dict for JSON. A number is `None` where the labels do not define it.
    """
    predicted = decide(probabilities, task)
    correct = int((predicted == labels).sum())
    per_class = [
        measure_class(index, name, labels, predicted, probabilities[:, index], noun)
        for index, name in enumerate(class_names)
    ]
    first = len(class_names) - 1 if task == "binary-class" else 0
    aucs = [row["auc"] for row in per_class[first:]]
    known = None not in aucs
    metrics = {
        f"test_{noun}s": len(labels),
        "accuracy": correct / len(labels),
        "accuracy_95": binomial_interval(correct, len(labels)),
        **measure_balanced([row for row in per_class if row[f"test_{noun}s"]], noun),
        "auc": sum(aucs) / len(aucs) if known else None,
        "auc_95": auc_interval(labels, probabilities, first) if known else None,
    }
    if len(class_names) > 5:
        best = np.argsort(-probabilities, axis=1)[:, :5]
        hits = int((best == labels[:, None]).any(axis=1).sum())
        metrics["top5_accuracy"] = hits / len(labels)
        metrics["top5_accuracy_95"] = binomial_interval(hits, len(labels))
    if sides:
        swapped = np.asarray(sides)[labels] == predicted
        metrics["mistakes"] = len(labels) - correct
        metrics["mistakes_of_side"] = int((swapped & (predicted != labels)).sum())
    return {**metrics, "per_class": per_class}


def decide(probabilities, task):
    if task == "binary-class":
        return (probabilities[:, -1] > 0.5).astype("int64")
    return probabilities.argmax(axis=1)


def measure_class(index, name, labels, predicted, scores, noun):
    from sklearn.metrics import roc_auc_score

    truth, chosen = labels == index, predicted == index
    hits, count = int((truth & chosen).sum()), int(truth.sum())
    return {
        "name": name,
        f"test_{noun}s": count,
        "recall": hits / count if count else None,
        "recall_95": binomial_interval(hits, count) if count else None,
        "precision": hits / int(chosen.sum()) if chosen.any() else None,
        "auc": float(roc_auc_score(truth, scores)) if 0 < truth.mean() < 1 else None,
    }


def measure_balanced(per_class, noun, z=1.96):
    """Returns the mean recall of the classes, and its 95 % interval.

    Each class adds its variance, after Agresti and Coull, so that a class of which all
    samples are predicted right is not taken for certain.
    """
    recall = sum(row["recall"] for row in per_class) / len(per_class)
    variance = 0.0
    for row in per_class:
        trials = row[f"test_{noun}s"] + z * z
        rate = (row["recall"] * row[f"test_{noun}s"] + z * z / 2) / trials
        variance += rate * (1 - rate) / trials
    half = z * math.sqrt(variance) / len(per_class)
    limits = [max(0.0, recall - half), min(1.0, recall + half)]
    return {"balanced_accuracy": recall, "balanced_accuracy_95": limits}


def binomial_interval(successes, trials, z=1.96):
    """Returns Wilson's 95 % interval, which stays in [0, 1] even at either end."""
    rate, weight = successes / trials, z * z / trials
    center = (rate + weight / 2) / (1 + weight)
    spread = rate * (1 - rate) + weight / 4
    half = z * math.sqrt(spread / trials) / (1 + weight)
    return [max(0.0, center - half), min(1.0, center + half)]


def auc_interval(labels, probabilities, first=0, z=1.96):
    """Returns a 95 % interval of the mean one-vs-rest AUC of the classes from `first`.

    DeLong's variance, extended to the mean by adding up what each sample contributes
    to all of the AUCs, on the logit scale; `None` where nothing is ever out of order.
    """
    columns = range(first, probabilities.shape[1])
    influence, total = np.zeros(len(labels)), 0.0
    for column in columns:
        truth, scores = labels == column, probabilities[:, column]
        inside, outside = scores[truth, None], scores[None, ~truth]
        wins = (inside > outside) + (inside == outside) / 2
        total += wins.mean()
        influence[truth] += (wins.mean(axis=1) - wins.mean()) / len(wins)
        influence[~truth] += (wins.mean(axis=0) - wins.mean()) / wins.shape[1]
    auc = total / len(columns)
    error = math.sqrt((influence**2).sum()) / len(columns)
    if error == 0:
        return None
    logit, half = math.log(auc / (1 - auc)), z * error / (auc * (1 - auc))
    return [1 / (1 + math.exp(-(logit + side))) for side in (-half, half)]
