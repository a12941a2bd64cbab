"""Blocks in training: stochastic depth and gradient checkpointing."""

import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize, slow

import keras_vivit as kv

BLOCKS = (
    kv.ViViTEncoderBlock,
    kv.FactorizedSelfAttentionBlock,
    kv.FactorizedDotProductBlock,
)


def test_drop_path_drops_whole_samples_and_rescales_the_others():
    outputs = flat(kv.DropPath(0.25, seed=0)(np.ones((4000, 3, 2)), training=True))[0]
    per_sample = outputs.reshape(4000, -1)
    kept = per_sample[:, 0] > 0
    np.testing.assert_allclose(per_sample[kept], 1 / 0.75, rtol=1e-6)
    assert not per_sample[~kept].any()
    assert kept.mean() == pytest.approx(0.75, abs=0.03)


def test_branches_are_dropped_each_on_its_own():
    block = kv.ViViTEncoderBlock(2, 8, drop_path_rate=0.5, seed=0)
    x = np.tile(normal(1, 3, 4), (64, 1, 1))
    block.build(x.shape)
    randomize(block)
    outputs = flat(block(x, training=True))[0].reshape(64, -1)
    # Nothing, attention, MLP or both.
    assert len(np.unique(outputs.round(4), axis=0)) == 4


def one_step(block_class, remat, **rates):
    """Weights after one step of gradient descent."""
    keras.utils.set_random_seed(0)
    block = block_class(2, 8, remat=remat, seed=3, name="block", **rates)
    tokens = keras.Input((2, 2, 2, 4))
    model = keras.Model(tokens, block(tokens))
    randomize(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(normal(8, 2, 2, 2, 4), normal(8, 2, 2, 2, 4, seed=1))
    return flat(model.trainable_variables)


@pytest.mark.parametrize("rate", [*slow(0.0), 0.3])
@pytest.mark.parametrize("block_class", BLOCKS)
def test_remat_gives_the_same_gradients(block_class, rate):
    rates = dict.fromkeys(
        ("dropout_rate", "attention_dropout_rate", "drop_path_rate"), rate
    )
    plain = one_step(block_class, remat=False, **rates)
    again = one_step(block_class, remat=True, **rates)
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_remat_computes_the_block_twice(monkeypatch):
    wrapped = []
    remat = keras.remat
    monkeypatch.setattr(keras, "remat", lambda f: wrapped.append(f) or remat(f))
    block = kv.ViViTEncoderBlock(2, 8, remat=True)
    block(normal(1, 3, 4), training=False)
    assert not wrapped
    block(normal(1, 3, 4), training=True)
    assert len(wrapped) == 1


def test_remat_draws_new_dropout_in_each_step():
    block = kv.ViViTEncoderBlock(2, 8, dropout_rate=0.5, remat=True, seed=0)
    x = normal(2, 3, 4)
    first, second = (flat(block(x, training=True))[0] for _ in range(2))
    assert np.abs(first - second).max() > 0.1


def test_activation_is_saved_under_its_own_name():
    block = kv.ViViTEncoderBlock(2, 8)
    assert block.get_config()["activation"]["config"] == "keras_vivit>gelu_tanh"
    again = kv.ViViTEncoderBlock.from_config(block.get_config())
    x = np.linspace(-3, 3, 50, dtype="float32")
    inner = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(flat(again.activation(x))[0], inner, atol=1e-6)


def test_sequences_of_any_length_train():
    inputs = keras.Input((None, 8))
    tokens = kv.ViViTEncoderBlock(num_heads=2, mlp_dim=16)(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(tokens))
    model.compile("sgd", "mse")
    for length in (3, 5):
        history = model.fit(normal(2, length, 8), normal(2, 8), verbose=0)
        assert np.isfinite(history.history["loss"]).all()


# === Sublayers called without bookkeeping ===


def test_quantized_sublayers_compute_as_such():
    block = kv.ViViTEncoderBlock(num_heads=2, mlp_dim=16)
    x = normal(2, 3, 2, 2, 8)
    expected = flat(block(x))[0]
    for layer in (block.attention.query_dense, block.mlp.hidden_dense):
        layer.quantize("int8")
    rounded = flat(block(x))[0]
    assert 0 < np.abs(rounded - expected).max() < 0.1


def test_adapters_count_as_part_of_the_kernel():
    block, plain = (kv.ViViTEncoderBlock(num_heads=2, mlp_dim=16) for _ in range(2))
    x = normal(2, 3, 2, 2, 8)
    before = flat(block(x))[0]
    plain(x)
    plain.set_weights(block.get_weights())
    for branch in ("attention", "mlp"):
        layer = getattr(block, branch).output_dense
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(normal(*layer.lora_kernel_b.shape))
        getattr(plain, branch).output_dense.kernel.assign(layer.kernel)
    adapted = flat(block(x))[0]
    assert np.abs(adapted - before).max() > 1e-3
    np.testing.assert_allclose(flat(plain(x))[0], adapted, atol=1e-5)
