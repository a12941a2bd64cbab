"""`python -m keras_vivit`: what a bug report needs to say."""

import importlib.metadata
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

import keras_vivit

PACKAGES = ("numpy", "jax", "tensorflow", "tensorflow-cpu", "torch")
VIDEO_SHAPE = (4, 16, 16, 1)
SIZES: dict[str, Any] = {
    "tubelet_size": (2, 8, 8),
    "embed_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 32,
}


def facts() -> Iterator[tuple[str, str]]:
    yield "keras-vivit", keras_vivit.__version__
    yield "python", platform.python_version()
    yield "platform", platform.platform()
    yield "keras", keras.__version__  # Nightly builds have another package name.
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    yield "backend", keras.backend.backend()
    try:
        yield "devices", ", ".join(keras.distribution.list_devices())
    except AttributeError:  # On PyTorch, Keras has no list: the one that it uses.
        yield "devices", str(keras.ops.zeros(()).device)
    yield "presets", f"\n{15 * ' '}".join(keras_vivit.ViViTClassifier.presets())


def forward_pass() -> float:
    """Returns the seconds that a small model takes for its first prediction."""
    start = time.perf_counter()
    model = keras_vivit.ViViTClassifier(VIDEO_SHAPE, 3, **SIZES)
    outputs = model(np.zeros((1, *VIDEO_SHAPE), "float32"))
    total = float(keras.ops.convert_to_numpy(outputs).sum())
    if abs(total - 1) > 1e-3:
        raise ArithmeticError(f"The probabilities sum to {total}.")
    return time.perf_counter() - start


def show(name: str, value: str) -> None:
    print(f"{name:<14} {value}", flush=True)


def main() -> int:
    """Prints the report and returns the exit status: 1 if the backend fails."""
    for name, value in facts():
        show(name, value)
    try:
        show("forward pass", f"{forward_pass():.2f} s")
    except Exception as error:  # Any: a backend may fail in many ways.
        show("forward pass", f"{type(error).__name__}: {error}")
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
