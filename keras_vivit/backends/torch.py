"""What functions need from PyTorch."""

from typing import Any

import torch


def has_values(tensor: Any) -> bool:
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not traced and tensor.device.type != "meta"
