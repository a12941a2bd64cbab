"""PyTorch: fewer of Keras' wrappers, oneDNN's products, and its fused attention."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import torch
from keras import ops

from keras_vivit import fast
from keras_vivit.fast import choice
from keras_vivit.mlp import gelu_tanh
from keras_vivit.types import Function, Tensor

DTYPES = {getattr(torch, x): x for x in ("float32", "bfloat16", "float16", "float64")}
SHORT = 128  # tokens: up to here, products are faster than the kernel for CPUs
SMALL = 32  # features of a head: half precision is slower than float32 on CPUs
LARGE = 2**20  # weights of a kernel that a convolution multiplies faster
A, B = (f * math.sqrt(8 / math.pi) for f in (1.0, 0.044715))  # of the tanh GELU
PART = 2**18  # numbers: small enough for a cache, large enough for one thread
IMAGES = 16  # Fewer, and PyTorch takes a slower convolution for one thread.
STRIDED = ("cpu", "cuda")


def _is_eager_on_cpu(x: Tensor) -> bool:
    """Whether float32 values are computed now, on this machine."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False  # Exported files run elsewhere.
    try:
        x.data_ptr()  # The tensors of `torch.func` have no memory of their own.
    except RuntimeError:
        return False
    return True


def _computes_alone(layer: keras.layers.Layer, inputs: Tensor) -> bool:
    """Whether `layer(inputs)` does no more than `layer.call(inputs)`."""
    try:
        hooked = (
            layer._forward_pre_hooks
            or layer._forward_hooks
            or layer._backward_pre_hooks
            or layer._backward_hooks
            or layer._remat_mode  # of a `keras.RematScope`
        )
    except AttributeError:  # These names are not public.
        return False
    return (
        not hooked
        and layer.compute_dtype == DTYPES.get(inputs.dtype)
        and layer.quantization_mode is None
        and layer.activity_regularizer is None
    )


def _matrix_and_vector(layer: keras.layers.Layer) -> tuple[Tensor, Tensor]:
    """Returns kernel and bias as they multiply rows and are added to them."""
    kernel, bias = (getattr(w, "value", w) for w in (layer.kernel, layer.bias))
    if bias.dim() == 1 and kernel.dim() == 2:
        return kernel, bias
    return kernel.reshape(-1, bias.numel()), bias.reshape(-1)


def call(
    plain: Function, layer: keras.layers.Layer, inputs: Tensor, **options: Any
) -> Tensor:
    """Leaves out `Layer.__call__`: scopes and masks are settled by the parent's."""
    if not _computes_alone(layer, inputs):
        return plain(layer, inputs, **options)
    return layer.call(inputs, **options)


def run_layers(
    plain: Function,
    model: keras.Model,
    block_class: type[keras.layers.Layer],
    functional_call: Function,
    inputs: Tensor,
    training: bool | None,
) -> Tensor:
    """Leaves out Keras' graph: PyTorch would go through it in every step."""
    if len(getattr(inputs, "shape", ())) != len(model.input.shape):
        return plain(model, block_class, functional_call, inputs, training)
    x = ops.convert_to_tensor(inputs, model.input.dtype)
    for layer in model.layers[1:]:
        if isinstance(layer, block_class):
            x = fast.call(layer, x, training=training)
        else:
            x = layer(x)
    return x


def reshape(plain: Function, x: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """Keras' searches the shape for symbolic tensors first."""
    return x.reshape(shape) if isinstance(x, torch.Tensor) else plain(x, shape)


def layer_norm(
    plain: Function,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    training: bool | None,
) -> Tensor:
    """Calls PyTorch's kernel, without what Keras does before it."""
    x = x if x.dtype == torch.float64 else x.float()
    weights: list[Tensor] = [getattr(w, "value", w) for w in (gamma, beta)]
    gamma, beta = (w.to(x.dtype) for w in weights)
    return torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta, epsilon)


# === Attention ===


def dot_product_attention(
    plain: Function,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    training: bool | None = None,
) -> Tensor:
    """Calls PyTorch's kernel where it is faster than products.

    The kernels for CPUs and CUDA take strided tensors, without the copies that Keras
    makes; Apple's compute something else then (pytorch/pytorch#181133).
    """
    device = query.device.type
    if device == "cpu" and query.shape[1] <= SHORT:
        return plain(query, key, value, mask, training)
    if mask is not None or device not in STRIDED:
        return ops.dot_product_attention(query, key, value, mask=mask)
    tensors = [x.transpose(1, 2) for x in (query, key, value)]
    half = value.dtype in (torch.bfloat16, torch.float16)
    if half and device == "cpu" and value.shape[-1] <= SMALL:
        tensors = [x.float() for x in tensors]
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(*tensors).transpose(1, 2).to(value.dtype)


# === GELU ===


def activate(plain: Function, activation: Function, x: Tensor) -> Tensor:
    """Computes the tanh form of GELU by a sigmoid: PyTorch's kernel is slow on CPUs."""
    if activation is not gelu_tanh or not _is_eager_on_cpu(x):
        return plain(activation, x)
    return _Gelu.apply(x)


class _Gelu(torch.autograd.Function):
    """x s, where s = (1 + tanh(u)) / 2 = sigmoid(2 u) and 2 u = a x + b x^3."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        outputs = torch.empty_like(x, memory_format=torch.contiguous_format)
        for part, output in _parts(x, outputs):
            _share(part, torch.mul(part, part, out=output)).mul_(part)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # for the gradient of this gradient
            return upstream * _slope(x)
        outputs = torch.empty_like(x, memory_format=torch.contiguous_format)
        for part, above, output in _parts(x, upstream, outputs):
            share = _share(part, part * part)
            torch.mul(part, part, out=output).mul_(3 * B).add_(A).mul_(part)
            output.addcmul_(output, share, value=-1).add_(1).mul_(share).mul_(above)
        return outputs

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * _slope(*ctx.saved_tensors)


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields parts that the caches of the cores hold."""
    size = PART * torch.get_num_threads()
    return zip(*(x.reshape(-1).split(size) for x in tensors), strict=True)


def _share(x: Tensor, square: Tensor) -> Tensor:
    """Returns s, written over the square of x."""
    return square.mul_(B).add_(A).mul_(x).sigmoid_()


def _slope(x: Tensor) -> Tensor:
    share = torch.sigmoid(x * (A + B * x * x))
    return share * (1 + x * (A + 3 * B * x * x) * (1 - share))


# === Products of matrices ===


def dense(plain: Function, layer: keras.layers.Layer, rows: Tensor) -> Tensor:
    """Multiplies matrices: einsums become batches of one, with a bias added later."""
    if not _computes_alone(layer, rows):
        return plain(layer, rows)
    kernel, bias = _matrix_and_vector(layer)
    outputs = fast.product(rows.reshape(-1, kernel.shape[0]), kernel, bias)
    return outputs.reshape(-1, *layer.bias.shape)


def projections(
    plain: Callable[..., list[Tensor]], layers: list[keras.layers.Layer], rows: Tensor
) -> list[Tensor]:
    """Multiplies by all kernels at once."""
    if not all(_computes_alone(layer, rows) for layer in layers):
        return plain(layers, rows)
    kernels, biases = zip(*map(_matrix_and_vector, layers), strict=True)
    outputs = fast.product(rows, torch.cat(kernels, 1), torch.cat(biases))
    return outputs.reshape(-1, len(layers), *layers[0].bias.shape).unbind(1)


def product(plain: Function, rows: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Multiplies by oneDNN on CPUs where it is faster than MKL, PyTorch's default."""
    # A recomputation is outside of the scope that casts variables.
    kernel, bias = kernel.to(rows.dtype), bias.to(rows.dtype)
    if not _is_eager_on_cpu(rows):
        return bias.addmm(rows, kernel)
    # Only now: exported models must not depend on the size of the batch.
    if (number := len(rows)) < 15 * IMAGES or not _prefers_onednn():
        return bias.addmm(rows, kernel)
    if missing := -number % IMAGES:  # An odd number of tokens in a batch of one.
        rows = torch.nn.functional.pad(rows, (0, 0, 0, missing))
    multiply = _OneDNN.apply if torch.is_grad_enabled() else _onednn
    outputs = multiply(rows, kernel, bias)
    return outputs[:number] if missing else outputs


@functools.cache
def _prefers_onednn() -> bool:
    options: Any = {"dtype": torch.float32, "device": "cpu"}
    rows, kernel = torch.ones(1024, 512, **options), torch.ones(512, 512, **options)
    ways = _onednn, lambda rows, kernel, bias: bias.addmm(rows, kernel)
    return choice.is_faster(
        f"torch-{torch.__version__}-onednn",
        *(functools.partial(way, rows, kernel, kernel[0]) for way in ways),
    )


def _onednn(rows: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Returns `rows @ kernel + bias`.

    PyTorch's way to oneDNN's products is not public. A convolution of single pixels is
    another way, and faster for large kernels.
    """
    if kernel.numel() < LARGE:
        try:
            linear = torch.ops.mkldnn._linear_pointwise
            return linear(rows, kernel.T, bias, "none", [], "")
        except (AttributeError, RuntimeError, TypeError):
            pass
    # Transposed convolutions take the kernel as it is.
    return _rows(torch.conv_transpose2d(_pixels(rows), _pixel_kernel(kernel), bias))


class _OneDNN(torch.autograd.Function):
    """`_onednn`, without PyTorch's own gradient of it, which is slower."""

    @staticmethod
    def forward(rows: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return _onednn(rows, kernel, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, kernel = ctx.saved_tensors
        tensors = _pixels(upstream), _pixels(rows), _pixel_kernel(kernel)
        geometry = [1, 1], [0, 0], [1, 1], True, [0, 0], 1
        try:
            backward = torch.ops.aten.convolution_backward
            inputs, weights, _ = backward(
                *tensors, None, *geometry, [True, True, False]
            )
        except (AttributeError, RuntimeError, TypeError):
            return upstream @ kernel.T, rows.T @ upstream, upstream.sum(0)
        return _rows(inputs), weights.reshape(kernel.shape), upstream.sum(0)

    @staticmethod
    def jvp(ctx: Any, rows: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        primal_rows, primal_kernel = ctx.saved_tensors
        return rows @ primal_kernel + primal_rows @ kernel + bias


def _pixels(rows: Tensor) -> Tensor:
    return rows.reshape(IMAGES, -1, 1, rows.shape[1]).permute(0, 3, 1, 2)


def _rows(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 2, 3, 1).reshape(-1, pixels.shape[1])


def _pixel_kernel(kernel: Tensor) -> Tensor:
    return kernel.reshape(*kernel.shape, 1, 1)


# === Optimizers ===


def update_variables(
    plain: Function,
    one_by_one: Function,
    together: Function,
    gradients: list[Tensor],
    variables: list[Any],
    learning_rate: Tensor,
) -> None:
    """Updates all at once: no compiler merges what is the same for many of them."""
    together(list(zip(gradients, variables, strict=True)), learning_rate)
