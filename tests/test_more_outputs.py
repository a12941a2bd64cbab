"""Features of a backbone, and models with more outputs."""

import keras
import numpy as np
import pytest
from helpers import SMALL_VIDEO, flat, normal, once, small_classifier

import keras_vivit as kv
from keras_vivit.visualization import attention_rollout, with_outputs, with_rollout

MODELS = [
    {},
    {"pooling": "token"},
    {"variant": "factorized_encoder"},
    {"variant": "factorized_encoder", "pooling": "token"},
    {"variant": "factorized_self_attention"},
    {"variant": "factorized_dot_product"},
    {"head_norm_epsilon": 1e-6, "final_norm": False},
    {"num_classes": {"verb": 3, "noun": 2}},
    {"masked": True, "variant": "factorized_encoder", "pooling": "token"},
]
each_model = pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            arguments,
            id="-".join(map(str, arguments.values())) or "default",
            marks=pytest.mark.slow if i in (0, 1, 2, 4, 5, 6) else [],
        )
        for i, arguments in enumerate(MODELS)
    ],
)


def inputs_of(model):
    videos = normal(2, *SMALL_VIDEO)
    if not model.backbone.masked:
        return videos
    return {"video": videos, "frame_mask": np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)}


# === Features ===


@each_model
def test_features_are_grids(arguments):
    model = small_classifier(**arguments)
    backbone, videos = model.backbone, inputs_of(model)
    found = backbone.features(videos)
    temporal = [x for x in backbone.layers if x.name.startswith("temporal_block")]
    assert [tuple(x.shape) for x in found] == [
        *[(2, 2, 2, 2, 32)] * 2,
        *[(2, 2, 32)] * len(temporal),
    ]


@pytest.mark.slow
def test_last_features_are_those_before_the_final_norm():
    for variant in kv.blocks.VARIANTS:
        backbone = small_classifier(variant).backbone
        videos = normal(2, *SMALL_VIDEO)
        (last,) = backbone.features(videos, layers=[-1])
        norm = backbone.layers[-1]
        np.testing.assert_allclose(
            flat(norm(last))[0], flat(backbone(videos))[0], atol=1e-5
        )


@pytest.mark.slow
def test_features_leave_the_class_token_out_and_keep_the_order():
    backbone = small_classifier("factorized_encoder", pooling="token").backbone
    videos = normal(2, *SMALL_VIDEO)
    spatial, temporal = (flat(x)[0] for x in backbone.features(videos, [1, 2]))
    tokens = [
        keras.Model(backbone.input, backbone.get_layer(name).output)(videos)
        for name in ("spatial_block_1", "temporal_block_0")
    ]
    frames, times = (flat(x)[0] for x in tokens)
    np.testing.assert_allclose(spatial.reshape(4, 4, 32), frames[:, 1:], atol=1e-6)
    np.testing.assert_allclose(temporal, times[:, 1:], atol=1e-6)


@pytest.mark.slow
def test_features_of_unknown_sizes():
    backbone = small_classifier(
        "factorized_encoder", video_shape=(None, None, None, 1), position_kind="sincos"
    ).backbone
    (grid,) = backbone.features(normal(2, 6, 16, 24, 1), layers=[0])
    assert tuple(grid.shape) == (2, 3, 2, 3, 32)


def test_features_are_part_of_a_functional_model(tmp_path):
    """A head that joins two depths trains, is saved and loaded."""
    backbone = small_classifier(pooling="token").backbone
    video = keras.Input(SMALL_VIDEO)
    grids = backbone.features(video, layers=[0, -1])
    x = keras.layers.Concatenate()(grids)
    x = keras.layers.Conv3DTranspose(1, (2, 8, 8), strides=(2, 8, 8))(x)
    model = keras.Model(video, x)
    assert model.output_shape == (None, *SMALL_VIDEO)
    videos = normal(2, *SMALL_VIDEO)
    before = flat(backbone.get_layer("encoder_block_0").mlp.hidden_dense.kernel)[0]
    model.compile("sgd", "mse")
    model.fit(videos, videos, verbose=0)
    after = flat(backbone.get_layer("encoder_block_0").mlp.hidden_dense.kernel)[0]
    assert np.abs(after - before).max() > 0
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        again.predict_on_batch(videos), model.predict_on_batch(videos), atol=1e-5
    )


@once
def test_features_that_are_not_there_are_an_error():
    backbone = small_classifier().backbone
    with pytest.raises(ValueError, match=r"`layers` must hold integers from -2 to 1"):
        backbone.features(normal(1, *SMALL_VIDEO), layers=[2])


# === Models with more outputs ===


@each_model
def test_more_outputs_leave_the_predictions_as_they_are(arguments):
    model = small_classifier(**arguments)
    inputs = inputs_of(model)
    name = next(x.name for x in model.backbone.layers if "block_1" in x.name)
    *_, predictions = with_outputs(model, ["tubelet_embedding", name])(inputs)
    again, rollout = with_rollout(model)(inputs)
    for outputs in (predictions, again):
        for one, other in zip(flat(outputs), flat(model(inputs)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(
        flat(rollout)[0], attention_rollout(model, inputs), atol=1e-6
    )


@pytest.mark.slow
def test_a_backbone_has_more_outputs_too():
    backbone, videos = small_classifier().backbone, normal(1, *SMALL_VIDEO)
    block, tokens = with_outputs(backbone, ["encoder_block_0"])(videos)
    again, rollout = with_rollout(backbone)(videos)
    assert tuple(block.shape) == tuple(tokens.shape) == (1, 2, 2, 2, 32)
    np.testing.assert_allclose(flat(tokens)[0], flat(again)[0], atol=1e-6)
    assert tuple(rollout.shape) == (1, 2, 2, 2)


@once
def test_layers_that_are_not_there_are_an_error():
    with pytest.raises(ValueError, match=r"`layer_names` must be .* Received: 'head'"):
        with_outputs(small_classifier(), ["head"])


@once
def test_more_outputs_share_the_weights_and_are_not_saved_with_the_model(tmp_path):
    model = small_classifier()
    explained = with_rollout(model)
    assert len(explained.weights) == len(model.weights)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    videos = normal(1, *SMALL_VIDEO)
    np.testing.assert_allclose(
        flat(again(videos))[0], flat(model(videos))[0], atol=1e-6
    )


@pytest.mark.parametrize(
    "arguments",
    [MODELS[3], *(pytest.param(x, marks=pytest.mark.slow) for x in MODELS[:6])],
    ids=str,
)
def test_predictions_have_gradients_by_more_outputs(arguments):
    """A logit by the tokens after a block, as Grad-CAM by hand takes it."""
    model = small_classifier(classifier_activation=None, **arguments)
    name = next(x.name for x in model.backbone.layers if "block_0" in x.name)
    explained = with_outputs(model, [name])
    gradient = gradient_by_hand(explained, normal(1, *SMALL_VIDEO))
    assert np.abs(gradient).max() > 1e-4


def gradient_by_hand(explained, videos):
    match keras.config.backend():
        case "jax":
            import jax

            tokens, _ = explained(videos)
            rest = keras.Model(explained.outputs[0], explained.outputs[1])
            return np.asarray(jax.grad(lambda x: rest(x)[0, 1])(tokens))
        case "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tokens, logits = explained(videos)
                logit = logits[0, 1]
            return tape.gradient(logit, tokens).numpy()
        case "torch":
            import torch

            tokens, logits = explained(videos)
            (gradient,) = torch.autograd.grad(logits[0, 1], tokens)
            return gradient.cpu().numpy()
