"""What functions need from JAX."""

from typing import Any

import jax


def has_values(tensor: Any) -> bool:
    return not isinstance(tensor, jax.core.Tracer)
