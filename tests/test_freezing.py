"""What is frozen stays frozen in saved models."""

import keras
import numpy as np
import pytest
from helpers import SMALL, flat, normal, slow, small_classifier

import keras_vivit as kv
from keras_vivit.backbone import VARIANTS


def reload(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


def freeze_backbone(model):
    model.backbone.trainable = False


def freeze_a_block(model):
    model.backbone.get_layer("tubelet_embedding").trainable = False
    model.backbone.layers[-2].trainable = False


def freeze_inside_a_block(model):
    block = model.backbone.layers[-2]
    block.mlp.trainable = False
    block.mlp_norm.trainable = False
    next(x for x in block._flatten_layers() if x.name == "query").trainable = False


def freeze_the_head(model):
    model.get_layer("head").trainable = False


@pytest.mark.parametrize("variant", list(VARIANTS)[:1] + slow(*list(VARIANTS)[1:]))
@pytest.mark.parametrize(
    "freeze", [freeze_backbone, freeze_a_block, freeze_inside_a_block, freeze_the_head]
)
def test_frozen_layers_stay_frozen(variant, freeze, tmp_path):
    model = small_classifier(variant)
    everything = len(model.trainable_variables)
    freeze(model)
    trainable = [v.path for v in model.trainable_variables]
    assert 0 < len(trainable) < everything
    again = reload(model, tmp_path)
    assert [v.path for v in again.trainable_variables] == trainable
    before = {v.path: v.numpy().copy() for v in again.variables}
    again.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    again.fit(normal(8, 4, 16, 16, 1), np.arange(8) % 3, verbose=0)
    moved = {v.path for v in again.variables if np.any(v.numpy() != before[v.path])}
    assert moved
    assert moved <= set(trainable)


def test_frozen_model_goes_on_training_with_its_optimizer(tmp_path):
    model = small_classifier()
    freeze_backbone(model)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.train_on_batch(normal(4, 4, 16, 16, 1), np.arange(4) % 3)
    again = reload(model, tmp_path)
    assert len(again.optimizer.variables) == len(model.optimizer.variables)
    for a, b in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy())


def test_backbone_made_frozen_trains_nothing(tmp_path):
    backbone = kv.ViViTBackbone((4, 16, 16, 1), **SMALL, trainable=False)
    assert not backbone.trainable_variables
    x = keras.layers.Dense(3)(kv.TokenPooling()(backbone.output))
    model = keras.Model(backbone.input, x)
    nested = keras.Model(
        backbone.input,
        keras.layers.Dense(3)(kv.TokenPooling()(backbone(backbone.input))),
    )
    assert len(model.trainable_variables) == len(nested.trainable_variables) == 2
    assert len(reload(nested, tmp_path).trainable_variables) == 2
    assert not reload(backbone, tmp_path).trainable_variables


def test_block_in_a_model_of_ones_own(tmp_path):
    tokens = keras.Input((5, 16))
    block = kv.ViViTEncoderBlock(2, 8)
    model = keras.Model(tokens, block(tokens))
    block.attention.trainable = False
    block.mlp.hidden_dense.trainable = False
    again = reload(model, tmp_path)
    expected = [v.path for v in model.trainable_variables]
    assert [v.path for v in again.trainable_variables] == expected


def test_config_has_an_entry_only_for_frozen_layers():
    model = small_classifier()
    assert "frozen" not in model.get_config()
    freeze_inside_a_block(model)
    frozen = model.get_config()["frozen"]
    assert len(frozen) == 3
    assert all(path.startswith("backbone/encoder_block_1/") for path in frozen)
    again = kv.ViViTClassifier.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert flat(again.trainable_variables)
