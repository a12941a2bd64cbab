"""The kernels that backends have for attention, and what keeps them from being used."""

import functools
import sys

import keras
from keras import ops

from keras_vivit.fast import SMALL, is_half, on_cpu

SHORT = 128  # tokens
STRIDED = ("cpu", "cuda")


def has_kernel(query):
    """Whether the backend has attention that is faster than matrix products.

    TensorFlow's is einsums everywhere, and so is JAX's on CPUs. They are slower
    (gradient at 343 tokens: 1.3 and 1.5 times as slow), and so is PyTorch's kernel for
    CPUs on short sequences (64 tokens: prediction 1.2, gradient 1.4 times).
    """
    if keras.backend.backend() == "torch":
        return query.device.type != "cpu" or query.shape[1] > SHORT
    return keras.backend.backend() == "jax" and not on_cpu("jax")


def kernel_attention(query, key, value, mask):
    """`ops.dot_product_attention` by the backend's kernel, where there is one.

    cuDNN's, for JAX, has no mask of keys; Keras would log an error for each layer.
    """
    backend, flash = keras.backend.backend(), None
    if mask is None:
        if backend == "torch" and query.device.type in STRIDED:
            return _torch_attention(query, key, value)
        if backend == "jax" and query.shape[1] % 2 and _is_for_cudnn(query):
            return _odd_attention_by_cudnn(query, key, value)
    elif backend == "jax":
        flash = False
    return ops.dot_product_attention(
        query, key, value, mask=mask, flash_attention=flash
    )


def _torch_attention(query, key, value):
    """The same, without the copies that Keras makes.

    The kernels for CPUs and CUDA do with strides (343 tokens on a CPU: prediction 0.8
    and gradient 0.9 of the time with copies); Apple's compute something else then
    (pytorch/pytorch#181133). On CPUs small heads take longer in half precision than in
    float32 (343 tokens, 16 features: gradient 1.6 times).
    """
    tensors = [x.transpose(1, 2) for x in (query, key, value)]
    if value.shape[-1] <= SMALL and value.device.type == "cpu" and is_half(value):
        tensors = [x.float() for x in tensors]
    attend = sys.modules["torch"].nn.functional.scaled_dot_product_attention
    return attend(*tensors).transpose(1, 2).to(value.dtype)


def _is_for_cudnn(query):
    """Whether Keras takes cuDNN's kernel: half precision on recent NVIDIA GPUs."""
    if not keras.distribution.list_devices()[0].startswith("gpu"):
        return False
    attend = functools.partial(ops.dot_product_attention, flash_attention=True)
    try:
        sys.modules["jax"].eval_shape(attend, query, query, query)
    except (ImportError, RuntimeError, ValueError):  # whatever Keras finds missing
        return False
    return True


def _odd_attention_by_cudnn(query, key, value):
    """The same for an odd number of tokens, of which JAX refuses the gradient.

    It takes the tensor that stands for no bias for one (up to JAX 0.10), and einsums,
    with all scores in memory, would take over; with `remat` it would be an error. So
    there is one more token, and the kernel is told that it does not count.
    """
    jax = sys.modules["jax"]
    batch, tokens = query.shape[:2]
    more = ((0, 0), (0, 1), (0, 0), (0, 0))
    output = jax.nn.dot_product_attention(
        *(ops.pad(x, more) for x in (query, key, value)),
        key_value_seq_lengths=ops.full((batch,), tokens, "int32"),
        implementation="cudnn",
    )
    return output[:, :tokens]
