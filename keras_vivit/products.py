"""Products of matrices, as each backend computes them fastest."""

import functools
import math
import sys

import keras
from keras import ops

from keras_vivit.fast import barrier, direct, for_xla_on_cpu, in_float32, reshape

CPU = "/proc/cpuinfo"
LARGE = 2**20  # weights of a kernel
IMAGES = 16  # Fewer, and PyTorch takes a slower convolution for one thread.


def dense(layer, inputs):
    """Calls a `Dense` or an `EinsumDense` on rows, as one product of matrices.

    A `Dense` takes inputs of any rank, and returns rows.

    PyTorch makes a batch of one of an einsum, and adds the bias in a step of its own
    (64 tokens: prediction 1.15 times as slow). JAX's gradient is 1.3 to 2 times as slow
    on CPUs where batch and tokens are two axes (343 tokens).
    """
    if direct(layer) is layer:
        return layer(inputs)
    outputs = product(inputs, *_matrix_and_vector(layer))
    # A reshape would part product and GELU in TensorFlow.
    if len(layer.bias.shape) == 1:
        return outputs
    return reshape(outputs, (-1, *layer.bias.shape))


def projections(layers, rows):
    """Calls `EinsumDense` layers of one shape on the same rows.

    PyTorch does it in one product (27 tokens: training step 0.93 and prediction 0.9 of
    the time).
    """
    if keras.backend.backend() != "torch" or any(direct(x) is x for x in layers):
        return [dense(layer, rows) for layer in layers]
    concatenate = sys.modules["torch"].cat
    kernels, biases = zip(*map(_matrix_and_vector, layers), strict=True)
    outputs = product(rows, concatenate(kernels, 1), concatenate(biases))
    return outputs.reshape(-1, len(layers), *layers[0].bias.shape).unbind(1)


def _matrix_and_vector(layer):
    """Returns kernel and bias as they multiply rows and are added to them."""
    bias, kernel = (getattr(x, "value", x) for x in (layer.bias, layer.kernel))
    return reshape(kernel, (-1, math.prod(bias.shape))), reshape(bias, (-1,))


def product(inputs, kernel, bias):
    """Returns `inputs @ kernel + bias`, as rows."""
    rows = reshape(inputs, (-1, kernel.shape[0]))
    if keras.backend.backend() == "torch":
        return _torch_product(rows, kernel, bias)
    if not for_xla_on_cpu():
        return _plain_product(rows, kernel, bias)
    kernel, bias = (ops.cast(x, rows.dtype) for x in (kernel, bias))
    return in_float32(True, _product_by_xla, rows, kernel, bias)


def _plain_product(rows, kernel, bias):
    return ops.add(ops.matmul(rows, kernel), bias)


@ops.custom_gradient
def _product_by_xla(rows, kernel, bias):
    """The same, and the gradient of the kernel from rows that are transposed before.

    The compiler would do both at once, for up to twice the time (training step, 27 and
    64 tokens: JAX 0.96 and 0.93 of the time, TensorFlow 0.94 and 0.93).
    """

    def gradient(upstream):
        inputs = ops.matmul(upstream, ops.transpose(kernel))
        weights = ops.matmul(barrier(ops.transpose(rows)), upstream)
        return inputs, weights, ops.sum(upstream, 0)

    return _plain_product(rows, kernel, bias), gradient


def _torch_product(rows, kernel, bias):
    """Returns `rows @ kernel + bias`, on some CPUs by oneDNN.

    MKL, which PyTorch multiplies with, uses AVX-512 on Intel's processors only, oneDNN
    on AMD's, too. On an AMD EPYC (Zen 5), rows of 128 and 512 features: 120 GFLOP/s a
    core for the one, 210 to 250 for the other. It does not pay for few rows.
    """
    torch = sys.modules["torch"]  # which Keras has imported
    number = rows.shape[0]
    pays = (
        rows.device.type == "cpu"
        and rows.dtype == torch.float32
        and not torch.compiler.is_compiling()  # Exported files run elsewhere.
        and number >= 15 * IMAGES
        and _is_amd_with_avx512()
    )
    if not pays:
        return bias.addmm(rows, kernel)
    if missing := -number % IMAGES:  # An odd number of tokens in a batch of one.
        rows = torch.nn.functional.pad(rows, (0, 0, 0, missing))
    compute = _onednn_with_gradient if torch.is_grad_enabled() else _onednn
    outputs = compute(rows, kernel, bias)
    return outputs[:number] if missing else outputs


def _onednn(rows, kernel, bias):
    """Returns `rows @ kernel + bias`.

    PyTorch's way to oneDNN's products is not public. Convolutions of single pixels are
    another (27 tokens without the former: training step 1.03, prediction 1.06 of the
    time), and faster for large kernels (768 to 3072 features: 0.9).
    """
    torch = sys.modules["torch"]
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear and kernel.numel() < LARGE:
        return linear(rows, kernel.T, bias, "none", [], "")
    # Transposed ones take the kernel as it is.
    return _rows(torch.conv_transpose2d(_pixels(rows), _pixel_kernel(kernel), bias))


@ops.custom_gradient
def _onednn_with_gradient(rows, kernel, bias):
    """The same, without PyTorch's slow gradient (128 to 512 features: 1.6 times)."""

    def gradient(rows, kernel, bias, upstream):
        backward = sys.modules["torch"].ops.aten.convolution_backward
        tensors = _pixels(upstream), _pixels(rows), _pixel_kernel(kernel)
        geometry = [1, 1], [0, 0], [1, 1], True, [0, 0], 1
        inputs, weights, _ = backward(*tensors, None, *geometry, [True, True, False])
        return _rows(inputs), weights.reshape(kernel.shape), upstream.sum(0)

    return _onednn(rows, kernel, bias), gradient


def _pixels(rows):
    return rows.reshape(IMAGES, -1, 1, rows.shape[1]).permute(0, 3, 1, 2)


def _rows(pixels):
    return pixels.permute(0, 2, 3, 1).reshape(-1, pixels.shape[1])


def _pixel_kernel(kernel):
    return kernel.reshape(*kernel.shape, 1, 1)


@functools.cache
def _is_amd_with_avx512():
    try:
        with open(CPU) as file:
            cpu = file.read(4096)
    except OSError:  # not Linux
        return False
    return "AuthenticAMD" in cpu and "avx512f" in cpu
