"""One self-contained HTML page about a run: `report.html`.

It loads nothing, runs no script, and names no path of the machine it was made on.
`frame.html` and `page.html` hold the text that is always the same, `page.css` the
looks.
"""

import re
from html import escape
from pathlib import Path, PurePosixPath, PureWindowsPath
from string import Template
from typing import NamedTuple

from common.command_line import duration
from common.report import charts, gallery, heat, results
from common.report.measures import decide

FOLDER = Path(__file__).parent
LINKS = {
    "results": "Results",
    "training": "Training",
    "confusion": "Confusions",
    "classes": "Classes",
    "samples": "Samples",
    "mistakes": "Mistakes",
}


class About(NamedTuple):
    """What a recipe says of its data; strings without `noun` and `facts` are HTML.

    `noun` is what a sample is called, `part` what its animation shows one after the
    other; `kind` is put before `noun`, such as `"synthetic "`; `second_view` describes
    the other view, for runs that have two.
    """

    name: str
    noun: str
    part: str
    kind: str
    lead: str
    notice: str
    facts: dict
    ribbon: str = ""
    licence: str = ""
    second_view: str = ""


def build(data, about, record, history, metrics, probabilities, shown, explain=None):
    """Returns the page as text.

    Args:
        data: Has `task`, `class_names`, and `test` with `images` and `labels`.
        about: `About`.
        record: What `run_folder.record_of` returns.
        history: What `run_folder.read_history` returns.
        metrics: What goes into `metrics.json`.
        probabilities: Array `(n, num_classes)`, one view of the test samples.
        shown: Rows of the test samples that are shown.
        explain: Optional function of samples and of a class each, that returns maps of
            what speaks for it.
    """
    labels, kept, noun = data.test.labels, metrics["kept_epoch"], about.noun
    predicted = decide(probabilities, data.task)
    mistakes = gallery.most_confident_mistakes(labels, predicted, probabilities)
    sections = fill(
        "page.html",
        samples=f"{noun}s",
        test_samples=f"{len(labels):,} {about.kind}test {noun}s",
        results=results.headline(about, metrics),
        follows=" All that follows is of the single view."
        if "two_views" in metrics
        else "",
        training=training(metrics),
        loss_chart=charts.draw_history(history, "loss", kept),
        accuracy_chart=charts.draw_history(history, "accuracy", kept),
        kept=kept,
        confusion=results.confusion(labels, predicted, data.class_names, noun),
        classes=results.class_table(metrics["per_class"], noun),
        curves=results.roc_curves(
            data, metrics["per_class"], predicted, probabilities, noun
        ),
        shown=f"{len(shown)} {about.kind}test {noun}s, {about.part} by {about.part}",
        heat=heat.SWITCH if explain else "",
        gallery=gallery.cards(
            shown,
            data,
            about,
            predicted,
            probabilities,
            heat.views_of(explain, shown, data, about, predicted),
        ),
        mistakes=gallery.cards(
            mistakes,
            data,
            about,
            predicted,
            probabilities,
            heat.views_of(explain, mistakes, data, about, predicted, labels),
        )
        if len(mistakes)
        else f"<p>There is none: every test {noun} is predicted right.</p>",
    )
    links = {**LINKS, "samples": f"{noun}s".capitalize()}
    title = f"ViViT on {about.name}: accuracy {metrics['accuracy']:.3f}"
    return framed(title, sections, links, about, record, metrics)


def framed(title, sections, links, about, record, metrics):
    """Returns a page of sections; `links` has the id of each one and its name."""
    links = {**links, "run": "The run"}
    return fill(
        "frame.html",
        style=(FOLDER / "page.css").read_text("utf-8"),
        title=title,
        ribbon=about.ribbon,
        kicker=kicker(record),
        heading=f"Video Vision Transformer on {about.name}",
        lead=about.lead,
        notice=about.notice,
        links="\n".join(
            f'<li><a href="#{section}">{name}</a></li>'
            for section, name in links.items()
        ),
        sections=sections,
        facts=facts(about, record, metrics),
        licence=about.licence,
    )


def fill(name, **values):
    """Returns the text of a template with values filled in."""
    return Template((FOLDER / name).read_text("utf-8")).substitute(values)


def kicker(record):
    named = [record.get(key) for key in ("config", "variant", "backend")]
    named = [str(value).replace("_", " ") for value in named if value is not None]
    return escape(" · ".join([*named, f"seed {record['seed']}"]))


def training(metrics):
    return (
        f"Epochs: {metrics['epochs']}, in {duration(metrics['seconds_total'])}; the "
        f"median one took {metrics['seconds_per_epoch']:.1f} s. The lowest validation "
        f"loss was that of epoch {metrics['best_epoch']}."
    )


# === The run ===


def facts(about, record, metrics):
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
        "Data": {k: v for k, v in about.facts.items() if v is not None},
        "Time": times,
        "Machine and versions": record["versions"],
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
