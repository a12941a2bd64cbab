import gc
import pathlib
from importlib import import_module
from importlib.util import find_spec

if find_spec("torch") and find_spec("tensorflow"):
    import torch  # noqa: F401  # After TensorFlow, PyTorch may fail to load.

import hypothesis
import keras
import pytest

import keras_vivit

hypothesis.settings.register_profile("compiling", deadline=None)
hypothesis.settings.load_profile("compiling")


def configure_backend():
    """Turns TF32 off, which costs matrix products on GPUs three digits."""
    match keras.backend.backend():
        case "jax":
            import jax

            # Compiling takes most of the suite's time: five times less this way.
            jax.config.update("jax_disable_most_optimizations", True)
            jax.config.update("jax_default_matmul_precision", "highest")
        case "tensorflow":
            import tensorflow

            tensorflow.config.experimental.enable_tensor_float_32_execution(False)
        case "torch":
            import torch

            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False


configure_backend()


def collect(generation=0, collect=gc.collect):
    """Collects young garbage by default: Keras collects for each layer it quantizes."""
    return collect(generation)


gc.collect = collect
gc.set_threshold(10_000, 20, 50)  # Of the many objects of a compiler few are garbage.


def pytest_collection_finish():
    """What is imported by now stays: later collections need not look at it."""
    gc.freeze()


def has_gpu():
    match keras.backend.backend():
        case "jax":
            import jax

            return jax.default_backend() == "gpu"
        case "tensorflow":
            import tensorflow

            return bool(tensorflow.config.list_physical_devices("GPU"))
        case "torch":
            import torch

            return torch.cuda.is_available()


def pytest_report_header():
    backend = keras.backend.backend()
    return [
        f"backend: {backend}, gpu: {has_gpu()}, "
        + ", ".join(
            f"{name} {import_module(name).__version__}" for name in ("keras", backend)
        ),
        f"keras_vivit: {pathlib.Path(keras_vivit.__file__).parent}",
    ]


def pytest_collection_modifyitems(items):
    if not has_gpu():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def fresh_state():
    """Layer names, the global precision and random numbers start anew."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture(params=["fast", "plain"])
def way(request):
    """The test runs with the fast paths, and without them."""
    if request.param == "plain":
        keras_vivit.config.disable_fast_paths()
    yield request.param
    keras_vivit.config.enable_fast_paths()
