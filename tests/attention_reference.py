"""Rollout and relevance in NumPy: full matrices over all tokens, numerical gradients.

Attention weights are those of `numpy_reference`, which calls `attention_weights` for
each frame and each place alone.
"""

import contextlib

import numpy as np
import numpy_reference as reference
import pytest


@contextlib.contextmanager
def watch(name="attention_weights", offsets=None):
    """Yields the list to which each call of a function of the reference adds a result.

    `offsets` maps numbers of calls to what is added to the result.
    """
    calls, compute = [], getattr(reference, name)

    def function(*arguments, **options):
        result = compute(*arguments, **options) + (offsets or {}).get(len(calls), 0)
        calls.append(result)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, name, function)
        yield calls


def logits_and_calls(arguments, name="attention_weights", offsets=None):
    with watch(name, offsets) as calls:
        logits = reference.classify(**arguments)
    return logits, calls


def gradients(arguments, classes, name="attention_weights", step=1e-4):
    """The gradient of each sample's logit by the result of each call, by differences.

    Samples do not meet: all of them are changed at once.
    """
    _, calls = logits_and_calls(arguments, name)
    samples = np.arange(len(classes))
    found = []
    for number, result in enumerate(calls):
        gradient = np.zeros_like(result)
        for place in np.ndindex(*result.shape[1:]):
            logits = []
            for sign in (step, -step):
                offset = np.zeros_like(result)
                offset[(slice(None), *place)] = sign
                values, _ = logits_and_calls(arguments, name, {number: offset})
                logits.append(values[samples, classes])
            gradient[(slice(None), *place)] = (logits[0] - logits[1]) / (2 * step)
        found.append(gradient)
    return found


# === Calls, sorted ===


def blocks(settings, calls, grid):
    """Calls as `[{axis: array}]`, an entry a block, in the order of application.

    Arrays are `(batch, heads, n, n)`; `(batch, frames or places, heads, n, n)` where
    frames or places attend alone.
    """
    t, places = grid[0], grid[1] * grid[2]
    calls, depth = iter(calls), settings["num_layers"]

    def take(number):
        return np.stack([next(calls) for _ in range(number)], axis=1)

    match settings["variant"]:
        case "spatio_temporal":
            return [{"all": next(calls)} for _ in range(depth)]
        case "factorized_encoder":
            frames = [take(depth) for _ in range(t)]
            spatial = np.stack(frames, axis=2)  # (batch, depth, t, heads, n, n)
            temporal = settings["num_temporal_layers"]
            return [
                *({"space": spatial[:, i]} for i in range(depth)),
                *({"all": next(calls)} for _ in range(temporal)),
            ]
        case "factorized_self_attention":
            order = settings.get("attention_order", "space_time").split("_")
        case "factorized_dot_product":
            order = ["time", "space"]
    number = {"space": t, "time": places}
    return [{axis: take(number[axis]) for axis in order} for _ in range(depth)]


def full(axis, weights, grid):
    """Weights of frames or places as `(batch, tokens, tokens)`, averaged over heads."""
    if axis == "all":
        return weights.mean(axis=1)
    weights = weights.mean(axis=2)
    index = np.arange(np.prod(grid)).reshape(grid[0], -1)
    groups = index if axis == "space" else index.T
    matrix = np.zeros((len(weights), index.size, index.size))
    for i, group in enumerate(groups):
        matrix[:, group[:, None], group] = weights[:, i]
    return matrix


def full_with_class_token(axis, weights, grid, mask, alone):
    """The same of TimeSformer: `(batch, 1 + tokens, 1 + tokens)`.

    Over time, the class token has the weight `alone` for itself. Over space, its row is
    the mean of those of the frames that are kept.
    """
    batch, tokens = len(weights), int(np.prod(grid))
    matrix = np.zeros((batch, 1 + tokens, 1 + tokens))
    if axis == "time":
        matrix[:, 0, 0] = alone
        matrix[:, 1:, 1:] = full(axis, weights, grid)
        return matrix
    weights = weights.mean(axis=2)
    kept = mask.reshape(batch, grid[0], -1).any(axis=2)
    for sample in range(batch):
        for t, frame in enumerate(1 + np.arange(tokens).reshape(grid[0], -1)):
            joined = np.array([0, *frame])
            matrix[sample, frame[:, None], joined] = weights[sample, t, 1:]
            if kept[sample, t]:
                matrix[sample, 0, joined] += weights[sample, t, 0] / kept[sample].sum()
    return matrix


# === Maps ===


def token_map(settings, steps, grid, combine, mask=None):
    """Product of the blocks' full matrices, in the row of what is pooled.

    Args:
        settings: Arguments of the model.
        steps: What `blocks` returns.
        grid: `(t, h, w)`.
        combine: Function of the identity and an attention matrix: one factor.
        mask: Optional boolean array `(batch, t, h, w)`.

    Returns:
        Two arrays `(batch, t, h, w)`: the row, and the row without any blocks (of the
        spatial encoder).
    """
    batch, pooling = len(next(iter(steps[0].values()))), settings["pooling"]
    if mask is None:
        mask = np.ones((batch, *grid), bool)
    if settings["variant"] != "factorized_encoder":
        alone = float(combine is not np.add)
        matrices = [
            matrix
            for step in steps
            for matrix in factors(settings, step, grid, mask, alone)
        ]
        rows, start = (
            row.reshape(batch, *grid)
            for row in row_of(matrices, mask.reshape(batch, -1), pooling, combine)
        )
        return rows, start
    depth = settings["num_layers"]
    temporal = [step["all"].mean(axis=1) for step in steps[depth:]]
    frames, _ = row_of(temporal, mask.any(axis=(2, 3)), pooling, combine)
    maps, starts = np.zeros((2, batch, *grid))
    for t in range(grid[0]):
        spatial = [step["space"][:, t].mean(axis=1) for step in steps[:depth]]
        kept = mask[:, t].reshape(batch, -1)
        row, start = row_of(spatial, kept, pooling, combine)
        maps[:, t] = (row * frames[:, t : t + 1]).reshape(batch, *grid[1:])
        starts[:, t] = (start * frames[:, t : t + 1]).reshape(batch, *grid[1:])
    return maps, starts


def factors(settings, step, grid, mask, alone):
    """Full matrices of a block's attentions; model 4 has one of two halves."""
    variant, token = settings["variant"], settings["pooling"] == "token"
    if variant == "factorized_self_attention" and token:
        return [
            full_with_class_token(axis, weights, grid, mask, alone)
            for axis, weights in step.items()
        ]
    matrices = [full(axis, weights, grid) for axis, weights in step.items()]
    if variant == "factorized_dot_product":
        return [sum(matrices) / 2]
    return matrices


def row_of(matrices, mask, pooling, combine):
    batch, tokens = mask.shape
    if pooling == "token":
        tokens += 1
        row = np.tile(np.eye(tokens)[0], (batch, 1))
    elif pooling == "first":
        row = np.tile(np.eye(tokens)[0], (batch, 1)) * mask
    else:
        row = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1)
    product = np.tile(np.eye(tokens), (batch, 1, 1))
    for matrix in matrices:
        product = combine(np.eye(tokens), matrix) @ product
    found = np.einsum("bi,bij->bj", row, product)
    skipped = int(pooling == "token")
    return found[:, skipped:], row[:, skipped:]
