"""`python -m keras_vivit`: what a bug report needs to say."""

import importlib.metadata
import platform

import keras

import keras_vivit

PACKAGES = ("keras", "numpy", "jax", "tensorflow", "tensorflow-cpu", "torch")


def facts():
    yield "keras-vivit", keras_vivit.__version__
    yield "python", platform.python_version()
    yield "platform", platform.platform()
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


for name, value in facts():
    print(f"{name:<14} {value}")
