"""What functions need from PyTorch."""

from collections.abc import Callable
from typing import Any

import keras
import torch


def has_values(tensor: Any) -> bool:
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not traced and tensor.device.type != "meta"


without_gradients = torch.no_grad


def pull_back(
    function: Callable[..., tuple[Any, Any]], tensors: list[Any], upstream: Any
) -> tuple[Any, list[Any]]:
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        output, others = function(*leaves)
    gradients = torch.autograd.grad(
        output, leaves, upstream, allow_unused=True, materialize_grads=True
    )
    return keras.tree.map_structure(lambda x: x.detach(), others), list(gradients)
