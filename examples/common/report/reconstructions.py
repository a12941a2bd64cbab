"""The report of masked pre-training: the loss, and samples with hidden parts filled in.

A page as `page` makes it, without predictions of classes.
"""

import math

import numpy as np

from common import run_folder
from common.report import charts, gallery, page, writing

COUNT = 8
GREY = 128  # of what is hidden


def write(folder, about, model, samples):
    """Writes `report.html` into the folder of a run.

    Args:
        folder: The run's folder, with its `run.json` and `history.csv`.
        about: `page.About`.
        model: `ViViTMaskedAutoencoder`.
        samples: Sequence of samples that were not trained on, uint8 `(frames, height,
            width, channels)`, with a length.
    """
    record, history = run_folder.record_of(folder), run_folder.read_history(folder)
    metrics = writing.timing(history, record)
    rows = gallery.choose(len(samples), record["seed"], COUNT)
    shown = steps(model, np.stack([samples[row] for row in rows]))
    kept, noun = metrics["kept_epoch"], about.noun
    tokens = math.prod(model.get_layer("mask").output.shape[1:])
    sections = page.fill(
        "reconstructions.html",
        training=page.training(metrics),
        loss_chart=charts.draw_history(history, "loss", kept),
        kept=kept,
        noun=noun,
        shown=f"{len(rows)} {about.kind}{noun}s, {about.part} by {about.part}",
        ratio=f"{100 * model.output.shape[1] / tokens:.0f}",
        gallery=cards(rows, shown, about),
    )
    loss = history[kept - 1]["val_loss"]
    title = f"ViViT on {about.name}: pre-trained to a loss of {loss:.3f}"
    links = {"training": "Training", "samples": f"{noun}s".capitalize()}
    text = page.framed(title, sections, links, about, record, metrics)
    run_folder.replace(folder / "report.html", text)
    print(f"The loss of the validation is {loss:.4f}; open {folder / 'report.html'}")


def steps(model, videos):
    """Returns name -> uint8 videos: from the input to what fills its hidden parts."""
    from keras_vivit.visualization import reconstruct

    predicted, hidden = reconstruct(model, videos)
    means, _ = reconstruct(model, videos, means_alone=True)
    return {
        "input": videos,
        "visible": np.where(hidden[..., None], np.uint8(GREY), videos),
        "predicted": np.clip(np.rint(predicted), 0, 255).astype("uint8"),
        "means alone": np.rint(means).astype("uint8"),
    }


def cards(rows, shown, about):
    figures = "".join(
        card(row, {name: videos[i] for name, videos in shown.items()}, about)
        for i, row in enumerate(rows)
    )
    return f'<ul class="cards wide">{figures}</ul>'


def card(row, videos, about):
    parts = []
    for name, video in videos.items():
        alt = f"{about.part}s of {about.noun} {row}, {name}".capitalize()
        pictures = gallery.pictures_of(gallery.frames_of(video), alt)
        parts.append(f'<span>{pictures}<span class="of">{name}</span></span>')
    return f"""
<li class="card"><div class="steps">{"".join(parts)}</div>
<p class="number">no. {row}</p></li>"""
