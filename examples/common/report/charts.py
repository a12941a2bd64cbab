"""Line charts as inline SVG, which takes its colours and text sizes from the page."""

import math
from html import escape

import numpy as np

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 34  # margins around the curves
SQUARE = 100


def draw_history(history, name, kept):
    """Returns a chart of a quantity and its `val_` twin, with the kept epoch marked."""
    training, validation = (
        np.array([row[key] for row in history]) for key in (name, f"val_{name}")
    )
    values = np.concatenate([training, validation])
    epochs = np.arange(1, len(history) + 1)
    x_ticks = np.intersect1d(ticks(1, len(history)), epochs)
    y_ticks = ticks(0, max(values[np.isfinite(values)], default=0) or 1)
    x = scale(1, max(len(history), 2), LEFT, WIDTH - RIGHT)
    y = scale(0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        *(horizontal(y(tick), f"{tick:g}") for tick in y_ticks),
        *(text(x(tick), HEIGHT - BOTTOM + 17, f"{tick:.0f}") for tick in x_ticks),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 2, "epoch", "title"),
        f'<path class="kept" d="M{x(kept):.1f} {TOP}V{HEIGHT - BOTTOM}"/>',
        line(x(epochs), y(training), "training"),
        line(x(epochs), y(validation), "validation"),
        dot(x(kept), y(validation[kept - 1])),
    ]
    said = (
        f"{name.capitalize()} by epoch, from the first to the last of {len(history)}: "
        f"training {training[0]:.3f} to {training[-1]:.3f}, validation "
        f"{validation[0]:.3f} to {validation[-1]:.3f}; {validation[kept - 1]:.3f} in "
        f"epoch {kept}, which was kept."
    )
    return svg(WIDTH, HEIGHT, said, parts)


def draw_roc(truth, scores, chosen, said):
    """Returns the ROC curve of one class, with a dot where the decisions fall."""
    from sklearn.metrics import roc_curve

    false_positives, true_positives, _ = roc_curve(truth, scores)
    x, y = scale(0, 1, 2, SQUARE - 2), scale(0, 1, SQUARE - 2, 2)
    parts = [
        f'<rect class="frame" x="2" y="2" width="{SQUARE - 4}" height="{SQUARE - 4}"/>',
        f'<path class="chance" d="M2 {SQUARE - 2}L{SQUARE - 2} 2"/>',
        line(x(false_positives), y(true_positives), "validation"),
        dot(x(chosen[~truth].mean()), y(chosen[truth].mean())),
    ]
    return svg(SQUARE, SQUARE, said, parts)


def scale(low, high, start, end):
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low, high):
    """Returns about five round numbers that include both ends."""
    rough = (high - low) / 5 or 1
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough)
    return np.arange(math.floor(low / step), math.ceil(high / step) + 1) * step


def svg(width, height, said, parts):
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">'
        f"{''.join(parts)}</svg>"
    )


def horizontal(y, label):
    grid = f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
    return grid + text(LEFT - 7, y + 4, label, "left")


def text(x, y, content, kind="tick"):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def line(xs, ys, kind):
    shown = [(x, y) for x, y in zip(xs, ys, strict=True) if np.isfinite(y)]
    if not shown:
        return ""
    # The closing h0 draws a dot where there is only one point.
    points = "L".join(f"{x:.1f} {y:.1f}" for x, y in shown)
    return f'<path class="line {kind}" d="M{points}h0"/>'


def dot(x, y):
    if not np.isfinite(y):
        return ""
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
