"""What layers call on their way, without Keras' bookkeeping around it.

Measured with PyTorch on two CPU cores, predictions of 8 layers for 27 tokens: of 37 ms,
16 were spent in Python.
"""

import sys

import keras
from keras import ops

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


def for_xla_on_cpu():
    """Whether XLA compiles this for a CPU: JAX, TensorFlow with `jit_compile=True`."""
    if not on_cpu("tensorflow"):
        return on_cpu("jax")
    is_for_xla = getattr(sys.modules.get(TENSORFLOW_GRAPHS), IS_FOR_XLA, None)
    graph = sys.modules["tensorflow"].compat.v1.get_default_graph()
    return is_for_xla is not None and is_for_xla(graph)


@ops.custom_gradient
def barrier(x):
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
        return ops.mean(barrier(x) if barred else x, axis=-1, keepdims=True)

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
