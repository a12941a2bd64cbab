"""What functions need from JAX."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax


def has_values(tensor: Any) -> bool:
    return not isinstance(tensor, jax.core.Tracer)


without_gradients = contextlib.nullcontext


def pull_back(
    function: Callable[..., tuple[Any, Any]], tensors: list[Any], upstream: Any
) -> tuple[Any, list[Any]]:
    _, gradients_of, others = jax.vjp(function, *tensors, has_aux=True)
    return others, list(gradients_of(upstream))
