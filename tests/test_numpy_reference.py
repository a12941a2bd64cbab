"""The layers and models against a NumPy forward pass written from the paper."""

import contextlib
import functools

import keras
import numpy as np
import numpy_reference as reference
import pytest
from helpers import normal
from scenic import (
    assert_close,
    case_names,
    load_scenic,
    load_scenic_block,
    random_block,
    random_params,
    read_case,
    unset_weights,
)

import keras_vivit

# The sizes of Scenic's `odd` cases: all different, so that no swapped axis can hide.
GRID = (3, 2, 5)
SETTINGS = {
    "video_shape": (6, 8, 40, 1),
    "tubelet_size": (2, 4, 8),
    "embed_dim": 24,
    "num_layers": 2,
    "num_heads": 6,
    "mlp_dim": 40,
    "num_classes": 5,
}
# Tubelet 1 of the first sample keeps one of its two frames; the last has none at all.
FRAME_MASK = np.array([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1], [0] * 6], bool)

MODELS = [
    {"variant": "spatio_temporal", "pooling": "token"},
    {"variant": "spatio_temporal", "pooling": "mean"},
    {"variant": "factorized_encoder", "pooling": "token", "num_temporal_layers": 3},
    {"variant": "factorized_encoder", "pooling": "mean", "num_temporal_layers": 3},
    *(
        {
            "variant": "factorized_self_attention",
            "pooling": pooling,
            "attention_order": order,
        }
        for order in ("space_time", "time_space")
        for pooling in ("mean", "token")
    ),
    {"variant": "factorized_dot_product", "pooling": "mean"},
]
FORWARD = ("variant", "pooling", "attention_order", "strides", "padding")


def forward_arguments(settings):
    return {name: settings[name] for name in FORWARD if name in settings}


def model_id(settings):
    return "-".join(str(settings[name]) for name in FORWARD[:3] if name in settings)


def random_mask(*shape):
    """About half True; the last sample is dropped altogether."""
    mask = np.random.default_rng(2).random(shape) < 0.5
    mask[-1] = False
    assert mask[:-1].any()
    return mask


# === The reference itself ===


@pytest.mark.parametrize("name", case_names())
def test_the_reference_reproduces_scenic(name):
    case = read_case(name)
    arguments = forward_arguments(case.settings)
    logits = reference.classify(case.params, case.inputs, **arguments)
    assert_close(logits, case.logits)


@pytest.mark.parametrize("settings", MODELS, ids=model_id)
def test_the_reference_treats_masked_frames_as_if_they_were_not_there(settings):
    settings = {**SETTINGS, **settings}
    video, mask = normal(2, *settings["video_shape"]), np.ones((2, 6), bool)
    mask[:, 4:] = False
    short = {**settings, "video_shape": (4, 8, 40, 1)}
    params = random_params(settings, GRID)
    # Time is the slowest axis of a table, so the shorter clip has its first rows.
    short_params = {
        name: params[name][tuple(slice(n) for n in value.shape)]
        for name, value in random_params(short, (2, 2, 5)).items()
    }
    arguments = forward_arguments(settings)
    assert_close(
        reference.classify(params, video, frame_mask=mask, **arguments),
        reference.classify(short_params, video[:, :4], **arguments),
    )


# === Models ===


def check_model(settings, masked):
    settings = {**SETTINGS, **settings}
    params = random_params(settings, GRID)
    with unset_weights():
        model = keras_vivit.ViViTClassifier(
            **settings, masked=masked, classifier_activation=None
        )
    load_scenic(model, params)
    video = normal(3, *settings["video_shape"])
    arguments = forward_arguments(settings)
    inputs = video
    if masked:
        inputs = {"video": video, "frame_mask": FRAME_MASK}
        arguments["frame_mask"] = FRAME_MASK
    # Both outputs in one compiled call, which spares JAX most of the compiling.
    model = keras.Model(model.input, [model.backbone.output, model.output])
    tokens, logits = model.predict_on_batch(inputs)
    expected, kept = reference.encode(params, video, **arguments)
    assert_close(tokens, expected, kept)
    assert_close(logits, reference.classify(params, video, **arguments))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("settings", MODELS, ids=model_id)
def test_each_variant_is_the_papers(settings, masked):
    check_model(settings, masked)


@pytest.mark.parametrize("settings", MODELS[1:4], ids=model_id)
def test_a_frame_mask_reaches_overlapping_padded_tubelets(settings):
    tubelets = {"tubelet_size": (3, 5, 9), "strides": (2, 4, 8), "padding": "same"}
    check_model({**settings, **tubelets}, masked=True)


# === Blocks ===


def build_block(block_class, variant, shape, **kwargs):
    block = block_class(num_heads=6, mlp_dim=40, name="encoder_block_0", **kwargs)
    with unset_weights():
        block.build(shape)
    params = random_block(variant, embed_dim=24, num_heads=6, mlp_dim=40)
    load_scenic_block(block, params)
    return block, params


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("shape", [(3, 30, 24), (3, 3, 10, 24), (3, *GRID, 24)])
def test_encoder_block_on_any_rank(shape, masked):
    block, params = build_block(keras_vivit.ViViTEncoderBlock, "spatio_temporal", shape)
    x, mask = normal(*shape), random_mask(*shape[:-1]) if masked else None
    assert_close(block(x, mask=mask), reference.encoder_block(x, params, mask), mask)


def test_encoder_block_with_the_exact_gelu():
    block, params = build_block(
        keras_vivit.ViViTEncoderBlock,
        "spatio_temporal",
        (3, 30, 24),
        activation="gelu",
    )
    x = 3 * normal(3, 30, 24)
    exact = reference.encoder_block(x, params, activation=reference.gelu_exact)
    assert_close(block(x), exact)
    # The two functions must be far enough apart here for this to mean anything.
    assert np.abs(exact - reference.encoder_block(x, params)).max() > 1e-4


FACTORIZED_BLOCKS = [
    (
        keras_vivit.FactorizedSelfAttentionBlock,
        "factorized_self_attention",
        {"attention_order": "space_time"},
    ),
    (
        keras_vivit.FactorizedSelfAttentionBlock,
        "factorized_self_attention",
        {"attention_order": "time_space"},
    ),
    (keras_vivit.FactorizedDotProductBlock, "factorized_dot_product", {}),
]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("grid", [GRID, (3, 10)])
@pytest.mark.parametrize(("block_class", "variant", "options"), FACTORIZED_BLOCKS)
def test_factorized_blocks_attend_along_their_axes(
    block_class, variant, options, grid, masked
):
    shape = (3, *grid, 24)
    block, params = build_block(block_class, variant, shape, **options)
    x, mask = normal(*shape), random_mask(*shape[:-1]) if masked else None
    if options:
        order = options["attention_order"]
        expected = reference.factorized_self_attention_block(x, params, mask, order)
    else:
        expected = reference.factorized_dot_product_block(x, params, mask)
    assert_close(block(x, mask=mask), expected, mask)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(("block_class", "variant", "options"), FACTORIZED_BLOCKS)
def test_factorized_blocks_are_full_attention_under_a_block_mask(
    block_class, variant, options, masked
):
    shape = (3, *GRID, 24)
    block, params = build_block(block_class, variant, shape, **options)
    x, mask = normal(*shape), random_mask(*shape[:-1]) if masked else None
    frame, *place = (index.ravel() for index in np.indices(GRID))
    place = place[0] * GRID[2] + place[1]
    same_frame = frame[:, None] == frame
    same_place = place[:, None] == place

    def full(pairs):
        return functools.partial(reference.attend_everywhere, pairs=pairs)

    if options:
        expected = reference.factorized_self_attention_block(
            x,
            params,
            mask,
            options["attention_order"],
            attend_space=full(same_frame),
            attend_time=full(same_place),
        )
    else:
        halves = np.stack([same_place] * 3 + [same_frame] * 3)
        expected = reference.encoder_block(x, params, mask, attend=full(halves))
    assert_close(block(x, mask=mask), expected, mask)


# === Layers ===

TUBELETS = {
    "exact": ((6, 8, 10), (2, 4, 5), None, "valid"),
    "remainder": ((7, 9, 11), (2, 4, 5), None, "valid"),
    "remainder padded": ((7, 9, 11), (2, 4, 5), None, "same"),
    "overlap": ((7, 9, 11), (3, 6, 7), (2, 3, 4), "valid"),
    "overlap padded": ((7, 9, 11), (4, 5, 6), (3, 2, 5), "same"),
    "gaps": ((7, 10, 13), (1, 2, 3), (3, 4, 5), "valid"),
    "gaps padded": ((8, 11, 14), (1, 2, 3), (3, 4, 5), "same"),
}


@pytest.mark.parametrize("mask_axes", [0, 2, 4], ids=["whole", "frames", "voxels"])
@pytest.mark.parametrize("name", TUBELETS)
def test_tubelet_embedding(name, mask_axes):
    size, tubelet, strides, padding = TUBELETS[name]
    video = normal(2, *size, 3)
    layer = keras_vivit.TubeletEmbedding(10, tubelet, strides, padding)
    warns = name == "remainder"
    warning = pytest.warns(match="ignores") if warns else contextlib.nullcontext()
    with warning, unset_weights():
        layer.build(video.shape)
    params = {"kernel": normal(*tubelet, 3, 10), "bias": normal(10)}
    params["kernel"] /= np.sqrt(np.prod(tubelet) * 3)
    layer.kernel.assign(params["kernel"])
    layer.bias.assign(params["bias"])
    if not mask_axes:
        expected = reference.tubelet_embedding(video, params, strides, padding)
        assert_close(layer(video), expected)
        return
    # Sparse, so that a kept token also has dropped voxels and some token is dropped.
    mask = np.random.default_rng(4).random(video.shape[:mask_axes]) < 3 / np.prod(
        tubelet[: mask_axes - 1]
    )
    voxels = reference.voxel_mask(mask, video)
    kept = reference.tubelet_mask(voxels, tubelet, strides, padding)
    video_kept = video * voxels[..., None]
    expected = reference.tubelet_embedding(video_kept, params, strides, padding)
    assert_close(layer(video, mask=mask), expected)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(layer.compute_mask(video, mask)), kept
    )


@pytest.mark.parametrize("kind", ["learned", "factorized", "sincos"])
def test_positional_encoder(kind):
    x = normal(2, *GRID, 16)
    layer = keras_vivit.PositionalEncoder(kind)
    with unset_weights():
        layer.build(x.shape)
    if kind == "learned":
        table = normal(*GRID, 16)
        layer.table.assign(table)
    elif kind == "factorized":
        time, space = normal(3, 16, seed=5), normal(2, 5, 16)
        layer.time_table.assign(time)
        layer.space_table.assign(space)
        table = np.empty((*GRID, 16))
        for t, h, w in np.ndindex(GRID):
            table[t, h, w] = time[t] + space[h, w]
    else:
        table = np.empty((*GRID, 16))
        for index in np.ndindex(GRID):
            table[index] = reference.sincos_position(index, 16)
    assert_close(layer(x), x + table)


@pytest.mark.parametrize("grid", [GRID, (7,)])
def test_class_token(grid):
    x, mask = normal(3, *grid, 24), random_mask(3, *grid)
    layer = keras_vivit.ClassToken()
    with unset_weights():
        layer.build(x.shape)
    token, position = normal(24), normal(24, seed=5)
    layer.token.assign(token)
    layer.position.assign(position)
    tokens, kept = reference.class_token(
        x.reshape(3, -1, 24), token + position, mask.reshape(3, -1)
    )
    assert_close(layer(x), tokens)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(layer.compute_mask(x, mask)), kept
    )


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(
    ("pooling", "grid"), [("mean", GRID), ("mean", (7,)), ("token", (7,))]
)
def test_token_pooling(pooling, grid, masked):
    x, mask = normal(3, *grid, 24), random_mask(3, *grid) if masked else None
    layer = keras_vivit.TokenPooling(pooling)
    assert_close(layer(x, mask=mask), reference.pool(x, pooling, mask))


@pytest.mark.parametrize(
    "grid", [(3, 4, 5), (6, 8, 10), (5, 3, 7), (2, 2, 2), (1, 9, 4), (4, 1, 1)]
)
@pytest.mark.parametrize("old", [(3, 4, 5), (1, 2, 7)])
def test_position_tables_are_resampled_linearly(old, grid):
    table = normal(*old, 6)
    resized = keras_vivit.resize_position_table(table, grid)
    assert isinstance(resized, np.ndarray)
    assert_close(resized, reference.resize_table(table, grid))
