"""Test volumes on the page: an animation each, and what the model said about it."""

import base64
import io
from html import escape

import numpy as np

SLICES = 28  # at most: of 64, every third one is shown
MILLISECONDS = 120
ACROSS = 7  # slices per row where they are side by side


def choose(volumes, seed, count=25):
    """Returns `count` random rows of the test volumes, or all if there are fewer."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(volumes, min(count, volumes), replace=False))


def most_confident_mistakes(labels, predicted, probabilities, count=10):
    """Returns the rows of the wrong predictions, the most confident one first."""
    wrong = np.flatnonzero(predicted != labels)
    confidence = probabilities[wrong, predicted[wrong]]
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def cards(rows, data, predicted, probabilities, views=None):
    """Returns a list with a figure for each of these rows of the test volumes.

    `views` holds HTML for each of them, to be shown beside the animation.
    """
    figures = "".join(
        card(row, data, predicted[row], probabilities[row], view)
        for row, view in zip(rows, views or [""] * len(rows), strict=True)
    )
    return f'<ul class="cards">{figures}</ul>'


def card(row, data, predicted, probabilities, view=""):
    volume, label = data.test.images[row, ..., 0], data.test.labels[row]
    actual, said = (escape(data.class_names[i]) for i in (label, predicted))
    right = label == predicted
    alt = f"Slices of test volume {row}, actual class {actual}"
    sheet = f"Slices of test volume {row} side by side, row by row"
    return f"""
<li class="card {"right" if right else "wrong"}"><figure>
<details>
<summary><span class="views"><span>{pictures_of(volume, alt)}</span>{view}</span>
<span class="more">Side by side</span></summary>
<img class="sheet" alt="{sheet}" src="{jpeg(contact_sheet(slices(volume)))}">
</details>
<figcaption>
<p class="verdict"><span><span aria-hidden="true">{"✓" if right else "✗"}</span>
{"right" if right else "wrong"}</span> <span class="number">no. {row}</span></p>
<dl class="names"><div><dt>actual</dt><dd>{actual}</dd></div>
<div><dt>predicted</dt><dd>{said}</dd></div></dl>
{top_three(data.class_names, label, probabilities)}
</figcaption>
</figure></li>"""


def pictures_of(volume, alt):
    """Returns an animation, and the still slice for those who do not want any."""
    frames = slices(volume)
    return animation(gif(frames), png(frames[len(frames) // 2]), frames, alt)


def animation(moving, middle, frames, alt):
    size = f'width="{frames.shape[2]}" height="{frames.shape[1]}"'
    return f"""<picture class="moving">
<source media="(prefers-reduced-motion: reduce)" srcset="{middle}">
<img alt="{alt}, as an animation" {size} src="{moving}">
</picture><img class="still" alt="{alt}, the middle one" {size} src="{middle}">"""


def top_three(class_names, label, probabilities):
    rows = []
    for index in np.argsort(-probabilities, kind="stable")[:3]:
        name, share = escape(class_names[index]), probabilities[index]
        if index == label:
            name = f'<b>{name}<span class="unseen"> (actual)</span></b>'
        rows.append(
            f'<li style="--share:{share:.3f}"><span>{name}</span> '
            f"<span>{share:.3f}</span></li>"
        )
    return f'<ol class="shares" aria-label="Probabilities">{"".join(rows)}</ol>'


def slices(volume):
    return volume[:: -(-len(volume) // SLICES)]


def contact_sheet(frames):
    frames = np.pad(frames, ((0, -len(frames) % ACROSS), (0, 2), (0, 2)))
    count, height, width = frames.shape
    rows = count // ACROSS
    grid = frames.reshape(rows, ACROSS, height, width)
    return grid.swapaxes(1, 2).reshape(rows * height, ACROSS * width)


def gif(frames):
    from PIL import Image

    # 64 greys, which no eye misses, take half the bytes of 256.
    first, *others = (Image.fromarray(frame // 4 * 4) for frame in frames)
    options = {"append_images": others, "duration": MILLISECONDS, "loop": 0}
    return encode(first, "gif", save_all=True, **options)


def png(image):
    from PIL import Image

    return encode(Image.fromarray(image), "png", optimize=True)


def jpeg(image):
    from PIL import Image

    return encode(Image.fromarray(image), "jpeg", quality=80)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
