"""Relevance and Grad-CAM: against NumPy and numerical gradients, classes, heads."""

import attention_reference
import keras
import numpy as np
import pytest
from helpers import SMALL_VIDEO, normal, once, small_classifier
from scenic import load_scenic, random_params, unset_weights
from test_attention_maps import ELSEWHERE, FAST
from test_numpy_reference import MODELS, forward_arguments, model_id

import keras_vivit as kv
from keras_vivit.visualization import grad_cam, relevance

GRID = (2, 1, 2)
SETTINGS = {
    "video_shape": (4, 4, 8, 1),
    "tubelet_size": (2, 4, 4),
    "embed_dim": 8,
    "num_layers": 2,
    "num_temporal_layers": 1,
    "num_heads": 2,
    "mlp_dim": 12,
    "num_classes": 3,
}
CASES = [
    pytest.param(settings, marks=[] if model_id(settings) in FAST else ELSEWHERE)
    for settings in MODELS
]
FRAME_MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
CLASSES = [2, 0]
BLOCKS = {
    "factorized_self_attention": "factorized_self_attention_block",
    "factorized_dot_product": "factorized_dot_product_block",
}


class Case:
    """A classifier of two videos, the second one masked in part, and its reference."""

    def __init__(self, settings):
        self.settings = {**SETTINGS, **settings, "num_temporal_layers": 1}
        with unset_weights():
            self.model = kv.ViViTClassifier(**self.settings, masked=True)
        params = random_params(self.settings, GRID)
        load_scenic(self.model, params)
        self.inputs = {
            "video": normal(2, *SETTINGS["video_shape"]),
            "frame_mask": FRAME_MASK,
        }
        self.mask = np.repeat(FRAME_MASK[:, ::2], 2, axis=1).reshape(2, *GRID)
        self.arguments = {
            "params": params,
            "video": self.inputs["video"],
            "frame_mask": FRAME_MASK,
            **forward_arguments(self.settings),
        }

    def relevance(self):
        """From numerical gradients and full matrices."""
        _, calls = attention_reference.logits_and_calls(self.arguments)
        gradients = attention_reference.gradients(self.arguments, CLASSES)
        products = [np.maximum(a * g, 0) for a, g in zip(calls, gradients, strict=True)]
        blocks = attention_reference.blocks(self.settings, products, GRID)
        rows, start = attention_reference.token_map(
            self.settings, blocks, GRID, np.add, self.mask
        )
        return rows - start

    def grad_cam(self):
        """Of what leaves the last block, or enters it where one token is pooled."""
        name = BLOCKS.get(self.settings["variant"], "encoder_block")
        if "self" in name and self.settings["pooling"] == "token":
            name = "divided_attention_block"
        _, calls = attention_reference.logits_and_calls(self.arguments, name)
        gradients = attention_reference.gradients(self.arguments, CLASSES, name)
        token = self.settings["pooling"] == "token"
        last = slice(0 if token else 1, 4 if len(calls) > 2 else 2, 2)  # each frame's
        tokens, gradients = (
            np.stack([x.reshape(2, -1, 8)[:, int(token) :] for x in arrays[last]], 1)
            for arrays in (calls, gradients)
        )
        weights = gradients.mean(axis=(1, 2), keepdims=True)
        activation = (tokens * weights).sum(axis=-1).reshape(2, *GRID)
        return np.maximum(activation, 0) * self.mask


@pytest.fixture(scope="module", params=CASES, ids=model_id)
def case(request):
    return Case(request.param)


def test_relevance_is_that_of_numerical_gradients(case):
    found, expected = relevance(case.model, case.inputs, CLASSES), case.relevance()
    assert found.dtype == "float32"
    assert expected.max() > 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())
    assert not found[~case.mask].any()


def test_grad_cam_is_that_of_numerical_gradients(case):
    found = grad_cam(case.model, case.inputs, CLASSES)
    expected = case.grad_cam()
    assert expected.max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert not found[~case.mask].any()


@pytest.mark.parametrize("function", [relevance, grad_cam])
@pytest.mark.parametrize(
    "pooling",
    ["mean", *(pytest.param(x, marks=pytest.mark.slow) for x in ("token", "first"))],
)
def test_a_new_head_speaks_for_no_token(function, pooling):
    """Its kernel is zero, and with it all gradients."""
    model = kv.ViViTClassifier(
        **{**SETTINGS, "num_classes": 3}, pooling=pooling, head_norm_epsilon=1e-6
    )
    found = function(model, normal(2, *SETTINGS["video_shape"]), 1)
    assert found.shape == (2, *GRID)
    assert not found.any()


@once
@pytest.mark.parametrize("function", [relevance, grad_cam])
@pytest.mark.parametrize("variant", kv.blocks.VARIANTS)
def test_the_class_is_the_predicted_one_by_default(function, variant):
    model, videos = small_classifier(variant), normal(3, *SMALL_VIDEO)
    predicted = model.predict_on_batch(videos).argmax(axis=1)
    found = function(model, videos, batch_size=2)
    np.testing.assert_allclose(
        found, function(model, videos, predicted.tolist()), rtol=1e-4, atol=1e-6
    )
    other = function(model, videos, (predicted + 1) % 3)
    assert np.abs(found - other).max() > 1e-3


@once
@pytest.mark.parametrize("function", [relevance, grad_cam])
def test_a_head_of_several(function):
    heads = {"verb": 3, "noun": 4}
    model, videos = small_classifier(num_classes=heads), normal(2, *SMALL_VIDEO)
    maps = [function(model, videos, 1, head=head) for head in heads]
    assert np.abs(maps[0] - maps[1]).max() > 1e-3
    with pytest.raises(ValueError, match=r"`head` must .* 'verb', 'noun'.*head=None"):
        function(model, videos)
    with pytest.raises(ValueError, match=r"`class_index` must .* 0 to 3.*index=4"):
        function(model, videos, 4, head="noun")


@once
@pytest.mark.parametrize("function", [relevance, grad_cam])
@pytest.mark.parametrize("classes", [-1, 3, 1.0, [0, 1, 2], [[0], [1]], "liver"])
def test_classes_that_are_not_there_are_an_error(function, classes):
    model = small_classifier()
    with pytest.raises(ValueError, match=r"`class_index` must be .* Received: class"):
        function(model, normal(2, *SMALL_VIDEO), classes)


@once
@pytest.mark.parametrize("function", [relevance, grad_cam])
def test_only_classifiers_have_logits(function):
    backbone = small_classifier().backbone
    with pytest.raises(ValueError, match=r"`model` must .*Received: ViViTBackbone"):
        function(backbone, normal(1, *SMALL_VIDEO))
    with pytest.raises(ValueError, match=r"`head` must be None.* head='head'"):
        function(small_classifier(), normal(1, *SMALL_VIDEO), head="head")


@once
def test_the_activation_of_the_outputs_has_no_part():
    videos = normal(2, *SMALL_VIDEO)
    models = [small_classifier(classifier_activation=a) for a in (None, "softmax")]
    maps = [relevance(model, videos, 0) for model in models]
    np.testing.assert_array_equal(*maps)


def moving_squares(number, seed):
    """Noise with a bright or a dark square that moves to the right.

    Returns videos `(number, 8, 16, 16, 1)`, labels, and the tokens `(number, 4, 4, 4)`
    that the square touches.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, number)
    boxes = np.zeros((number, 8, 16, 16), bool)
    for box in boxes:
        top, left = rng.integers(0, [13, 6])
        for i, frame in enumerate(box):
            frame[top : top + 4, left + i : left + i + 4] = True
    videos = rng.normal(size=(number, 8, 16, 16, 1))
    videos += boxes[..., None] * np.where(labels, 2, -2)[:, None, None, None, None]
    tokens = boxes.reshape(number, 4, 2, 4, 4, 4, 4).any(axis=(2, 4, 6))
    return videos.astype("float32"), labels, tokens


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_relevance_is_where_the_square_moves(pooling):
    model = kv.ViViTClassifier(
        (8, 16, 16, 1),
        num_classes=2,
        tubelet_size=(2, 4, 4),
        embed_dim=32,
        num_layers=2,
        num_heads=4,
        mlp_dim=64,
        pooling=pooling,
        seed=0,
    )
    videos, labels, _ = moving_squares(1024, seed=0)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, 256)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(videos, labels, batch_size=32, epochs=8, verbose=0)
    videos, labels, tokens = moving_squares(64, seed=1)
    assert (model.predict(videos, verbose=0).argmax(axis=1) == labels).mean() > 0.9
    maps = relevance(model, videos)
    # By chance they are equal; models of different backends give 1.7 to 3.2.
    assert maps[tokens].mean() > 1.25 * maps[~tokens].mean()
