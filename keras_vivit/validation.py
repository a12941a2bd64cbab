"""Checks of arguments: every error names the argument, the rule and the value."""

from numbers import Integral, Real


def positive_int(name, value):
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
    return int(value)


def natural(name, value):
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 0:
        raise ValueError(
            f"`{name}` must be an integer from 0. Received: {name}={value!r}"
        )
    return int(value)


def positive_ints(name, value, axes):
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


def rate(name, value):
    if not _is_number(value) or not 0 <= float(value) < 1:
        raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={value!r}")
    return float(value)


def positive_number(name, value):
    if not _is_number(value) or not 0 < float(value) < float("inf"):
        raise ValueError(
            f"`{name}` must be a positive number. Received: {name}={value!r}"
        )
    return float(value)


def between(name, value, low, high):
    if not _is_number(value) or not low <= float(value) <= high:
        raise ValueError(
            f"`{name}` must lie in [{low}, {high}]. Received: {name}={value!r}"
        )
    return float(value)


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)


def choice(name, value, options):
    if value not in options:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, options))}. "
            f"Received: {name}={value!r}"
        )
    return value


def rank(name, shape, minimum, axes):
    """Checks that `shape` has `minimum` axes or more, the last one known."""
    if len(shape) < minimum or shape[-1] is None:
        raise ValueError(
            f"`{name}` must have the shape {axes}, its last axis known. "
            f"Received: shape={tuple(shape)}"
        )
