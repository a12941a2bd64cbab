"""Sublayers with dtype policies and regularizers of their own."""

import keras
import numpy as np
import pytest
from helpers import SMALL, flat, normal, randomize, small_classifier
from keras.dtype_policies import DTypePolicyMap

import keras_vivit as kv

PATHS = (".*norm", ".*/attention", ".*/attention/query", ".*/mlp", ".*/mlp/hidden")


def with_policy(path, default="mixed_bfloat16", policy="float32"):
    policies = DTypePolicyMap(default)
    policies[path] = keras.dtype_policies.get(policy)
    return policies


def dtypes(model):
    return {x.path: x.compute_dtype for x in model._flatten_layers() if x.weights}


@pytest.mark.parametrize("path", PATHS)
def test_sublayers_compute_in_their_own_dtype(path, tmp_path):
    import re

    model = kv.ViViTBackbone((4, 16, 16, 1), **SMALL, dtype=with_policy(path))
    randomize(model)
    chosen = {p for p in dtypes(model) if re.fullmatch(path, p)}
    assert chosen
    assert {dtypes(model)[p] for p in chosen} == {"float32"}
    x = normal(2, 4, 16, 16, 1)
    (outputs,) = flat(model(x))
    full = kv.ViViTBackbone((4, 16, 16, 1), **SMALL)
    full.set_weights(model.get_weights())
    np.testing.assert_allclose(outputs, flat(full(x))[0], atol=0.2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert dtypes(again) == dtypes(model)
    np.testing.assert_array_equal(flat(again(x))[0], outputs)


def test_float32_sublayer_rounds_nothing():
    """The MLP of a block that is float32 itself, beside half precision elsewhere."""
    block = kv.ViViTEncoderBlock(2, 8, dtype=with_policy(".*/mlp.*"), name="block")
    block.build((None, 5, 16))
    assert block.mlp.compute_dtype == block.mlp.hidden_dense.compute_dtype == "float32"
    assert block.attention.compute_dtype == "bfloat16"
    assert "bfloat16" in str(block(normal(2, 5, 16)).dtype)


@pytest.mark.parametrize("branch", [None, "attention", "mlp", "attention_norm"])
def test_activity_regularizers_count(branch):
    model = small_classifier()
    assert not model.losses
    block = model.backbone.get_layer("encoder_block_0")
    layer = block if branch is None else getattr(block, branch)
    layer.activity_regularizer = keras.regularizers.L2(0.1)
    model(normal(2, 4, 16, 16, 1))
    (loss,) = model.losses
    assert flat(loss)[0] > 0


def test_activity_regularizer_of_a_block_is_saved():
    block = kv.ViViTEncoderBlock(2, 8, activity_regularizer="l2")
    block(normal(2, 5, 16))
    assert len(block.losses) == 1
    again = kv.ViViTEncoderBlock.from_config(block.get_config())
    assert isinstance(again.activity_regularizer, keras.regularizers.L2)
