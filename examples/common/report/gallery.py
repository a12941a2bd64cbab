"""Test samples on the page: an animation each, and what the model said about it."""

import base64
import io
from html import escape

import numpy as np

FRAMES = 28  # at most: of 64, every third one is shown
MILLISECONDS = 120
ACROSS = 7  # frames per row where they are side by side


def choose(samples, seed, count=25):
    """Returns `count` random rows of the test samples, or all if there are fewer."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(samples, min(count, samples), replace=False))


def most_confident_mistakes(labels, predicted, probabilities, count=10):
    """Returns the rows of the wrong predictions, the most confident one first."""
    wrong = np.flatnonzero(predicted != labels)
    confidence = probabilities[wrong, predicted[wrong]]
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def cards(rows, data, about, predicted, probabilities, views=None):
    """Returns a list with a figure for each of these rows of the test samples.

    `views` holds HTML for each of them, to be shown beside the animation.
    """
    figures = "".join(
        card(row, data, about, predicted[row], probabilities[row], view)
        for row, view in zip(rows, views or [""] * len(rows), strict=True)
    )
    return f'<ul class="cards">{figures}</ul>'


def card(row, data, about, predicted, probabilities, view=""):
    frames, label = frames_of(data.test.images[row]), data.test.labels[row]
    actual, said = (escape(data.class_names[i]) for i in (label, predicted))
    right = label == predicted
    parts = f"{about.part}s".capitalize()
    alt = f"{parts} of test {about.noun} {row}, actual class {actual}"
    sheet = f"{parts} of test {about.noun} {row} side by side, row by row"
    return f"""
<li class="card {"right" if right else "wrong"}"><figure>
<details>
<summary><span class="views"><span>{pictures_of(frames, alt)}</span>{view}</span>
<span class="more">Side by side</span></summary>
<img class="sheet" alt="{sheet}" src="{jpeg(contact_sheet(frames))}">
</details>
<figcaption>
<p class="verdict"><span><span aria-hidden="true">{"✓" if right else "✗"}</span>
{"right" if right else "wrong"}</span> <span class="number">no. {row}</span></p>
<dl class="names"><div><dt>actual</dt><dd>{actual}</dd></div>
<div><dt>predicted</dt><dd>{said}</dd></div></dl>
{top_three(data.class_names, label, probabilities)}
</figcaption>
</figure></li>"""


def pictures_of(frames, alt):
    """Returns an animation, and the still frame for those who do not want any."""
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


def frames_of(sample):
    """Returns grey frames `(n, height, width)`, or coloured ones with channels."""
    frames = sample[:: -(-len(sample) // FRAMES)]
    return frames[..., 0] if frames.shape[-1] == 1 else frames


def contact_sheet(frames):
    gaps = ((0, -len(frames) % ACROSS), (0, 2), (0, 2), (0, 0))
    frames = np.pad(frames, gaps[: frames.ndim])
    count, height, width, *channels = frames.shape
    rows = count // ACROSS
    grid = frames.reshape(rows, ACROSS, height, width, *channels).swapaxes(1, 2)
    return grid.reshape(rows * height, ACROSS * width, *channels)


def gif(frames):
    from PIL import Image

    # 64 shades, which no eye misses, take half the bytes of 256.
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
