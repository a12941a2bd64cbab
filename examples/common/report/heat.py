"""Relevance drawn over the animations of the page: what a prediction rests on."""

import functools
from html import escape

import numpy as np

from common.report import gallery

COLORS = 64
SWITCH = """<p class="pause"><input type="checkbox" id="heat" checked>
<label for="heat">Show what the predictions rest on: the brighter, the more a part
speaks for the predicted class; below mistakes, also for the actual one. It says where
the model looks, not whether it is right to.</label></p>"""


def explain(model):
    """Returns the function of samples and classes that `writing.write` takes."""
    from keras_vivit.visualization import relevance

    return functools.partial(relevance, model)


def views_of(explain, rows, data, about, *classes):
    """Returns HTML for each of these rows: an animation with relevance for each class.

    Args:
        explain: Function of samples and of a class each, that returns maps `(n, t, h,
            w)`; or `None`, for nothing.
        rows: Rows of the test samples.
        data: Has `class_names`, and `test.images`.
        about: `page.About`.
        *classes: Arrays, a class for each test sample.
    """
    if explain is None or not len(rows):
        return [""] * len(rows)
    from keras_vivit.visualization import overlay

    samples = np.stack([data.test.images[row] for row in rows])
    views = [[] for _ in rows]
    for chosen in classes:
        frames = overlay(samples, explain(samples, chosen[rows]))
        for view, row, video in zip(views, rows, frames, strict=True):
            view.append(draw(video, row, data.class_names[chosen[row]], about))
    return ["".join(view) for view in views]


def draw(video, row, name, about):
    frames = gallery.frames_of(video)
    alt = f"What speaks for {escape(name)} in test {about.noun} {row}"
    still = gallery.png(frames[len(frames) // 2])
    pictures = gallery.animation(gif(frames), still, frames, alt)
    below = f'<span class="of">for {escape(name)}</span>'
    return f'<span class="heat">{pictures}{below}</span>'


def gif(frames):
    from PIL import Image

    # One palette for all frames: a third of the bytes of one for each.
    height = frames.shape[1]
    sheet = Image.fromarray(np.concatenate(frames)).quantize(COLORS)
    tiles = np.asarray(sheet).reshape(len(frames), height, -1)
    first, *others = (Image.fromarray(tile) for tile in tiles)
    for image in (first, *others):
        image.putpalette(sheet.getpalette())
    options = {"append_images": others, "duration": gallery.MILLISECONDS, "loop": 0}
    return gallery.encode(first, "gif", save_all=True, **options)
