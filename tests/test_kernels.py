"""The kernels of backends are used, and give what plain attention does."""

import keras
import numpy as np
import pytest
from helpers import flat, normal
from keras import ops

import keras_vivit as kv
from keras_vivit import attention, kernels

needs_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
needs_torch = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="of PyTorch"
)


@needs_torch
@pytest.mark.parametrize("tokens", [7, kernels.SHORT + 1])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)]
)
def test_attention_of_torch_is_that_of_keras(tokens, dtype, tolerance):
    def ours(*tensors):
        return attention.dot_product_attention(*tensors, None, 0.0, None, True)

    arrays = [normal(2, tokens, 3, 8, seed=seed) for seed in range(3)]
    tensors = [ops.convert_to_tensor(x, dtype).requires_grad_() for x in arrays]
    results = []
    for attend in (ours, ops.dot_product_attention):
        outputs = attend(*tensors)
        assert keras.backend.standardize_dtype(outputs.dtype) == dtype
        (outputs**2).sum().backward()
        results.append([outputs, *(x.grad.clone() for x in tensors)])
        for x in tensors:
            x.grad = None
    for found, plain in zip(*map(flat, results), strict=True):
        np.testing.assert_allclose(found, plain, atol=tolerance)


@needs_torch
def test_other_devices_get_contiguous_tensors(monkeypatch):
    import torch

    contiguous = []
    monkeypatch.setattr(kernels, "STRIDED", ())
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *tensors, **_: (
            contiguous.extend(map(torch.Tensor.is_contiguous, tensors)) or tensors[0]
        ),
    )
    kernels.kernel_attention(*(torch.ones(1, 7, 3, 8) for _ in range(3)), None)
    assert contiguous == [True] * 3


@pytest.fixture
def gpu(monkeypatch):
    """Makes JAX believe in a GPU, so that what it would run there can be looked at."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0"])
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda _: False)


@needs_jax
@pytest.mark.parametrize("tokens", [8, 7])
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_cudnn_attends_on_gpus(tokens, remat, masked, gpu, caplog):
    import jax

    block = kv.ViViTEncoderBlock(2, 32, remat=remat, dtype="mixed_bfloat16")
    block.build((2, tokens, 16))
    mask = np.arange(tokens)[None] < 5 if masked else None

    def loss(x):
        return ops.sum(block(x, mask=mask))

    traced = jax.jit(jax.grad(loss)).trace(ops.ones((2, tokens, 16)))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert ("fmhaSoftmaxBackward" in text) == (not masked)
    assert not caplog.records


@needs_jax
def test_a_token_more_changes_nothing(monkeypatch):
    import jax

    attend, lengths = jax.nn.dot_product_attention, []

    def without_gpu(query, *rest, implementation, **options):
        lengths.append(query.shape[1])
        return attend(query, *rest, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", without_gpu)
    tensors = [normal(2, 7, 3, 8, seed=seed) for seed in range(3)]
    results = []
    for compute in (kernels._odd_attention_by_cudnn, attend):
        loss = lambda *tensors: ops.sum(compute(*tensors) ** 2)  # noqa: B023, E731
        results.append([compute(*tensors), *jax.grad(loss, (0, 1, 2))(*tensors)])
    assert set(lengths) == {8}
    for found, plain in zip(*map(flat, results), strict=True):
        np.testing.assert_allclose(found, plain, atol=1e-5)
