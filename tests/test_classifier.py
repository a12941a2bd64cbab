"""Heads, activations and pixels."""

import keras
import numpy as np
import pytest
from helpers import SMALL_VIDEO, flat, normal, randomize, small_classifier

import keras_vivit as kv

SMALL = {
    "video_shape": (4, 4, 4, 1),
    "tubelet_size": (2, 2, 2),
    "embed_dim": 8,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 8,
}
VIDEO = normal(3, 4, 4, 4, 1)


def make(num_classes=5, **changes):
    model = kv.ViViTClassifier(num_classes=num_classes, **{**SMALL, **changes})
    randomize(model)
    return model


def test_untrained_head_prefers_no_class():
    model = kv.ViViTClassifier(num_classes=5, **SMALL)
    np.testing.assert_allclose(flat(model(VIDEO))[0], np.full((3, 5), 0.2), rtol=1e-6)


def test_softmax_is_of_the_logits():
    logits = flat(make(classifier_activation=None)(VIDEO))[0]
    exponentials = np.exp(logits)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(flat(make()(VIDEO))[0], expected, atol=1e-6)


def test_probabilities_of_half_precision_sum_to_one_in_full():
    outputs = make(num_classes=100, dtype="mixed_bfloat16")(VIDEO)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    np.testing.assert_allclose(flat(outputs)[0].sum(axis=1), 1, atol=1e-6)


def test_heads_by_name_train_together():
    model = make({"noun": 4, "verb": 3})
    model.compile("sgd", dict.fromkeys(model.output, "sparse_categorical_crossentropy"))
    labels = {"noun": np.array([0, 1, 2]), "verb": np.array([2, 1, 0])}
    model.fit(VIDEO, labels, verbose=0)
    outputs = model.predict(VIDEO, verbose=0)
    assert {name: y.shape for name, y in outputs.items()} == {
        "noun": (3, 4),
        "verb": (3, 3),
    }


def test_raw_pixels_are_rescaled_in_full_precision():
    raw = np.random.default_rng(0).integers(0, 256, VIDEO.shape, "uint8")
    rescaled = make(rescaling=(1 / 127.5, -1))
    plain = make()
    expected = flat(plain(raw.astype("float32") / 127.5 - 1))
    np.testing.assert_allclose(flat(rescaled(raw)), expected, atol=1e-5)
    half = make(rescaling=(1 / 127.5, -1), dtype="mixed_bfloat16")
    assert half.backbone.get_layer("rescaling").compute_dtype == "float32"


@pytest.mark.filterwarnings("ignore:.*ignores 37%")
def test_baseline_preset_is_the_notebooks_configuration():
    model = kv.ViViTClassifier.from_preset("vivit_organmnist3d_baseline")
    config = model.get_config()
    assert {name: config[name] for name in ("video_shape", "num_classes")} == {
        "video_shape": (28, 28, 28, 1),
        "num_classes": 11,
    }
    assert config["activation"] == "gelu"  # Keras' name of the exact function.
    assert config["classifier_activation"] == "softmax"
    block = model.backbone.get_layer("encoder_block_7")
    assert (block.num_heads, block.mlp_dim, block.attention_dropout_rate) == (
        *(8, 512),
        0.1,
    )
    assert block.layer_norm_epsilon == 1e-6
    assert model.backbone.output_shape == (None, 3, 3, 3, 128)


# === Names of heads ===


@pytest.mark.parametrize("name", ["v1.0", "left kidney", "größe", "_a", "", "a/b", 1])
def test_names_of_heads_are_those_that_every_backend_takes(name):
    with pytest.raises(ValueError, match="must name its heads with ASCII letters"):
        small_classifier(num_classes={name: 2})


@pytest.mark.parametrize(
    "names", [("video",), ("pooling",), ("backbone",), ("frame_mask",), ("a", "a_head")]
)
def test_names_of_heads_differ_from_other_layers(names):
    with pytest.raises(ValueError, match="must not name a head like another layer"):
        small_classifier(num_classes=dict.fromkeys(names, 2))


def test_heads_may_be_called_like_this(tmp_path):
    names = ("verb", "left-kidney", "b2", "3d", "A_1")
    model = small_classifier(num_classes=dict.fromkeys(names, 2))
    outputs = model(normal(2, *SMALL_VIDEO))
    assert set(outputs) == set(names)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert set(again(normal(2, *SMALL_VIDEO))) == set(names)


def test_two_backbones_meet_in_one_model(tmp_path):
    first, second = small_classifier(), small_classifier(backbone_name="other")
    x = normal(2, *SMALL_VIDEO)
    video = keras.Input(SMALL_VIDEO)
    vectors = [kv.TokenPooling()(m.backbone(video)) for m in (first, second)]
    model = keras.Model(video, keras.layers.Add()(vectors))
    expected = flat(model(x))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(flat(again(x)), expected, atol=1e-6)
