"""The numbers on the page: headline, confusion matrix, and each class."""

from html import escape

import numpy as np

from common.report import charts


def headline(about, metrics):
    if "two_views" not in metrics:
        return stats(metrics)
    return f"""<h3>Single view</h3>{stats(metrics)}
<h3>Two views <span class="aside">test-time augmentation</span></h3>
{stats(metrics["two_views"], "second")}
<p class="note">{about.second_view}</p>"""


def stats(metrics, kind=""):
    names = {
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "top5_accuracy": "Top-5",
        "auc": "AUC",
    }
    blocks = "".join(
        f"<div><dt>{name}</dt><dd>{number(metrics[key])} "
        f"<small>{interval(metrics[f'{key}_95'])}</small></dd></div>"
        for key, name in names.items()
        if key in metrics
    )
    return f'<dl class="stats {kind}">{blocks}</dl>{mistakes(metrics)}'


def mistakes(metrics):
    if "mistakes_of_side" not in metrics:
        return ""
    return (
        f'<p class="note">{metrics["mistakes"]} mistakes; '
        f"{metrics['mistakes_of_side']} of them name the organ of the other side.</p>"
    )


def number(value):
    return "&ndash;" if value is None else f"{value:.3f}"


def interval(limits):
    if limits is None:
        return "no interval"
    return f"{limits[0]:.3f} to {limits[1]:.3f}"


def scrolling(label, table):
    """A box that the keyboard can scroll, so that the page itself need not."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
        f"{table}</div>"
    )


def confusion(labels, predicted, class_names, noun):
    names = [escape(name) for name in class_names]
    counts = np.zeros((len(names), len(names)), "int64")
    np.add.at(counts, (labels, predicted), 1)
    heads = "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(confusion_cells(row, index))}</tr>'
        for index, (name, row) in enumerate(zip(names, counts, strict=True))
    )
    return scrolling(
        "Confusion matrix",
        '<table class="confusion"><caption class="unseen">Counts of test '
        f"{noun}s by actual class (rows) and predicted class (columns)</caption>"
        "<thead><tr><th>"
        '<span class="corner">actual ↓ predicted →</span></th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table>",
    )


def confusion_cells(row, actual):
    for index, count in enumerate(row):
        kind = "hit" if index == actual else "miss" if count else "none"
        heat = count / max(row.sum(), 1)
        yield f'<td class="{kind}" style="--heat:{heat:.2f}">{count}</td>'


def class_table(per_class, noun):
    rows = "".join(
        f'<tr><th scope="row">{escape(row["name"])}</th>'
        f"<td>{row[f'test_{noun}s']}</td><td>{number(row['recall'])} "
        f"<small>({interval(row['recall_95'])})</small></td>"
        f"<td>{number(row['precision'])}</td><td>{number(row['auc'])}</td></tr>"
        for row in per_class
    )
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("Class", "n", "Recall", "Precision", "AUC")
    )
    return scrolling(
        "Table of the classes",
        f'<table class="classes"><caption class="unseen">Test {noun}s, recall, '
        f"precision and AUC of each class</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table>",
    )


def roc_curves(data, per_class, predicted, probabilities, noun):
    figures = []
    for index, row in enumerate(per_class):
        # The curves of two classes are mirror images: MedMNIST takes the last.
        if row["auc"] is None or (data.task == "binary-class" and index == 0):
            continue
        said = f"ROC curve of {row['name']} against all others, AUC {row['auc']:.3f}"
        chart = charts.draw_roc(
            data.test.labels == index, probabilities[:, index], predicted == index, said
        )
        figures.append(
            f"<figure><figcaption>{escape(row['name'])} "
            f"<span>{row['auc']:.3f}</span></figcaption>{chart}</figure>"
        )
    if not figures:
        return f"<p>None: the test {noun}s are all of one class.</p>"
    return f'<div class="small-multiples">{"".join(figures)}</div>'
