"""Prints the tables of `scaling.md`: what a training step computes and sends.

    python docs/scaling.py

A copy of the model is divided among `parts` devices; there are `copies` of it. Sizes
are counted, none is measured; `collectives` reads what a program of XLA's really sums.
"""

import math
import re

from keras_vivit.presets import PRESETS

BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
GRADIENT, ACTIVATION, STATE = 4, 2, 16  # bytes of a number; see scaling.md
VIDEOS = 8  # of a step, for each copy of the model
LAYOUTS = [(n, m) for n in (1, 8, 64, 256, 1024) for m in (1, 4) if m <= n]


def encoders(config):
    """Yields `(blocks, attentions, rows of a video, tokens that attend)`."""
    sizes = zip(config["video_shape"], config["tubelet_size"], strict=False)
    frames, height, width = (side // step for side, step in sizes)
    space, tokens = height * width, frames * height * width
    token = config.get("pooling") == "token"
    layers, temporal = config["num_layers"], config.get("num_temporal_layers", 4)
    match config["variant"]:
        case "spatio_temporal":
            yield layers, 1, tokens + token, tokens + token
        case "factorized_encoder":
            yield layers, 1, frames * (space + token), space + token
            yield temporal, 1, frames + token, frames + token
        case "factorized_self_attention":
            yield layers, 2, tokens, (space + frames) / 2
        case "factorized_dot_product":
            yield layers, 1, tokens, (space + frames) / 2


def parameters(config):
    """Returns how many parameters are divided in a model, and how many are not."""
    dim, hidden, token = config["embed_dim"], config["mlp_dim"], config.get("pooling")
    divided = whole = 0
    for blocks, attentions, _, _ in encoders(config):
        divided += blocks * (attentions * (4 * dim + 3) * dim)
        divided += blocks * (2 * dim + 1) * hidden
        # Biases of what ends a branch, and the norm before each branch.
        whole += blocks * (attentions + 1) * 3 * dim + 2 * dim
    frames, height, width, channels = config["video_shape"]
    grid = [
        side // step
        for side, step in zip(
            (frames, height, width), config["tubelet_size"], strict=True
        )
    ]
    whole += math.prod((*config["tubelet_size"], channels, dim)) + dim
    if config["variant"] == "factorized_encoder":
        whole += (grid[0] + grid[1] * grid[2]) * dim
        whole += 4 * dim * (token == "token")
    else:
        whole += math.prod(grid) * dim + 2 * dim * (token == "token")
    return divided, whole + (dim + 1) * config["num_classes"]


def held(config, copies, parts):
    """Returns how many parameters a device has with `layout_map(fully_sharded=True)`.

    Kernels of blocks and of tubelets are divided by both, biases by `parts` alone.
    """
    divided, whole = parameters(config)
    dim = config["embed_dim"]
    biases = sum(
        blocks * (attentions * 3 * dim + config["mlp_dim"])
        for blocks, attentions, _, _ in encoders(config)
    )
    channels = config["video_shape"][-1]
    tubelets = math.prod((*config["tubelet_size"], channels, dim))
    kernels = (divided - biases) // parts + tubelets
    return kernels // copies + biases // parts + whole - tubelets


def flops(config):
    """Returns the FLOPs of a step for one video: forward, and twice that backward."""
    dim, hidden = config["embed_dim"], config["mlp_dim"]
    forward = sum(
        blocks * rows * (attentions * (8 * dim + 4 * span) + 4 * hidden) * dim
        for blocks, attentions, rows, span in encoders(config)
    )
    return 3 * forward


def reduced(config, videos, parts, activation=ACTIVATION):
    """Returns the bytes of gradients and of activations that a device sums up.

    The gradients are summed over the copies. In each block, activations are summed over
    the parts of a copy: forward, what each branch returns; backward, what it was given,
    for queries, keys and values one by one.
    """
    divided, whole = parameters(config)
    rows = sum(b * (1 + 4 * a + 1) * r for b, a, r, _ in encoders(config))
    activations = rows * videos * config["embed_dim"] * activation if parts > 1 else 0
    return GRADIENT * (divided // parts + whole), activations


def sent(size, devices):
    """Returns the bytes that each device sends to sum up so many, in a ring."""
    return 2 * (devices - 1) / devices * size


def collectives(program):
    """Returns the bytes that each kind of collective returns in a program of XLA's.

    Args:
        program: String, an optimized module in text form.

    Returns:
        Dictionary `{"all-reduce": bytes, ...}`.
    """
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    found = {}
    for line in program.splitlines():
        match = re.search(rf"= (.*?) ({kinds})(-start)?\(", line)
        if match:
            sizes = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            size = sum(
                BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
                for kind, shape in sizes
            )
            found[match[2]] = found.get(match[2], 0) + size
    return found


def table(preset):
    config = PRESETS[preset]["config"]
    divided, whole = parameters(config)
    yield (
        "| devices | copies x parts | videos | TFLOP | state, GB | gradients, MB "
        "| activations, MB | FLOP per byte |"
    )
    yield "|" + "--:|" * 8
    for devices, parts in LAYOUTS:
        copies = devices // parts
        gradients, activations = reduced(config, VIDEOS, parts)
        work = flops(config) * VIDEOS / parts
        state = STATE * (divided / parts + whole)
        gradients, activations = sent(gradients, copies), sent(activations, parts)
        total = gradients + activations
        intensity = f"{work / total:,.0f}" if total else "no bytes"
        yield (
            f"| {devices:,} | {copies} x {parts} | {copies * VIDEOS:,} "
            f"| {work / 1e12:.1f} | {state / 1e9:.2f} | {gradients / 1e6:,.0f} "
            f"| {activations / 1e6:,.0f} | {intensity} |"
        )


def states():
    """Yields a table of the state of each device, in GB."""
    yield "| model | copies x parts | whole copies | fully sharded |"
    yield "|---|--:|--:|--:|"
    for name in ("b16x2", "l16x2"):
        config = PRESETS[f"vivit_{name}_spatio_temporal"]["config"]
        divided, whole = parameters(config)
        for copies, parts in ((8, 1), (64, 1), (16, 4)):
            numbers = (divided / parts + whole, held(config, copies, parts))
            sizes = " | ".join(f"{STATE * n / 1e9:.2f}" for n in numbers)
            yield f"| ViViT-{name[0].upper()}/16x2 | {copies} x {parts} | {sizes} |"


def tables():
    return {
        name: "\n".join(table(f"vivit_{name}_spatio_temporal"))
        for name in ("b16x2", "l16x2")
    }


if __name__ == "__main__":
    print("\n\n".join([*tables().values(), "\n".join(states())]))
