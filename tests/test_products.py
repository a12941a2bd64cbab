"""Products of matrices are the same by all ways."""

import keras
import numpy as np
import pytest
from helpers import flat, normal
from keras import ops

from keras_vivit import attention, products

needs_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
needs_torch = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="of PyTorch"
)


@needs_torch
@pytest.mark.parametrize("rows", [256, 250, 16])
@pytest.mark.parametrize("large", [0, 2**20])
def test_onednn_computes_the_product_of_matrices(rows, large, monkeypatch):
    import torch

    arrays = normal(rows, 24), normal(24, 40), normal(40)
    results, calls, compute = [], [], products._onednn
    monkeypatch.setattr(products, "LARGE", large)
    monkeypatch.setattr(
        products, "_onednn", lambda *args: calls.append(1) or compute(*args)
    )
    for is_amd in ([], [True]):
        monkeypatch.setattr(products, "_is_amd_with_avx512", is_amd.copy)
        tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
        outputs = products.product(*tensors)
        (outputs**2).sum().backward()
        with torch.no_grad():
            predicted = products.product(*tensors)
        results.append([outputs.detach(), predicted, *(x.grad for x in tensors)])
    assert len(calls) == 2 * (rows > 16)
    for plain, found in zip(*results, strict=True):
        np.testing.assert_allclose(plain, found, rtol=1e-4, atol=1e-4)


@needs_jax
def test_gradient_from_transposed_rows_is_that_of_the_product():
    import jax

    def loss(*arrays):
        return ops.sum(products.product(*arrays) ** 2)

    rows, kernel, bias = arrays = normal(250, 24), normal(24, 40), normal(40)
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    assert "optimization_barrier" in gradient.lower(*arrays).as_text()
    upstream = 2 * (rows @ kernel + bias)
    expected = upstream @ kernel.T, rows.T @ upstream, upstream.sum(0)
    for found, known in zip(gradient(*arrays), expected, strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize("quantized", [(), ("query",), ("value",)])
def test_projections_are_those_of_each_layer(quantized):
    layer = attention.MultiHeadSelfAttention(num_heads=2)
    layer.build((None, 5, 8))
    layers = {name: getattr(layer, f"{name}_dense") for name in ("query", "value")}
    for name in quantized:
        layers[name].quantize("int8")
    rows = ops.convert_to_tensor(normal(10, 8))
    found = flat(products.projections([*layers.values()], rows))
    expected = flat([each(rows) for each in layers.values()])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ("vendor_id : AuthenticAMD\nflags : fpu avx2 avx512f avx512_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : fpu avx2", False),
        ("vendor_id : GenuineIntel\nflags : fpu avx2 avx512f", False),
        (None, False),
    ],
)
def test_processor_is_recognized(cpu, expected, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    if cpu:
        path.write_text(cpu)
    monkeypatch.setattr(products, "CPU", path)
    assert products._is_amd_with_avx512.__wrapped__() == expected
