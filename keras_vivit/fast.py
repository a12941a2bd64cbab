"""What layers call on their way, without Keras' bookkeeping around it.

Measured with PyTorch on two CPU cores, predictions of 8 layers for 27 tokens: of 37 ms,
16 were spent in Python.
"""

import functools
import math
import sys

import keras
from keras import ops

CPU = "/proc/cpuinfo"
TENSORFLOW_GRAPHS = "tensorflow.python.ops.control_flow_util"
IS_FOR_XLA = "GraphOrParentsInXlaContext"  # not public
TENSORFLOW_XLA = "tensorflow.compiler.tf2xla.python.xla"  # which Keras imports, too
HALVES = ("bfloat16", "float16")
SMALL = 32  # features of a head
HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
)
LARGE = 2**20  # weights of a kernel
IMAGES = 16  # Fewer, and PyTorch takes a slower convolution for one thread.


def direct(layer):
    """Returns the function that computes a sublayer, without what surrounds a call.

    Arguments, scopes and masks are settled once, by the layer around it, which has the
    same dtype policy; `Layer.__call__` would settle them anew, for 0.1 ms. Quantized
    sublayers are called as usual, those with hooks of PyTorch, and those of a
    distributed model, whose outputs may have a layout.
    """
    hooked = any(getattr(layer, hooks, None) for hooks in HOOKS)
    distributed = keras.distribution.distribution() is not None
    return layer if layer.quantization_mode or hooked or distributed else layer.call


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


def for_xla_on_cpu():
    """Whether XLA compiles this for a CPU: JAX, TensorFlow with `jit_compile=True`."""
    if not on_cpu("tensorflow"):
        return on_cpu("jax")
    is_for_xla = getattr(sys.modules.get(TENSORFLOW_GRAPHS), IS_FOR_XLA, None)
    graph = sys.modules["tensorflow"].compat.v1.get_default_graph()
    return is_for_xla is not None and is_for_xla(graph)


@ops.custom_gradient
def _product_by_xla(rows, kernel, bias):
    """The same, and the gradient of the kernel from rows that are transposed before.

    The compiler would do both at once, for up to twice the time (training step, 27 and
    64 tokens: JAX 0.96 and 0.93 of the time, TensorFlow 0.94 and 0.93).
    """

    def gradient(upstream):
        inputs = ops.matmul(upstream, ops.transpose(kernel))
        weights = ops.matmul(_barrier(ops.transpose(rows)), upstream)
        return inputs, weights, ops.sum(upstream, 0)

    return _plain_product(rows, kernel, bias), gradient


@ops.custom_gradient
def _barrier(x):
    """Returns the tensor, which XLA then does not join with what it is made of."""
    if keras.backend.backend() == "jax":
        return sys.modules["jax"].lax.optimization_barrier(x), _same
    (barred,) = sys.modules[TENSORFLOW_XLA].optimization_barrier(x)
    barred.set_shape(x.shape)
    return barred, _same


def _same(upstream):
    return upstream


def in_float32(pays, function, *inputs):
    """Calls a function; for half precision, where it pays, in float32 and back.

    XLA has no kernels for halves on CPUs, and rounds after each operation (64 tokens,
    mixed_bfloat16, JAX: training step 0.93 and prediction 0.84 of the time). In
    TensorFlow it is for small heads of attention, too (343 tokens, 16 features:
    prediction 0.84; with 64 features attention would take 1.1 to 1.3 times as long).
    """
    if not pays or not is_half(inputs[0]):
        return function(*inputs)
    outputs = function(*(ops.cast(x, "float32") for x in inputs))
    return ops.cast(outputs, inputs[0].dtype)


def is_half(tensor):
    """Whether the tensor is of half precision."""
    return keras.backend.standardize_dtype(tensor.dtype) in HALVES


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


def activate(activation, x):
    """Calls an activation, the exact GELU in the form that compilers know best.

    Keras' is made of `erfc` on JAX and TensorFlow, which takes longer than `erf`, and
    TensorFlow joins only the latter with the product before it (64 tokens, prediction
    and training step: TensorFlow 0.86 and 0.95 of the time, JAX's CPU 0.93 and 0.94).
    """
    if activation is keras.activations.gelu and keras.backend.backend() != "torch":
        activation = _gelu_by_erf
    return activation(x)


def _gelu_by_erf(x):
    return x * (0.5 * (1 + ops.erf(x * 0.5**0.5)))


def layer_norm(layer, x, training):
    """Calls a `LayerNormalization` over the last axis, its gradient in closed form.

    Backends without a kernel for it derive a longer one (64 tokens: a training step
    takes 0.95 of the time on TensorFlow, 0.91 on JAX's CPU), and Keras' form has more
    passes (TensorFlow, 27 tokens: prediction 0.91). TensorFlow's XLA sums in two steps,
    one by one, if there is no barrier before (27 tokens: 0.97 of the time). PyTorch has
    a kernel; it is called without what Keras does before (0.04 ms).
    """
    if direct(layer) is layer:
        return layer(x)
    gamma, beta = (getattr(w, "value", w) for w in (layer.gamma, layer.beta))
    if keras.backend.backend() == "torch":
        torch = sys.modules["torch"]
        if all(tensor.dtype == torch.float32 for tensor in (x, gamma, beta)):
            arguments = x, x.shape[-1:], gamma, beta, layer.epsilon
            return torch.nn.functional.layer_norm(*arguments)
    composed = keras.backend.backend() == "tensorflow" or on_cpu("jax")
    if not composed:
        return layer.call(x)

    barred = keras.backend.backend() == "tensorflow" and for_xla_on_cpu()

    def mean(x):
        return ops.mean(_barrier(x) if barred else x, axis=-1, keepdims=True)

    def normalize(x, gamma, beta):
        x = x - mean(x)
        scale = ops.rsqrt(mean(ops.square(x)) + layer.epsilon)
        x = x * scale

        def gradient(upstream):
            axes = tuple(range(len(x.shape) - 1))
            inner = upstream * gamma
            inner = scale * (inner - mean(inner) - x * mean(inner * x))
            return inner, ops.sum(upstream * x, axes), ops.sum(upstream, axes)

        return x * gamma + beta, gradient

    dtype = keras.backend.result_type(x.dtype, "float32")  # As Keras has it.
    tensors = (ops.cast(t, dtype) for t in (x, gamma, beta))
    if training:
        outputs = ops.custom_gradient(normalize)(*tensors)
    else:
        outputs, _ = normalize(*tensors)
    return ops.cast(outputs, x.dtype)


def on_cpu(backend):
    """Whether the backend is this one, without an accelerator."""
    if keras.backend.backend() != backend:
        return False
    return keras.distribution.list_devices()[0].startswith("cpu")


def reshape(x, shape):
    """`ops.reshape`, which searches the shape for symbolic tensors, for 0.04 ms."""
    return x.reshape(shape) if hasattr(x, "reshape") else ops.reshape(x, shape)


def remat(function):
    """`keras.remat` of a function that keeps the shape and dtype of its tensor.

    JAX's compiler for CPUs merges or moves what is computed again with what was
    computed before, and saves no memory. It cannot look into the sides of a condition
    (3136 tokens, 8 layers: temporary memory 0.18 of that without `remat`, not 1.12).
    """
    function = keras.remat(function)
    if not on_cpu("jax"):
        return function

    def conditional(x):  # True, but for an infinity that nothing can be made of.
        finite = ops.logical_not(ops.cast(reshape(x, (-1,))[0], "float32") > 3e38)
        return ops.cond(finite, lambda: function(x), lambda: x)

    return conditional
