"""Attention over time or space of a sequence with a class token, as in TimeSformer.

The class token belongs to no frame. It has no part in the attention over time. A copy
of it attends over space with each frame; the mean of the copies' outputs is its own.
"""

from collections.abc import Callable
from typing import TypeAlias

from keras import ops

from keras_vivit.fast import reshape
from keras_vivit.pooling import mean_of_tokens
from keras_vivit.types import Tensor

Attend: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]


def over_time(
    attend: Attend, tokens: Tensor, frames: int, mask: Tensor | None = None
) -> Tensor:
    """Attends over time; the class token gets zeros.

    Args:
        attend: Function of a grid `(batch, t, s, embed_dim)` and of its mask.
        tokens: Tensor `(batch, 1 + t * s, embed_dim)`, time-major.
        frames: Integer, t.
        mask: Optional boolean tensor `(batch, 1 + t * s)`.

    Returns:
        Tensor of the tokens' shape.
    """
    grid = _split(tokens, frames)[1]
    outputs = attend(grid, None if mask is None else _split(mask, frames)[1])
    outputs = reshape(outputs, (-1, *ops.shape(tokens[:, 1:])[1:]))
    return ops.concatenate([ops.zeros_like(outputs[:, :1]), outputs], axis=1)


def over_space(
    attend: Attend, tokens: Tensor, frames: int, mask: Tensor | None = None
) -> Tensor:
    """Attends over space, with the class token in each frame.

    A frame whose tokens all are masked does not count for the class token. Arguments
    are those of `over_time`.
    """
    grid, kept, frames_kept = _by_frame(tokens, frames), None, None
    if mask is not None:
        kept = _by_frame(mask, frames)
        frames_kept = ops.any(kept[:, :, 1:], axis=2)
    outputs = attend(grid, kept)  # (b, t, 1 + s, d)
    token = mean_of_tokens(outputs[:, :, 0], frames_kept)[:, None]
    others = reshape(outputs[:, :, 1:], (-1, *ops.shape(tokens[:, 1:])[1:]))
    return ops.concatenate([token, others], axis=1)


def _split(x: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Returns the class token `(batch, 1, ...)` and the grid `(batch, t, s, ...)`."""
    _, tokens, *rest = ops.shape(x)
    grid = reshape(x[:, 1:], (-1, frames, (tokens - 1) // frames, *rest))
    return x[:, :1], grid


def _by_frame(x: Tensor, frames: int) -> Tensor:
    """Puts the class token into each frame: `(batch, t, 1 + s, ...)`."""
    token, grid = _split(x, frames)
    copies = ops.broadcast_to(token[:, None], ops.shape(grid[:, :, :1]))
    return ops.concatenate([copies, grid], axis=2)
