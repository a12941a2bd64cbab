"""Whole models: sizes, presets, masks, and the ways to train and take them apart."""

import keras
import numpy as np
import pytest
from helpers import flat, normal, only, randomize, slow

import keras_vivit as kv
from keras_vivit.backbone import VARIANTS

SMALL = {
    "video_shape": (6, 4, 8, 1),
    "tubelet_size": (2, 2, 2),
    "embed_dim": 12,
    "num_layers": 2,
    "num_temporal_layers": 1,
    "num_heads": 2,
    "mlp_dim": 16,
}
MODELS = [
    ("spatio_temporal", "token"),
    ("spatio_temporal", "mean"),
    ("factorized_encoder", "token"),
    ("factorized_encoder", "mean"),
    ("factorized_self_attention", "token"),
    ("factorized_self_attention", "mean"),
    ("factorized_dot_product", "mean"),
]
all_models = pytest.mark.parametrize(("variant", "pooling"), MODELS)
# Training compiles most: two of them, and the others in the slow tests.
trained_models = pytest.mark.parametrize(
    ("variant", "pooling"),
    [
        pytest.param(*m, marks=[pytest.mark.slow] * (m not in MODELS[1:3]))
        for m in MODELS
    ],
)


def small(variant, pooling="mean", model=kv.ViViTClassifier, **changes):
    arguments = {**SMALL, "variant": variant, "pooling": pooling, **changes}
    if model is kv.ViViTClassifier:
        arguments.setdefault("num_classes", 3)
    made = model(**arguments)
    randomize(made)
    return made


# === Sizes and presets ===


@pytest.mark.parametrize(
    ("preset", "changes", "expected"),
    [
        ("b16x2_spatio_temporal", {}, 88_954_000),
        ("b16x2_factorized_encoder", {}, 115_062_928),
        ("b16x2_factorized_self_attention", {}, 117_319_312),
        ("b16x2_factorized_dot_product", {}, 88_952_464),
        ("l16x2_spatio_temporal", {}, 307_508_624),
        ("l16x2_factorized_encoder", {}, 354_903_440),
        ("l16x2_factorized_encoder", {"num_temporal_layers": 24}, 606_827_920),
        (
            "l16x2_factorized_encoder",
            {"num_temporal_layers": 24, "num_classes": 600},
            607_032_920,
        ),
        ("h14x2_spatio_temporal", {}, 636_945_040),
        ("organmnist3d_baseline", {}, 1_656_971),
    ],
)
@pytest.mark.filterwarnings("ignore:.*ignores 37%")
def test_presets_have_the_published_number_of_parameters(preset, changes, expected):
    with keras.StatelessScope(initialize_variables=False):  # Without the memory.
        model = kv.ViViTClassifier.from_preset(f"vivit_{preset}", **changes)
    assert model.count_params() == expected


def test_every_preset_has_a_line_about_it():
    names = kv.ViViTClassifier.presets()
    assert names == kv.ViViTBackbone.presets()
    assert {name.removeprefix("vivit_").split("_")[0] for name in names} == {
        *("ti16x2", "s16x2", "b16x2", "l16x2", "h14x2"),
        "organmnist3d",
    }
    assert all(names.values())


def test_backbone_of_a_preset_takes_overrides():
    backbone = kv.ViViTBackbone.from_preset(
        "vivit_ti16x2_factorized_encoder", video_shape=(4, 32, 32, 1), num_layers=1
    )
    assert backbone.output_shape == (None, 1 + 2, 192)


@pytest.mark.parametrize("model", [kv.ViViTBackbone, kv.ViViTClassifier])
def test_unknown_preset_is_refused(model):
    with pytest.raises(ValueError, match=r"`source` must be.*source='vivit_b32'"):
        model.from_preset("vivit_b32")


# === Masks ===


@all_models
def test_masked_frames_have_no_influence(variant, pooling):
    model = small(variant, pooling, masked=True)
    video = normal(3, *SMALL["video_shape"])
    # Frame 2 shares its tubelet with frame 3.
    mask = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 1, 1], [1] * 6], bool)
    noisy = np.where(mask[..., None, None, None], video, 100.0).astype("float32")
    a, b = (
        flat(model({"video": frames, "frame_mask": mask}))[0]
        for frames in (video, noisy)
    )
    np.testing.assert_array_equal(a, b)
    unmasked = flat(model({"video": video, "frame_mask": np.ones((3, 6), bool)}))[0]
    assert np.all(np.abs(a - unmasked).max(axis=1) > 1e-4 * np.array([1, 1, -1]))
    np.testing.assert_allclose(a[2], unmasked[2], atol=1e-6)


@trained_models
def test_masked_models_train_and_survive_saving(variant, pooling, tmp_path):
    model = small(variant, pooling, masked=True)
    inputs = {
        "video": normal(4, *SMALL["video_shape"]),
        "frame_mask": np.array([[1, 1, 1, 1, 0, 0]] * 4, bool),
    }
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = model.fit(inputs, np.arange(4) % 3, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(flat(model(inputs)), flat(again(inputs)))


# === Still videos ===


@pytest.mark.parametrize("variant", VARIANTS)
def test_still_video_gives_the_tokens_of_one_frame(variant):
    long = small(variant, model=kv.ViViTBackbone)
    short = small(
        variant, model=kv.ViViTBackbone, video_shape=(2, *SMALL["video_shape"][1:])
    )
    for ours, theirs in zip(long.weights, short.weights, strict=True):
        # A position table repeats its only row; all else has the same shape.
        ours.assign(np.broadcast_to(flat(theirs)[0], ours.shape))
    frame = normal(2, 1, *SMALL["video_shape"][1:])
    tokens = flat(long(np.repeat(frame, 6, axis=1)))[0]
    expected = flat(short(np.repeat(frame, 2, axis=1)))[0]
    np.testing.assert_allclose(
        tokens, np.broadcast_to(expected, tokens.shape), atol=1e-5
    )


# === Training and taking apart ===


@trained_models
def test_checkpointed_training_is_the_same(variant, pooling):
    def trained(remat):
        keras.utils.set_random_seed(0)
        model = small(variant, pooling, remat=remat, dropout_rate=0.1, seed=3)
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.fit(
            normal(4, *SMALL["video_shape"]), np.arange(4) % 3, verbose=0, shuffle=False
        )
        return flat(model.trainable_variables)

    for a, b in zip(trained(False), trained(True), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def kept_for_gradient(model, videos):
    """Bytes that a training step keeps from the forward to the backward pass."""
    if keras.backend.backend() == "torch":
        import torch

        kept = {}

        def keep(tensor):
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(videos, training=True)
        return sum(kept.values())
    import jax

    def loss(weights, videos):
        others = [variable.value for variable in model.non_trainable_variables]
        return model.stateless_call(weights, others, videos, training=True)[0].sum()

    weights = [variable.value for variable in model.trainable_variables]
    compiled = jax.jit(jax.grad(loss)).lower(weights, videos).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@only("jax", "torch", reason="TensorFlow has no public count of its memory")
def test_checkpointing_keeps_less_than_half_of_the_memory():
    plain, checkpointed = (
        kept_for_gradient(
            small("spatio_temporal", "mean", num_layers=8, remat=remat),
            normal(16, *SMALL["video_shape"]),
        )
        for remat in (False, True)
    )
    assert checkpointed < 0.5 * plain


@all_models
@pytest.mark.parametrize("dtype", ["float32", *slow("mixed_bfloat16", "float16")])
def test_backbone_computes_what_its_graph_does(variant, pooling, dtype):
    backbone = small(variant, pooling, kv.ViViTBackbone, dtype=dtype, rescaling=(2, -1))
    graph = keras.Model(backbone.input, backbone.output)
    graph.dtype_policy = backbone.dtype_policy
    for video in (normal(2, 6, 4, 8, 1), np.arange(192, dtype="uint8")):
        video = video.reshape(-1, 6, 4, 8, 1)
        for same in (video, video[..., 0]):  # Keras adds the only channel.
            tokens = backbone(same)
            assert keras.backend.standardize_dtype(tokens.dtype) == graph.compute_dtype
            np.testing.assert_array_equal(flat(tokens), flat(graph(same)))


def test_dropout_of_blocks_happens_in_training_only():
    backbone = small(
        "spatio_temporal", model=kv.ViViTBackbone, attention_dropout_rate=0.5
    )
    video = normal(2, *SMALL["video_shape"])
    first, second = (flat(backbone(video, training=True)) for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(flat(backbone(video)), flat(backbone(video)))


@only("torch")
def test_blocks_run_without_the_bookkeeping_around_them(monkeypatch):
    model = small("spatio_temporal")
    video = normal(2, *SMALL["video_shape"])
    model(video)
    monkeypatch.setattr(kv.ViViTEncoderBlock, "__call__", None)
    model(video)


@only("torch")
@all_models
def test_hooks_on_layers_are_called(variant, pooling):
    backbone = small(variant, pooling, kv.ViViTBackbone)
    blocks = [layer for layer in backbone.layers if "block" in layer.name]
    called = []
    for block in blocks:
        for layer in (block, block.mlp, block.mlp_norm):
            layer.register_forward_hook(lambda layer, *_: called.append(layer))
    backbone(normal(2, *SMALL["video_shape"]))
    expected = [layer for b in blocks for layer in (b.mlp_norm, b.mlp, b)]
    assert list(map(id, called)) == list(map(id, expected))


@only("torch")
def test_remat_scope_of_keras_holds_for_blocks():
    def kept(names):
        with keras.RematScope(mode="list_of_layers", layer_names=names):
            model = small("spatio_temporal", num_layers=8)
        return kept_for_gradient(model, normal(16, *SMALL["video_shape"]))

    assert kept([f"encoder_block_{i}" for i in range(8)]) < 0.5 * kept(["head"])


def test_stochastic_depth_rises_linearly_in_each_encoder():
    model = small(
        "factorized_encoder",
        model=kv.ViViTBackbone,
        num_layers=3,
        num_temporal_layers=2,
        drop_path_rate=0.2,
    )
    rates = {
        layer.name: layer.drop_path_rate
        for layer in model.layers
        if "block" in layer.name
    }
    assert rates == {
        "spatial_block_0": 0.0,
        "spatial_block_1": pytest.approx(0.1),
        "spatial_block_2": 0.2,
        "temporal_block_0": 0.0,
        "temporal_block_1": 0.2,
    }


def test_no_two_layers_share_a_seed():
    model = small(
        "factorized_encoder", model=kv.ViViTBackbone, dropout_rate=0.1, seed=1
    )
    seeds = [layer.seed for layer in model.layers if hasattr(layer, "seed")]
    assert len(seeds) == len(set(seeds)) == 5


@all_models
def test_intermediate_tokens_can_be_taken_out(variant, pooling, tmp_path):
    model = small(variant, pooling, model=kv.ViViTBackbone)
    first = "spatial" if variant == "factorized_encoder" else "encoder"
    part = keras.Model(model.input, model.get_layer(f"{first}_block_0").output)
    video = normal(2, *SMALL["video_shape"])
    part.save(tmp_path / "part.keras")
    again = keras.saving.load_model(tmp_path / "part.keras")
    np.testing.assert_array_equal(flat(part(video)), flat(again(video)))


@pytest.mark.parametrize("kind", ["learned", "factorized", "sincos"])
def test_weights_move_to_a_longer_video(kind, tmp_path):
    short = small("spatio_temporal", position_kind=kind)
    long = small("spatio_temporal", position_kind=kind, video_shape=(12, 8, 8, 1))
    short.save_weights(tmp_path / "short.weights.h5")
    long.load_weights(tmp_path / "short.weights.h5")
    for a, b in zip(short.weights, long.weights, strict=True):
        if "table" not in a.path:
            np.testing.assert_array_equal(flat(a), flat(b))
    assert long.predict(normal(1, 12, 8, 8, 1), verbose=0).shape == (1, 3)
