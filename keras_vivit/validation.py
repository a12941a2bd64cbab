"""Checks of arguments: every error names the argument, the rule and the value."""

import difflib
import inspect
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from keras import ops

from keras_vivit.types import Shape, Tensor


def positive_int(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
    return int(value)


def natural(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 0:
        raise ValueError(
            f"`{name}` must be an integer from 0. Received: {name}={value!r}"
        )
    return int(value)


def positive_ints(name: str, value: Any, axes: Sequence[str]) -> tuple[int, ...]:
    """Returns `value` as a tuple with one positive integer per name in `axes`."""
    if (
        not isinstance(value, list | tuple)
        or len(value) != len(axes)
        or any(isinstance(v, bool) or not isinstance(v, Integral) for v in value)
        or any(v < 1 for v in value)
    ):
        raise ValueError(
            f"`{name}` must be {len(axes)} positive integers "
            f"({', '.join(axes)}). Received: {name}={value!r}"
        )
    return tuple(int(v) for v in value)


def rate(name: str, value: Any) -> float:
    if not _is_number(value) or not 0 <= float(value) < 1:
        raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={value!r}")
    return float(value)


def positive_number(name: str, value: Any) -> float:
    if not _is_number(value) or not 0 < float(value) < float("inf"):
        raise ValueError(
            f"`{name}` must be a positive number. Received: {name}={value!r}"
        )
    return float(value)


def between(name: str, value: Any, low: float, high: float) -> float:
    if not _is_number(value) or not low <= float(value) <= high:
        raise ValueError(
            f"`{name}` must lie in [{low}, {high}]. Received: {name}={value!r}"
        )
    return float(value)


def interval(name: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """Returns `value` as two ordered floats that lie between the bounds."""
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or not all(map(_is_number, value))
        or not low <= value[0] <= value[1] <= high
    ):
        raise ValueError(
            f"`{name}` must be two numbers, the smaller one first, in [{low}, {high}]. "
            f"Received: {name}={value!r}"
        )
    return float(value[0]), float(value[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def choice(name: str, value: Any, options: Iterable[Any]) -> Any:
    if value not in options:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, options))}. "
            f"Received: {name}={value!r}"
        )
    return value


def features(name: str, shape: Shape, minimum_rank: int, axes: str) -> int:
    """Returns the last axis of a shape, which must be known, behind enough others."""
    if len(shape) < minimum_rank or shape[-1] is None:
        raise ValueError(
            f"`{name}` must have the shape {axes}, its last axis known. "
            f"Received: shape={tuple(shape)}"
        )
    return shape[-1]


def mask_of(tokens: Tensor, mask: Tensor) -> Tensor:
    """Checks that a mask has one value for each token, and returns it as booleans."""
    expected, received = tuple(tokens.shape[:-1]), tuple(mask.shape)
    same = len(expected) == len(received) and all(
        None in pair or pair[0] == pair[1]
        for pair in zip(expected, received, strict=True)
    )
    if not same:
        raise ValueError(
            f"`mask` must have one value for each token, the shape {expected}. "
            f"Received: shape={received}"
        )
    return ops.cast(mask, "bool")


def keep_tokens(tokens: Tensor, mask: Tensor) -> Tensor:
    """Zeroes masked tokens; a product with 0 would let NaN and infinity through."""
    zero = ops.zeros((), tokens.dtype)
    return ops.where(mask_of(tokens, mask)[..., None], tokens, zero)


def known_arguments(names: Iterable[str], cls: type) -> None:
    """Checks that the constructor of a class takes each of `names`.

    Raises:
        TypeError: Names the unknown argument, and the nearest known one.
    """
    known = inspect.signature(cls).parameters
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean `{nearest[0]}`?" if nearest else ""
            raise TypeError(
                f"{cls.__name__} got an unexpected argument `{name}`.{hint}"
            )
