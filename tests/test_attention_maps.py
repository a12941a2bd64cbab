"""Attention maps and rollout: against NumPy, `transformers`, masks, every variant."""

import weakref

import attention_reference
import keras
import numpy as np
import numpy_reference as reference
import pytest
from helpers import (
    SMALL_VIDEO,
    flat,
    needs_transformers,
    normal,
    once,
    small_classifier,
)
from scenic import assert_close, load_scenic, random_params, unset_weights
from test_numpy_reference import (
    FRAME_MASK,
    GRID,
    MODELS,
    SETTINGS,
    forward_arguments,
    model_id,
)
from test_transformers_parity import LOGITS, STORED

import keras_vivit as kv
from keras_vivit import visualization
from keras_vivit.visualization import attention_maps, attention_rollout, passes

FIRST = {"variant": "spatio_temporal", "pooling": "first"}
# The others are slow on JAX, which compiles each operation for each shape.
ELSEWHERE = [pytest.mark.slow, once]
FAST = ("factorized_encoder-token", "factorized_self_attention-mean-space_time")
CASES = [
    pytest.param(settings, marks=[] if model_id(settings) in FAST else ELSEWHERE)
    for settings in [*MODELS, FIRST]
]


def average(identity, matrix):
    return (identity + matrix) / 2


class Case:
    """A model, videos with one sample masked in part and one whole, and the calls."""

    def __init__(self, settings):
        self.settings = {**SETTINGS, **settings}
        arguments = {k: v for k, v in self.settings.items() if k != "num_classes"}
        with unset_weights():
            self.model = kv.ViViTBackbone(**arguments, masked=True)
        params = random_params(self.settings, GRID)
        head = ("output_projection/kernel", "output_projection/bias")
        load_scenic(
            self.model, {k: v for k, v in params.items() if not k.startswith(head)}
        )
        self.inputs = {
            "video": normal(3, *SETTINGS["video_shape"]),
            "frame_mask": FRAME_MASK,
        }
        with attention_reference.watch() as calls:
            reference.encode(
                params,
                self.inputs["video"],
                frame_mask=FRAME_MASK,
                **{
                    **forward_arguments(self.settings),
                    "pooling": "token" if settings["pooling"] == "token" else "mean",
                },
            )
        self.blocks = attention_reference.blocks(self.settings, calls, GRID)
        self.mask = np.repeat(FRAME_MASK[:, ::2] | FRAME_MASK[:, 1::2], 10, axis=1)
        self.mask = self.mask.reshape(3, *GRID)

    def kept(self, axis, tokens):
        """Which tokens are kept: `(batch, tokens)`, or with frames or places behind."""
        mask = self.mask.reshape(3, GRID[0], -1)
        kept = {"all": mask.reshape(3, -1), "space": mask, "time": mask.swapaxes(1, 2)}
        kept = mask.any(axis=2) if axis == "all" and tokens < 5 else kept[axis]
        missing = tokens - kept.shape[-1]  # the class token
        return np.pad(
            kept, [*[(0, 0)] * (kept.ndim - 1), (missing, 0)], constant_values=True
        )


@pytest.fixture(scope="module", params=CASES, ids=model_id)
def case(request):
    return Case(request.param)


def test_maps_are_those_of_the_reference(case):
    """Those of queries that are kept; keys that are not have no weight."""
    found = attention_maps(case.model, case.inputs, reduce=None, batch_size=2)
    for maps, expected in zip(found, case.blocks, strict=True):
        (name, *_) = expected
        pairs = maps._asdict() if isinstance(maps, tuple) else {name: maps}
        assert sorted(pairs) == sorted(expected)
        for axis, array in pairs.items():
            assert array.shape == expected[axis].shape
            kept = case.kept(axis, array.shape[-1])
            queries, keys = (np.moveaxis(array, i, kept.ndim - 1) for i in (-2, -1))
            wanted = np.moveaxis(expected[axis], -2, kept.ndim - 1)
            assert_close(queries[kept], wanted[kept])
            assert not keys[~kept].any()


def test_rollout_is_the_product_of_full_matrices(case):
    expected, _ = attention_reference.token_map(
        case.settings, case.blocks, GRID, average, case.mask
    )
    found = attention_rollout(case.model, case.inputs, batch_size=2)
    assert_close(found, expected)
    assert found.dtype == "float32"
    assert not found[~case.mask].any()
    assert (found[:2].sum(axis=(1, 2, 3)) > 0.1).all()


@once
def test_rows_sum_to_one_and_heads_are_averaged():
    for variant in kv.blocks.VARIANTS:
        model, videos = small_classifier(variant), normal(2, *SMALL_VIDEO)
        means, heads = (
            [np.asarray(x) for x in keras.tree.flatten(attention_maps(*args))]
            for args in ((model, videos), (model, videos, None, None))
        )
        for mean, each in zip(means, heads, strict=True):
            assert mean.dtype == "float32"
            np.testing.assert_allclose(mean.sum(axis=-1), 1, atol=1e-5)
            np.testing.assert_allclose(each.mean(axis=-3), mean, atol=1e-6)


@once
def test_blocks_are_chosen_by_index_or_name():
    model, videos = small_classifier(), normal(1, *SMALL_VIDEO)
    every = attention_maps(model, videos)
    assert len(every) == 2
    chosen = attention_maps(model, videos, layers=[-1, "encoder_block_0"])
    for one, other in zip(chosen, every[::-1], strict=True):
        np.testing.assert_array_equal(one, other)


@once
@pytest.mark.parametrize("layers", [2, [2], [-3], ["block"], [True], [], "encoder"])
def test_blocks_that_are_not_there_are_an_error(layers):
    model = small_classifier()
    with pytest.raises(ValueError, match=r"`layers` must .* Received: "):
        attention_maps(model, normal(1, *SMALL_VIDEO), layers)


@once
def test_other_arguments_are_checked():
    model, videos = small_classifier(), normal(1, *SMALL_VIDEO)
    with pytest.raises(ValueError, match=r"`model` must be .* Received: Dense"):
        attention_rollout(keras.layers.Dense(1), videos)
    with pytest.raises(ValueError, match=r"`reduce` must be .* Received: reduce='max'"):
        attention_maps(model, videos, reduce="max")
    with pytest.raises(ValueError, match=r"`batch_size` must be .* batch_size=0"):
        attention_maps(model, videos, batch_size=0)
    with pytest.raises(ValueError, match=r"`videos` must hold at least one"):
        attention_rollout(model, videos[:0])


@pytest.mark.slow
def test_unknown_sizes():
    """Fixed positions take any grid: it is read from the videos."""
    for variant in ("spatio_temporal", "factorized_encoder"):
        model = small_classifier(
            variant, video_shape=(None, None, None, 1), position_kind="sincos"
        )
        rollout = attention_rollout(model, normal(2, 6, 16, 24, 1))
        assert rollout.shape == (2, 3, 2, 3)
        np.testing.assert_allclose(rollout.sum(axis=(1, 2, 3)), 1, atol=1e-5)


@pytest.mark.slow
def test_half_precision():
    model = small_classifier(dtype="mixed_bfloat16")
    videos = normal(2, *SMALL_VIDEO)
    full = small_classifier()
    full.set_weights(model.get_weights())
    rollout = attention_rollout(model, videos)
    assert rollout.dtype == "float32"
    np.testing.assert_allclose(rollout, attention_rollout(full, videos), atol=0.02)


@once
def test_looking_leaves_the_model_as_it_was():
    model, videos = small_classifier(), normal(2, *SMALL_VIDEO)
    before, weights = flat(model(videos))[0], len(model.weights)
    attention_maps(model, videos)
    attention_rollout(model, videos)
    np.testing.assert_array_equal(flat(model(videos))[0], before)
    assert len(model.weights) == weights


@pytest.mark.slow
@needs_transformers
@pytest.mark.skipif(keras.config.backend() != "torch", reason="once is enough")
def test_maps_are_those_of_transformers():
    import torch
    import transformers

    theirs = transformers.VivitForVideoClassification.from_pretrained(
        STORED / "vivit", attn_implementation="eager"
    ).eval()
    with np.load(STORED / "outputs.npz") as file:
        videos = file["videos"]
    frames = torch.from_numpy(videos).permute(0, 1, 4, 2, 3).to(torch.float32).cpu()
    with torch.no_grad():
        expected = theirs(frames, output_attentions=True).attentions
    model = kv.ViViTClassifier.from_preset(STORED / "vivit", **LOGITS)
    found = attention_maps(model, videos, reduce=None)
    for maps, attention in zip(found, expected, strict=True):
        assert_close(maps, attention.numpy())


def most_alive(function, monkeypatch):
    """How many tensors of attention weights there are at a time."""
    alive, most = weakref.WeakSet(), [0]
    compute = passes.attention_weights

    def attention_weights(*arguments):
        weights = compute(*arguments)
        alive.add(weights)
        most.append(len(alive))
        return weights

    monkeypatch.setattr(passes, "attention_weights", attention_weights)
    function()
    return max(most)


@once
@pytest.mark.parametrize(
    "function", [attention_maps, attention_rollout, visualization.relevance]
)
def test_weights_of_one_block_are_in_memory_at_a_time(function, monkeypatch):
    model, videos = small_classifier(num_layers=4), normal(1, *SMALL_VIDEO)
    assert most_alive(lambda: function(model, videos), monkeypatch) == 1
