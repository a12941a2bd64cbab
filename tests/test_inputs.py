"""Inputs of a wrong shape are refused, masked ones have no effect, none is changed."""

import keras
import numpy as np
import pytest
from helpers import flat, normal, only, slow, small_classifier
from keras import ops

import keras_vivit as kv
from keras_vivit.backbone import VARIANTS

BLOCKS = (
    kv.ViViTEncoderBlock,
    kv.FactorizedSelfAttentionBlock,
    kv.FactorizedDotProductBlock,
)
VIDEO = (2, 4, 16, 16, 1)
GRID = (2, 4, 2, 2, 16)


# === Shapes ===


SHAPES_FIRST = tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 16)
OF_KERAS = r"expected shape=.*found shape="  # Keras 3.16 compares shapes first.


@pytest.mark.parametrize("channels", [2, 3])
def test_model_refuses_other_channels(channels):
    model = small_classifier()
    for run in (model, model.predict_on_batch):
        rule = OF_KERAS if SHAPES_FIRST else r"expected axis -1.*value 1"
        with pytest.raises(ValueError, match=rule):
            run(normal(2, 4, 16, 16, channels))


@pytest.mark.parametrize("strides", [(2, 4, 4), (1, 2, 2)])
@pytest.mark.parametrize("channels", [1, 4, 6])
def test_embedding_refuses_other_channels(strides, channels):
    layer = kv.TubeletEmbedding(8, (2, 4, 4), strides)
    layer.build((None, 4, 16, 16, 2))
    with pytest.raises(ValueError, match=r"expected axis -1.*value 2"):
        layer(normal(2, 4, 16, 16, channels))


@pytest.mark.parametrize(
    "shape", [(2, 3), (2, 1), (3, 4), (2, 4, 16, 8), (2, 4, 1, 1), (2, 4, 16)]
)
def test_embedding_refuses_masks_of_other_videos(shape):
    layer = kv.TubeletEmbedding(8, (2, 4, 4))
    with pytest.raises(ValueError, match=r"`mask` must have the shape.*Received: mask"):
        layer(normal(*VIDEO), mask=np.ones(shape, bool))


def test_model_of_one_frame_refuses_a_mask_of_five():
    model = small_classifier(
        video_shape=(1, 16, 16, 1), tubelet_size=(1, 8, 8), masked=True
    )
    inputs = {"video": normal(2, 1, 16, 16, 1), "frame_mask": np.ones((2, 5), bool)}
    rule = OF_KERAS if SHAPES_FIRST else "`mask` must have the shape"
    with pytest.raises(ValueError, match=rule):
        model.predict_on_batch(inputs)


@pytest.mark.parametrize("kind", ["learned", "factorized"])
@pytest.mark.parametrize("axis", [1, 2, 3, 4])
def test_positions_refuse_other_grids(kind, axis):
    layer = kv.PositionalEncoder(kind)
    layer.build(GRID)
    shape = list(GRID)
    shape[axis] = 1
    with pytest.raises(ValueError, match="incompatible"):
        layer(normal(*shape))


@pytest.mark.parametrize("layer", [*BLOCKS, kv.ClassToken])
@pytest.mark.parametrize("width", [1, 8])
def test_layers_refuse_other_widths(layer, width):
    layer = layer(2, 8) if layer in BLOCKS else layer()
    layer.build(GRID)
    with pytest.raises(ValueError, match=r"expected axis -1.*value 16"):
        layer(normal(2, 4, 2, 2, width))


@pytest.mark.parametrize("shape", [(2, 1), (2, 4), (2, 4, 2, 1), (1, 4, 2, 2)])
@pytest.mark.parametrize("layer", [*BLOCKS, kv.TokenPooling, kv.ClassToken])
def test_layers_refuse_masks_of_other_tokens(layer, shape):
    layer = layer(2, 8) if layer in BLOCKS else layer()
    run = layer.compute_mask if isinstance(layer, kv.ClassToken) else layer
    with pytest.raises(ValueError, match="`mask` must have one value for each token"):
        run(ops.zeros(GRID), mask=ops.ones(shape, "bool"))


@pytest.mark.parametrize(
    "rescaling", [([1.0] * 3, [0.0] * 3), (1.0, [0.0, 0.0]), ([[1.0]], 0.0)]
)
def test_rescaling_has_a_value_for_each_channel(rescaling):
    with pytest.raises(ValueError, match=r"one for each channel.*channels=1"):
        kv.ViViTBackbone((4, 16, 16, 1), rescaling=rescaling)


def test_rescaling_of_each_channel(tmp_path):
    arguments = {"video_shape": (4, 16, 16, 3)}
    plain = small_classifier(**arguments)
    model = small_classifier(**arguments, rescaling=([1.0, 2.0, 3.0], [0.0, 1.0, -1.0]))
    x = normal(2, 4, 16, 16, 3)
    expected = flat(plain(x * [1, 2, 3] + [0, 1, -1]))
    np.testing.assert_allclose(flat(model(x)), expected, atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(flat(again(x)), expected, atol=1e-5)


# === Masks ===


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4, -1e30])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_frames_may_hold_anything(variant, dtype, value):
    model = small_classifier(variant, masked=True, dtype=dtype)
    video, mask = normal(*VIDEO), np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    noisy = np.where(mask[..., None, None, None], video, value).astype("float32")
    expected, found = (
        flat(model({"video": v, "frame_mask": mask})) for v in (video, noisy)
    )
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(found, expected)


def test_masked_tokens_leave_gradients_finite():
    tokens = keras.Input((4, 2, 2, 16))
    mask = keras.Input((4, 2, 2), dtype="bool")
    x = tokens
    for block in BLOCKS:
        x = block(2, 8)(x, mask=mask)
    model = keras.Model([tokens, mask], kv.TokenPooling()(x, mask=mask))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    kept = normal(4, 4, 2, 2) > 0
    x = np.where(kept[..., None], normal(4, *GRID[1:]), np.nan)
    model.train_on_batch([x, kept], np.ones((4, 16)))
    assert all(np.isfinite(weight).all() for weight in flat(model.weights))


@pytest.mark.parametrize(("tokens", "value"), [(3, 3e4), (70000, 1.0)])
@pytest.mark.parametrize("masked", [False, True])
def test_mean_of_half_precision_does_not_overflow(tokens, value, masked):
    layer = kv.TokenPooling(dtype="float16")
    x = np.full((1, tokens, 2), value, "float16")
    mask = np.ones((1, tokens), bool) if masked else None
    (mean,) = flat(layer(x, mask=mask))
    np.testing.assert_allclose(mean, value, rtol=1e-3)


@only("torch")
@pytest.mark.parametrize("kind", ["plain", "expanded", "leaf"])
def test_masked_model_leaves_the_tensor_of_the_caller(kind):
    import torch

    model = small_classifier(masked=True)
    video = torch.ones(2, 4, 16, 16, 1)
    if kind == "expanded":
        video = torch.ones(1, 4, 1, 1, 1).expand(*VIDEO)
    video.requires_grad_(kind == "leaf")
    mask = torch.tensor([[True, True, False, False]] * 2)
    model({"video": video, "frame_mask": mask}).sum().backward()
    assert video.sum() == video.numel()


# === Unknown sizes ===


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pooling", ["mean", *slow("token")])
@pytest.mark.parametrize("masked", [*slow(False), True])
def test_fixed_positions_take_videos_of_any_size(variant, pooling, masked):
    if pooling == "token" and not VARIANTS[variant].has_class_token:
        pytest.skip("has no class token")
    arguments = {"position_kind": "sincos", "pooling": pooling, "masked": masked}
    arguments |= {"variant": variant, "video_shape": (None, None, None, 1)}
    if pooling == "token" and variant == "factorized_self_attention":
        with pytest.raises(ValueError, match="`video_shape` must have known frames"):
            small_classifier(**arguments)
        arguments |= {"video_shape": (4, None, None, 1)}
    if masked and (pooling == "token" or variant == "factorized_encoder"):
        with pytest.raises(ValueError, match="`video_shape` must be known for masked"):
            small_classifier(**arguments)
        return
    model = small_classifier(**arguments)
    sizes = ((4, 16, 16), (arguments["video_shape"][0] or 6, 24, 16))
    for size in sizes:
        fixed = small_classifier(**{**arguments, "video_shape": (*size, 1)})
        x = normal(2, *size, 1)
        if masked:
            mask = np.ones((2, size[0]), bool)
            mask[1, 2:] = False
            x = {"video": x, "frame_mask": mask}
        expected = flat(fixed.predict_on_batch(x))
        np.testing.assert_allclose(flat(model.predict_on_batch(x)), expected, atol=1e-5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(model.train_on_batch(x, np.array([0, 2])))


@pytest.mark.parametrize("kind", ["learned", "factorized"])
def test_tables_need_a_known_size(kind):
    with pytest.raises(ValueError, match=r"`video_shape` must be 4 positive"):
        kv.ViViTBackbone((None, 16, 16, 1), position_kind=kind)
