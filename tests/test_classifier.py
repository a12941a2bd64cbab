"""Heads, activations and pixels."""

import keras
import numpy as np
import pytest
from helpers import SMALL, SMALL_VIDEO, flat, normal, small_classifier

import keras_vivit as kv

VIDEO = normal(3, *SMALL_VIDEO)


def make(num_classes=5, **changes):
    return small_classifier(num_classes=num_classes, num_layers=1, **changes)


def test_untrained_head_prefers_no_class():
    model = kv.ViViTClassifier(SMALL_VIDEO, 5, **SMALL)
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


# === Names of classes ===

NAMES = ["a", "b", "c", "d", "e"]


def test_predictions_are_decoded():
    model = make(class_names=NAMES)
    probabilities = np.array([[0.1, 0.4, 0.2, 0.3, 0.0], [1, 0, 0, 0, 0]])
    assert model.decode_predictions(probabilities, top=2) == [
        [("b", 0.4), ("d", 0.3)],
        [("a", 1.0), ("b", 0.0)],
    ]
    predicted = model.predict(VIDEO, verbose=0)
    decoded = model.decode_predictions(predicted, top=9)
    for row, values in zip(decoded, predicted, strict=True):
        assert sorted(name for name, _ in row) == NAMES
        np.testing.assert_allclose([x for _, x in row], np.sort(values)[::-1])


def test_predictions_of_several_heads_are_decoded():
    names = {"noun": ["x", "y"], "verb": ["go", "do", "be"]}
    model = make({"noun": 2, "verb": 3}, class_names=names)
    decoded = model.decode_predictions(model.predict(VIDEO, verbose=0), top=1)
    assert {head: len(rows) for head, rows in decoded.items()} == {"noun": 3, "verb": 3}
    assert decoded["noun"][0][0][0] in names["noun"]


def test_names_are_in_the_config_and_in_files(tmp_path):
    model = make(class_names=tuple(NAMES))
    assert type(model).from_config(model.get_config()).class_names == NAMES
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").class_names == NAMES


@pytest.mark.parametrize(
    ("num_classes", "class_names"),
    [
        (5, ["a", "b"]),
        (5, "abcde"),
        (5, [1, 2, 3, 4, 5]),
        (5, {"a": NAMES}),
        ({"noun": 2}, ["x", "y"]),
        ({"noun": 2}, {"verb": ["x", "y"]}),
        ({"noun": 2}, {"noun": ["x"]}),
    ],
)
def test_names_that_do_not_fit_are_refused(num_classes, class_names):
    with pytest.raises(
        ValueError, match=r"`class_names` must be.*Received: class_names"
    ):
        make(num_classes, class_names=class_names)


def test_what_cannot_be_decoded_is_refused():
    with pytest.raises(ValueError, match="`class_names` must be given"):
        make().decode_predictions(np.zeros((1, 5)))
    model = make(class_names=NAMES)
    with pytest.raises(ValueError, match=r"`probabilities` must have.*\(batch, 5\)"):
        model.decode_predictions(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="`top` must be"):
        model.decode_predictions(np.zeros((1, 5)), top=0)


def test_presets_have_their_names():
    model = kv.ViViTClassifier.from_preset("vivit_organmnist3d")
    assert len(model.class_names) == 11
    assert model.class_names[0] == "liver"
    split = kv.ViViTClassifier.from_preset(
        "vivit_organmnist3d", num_classes={"left": 3, "right": 8}
    )
    assert split.class_names["right"] == model.class_names[3:]


@pytest.mark.parametrize("load_weights", [True, False])
@pytest.mark.filterwarnings("ignore:.*gives way to a new one")
def test_other_classes_have_other_names(load_weights):
    names = ["left", "right"]
    for given in (None, names):
        changes = {} if given is None else {"class_names": given}
        model = kv.ViViTClassifier.from_preset(
            "vivit_organmnist3d", load_weights, num_classes=2, **changes
        )
        assert model.class_names == given


@pytest.mark.filterwarnings("ignore:.*ignores 37%")
@pytest.mark.parametrize("name", list(kv.ViViTBackbone.presets()))
def test_backbones_take_no_arguments_of_a_head(name):
    sizes = {"video_shape": (16, 16, 16, 1), "tubelet_size": (4, 8, 8)}
    sizes |= {"embed_dim": 24, "num_heads": 2, "num_layers": 1, "mlp_dim": 8}
    sizes |= {"strides": (4, 8, 8)}  # They fill the volume.
    kv.ViViTBackbone.from_preset(name, load_weights=False, **sizes)


# === What is between tokens and head ===


def test_first_token_goes_into_the_head():
    model = make(pooling="first", classifier_activation=None)
    tokens = flat(model.backbone(VIDEO))[0]
    kernel, bias = (flat(w)[0] for w in model.get_layer("head").weights)
    expected = tokens[:, 0, 0, 0] @ kernel + bias
    np.testing.assert_allclose(flat(model(VIDEO))[0], expected, atol=1e-5)


def test_first_token_is_nothing_if_it_is_masked():
    pooling = kv.TokenPooling("first")
    tokens = normal(2, 2, 1, 1, 3)
    tokens[0, 0] = np.nan
    mask = np.array([[False, True], [True, False]])[:, :, None, None]
    pooled = flat(pooling(tokens, mask=mask))[0]
    np.testing.assert_allclose(pooled, [np.zeros(3), tokens[1, 0, 0, 0]])


@pytest.mark.parametrize("variant", kv.blocks.VARIANTS)
def test_norms_move_from_tokens_to_the_head(variant):
    model = make(variant=variant, final_norm=False, head_norm_epsilon=1e-3)
    last = {"factorized_encoder": "temporal"}.get(variant, "encoder")
    names = [layer.name for layer in model.backbone.layers]
    assert f"{last}_norm" not in names
    assert ("spatial_norm" in names) == (variant == "factorized_encoder")
    norm = model.get_layer("head_norm")
    assert norm.epsilon == 1e-3
    part = keras.Model(model.input, norm.output)
    x = flat(part(VIDEO))[0]
    gamma, beta = (flat(w)[0] for w in norm.weights)
    tokens = flat(model.backbone(VIDEO))[0]
    mean = tokens.reshape(3, -1, tokens.shape[-1]).mean(axis=1)
    variance = mean.var(axis=1, keepdims=True)
    expected = (mean - mean.mean(axis=1, keepdims=True)) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(x, expected * gamma + beta, atol=1e-5)
