"""One self-contained HTML page about a run: `report.html`.

It loads nothing, runs no script, and names no path of the machine it was made on.
`page.html` holds the text that is always the same, `page.css` the looks.
"""

import re
from html import escape
from pathlib import Path, PurePosixPath, PureWindowsPath
from string import Template

from common.command_line import duration
from common.report import charts, gallery, heat, results
from common.report.measures import decide

FOLDER = Path(__file__).parent
MEDMNIST = (
    "J. Yang et al., MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D "
    "biomedical image classification, Scientific Data 10:41, 2023",
    "https://doi.org/10.1038/s41597-022-01721-8",
)
SOURCES = {
    "organmnist3d": (
        (
            "P. Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), 2019",
            "https://arxiv.org/abs/1901.04056",
        ),
        (
            "X. Xu et al., Efficient Multiple Organ Localization in CT Image Using 3D "
            "Region Proposal Network, IEEE Transactions on Medical Imaging 38(8), 2019",
            "https://doi.org/10.1109/TMI.2019.2894854",
        ),
    )
}
NOTICES = {
    "synthetic": "<strong>Synthetic data.</strong> Shapes that a program drew, not "
    "medical images. The numbers show that the recipe runs; they say nothing about "
    "OrganMNIST3D or any other real data.",
    "custom": "<strong>Custom data file.</strong> It is not the one that MedMNIST "
    "publishes (its MD5 differs): the numbers cannot be compared directly with "
    "published ones.",
    "official": "<strong>MedMNIST's official file</strong>, as its MD5 shows.",
}


def build(data, record, history, metrics, probabilities, shown, explain=None):
    """Returns the page as text.

    Args:
        data: A `Dataset`.
        record: What `run_folder.record_of` returns.
        history: What `run_folder.read_history` returns.
        metrics: What `report.write` puts into `metrics.json`.
        probabilities: Array `(n, num_classes)`, one view of the test volumes.
        shown: Rows of the test volumes that are shown.
        explain: Optional function of volumes and of a class each, that returns maps of
            what speaks for it.
    """
    labels, kept = data.test.labels, metrics["kept_epoch"]
    predicted = decide(probabilities, data.task)
    mistakes = gallery.most_confident_mistakes(labels, predicted, probabilities)
    name = display_name(data)
    return Template((FOLDER / "page.html").read_text("utf-8")).substitute(
        style=(FOLDER / "page.css").read_text("utf-8"),
        title=f"ViViT on {name}: accuracy {metrics['accuracy']:.3f}",
        ribbon=ribbon(data),
        kicker=kicker(record),
        heading=f"Video Vision Transformer on {name}",
        lead=lead(data, record),
        notice=f'<p class="notice {escape(data.source)}">{NOTICES[data.source]}</p>',
        test_volumes=f"{len(labels):,} {synthetic(data)}test volumes",
        results=results.headline(data, metrics),
        follows=" All that follows is of the single view."
        if "two_views" in metrics
        else "",
        training=training(metrics),
        loss_chart=charts.draw_history(history, "loss", kept),
        accuracy_chart=charts.draw_history(history, "accuracy", kept),
        kept=kept,
        confusion=results.confusion(labels, predicted, data.class_names),
        classes=results.class_table(metrics["per_class"]),
        curves=results.roc_curves(data, metrics["per_class"], predicted, probabilities),
        shown=f"{len(shown)} {synthetic(data)}test volumes, slice by slice",
        heat=heat.SWITCH if explain else "",
        volumes=gallery.cards(
            shown,
            data,
            predicted,
            probabilities,
            heat.views_of(explain, shown, data, predicted),
        ),
        mistakes=gallery.cards(
            mistakes,
            data,
            predicted,
            probabilities,
            heat.views_of(explain, mistakes, data, predicted, labels),
        )
        if len(mistakes)
        else "<p>There is none: every test volume is predicted right.</p>",
        facts=facts(data, record, metrics),
        licence=licence(data),
    )


# === What was trained on what ===


def display_name(data):
    if data.source == "synthetic":
        return "synthetic volumes"
    return escape(data.name.removesuffix("mnist3d").capitalize() + "MNIST3D")


def synthetic(data):
    return "synthetic " if data.source == "synthetic" else ""


def ribbon(data):
    if data.source != "synthetic":
        return ""
    return '<p class="ribbon">Synthetic data: these are no medical results</p>'


def kicker(record):
    named = [record.get(key) for key in ("config", "variant", "backend")]
    named = [str(value).replace("_", " ") for value in named if value is not None]
    return escape(" · ".join([*named, f"seed {record['seed']}"]))


def lead(data, record):
    size = " &times; ".join([str(record["size"])] * 3)
    return (
        f"Trained on {len(data.train.labels):,} {synthetic(data)}volumes of {size} "
        f"voxels to tell {len(data.class_names)} classes apart, validated on "
        f"{len(data.val.labels):,}, tested on {len(data.test.labels):,}."
    )


def training(metrics):
    return (
        f"Epochs: {metrics['epochs']}, in {duration(metrics['seconds_total'])}; the "
        f"median one took {metrics['seconds_per_epoch']:.1f} s. The lowest validation "
        f"loss was that of epoch {metrics['best_epoch']}."
    )


# === The run ===


def facts(data, record, metrics):
    about = {
        "name": data.name,
        "kind": {"custom": "custom file", "official": "official file"}.get(data.source),
        "MD5": data.md5,
        "training volumes": len(data.train.labels),
        "validation volumes": len(data.val.labels),
        "test volumes": len(data.test.labels),
    }
    told = {"data", "data_md5", "data_path", "dataset", "versions"}
    times = {
        "epochs": metrics["epochs"],
        "lowest validation loss": f"epoch {metrics['best_epoch']}",
        "kept": f"epoch {metrics['kept_epoch']}",
        "in total": duration(metrics["seconds_total"]),
        "median epoch": f"{metrics['seconds_per_epoch']:.3f} s",
    }
    groups = {
        "Configuration": {k: v for k, v in record.items() if k not in told},
        "Data": {key: value for key, value in about.items() if value is not None},
        "Time": times,
        "Versions": record["versions"],
    }
    return "".join(
        f"<div><h3>{title}</h3>{describe(group)}</div>"
        for title, group in groups.items()
    )


def describe(value):
    """Returns a nested description list of nested dicts, without any paths."""
    if isinstance(value, dict) and value:
        rows = (
            f"<div><dt>{plain(key.replace('_', ' '))}</dt>"
            f"<dd>{describe(item)}</dd></div>"
            for key, item in value.items()
        )
        return f"<dl>{''.join(rows)}</dl>"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(describe, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, {}) else plain(str(value))


def plain(text):
    if re.match(r"[/~\\]|\.\.?[/\\]|\w:[/\\]|file:", text):
        text = PurePosixPath(PureWindowsPath(text).as_posix()).name
    return escape(text)


def licence(data):
    if data.source == "synthetic":
        return ""
    cited = "".join(
        f'<li>{escape(text)}. <a href="{link}">{link.partition("://")[2]}</a></li>'
        for text, link in (MEDMNIST, *SOURCES.get(data.name, ()))
    )
    return f"""<section id="licence">
<h2>Licence and citations</h2>
<p>The volumes are from <a href="https://medmnist.com">MedMNIST v2</a>, under
<a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>.
<strong>Not for clinical use.</strong> Please cite:</p>
<ul>{cited}</ul>
</section>"""
