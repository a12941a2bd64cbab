"""Labels of files as arrays, and how classes are made equal."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_vivit.data.listing import Item

MODES = ("int", "categorical", "several", "number", None)


def keep_classes(
    items: list[Item],
    columns: tuple[str, ...],
    classes: Sequence[str] | dict[str, Sequence[str]] | None,
    mode: str | None,
) -> list[Item]:
    """Leaves out the files whose labels are not among the classes."""
    if classes is None or mode in ("number", "several", None):
        return items
    wanted = classes if isinstance(classes, dict) else dict.fromkeys(columns, classes)
    for i, column in enumerate(columns):
        known = {item.labels[i] for item in items}
        names = tuple(wanted.get(column, known))
        if missing := set(names) - known:
            raise ValueError(
                f"`classes` must be among {', '.join(sorted(known))}. "
                f"Received: {', '.join(sorted(map(str, missing)))}"
            )
        items = [item for item in items if item.labels[i] in names]
    return items


def encode_columns(
    chosen: list[Item],
    items: list[Item],
    columns: tuple[str, ...],
    classes: Sequence[str] | dict[str, Sequence[str]] | None,
    mode: str | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns two dictionaries: column -> array of labels, and column -> names."""
    arrays, names = {}, {}
    for i, column in enumerate(columns):
        wanted = classes.get(column) if isinstance(classes, dict) else classes
        arrays[column], names[column] = encode(
            [item.labels[i] for item in chosen],
            mode,
            tuple(wanted) if wanted else None,
            [item.labels[i] for item in items],
        )
    return arrays, names


def encode(
    texts: list[str],
    mode: str | None,
    classes: tuple[str, ...] | None,
    choices: list[str],
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Encodes labels.

    Args:
        texts: Strings, the labels of the files to encode.
        mode: The argument `label_mode`.
        classes: Names in order, or `None` for those of `choices`, sorted.
        choices: Strings, the labels of all files.

    Returns:
        An array with a row for each text, and the names.
    """
    if mode == "number":
        return np.array([_number(text) for text in texts], "float32"), None
    names = classes or sort_names({name for x in choices for name in names_in(x, mode)})
    index = {name: i for i, name in enumerate(names)}
    if mode in ("int", "categorical") and "" in texts:
        raise ValueError(
            "`label` must be a column with a class for each file. Received: a file "
            "without one."
        )
    if mode == "int":
        return np.array([index[text] for text in texts], "int32"), names
    hot = np.zeros((len(texts), len(names)), "float32")
    for row, text in zip(hot, texts, strict=True):
        row[[index[name] for name in names_in(text, mode) if name in index]] = 1
    return hot, names


def names_in(text: str, mode: str | None) -> list[str]:
    """Returns the names of a label, of which `"a;b"` has several."""
    parts = text.split(";") if mode == "several" else [text]
    return [part.strip() for part in parts if part.strip()]


def sort_names(names: set[str]) -> tuple[str, ...]:
    """Sorts names, numbers by their value."""
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(sorted(names))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"Labels must be numbers with label_mode='number'. Received: {text!r}"
        ) from None


# === Uneven classes ===


def class_weights(classes: np.ndarray, number: int) -> dict[int, float]:
    """Returns a dictionary class -> weight, 1 on average over all files."""
    counts = np.bincount(classes, minlength=number)
    weights = len(classes) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return {i: float(weight) for i, weight in enumerate(weights)}


def draw_balanced(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws as many files as there are, from each class equally many, or one more.

    A file is drawn again only when all files of its class have been drawn.
    """
    names = rng.permutation(np.unique(classes))
    drawn: list[int] = []
    for i, name in enumerate(names):
        members = np.flatnonzero(classes == name)
        count = len(classes) // len(names) + (i < len(classes) % len(names))
        rounds = [rng.permutation(members) for _ in range(-(-count // len(members)))]
        drawn.extend(np.concatenate([members[:0], *rounds])[:count])
    return rng.permutation(np.array(drawn))
