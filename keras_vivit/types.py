"""Names for annotations; Keras has no types of its own."""

from collections.abc import Callable
from typing import Any, TypeAlias

Tensor: TypeAlias = Any
Function: TypeAlias = Callable[..., Any]  # of tensors
Shape: TypeAlias = tuple[Any, ...]  # integers, and `None` where unknown
Activation: TypeAlias = str | dict[str, Any] | Callable[[Tensor], Tensor] | None
DType: TypeAlias = Any  # a name, a `keras.DTypePolicy`, its config, or `None`
Initializer: TypeAlias = Any
Regularizer: TypeAlias = Any
Config: TypeAlias = dict[str, Any]
