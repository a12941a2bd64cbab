"""What speaks for a class: relevance and Grad-CAM, by gradients of its logit."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vivit import backends, validation
from keras_vivit.attention import fold
from keras_vivit.classifier import ViViTClassifier
from keras_vivit.types import Tensor
from keras_vivit.visualization import passes


def relevance(
    model: keras.Model,
    videos: Any,
    class_index: Any = None,
    head: str | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Returns how much each token speaks for a class.

    As `attention_rollout`, with each attention weight multiplied by the gradient of the
    class's logit by it, without negative products. Where the gradient is zero, as in a
    new model whose head is zero, the map is zero.

    Args:
        model: A `ViViTClassifier`.
        videos: Arrays, as the model takes them.
        class_index: Integer, or one for each video. Defaults to the predicted class.
        head: Name of the head, for a model of several.
        batch_size: Integer, videos that are processed at once.

    Returns:
        Array `(batch, t, h, w)`, float32, not negative. Its scale is that of the
        gradient.

    Raises:
        ValueError: If the model has no such head or class.

    Example:
    >>> model = keras_vivit.ViViTClassifier(
    ...     (4, 16, 16, 1), num_classes=3, tubelet_size=(2, 8, 8), embed_dim=16,
    ...     num_layers=2, num_heads=2, mlp_dim=32)
    >>> videos = np.zeros((1, 4, 16, 16, 1))
    >>> keras_vivit.visualization.relevance(model, videos, class_index=2).shape
    (1, 2, 2, 2)

    Reference:
        [Generic Attention-model Explainability, Chefer et al.,
        2021](https://arxiv.org/abs/2103.15679)
    """
    head, classes = _head_and_classes(model, videos, class_index, head)

    def relevance_of(batch: Any, place: slice) -> Tensor:
        forward = passes.run(model.backbone, batch)
        upstream = _output_gradient(model, forward, head, classes and classes[place])
        matrices = _weighted_attention(forward, upstream)
        # The rows without what pooling alone gives to each token.
        return passes.pooled_rows(forward, matrices, averaged=False)[1]

    return passes.in_batches(relevance_of, videos, batch_size)


def grad_cam(
    model: keras.Model,
    videos: Any,
    class_index: Any = None,
    head: str | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Returns the class activation map of the last block with a grid.

    Its tokens are weighted by the mean gradient of the class's logit by each feature.
    They are those that leave the block, or, where a class token or the first token is
    pooled and the others have no gradient, those that enter it. In
    `"factorized_encoder"` it is the last spatial block.

    Args:
        model, videos, class_index, head, batch_size: As for `relevance`.

    Returns:
        Array `(batch, t, h, w)`, float32, not negative.

    Raises:
        ValueError: If the model has no such head or class.

    Example:
    >>> model = keras_vivit.ViViTClassifier(
    ...     (4, 16, 16, 1), num_classes=3, tubelet_size=(2, 8, 8), embed_dim=16,
    ...     num_layers=2, num_heads=2, mlp_dim=32)
    >>> keras_vivit.visualization.grad_cam(model, np.zeros((1, 4, 16, 16, 1))).shape
    (1, 2, 2, 2)

    Reference:
        [Grad-CAM, Selvaraju et al., 2017](https://arxiv.org/abs/1610.02391)
    """
    head, classes = _head_and_classes(model, videos, class_index, head)

    def map_of(batch: Any, place: slice) -> Tensor:
        forward = passes.run(model.backbone, batch)
        first = forward.encoders[0]
        tokens = first.output
        gradient = _output_gradient(model, forward, head, classes and classes[place])
        if len(forward.encoders) == 2:
            gradient = _pull_back(_temporal_encoder, forward, tokens, gradient)
        if model.backbone.pooling != "mean":
            tokens = first.steps[-1].x
            gradient = _pull_back(_last_block, forward, tokens, gradient)
        return _activation_map(forward, tokens, gradient)

    return passes.in_batches(map_of, videos, batch_size)


# === Arguments ===


def _head_and_classes(
    model: Any, videos: Any, class_index: Any, head: str | None
) -> tuple[str, list[int] | None]:
    """Returns the name of the layer of logits, and the class of each video, if any."""
    if not isinstance(model, ViViTClassifier):
        raise ValueError(
            "`model` must be a ViViTClassifier, which has logits. "
            f"Received: {type(model).__name__}"
        )
    classes = model.num_classes
    if isinstance(classes, dict):
        head = str(validation.choice("head", head, classes))
        classes, layer = classes[head], f"{head}_head"
    elif head is None:
        layer = "head"
    else:
        raise ValueError(
            f"`head` must be None for a model with one head. Received: head={head!r}"
        )
    if class_index is None:
        return layer, None
    validation.tensors("videos", videos)
    number = len(keras.tree.flatten(videos)[0])
    indices = np.asarray(class_index)
    if (
        indices.dtype.kind not in "iu"
        or indices.shape not in ((), (number,))
        or (indices < 0).any()
        or (indices >= classes).any()
    ):
        raise ValueError(
            f"`class_index` must be an integer from 0 to {classes - 1}, or one for "
            f"each of the {number} videos. Received: class_index={class_index!r}"
        )
    return layer, np.broadcast_to(indices, number).tolist()


# === Gradients ===


def _output_gradient(
    model: Any, forward: passes.Pass, head: str, classes: list[int] | None
) -> Tensor:
    """Returns the gradient of each video's logit by the last block's output."""
    output = forward.encoders[-1].output
    logits = _logits(model, forward, head, output)
    chosen = ops.argmax(logits, axis=-1) if classes is None else np.array(classes)
    upstream = ops.one_hot(chosen, logits.shape[-1], dtype=logits.dtype)

    def function(x: Tensor) -> tuple[Tensor, tuple]:
        return _logits(model, forward, head, x), ()

    return backends.pull_back(function, [output], upstream)[1][0]


def _logits(model: Any, forward: passes.Pass, head: str, x: Tensor) -> Tensor:
    encoder = forward.encoders[-1]
    if model.backbone.final_norm:
        x = model.backbone.get_layer(f"{encoder.name}_norm")(x)
    x = model.get_layer("pooling")(x, mask=encoder.steps[-1].mask)
    if model.head_norm_epsilon is not None:
        x = model.get_layer("head_norm")(x)
    return model.get_layer(head)(x)


def _weighted_attention(
    forward: passes.Pass, upstream: Tensor
) -> Iterator[list[Tensor]]:
    """Yields the relevance of keys for queries in each block, the last one first.

    It is the attention weight times its gradient, the positive part averaged over
    heads.
    """
    for number, encoder in reversed([*enumerate(forward.encoders)]):
        if number < len(forward.encoders) - 1:
            upstream = _pull_back(_frame_vectors, forward, encoder.output, upstream)
        for block, x, mask in reversed(encoder.steps):
            upstream, products = _block_relevance(block, x, mask, upstream)
            yield products


def _block_relevance(
    block: Any, x: Tensor, mask: Tensor | None, upstream: Tensor
) -> tuple[Tensor, list[Tensor]]:
    def function(x: Tensor, *offsets: Tensor) -> tuple[Tensor, list[Tensor]]:
        return passes.run_block(block, x, mask, offsets)

    # The gradient by what is added to a tensor is that by the tensor.
    shares, (upstream, *gradients) = backends.pull_back(
        function, [x, *_zero_weights(block, x)], upstream
    )
    products = []
    for share, gradient in zip(shares, gradients, strict=True):
        product = ops.cast(share, "float32") * ops.cast(gradient, "float32")
        products.append(ops.mean(ops.relu(product), axis=1))
    return upstream, products


def _zero_weights(block: Any, x: Tensor) -> list[Tensor]:
    """Returns zeros of the shapes of a block's attention weights."""
    grid, zeros = passes.grid_of(x), []
    frames = passes.frames_of(block)
    if frames:  # and a class token
        grid = [frames, (grid[0] - 1) // frames]
    tokens = ops.zeros((len(x), math.prod(grid)))
    for axes in passes.share_axes(block):
        for axis in axes:
            number, length = fold(tokens, grid, axis).shape
            if frames and axis == "space":
                length += 1
            heads = block.num_heads // len(axes)
            zeros.append(ops.zeros((number, heads, length, length), x.dtype))
    return zeros


def _pull_back(
    function: Callable[[passes.Pass, Tensor], Tensor],
    forward: passes.Pass,
    x: Tensor,
    upstream: Tensor,
) -> Tensor:
    return backends.pull_back(lambda x: (function(forward, x), ()), [x], upstream)[1][0]


# === Parts of a backbone ===


def _last_block(forward: passes.Pass, x: Tensor) -> Tensor:
    """From what enters the last block of the (first) encoder to what leaves it."""
    block, _, mask = forward.encoders[0].steps[-1]
    return block(x, mask=mask)


def _frame_vectors(forward: passes.Pass, x: Tensor) -> Tensor:
    """From the last spatial block's output to what enters the temporal blocks."""
    backbone, mask = forward.backbone, forward.encoders[0].steps[-1].mask
    x = backbone.get_layer("spatial_norm")(x)
    pooling = backbone.get_layer("frame_pooling")
    x = pooling(x, mask=mask) if pooling.frames else pooling([x, forward.grid])
    x = backbone.get_layer("temporal_position")(x)
    if backbone.pooling == "token":
        x = backbone.get_layer("temporal_class_token")(x)
    return x


def _temporal_encoder(forward: passes.Pass, x: Tensor) -> Tensor:
    """From the last spatial block's output to the last temporal block's."""
    x = _frame_vectors(forward, x)
    for block, _, mask in forward.encoders[1].steps:
        x = block(x, mask=mask)
    return x


def _activation_map(forward: passes.Pass, tokens: Tensor, gradient: Tensor) -> Tensor:
    skipped = int(forward.backbone.pooling == "token")
    grid = passes.grid_of(forward.grid)
    tokens, gradient = (
        ops.reshape(ops.cast(x, "float32")[:, skipped:], (-1, *grid, x.shape[-1]))
        for x in (tokens, gradient)
    )
    weights = ops.mean(gradient, axis=(1, 2, 3), keepdims=True)
    activation = ops.relu(ops.sum(tokens * weights, axis=-1))
    mask = forward.encoders[0].steps[-1].mask
    if mask is None:
        return activation
    kept = ops.reshape(mask[:, skipped:], (-1, *grid))
    return ops.where(kept, activation, ops.zeros_like(activation))
