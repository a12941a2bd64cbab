"""ViViT's forward pass in NumPy, written from the paper and nothing else.

All four variants of Arnab et al., *ViViT: A Video Vision Transformer*
(https://arxiv.org/abs/2103.15691), in float64, with loops wherever a loop reads
better than a reshape. Parameters are a flat dict under Scenic's names, the official
implementation's. No code is shared with the library, so agreement means something.

A mask is boolean, True = keep, one entry per token. `where` a whole row of keys is
dropped, attention gives zeros: no kept token ever reads such a row.
"""

import itertools
import math

import numpy as np

# === Tubelets, section 3.2 ===


def _windows(size, kernel, stride, padding):
    """Start of each window along one axis; "same" starts before the first voxel."""
    if padding == "valid":
        return [i * stride for i in range((size - kernel) // stride + 1)]
    count = -(-size // stride)
    total = max((count - 1) * stride + kernel - size, 0)
    return [i * stride - total // 2 for i in range(count)]


def tubelets(volume, kernel_size, strides=None, padding="valid"):
    """Cuts `(batch, frames, height, width, channels)` into one box per token.

    Yields `(index, box)`: the token's `(t, h, w)`, and its voxels with zeros where the
    window hangs over the border.
    """
    strides = strides or kernel_size
    sizes = volume.shape[1:4]
    starts = [
        _windows(*axis, padding)
        for axis in zip(sizes, kernel_size, strides, strict=True)
    ]
    for index in np.ndindex(*map(len, starts)):
        box = np.zeros((len(volume), *kernel_size, volume.shape[-1]), volume.dtype)
        for voxel in np.ndindex(*kernel_size):
            source = [s[i] + v for s, i, v in zip(starts, index, voxel, strict=True)]
            if all(0 <= x < n for x, n in zip(source, sizes, strict=True)):
                box[(slice(None), *voxel)] = volume[(slice(None), *source)]
        yield index, box


def _stack_grid(tokens):
    """`{(t, h, w): array (batch, ...)}` -> `(batch, t, h, w, ...)`."""
    sizes = [n + 1 for n in max(tokens)]
    first = next(iter(tokens.values()))
    grid = np.empty((len(first), *sizes, *first.shape[1:]), first.dtype)
    for index, token in tokens.items():
        grid[(slice(None), *index)] = token
    return grid


def tubelet_embedding(video, params, strides=None, padding="valid"):
    """One linear projection per tubelet -> `(batch, t, h, w, D)`."""
    kernel, bias = np.float64(params["kernel"]), np.float64(params["bias"])
    boxes = tubelets(np.float64(video), kernel.shape[:3], strides, padding)
    return _stack_grid(
        {i: np.einsum("bthwc,thwcd->bd", box, kernel) + bias for i, box in boxes}
    )


def voxel_mask(mask, video):
    """A mask `(batch, frames)`, or one per voxel already, for each voxel of `video`."""
    mask = mask[:, :, None, None] if mask.ndim == 2 else mask
    return np.broadcast_to(mask, video.shape[:4])


def tubelet_mask(mask, kernel_size, strides=None, padding="valid"):
    """A token is kept if any of its voxels is; padding never is.

    `mask` has one entry per voxel.
    """
    boxes = tubelets(mask[..., None], kernel_size, strides, padding)
    return _stack_grid({i: box.any(axis=(1, 2, 3, 4)) for i, box in boxes})


# === Pieces of a block, section 3.1 ===


def subtree(params, prefix):
    """The entries below `prefix`, without it."""
    start = prefix + "/"
    return {k[len(start) :]: v for k, v in params.items() if k.startswith(start)}


def layer_norm(x, params, epsilon=1e-6):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * params["scale"] + params["bias"]


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def mlp(x, params, activation=gelu_tanh):
    hidden = x @ params["Dense_0/kernel"] + params["Dense_0/bias"]
    return activation(hidden) @ params["Dense_1/kernel"] + params["Dense_1/bias"]


def attention_weights(query, key, keep=None):
    """Softmax(Q K^T / sqrt(d_k)), equation 7, on `(batch, tokens, heads, d_k)`.

    `keep` broadcasts to `(batch, heads, queries, keys)`.
    """
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    if keep is not None:
        weights = weights * keep
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def attention(query, key, value, keep=None):
    """The sum of the values by weight, equation 7."""
    weights = attention_weights(query, key, keep)
    return np.einsum("bhqk,bkhd->bqhd", weights, value)


# === Which tokens meet, section 3.3 ===
# Each of these takes and returns `(batch, ..., heads, d_k)`, and a mask without the
# last two axes.


def attend_everywhere(query, key, value, mask=None, pairs=None):
    """Model 1: every token meets every token.

    `pairs`, broadcastable to `(heads, queries, keys)`, drops single pairs.
    """
    batch, *_, heads, size = query.shape
    keep = np.ones((1, 1, 1, 1), bool)
    if mask is not None:
        keep = keep & mask.reshape(batch, 1, 1, -1)
    if pairs is not None:
        keep = keep & pairs
    flat = [x.reshape(batch, -1, heads, size) for x in (query, key, value)]
    return attention(*flat, keep).reshape(query.shape)


def attend_within_frames(query, key, value, mask=None):
    """Tokens of the same temporal index: the spatial attention of models 3 and 4."""
    result = np.empty_like(query)
    for t in range(query.shape[1]):
        frame = (slice(None), t)
        kept = None if mask is None else mask[frame]
        result[frame] = attend_everywhere(query[frame], key[frame], value[frame], kept)
    return result


def attend_across_frames(query, key, value, mask=None):
    """Tokens of the same spatial index: the temporal attention of models 3 and 4."""
    result = np.empty_like(query)
    for index in np.ndindex(query.shape[2:-2]):
        place = (slice(None), slice(None), *index)
        kept = None if mask is None else mask[place]
        result[place] = attend_everywhere(query[place], key[place], value[place], kept)
    return result


def attend_by_halves(query, key, value, mask=None):
    """Model 4: Y = Concat(Y_t, Y_s), half of the heads each; Scenic has time first."""
    half = query.shape[-2] // 2
    time = [x[..., :half, :] for x in (query, key, value)]
    space = [x[..., half:, :] for x in (query, key, value)]
    return np.concatenate(
        [attend_across_frames(*time, mask), attend_within_frames(*space, mask)],
        axis=-2,
    )


def multi_head_attention(x, params, mask=None, attend=attend_everywhere):
    """Projects `(batch, ..., D)` per head, attends, and joins the heads."""
    query, key, value = (
        np.tensordot(x, params[f"{name}/kernel"], 1) + params[f"{name}/bias"]
        for name in ("query", "key", "value")
    )
    joined = attend(query, key, value, mask)  # (batch, ..., heads, d_k)
    return np.tensordot(joined, params["out/kernel"], 2) + params["out/bias"]


# === Blocks ===


def encoder_block(x, params, mask=None, attend=attend_everywhere, activation=gelu_tanh):
    """Equations 2 and 3, on any rank; models 1, 2 and 4 differ only in `attend`."""
    normed = layer_norm(x, subtree(params, "LayerNorm_0"))
    weights = subtree(params, "MultiHeadDotProductAttention_0")
    y = multi_head_attention(normed, weights, mask, attend) + x
    normed = layer_norm(y, subtree(params, "LayerNorm_1"))
    return mlp(normed, subtree(params, "MlpBlock_0"), activation) + y


def factorized_dot_product_block(x, params, mask=None):
    """Model 4: the block of model 1 with its heads split."""
    return encoder_block(x, params, mask, attend=attend_by_halves)


def factorized_self_attention_block(
    x,
    params,
    mask=None,
    order="space_time",
    attend_space=attend_within_frames,
    attend_time=attend_across_frames,
):
    """Model 3, equations 4 to 6: two attentions and one MLP, each with a residual."""
    attends = {"space": attend_space, "time": attend_time}
    for axis in order.split("_"):
        normed = layer_norm(x, subtree(params, f"LayerNorm_{axis}"))
        weights = subtree(params, f"MultiHeadDotProductAttention_{axis}")
        x = multi_head_attention(normed, weights, mask, attends[axis]) + x
    normed = layer_norm(x, subtree(params, "LayerNorm_mlp"))
    return mlp(normed, subtree(params, "MlpBlock")) + x


def attend_with_class_token(x, params, mask, frames, axis):
    """TimeSformer's attention along one axis, on `(batch, 1 + t * s, D)`.

    Over time the class token stands aside. Over space it joins each frame in turn, and
    gets the mean of what it becomes in the frames of which some token is kept.
    """
    batch, _, dim = x.shape
    result = np.zeros_like(x)
    grid = x[:, 1:].reshape(batch, frames, -1, dim)
    kept = np.ones(grid.shape[:3], bool)
    if mask is not None:
        kept = mask[:, 1:].reshape(kept.shape)
    if axis == "time":
        out = multi_head_attention(grid, params, kept, attend_across_frames)
        result[:, 1:] = out.reshape(batch, -1, dim)
        return result
    out, tokens = np.empty_like(grid), []
    for t in range(frames):
        frame, frame_kept = class_token(grid[:, t], 0, kept[:, t])
        frame[:, 0] = x[:, 0]
        frame = multi_head_attention(frame, params, frame_kept)
        tokens.append(frame[:, 0])
        out[:, t] = frame[:, 1:]
    result[:, 0] = mean_pooling(np.stack(tokens, axis=1), kept.any(axis=2))
    result[:, 1:] = out.reshape(batch, -1, dim)
    return result


def divided_attention_block(x, params, mask=None, order="space_time", frames=1):
    """Model 3 with a class token, as TimeSformer has it."""
    for axis in order.split("_"):
        normed = layer_norm(x, subtree(params, f"LayerNorm_{axis}"))
        weights = subtree(params, f"MultiHeadDotProductAttention_{axis}")
        x = attend_with_class_token(normed, weights, mask, frames, axis) + x
    normed = layer_norm(x, subtree(params, "LayerNorm_mlp"))
    return mlp(normed, subtree(params, "MlpBlock")) + x


# === Models, section 3.3 ===


def class_token(tokens, token, mask=None):
    """Puts `token` in front of `(batch, tokens, D)`, kept by every mask; equation 1."""
    row = np.broadcast_to(token, (len(tokens), 1, tokens.shape[-1]))
    if mask is not None:
        mask = np.concatenate([np.ones((len(mask), 1), bool), mask], axis=1)
    return np.concatenate([row, tokens], axis=1), mask


def mean_pooling(tokens, mask=None):
    """Mean over the kept tokens of `(batch, ..., D)`; zeros where none is kept."""
    batch, *_, dim = tokens.shape
    flat = tokens.reshape(batch, -1, dim)
    if mask is None:
        return flat.mean(axis=1)
    kept = mask.reshape(batch, -1, 1)
    return (flat * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)


def pool(tokens, pooling, mask=None):
    return tokens[:, 0] if pooling == "token" else mean_pooling(tokens, mask)


def _run_blocks(x, params, block, mask):
    depth = len({name.split("/")[0] for name in params if "encoderblock_" in name})
    for i in range(depth):
        x = block(x, subtree(params, f"encoderblock_{i}"), mask)
    return layer_norm(x, subtree(params, "encoder_norm"))


def _encode_sequence(tokens, params, token, mask, block=None):
    """Class token if there is one, positions, blocks: equations 1 to 3."""
    if token is not None:
        tokens, mask = class_token(tokens, token, mask)
    tokens = tokens + params["posembed_input/pos_embedding"]
    return _run_blocks(tokens, params, block or encoder_block, mask), mask


def _encode_factorized(grid, params, pooling, mask):
    """Model 2: one spatial encoder for each frame, then one over the frames."""
    batch, frames, *_, dim = grid.shape
    vectors = []
    for t in range(frames):
        frame, kept = _encode_sequence(
            grid[:, t].reshape(batch, -1, dim),
            subtree(params, "SpatialTransformer"),
            params.get("cls_SpatialTransformer"),
            None if mask is None else mask[:, t].reshape(batch, -1),
        )
        vectors.append(pool(frame, pooling, kept))
    return _encode_sequence(
        np.stack(vectors, axis=1),
        subtree(params, "TemporalTransformer"),
        params.get("cls_TemporalTransformer"),
        None if mask is None else mask.any(axis=(2, 3)),
    )


def encode(
    params,
    video,
    variant,
    pooling,
    attention_order="space_time",
    frame_mask=None,
    strides=None,
    padding="valid",
):
    """Video -> `(tokens, mask)` as a backbone gives them; the mask may be None."""
    params = {name: np.float64(value) for name, value in params.items()}
    embedding = subtree(params, "embedding")
    mask = None
    if frame_mask is not None:
        voxels = voxel_mask(frame_mask, video)
        video = np.where(voxels[..., None], video, 0)
        kernel_size = embedding["kernel"].shape[:3]
        mask = tubelet_mask(voxels, kernel_size, strides, padding)
    grid = tubelet_embedding(video, embedding, strides, padding)
    batch, *sizes, dim = grid.shape

    if variant == "factorized_encoder":
        return _encode_factorized(grid, params, pooling, mask)
    encoder = subtree(params, "Transformer")
    if variant == "spatio_temporal" or pooling == "token":

        def divided(x, weights, mask):
            return divided_attention_block(x, weights, mask, attention_order, sizes[0])

        tokens, flat_mask = _encode_sequence(
            grid.reshape(batch, -1, dim),
            encoder,
            params.get("cls"),
            None if mask is None else mask.reshape(batch, -1),
            None if variant == "spatio_temporal" else divided,
        )
        if pooling == "token":
            return tokens, flat_mask
        return tokens.reshape(grid.shape), mask

    def block(x, weights, mask):
        if variant == "factorized_dot_product":
            return factorized_dot_product_block(x, weights, mask)
        return factorized_self_attention_block(x, weights, mask, attention_order)

    table = encoder["posembed_input/pos_embedding"].reshape(1, *sizes, dim)
    return _run_blocks(grid + table, encoder, block, mask), mask


def classify(params, video, variant, pooling, **kwargs):
    """Video -> logits; takes the arguments of `encode`."""
    tokens, mask = encode(params, video, variant, pooling, **kwargs)
    head = subtree(params, "output_projection")
    return pool(tokens, pooling, mask) @ head["kernel"] + head["bias"]


# === Positions ===


def sincos_position(index, dim):
    """Fixed vector of one place on the grid: per axis all sines, then all cosines.

    Each axis has the frequencies 10000^(-i/n), n = dim // (2 * axes); channels left
    over are zero.
    """
    count = dim // (2 * len(index))
    angles = [[x * 1e4 ** -(i / count) for i in range(count)] for x in index]
    axes = [[*map(math.sin, row), *map(math.cos, row)] for row in angles]
    vector = [value for axis in axes for value in axis]
    return np.array(vector + [0.0] * (dim - len(vector)))


def resize_table(table, grid):
    """Linear along t, h and w: half-pixel centres, clamped to the border.

    Point by point, eight corners each: `(t, h, w, D)` -> `(*grid, D)`.
    """
    table = np.float64(table)
    result = np.zeros((*grid, table.shape[-1]))
    for index in np.ndindex(*grid):
        corners = []
        for i, new, old in zip(index, grid, table.shape[:3], strict=True):
            centre = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
            low = math.floor(centre)
            high = min(low + 1, old - 1)
            corners.append([(low, 1 - (centre - low)), (high, centre - low)])
        for (t, a), (h, b), (w, c) in itertools.product(*corners):
            result[index] += a * b * c * table[t, h, w]
    return result
