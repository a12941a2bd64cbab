"""Draws the pictures of `variants.md`, and prints the numbers of its table.

Which token attends to which is measured: a token is changed, and where the output of
the attention changes with it, it was attended to.

python docs/variants.py
"""

import json
import math
import sys
from pathlib import Path

import keras
import numpy as np
from drawing import Drawing

from keras_vivit import ViViTBackbone, ViViTClassifier
from keras_vivit.attention import MultiHeadSelfAttention
from keras_vivit.backbone import VARIANTS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from flops import forward_multiply_adds  # noqa: E402
from sizes import SIZES  # noqa: E402

SMALL = {
    "video_shape": (8, 48, 48, 3),
    "tubelet_size": (2, 16, 16),
    "embed_dim": 8,
    "num_layers": 1,
    "num_temporal_layers": 1,
    "num_heads": 2,
    "mlp_dim": 8,
}
QUERY = (1, 1, 1)  # The token whose view is drawn.
CELL, GAP, LEFT, WIDTH = 20, 20, 1, 340
LEGEND = ("query", "this token"), ("key", "attends to these"), ("cell", "not to these")


def reach(layer, grid, query):
    """Booleans `grid`: which tokens change what `layer` puts out at `query`."""
    tokens = np.random.default_rng(0).normal(size=(*grid, SMALL["embed_dim"]))
    count = math.prod(grid)
    changed = np.repeat(tokens[None], count + 1, axis=0).astype("float32")
    for i, place in enumerate(np.ndindex(*grid)):
        changed[(i, *place, 0)] += 1  # One feature: norms take out what all share.
    outputs = keras.ops.convert_to_numpy(layer(changed))
    outputs = outputs.reshape(count + 1, *grid, -1)[(slice(None), *query)]
    differences = np.abs(outputs[:-1] - outputs[-1]).max(axis=-1)
    return differences.reshape(grid) > 1e-6


def steps(variant):
    """What the tokens of a variant do, one after another: pairs of name and reach."""
    backbone = ViViTBackbone(variant=variant, **SMALL)
    tokens = backbone.get_layer("tubelet_embedding").output
    grid = tuple(tokens.shape[1:4])
    if variant == "factorized_encoder":
        frames = backbone.get_layer("frame_pooling").output
        spatial = backbone.get_layer("spatial_norm").output
        temporal = backbone.get_layer("temporal_norm").output
        return [
            ("space", reach(keras.Model(tokens, spatial), grid, QUERY)),
            ("time", reach(keras.Model(frames, temporal), grid[:1], QUERY[:1])),
        ]
    block = backbone.get_layer("encoder_block_0")
    *attentions, _ = (layer for _, layer in block._branches())
    return [
        (axis, reach(MultiHeadSelfAttention(1, (axis,)), grid, QUERY))
        for attention in attentions
        for axis in attention.axes
    ]


def preset(variant):
    """ViViT-B/16x2 for Kinetics-400, without the memory for its weights."""
    with keras.StatelessScope(initialize_variables=False):
        return ViViTClassifier.from_preset(f"vivit_b16x2_{variant}")


def rows():
    """Parameters, GFLOPs and seconds of each variant, as they are in the table."""
    measured = (BENCHMARKS / "results" / "b16x2-cpu-float32.json").read_text()
    seconds = json.loads(measured)["seconds"]
    for number, variant in enumerate(VARIANTS, 1):
        count = preset(variant).count_params()
        flops = forward_multiply_adds(SIZES["b16x2"], number, class_token=number < 3)
        numbers = f"{count:,} | {flops / 1e9:.1f} | {seconds[variant]:.1f}"
        yield f'| `"{variant}"` | {numbers} |'


def full_grid():
    """The grid of ViViT-B/16x2."""
    backbone = preset("spatio_temporal").backbone
    return tuple(backbone.get_layer("tubelet_embedding").output.shape[1:4])


TITLES = {
    "spatio_temporal": {"all": "Every block: space and time"},
    "factorized_encoder": {
        "space": "Spatial encoder: each frame by itself",
        "time": "Temporal encoder: the frames' vectors",
    },
    "factorized_self_attention": {
        "space": "Every block, first: space",
        "time": "then: time",
    },
    "factorized_dot_product": {
        "time": "Every block, half of the heads: time",
        "space": "the other half: space",
    },
}


def draw(variant, found, grid):
    """A row of frames for each step; `grid` is that of ViViT-B/16x2."""
    t, h, w = found[0][1].shape
    frame_width = w * CELL
    rows = [h * CELL if view.ndim == 3 else CELL for _, view in found]
    drawing = Drawing(f"Which tokens attend to which: {variant}", WIDTH, 0)
    x = LEFT
    for css, label in LEGEND:
        drawing.rectangle(x, 8, 12, 12, css)
        drawing.text(x + 18, 19, label, "note")
        x += 34 + 6.4 * len(label)
    y = 58
    full = {"all": math.prod(grid), "space": math.prod(grid[1:]), "time": grid[0]}
    for i, ((axis, view), row) in enumerate(zip(found, rows, strict=True)):
        drawing.text(LEFT, y, TITLES[variant][axis], "title")
        kind = "tokens" if view.ndim == 3 else "vectors"
        here = f"{view.sum()} of {view.size} {kind}"
        there = f"{full[axis]:,} of {math.prod(grid[: view.ndim]):,}"
        drawing.text(LEFT, y + 19, f"{here}; ViViT-B/16x2: {there}", "note")
        y += 32
        for place in np.ndindex(*view.shape):
            left = LEFT + place[0] * (frame_width + GAP)
            top = y
            if view.ndim == 3:
                left, top = left + place[2] * CELL, top + place[1] * CELL
            else:
                left += (frame_width - CELL) / 2
            query = place == QUERY[: view.ndim]
            css = "query" if query else "key" if view[place] else "cell"
            drawing.rectangle(left + 1, top + 1, CELL - 2, CELL - 2, css)
        y += row
        if i + 1 < len(found):
            if found[i + 1][1].ndim == 1:
                for frame in range(t):
                    x = LEFT + frame * (frame_width + GAP) + frame_width / 2
                    drawing.arrow(x, y + 3, x, y + 20)
            y += 40
    for frame in range(t):
        x = LEFT + frame * (frame_width + GAP) + frame_width / 2
        drawing.text(x, y + 19, f"t = {frame}", "note middle")
    drawing.height = y + 30
    return str(drawing)


def pictures():
    grid = full_grid()
    return {
        f"variants-{variant}.svg": draw(variant, steps(variant), grid)
        for variant in VARIANTS
    }


def main():
    for name, text in pictures().items():
        Path(__file__).with_name(name).write_text(text)
    print(*rows(), sep="\n")


if __name__ == "__main__":
    main()
