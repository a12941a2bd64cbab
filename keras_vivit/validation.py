"""Checks of arguments: every error names the argument, the rule and the value."""

import difflib
import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vivit.types import Shape, Tensor

# No size exceeds it, and no array or weight has more elements.
LARGEST = 2**31
MOST_LAYERS = 1000
MOST_FRAMES = 2**24  # three days of video at 60 frames per second
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"


def received(name: str, value: Any) -> str:
    """Returns the end of an error; long values are cut."""
    text = repr(value)
    return f"Received: {name}={text if len(text) < 200 else f'{text[:200]}...'}"


def positive_int(name: str, value: Any, most: int = LARGEST) -> int:
    if not _is_integer(value) or not 1 <= value <= most:
        raise ValueError(
            f"`{name}` must be a positive integer, at most {most}. "
            f"{received(name, value)}"
        )
    return int(value)


def natural(name: str, value: Any) -> int:
    if not _is_integer(value) or value < 0:
        raise ValueError(f"`{name}` must be an integer from 0. {received(name, value)}")
    return int(value)


def seed(value: Any) -> int | None:
    """Checks a seed of Keras, which every backend must hold."""
    if value is not None and not (_is_integer(value) and 0 <= value < LARGEST):
        raise ValueError(
            f"`seed` must be None or an integer from 0, below {LARGEST}. "
            f"{received('seed', value)}"
        )
    return None if value is None else int(value)


def generator(value: Any) -> np.random.Generator:
    """Returns the generator of NumPy that a seed stands for."""
    if not isinstance(value, np.random.Generator) and value is not None:
        natural("seed", value)
    return np.random.default_rng(value)


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False. {received(name, value)}")
    return bool(value)


def path(name: str, value: Any) -> Path:
    """Returns a path; neither numbers, which name open files, nor lists are any."""
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise ValueError(f"`{name}` must be a path. {received(name, value)}")
    return Path(value)


def identifier(name: str, value: Any) -> str:
    """Checks a name that a layer, and its weights in a file, can have everywhere."""
    # PyTorch refuses dots, TensorFlow all but ASCII, HDF5 slashes.
    if not isinstance(value, str) or not re.fullmatch(NAME, value):
        raise ValueError(
            f"`{name}` must be a string of ASCII letters, digits, '_' and '-', the "
            f"first one a letter or a digit. {received(name, value)}"
        )
    return value


def positive_ints(name: str, value: Any, axes: Sequence[str]) -> Any:
    """Returns `value` as a tuple with one positive integer per name in `axes`."""
    if (
        not isinstance(value, list | tuple)
        or len(value) != len(axes)
        or not all(_is_integer(v) and 1 <= v <= LARGEST for v in value)
    ):
        raise ValueError(
            f"`{name}` must be {len(axes)} positive integers "
            f"({', '.join(axes)}), at most {LARGEST}. {received(name, value)}"
        )
    return tuple(int(v) for v in value)


def elements(most: int = LARGEST, **sizes: Any) -> None:
    """Checks that an array of these sizes, integers or shapes, is not too large."""
    shapes = (n if isinstance(n, list | tuple) else (n,) for n in sizes.values())
    if math.prod(map(math.prod, shapes)) > most:
        names = " x ".join(f"`{name}`" for name in sizes)
        raise ValueError(
            f"{names} must not exceed {most} elements. Received: "
            f"{', '.join(f'{name}={n}' for name, n in sizes.items())}"
        )


def rate(name: str, value: Any) -> float:
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must lie in [0, 1). {received(name, value)}")
    return float(value)


def positive_number(name: str, value: Any) -> float:
    """Checks a number that must neither be zero nor infinite in float32."""
    limits = np.finfo("float32")
    if not _is_number(value) or not limits.tiny <= value <= limits.max:
        raise ValueError(
            f"`{name}` must be a positive number of float32. {received(name, value)}"
        )
    return float(value)


def between(name: str, value: Any, low: float, high: float) -> float:
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(
            f"`{name}` must lie in [{low}, {high}]. {received(name, value)}"
        )
    return float(value)


def finite(name: str, value: Any) -> float:
    limit = float(np.finfo("float32").max)
    if not _is_number(value) or not -limit <= value <= limit:
        raise ValueError(f"`{name}` must be a finite number. {received(name, value)}")
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
            f"{received(name, value)}"
        )
    return float(value[0]), float(value[1])


def value_range(name: str, value: Any) -> tuple[float, float]:
    """Returns `value` as the lowest and the highest of a range of values."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"`{name}` must be (lowest, highest). {received(name, value)}")
    low, high = (finite(name, x) for x in value)
    if not low < high:
        raise ValueError(
            f"`{name}` must be (lowest, highest), with lowest < highest. "
            f"{received(name, value)}"
        )
    return low, high


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def choice(name: str, value: Any, options: Iterable[Any]) -> Any:
    plain = value is None or isinstance(value, str) or _is_integer(value)
    if not plain or value not in options:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, options))}. "
            f"{received(name, value)}"
        )
    return int(value) if _is_integer(value) else value


def strings(name: str, value: Any) -> list[str]:
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(x, str) for x in value)
    ):
        raise ValueError(f"`{name}` must be a list of strings. {received(name, value)}")
    return list(value)


def array(name: str, value: Any) -> np.ndarray:
    """Returns an array of real numbers."""
    is_array = hasattr(value, "shape") and not keras.backend.is_keras_tensor(value)
    numbers = np.asarray(value) if is_array else None
    # NumPy does not count bfloat16 among the floats.
    if numbers is None or not (
        numbers.dtype.kind in "biuf" or "float" in numbers.dtype.name
    ):
        raise ValueError(
            f"`{name}` must be an array of numbers. {received(name, value)}"
        )
    return numbers


# === Arguments of Keras ===


def interpreted(name: str, interpret: Callable[[Any], Any], value: Any) -> Any:
    """Returns what Keras makes of an argument, such as an activation's name."""
    try:
        result = interpret(value)
        if result is None or callable(result) or hasattr(result, "get_config"):
            return result
    except Exception as error:  # Keras' own are of many kinds.
        reason = f" ({error})"
    else:
        reason = ""
    raise ValueError(
        f"`{name}` must be a name, a configuration or an object that Keras knows"
        f"{reason}. {received(name, value)}"
    )


def activation(name: str, value: Any) -> Callable[[Tensor], Tensor]:
    return interpreted(name, keras.activations.get, value)


def dtype_policy(value: Any) -> Any:
    """Returns the dtype policy, which must be one of floating-point numbers."""
    policy = interpreted("dtype", keras.dtype_policies.get, value)
    policies = getattr(policy, "default_policy", policy)
    if not re.fullmatch(r"b?float\d+", str(getattr(policies, "compute_dtype", "no"))):
        raise ValueError(
            "`dtype` must be a dtype policy of floating-point numbers. "
            f"{received('dtype', value)}"
        )
    return policy


def layer_arguments(**arguments: Any) -> dict[str, Any]:
    """Checks the arguments that all layers and models of Keras have."""
    checked = dict(arguments)
    if arguments.get("name") is not None:
        identifier("name", arguments["name"])
    for key in ("trainable", "autocast"):
        if key in arguments:
            checked[key] = boolean(key, arguments[key])
    if arguments.get("dtype") is not None:
        checked["dtype"] = dtype_policy(arguments["dtype"])
    regularizer = arguments.get("activity_regularizer")
    checked_regularizer = interpreted(
        "activity_regularizer", keras.regularizers.get, regularizer
    )
    if "activity_regularizer" in arguments:
        checked["activity_regularizer"] = checked_regularizer
    return checked


# === Inputs ===


def tensors(name: str, value: Any) -> None:
    """Checks that all that a structure holds are tensors of numbers, none empty."""
    leaves = keras.tree.flatten(value)
    for x in leaves:
        dtype = str(getattr(x, "dtype", None))
        numeric = re.search("float|int|bool", dtype)
        if not numeric or not tuple(getattr(x, "shape", ())):
            raise ValueError(
                f"`{name}` must be a tensor or an array of numbers, its first axis the "
                f"batch. {received(name, value)}"
            )
        if 0 in tuple(x.shape)[1:]:
            raise ValueError(
                f"`{name}` must have no empty axis behind the batch. "
                f"Received: shape={tuple(x.shape)}"
            )
    if not leaves:
        raise ValueError(
            f"`{name}` must be a tensor or an array of numbers. {received(name, value)}"
        )


def call_arguments(
    inputs: Any, mask: Any = None, training: Any = None, **others: Any
) -> None:
    """Checks what all layers and models are called with."""
    tensors("inputs", inputs)
    masks = keras.tree.flatten(mask)
    if not masks or any(x is not None for x in masks):  # Keras has one for each input.
        tensors("mask", [x for x in masks if x is not None])
    if training is not None:
        boolean("training", training)


def features(
    name: str, shape: Shape, minimum_rank: int, axes: str, rank: float = math.inf
) -> int:
    """Returns the last axis of a shape, which must be known, behind enough others."""
    # TensorFlow's `TensorShape` is no sequence.
    sizes = tuple(shape) if isinstance(shape, Iterable) else ()
    if (
        not minimum_rank <= len(sizes) <= rank
        or not all(n is None or isinstance(n, int) for n in sizes)
        or sizes[-1] is None
        or 0 in sizes[1:]
    ):
        raise ValueError(
            f"`{name}` must have the shape {axes}, its last axis known, none empty. "
            f"Received: shape={shape if isinstance(shape, dict) else sizes}"
        )
    return sizes[-1]


def mask_of(tokens: Tensor, mask: Tensor) -> Tensor:
    """Checks that a mask has one value for each token, and returns it as booleans."""
    expected, shape = tuple(tokens.shape[:-1]), tuple(getattr(mask, "shape", ()))
    same = len(expected) == len(shape) and all(
        None in pair or pair[0] == pair[1] for pair in zip(expected, shape, strict=True)
    )
    if not same:
        raise ValueError(
            f"`mask` must have one value for each token, the shape {expected}. "
            f"Received: shape={shape}"
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
