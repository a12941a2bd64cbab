"""Masked pre-training: what is hidden, what the loss is, and where the weights go."""

import keras
import numpy as np
import pytest
from helpers import SMALL, SMALL_VIDEO, flat, normal, once, randomize, slow

import keras_vivit as kv
from keras_vivit.masking import visible_first

VARIANTS = ["spatio_temporal", "factorized_self_attention", "factorized_dot_product"]
# The parity with VideoMAE and the contract run on each backend: other tests once.
each_variant = pytest.mark.parametrize(
    "variant", [VARIANTS[0], *(pytest.param(x, marks=once) for x in VARIANTS[1:])]
)
GRID = (2, 4, 4)
STEPS = (2, 3, 3)  # of tubelets that overlap


def autoencoder(variant="spatio_temporal", **arguments):
    sizes = {k: v for k, v in SMALL.items() if k != "num_temporal_layers"}
    decoder = {f"decoder_{k}": v for k, v in {"dim": 16, "mlp_dim": 24}.items()}
    model = kv.ViViTMaskedAutoencoder(
        SMALL_VIDEO,
        variant=variant,
        **{
            **sizes,
            **decoder,
            "tubelet_size": (2, 4, 4),
            "decoder_num_layers": 1,
            "decoder_num_heads": 2,
            "mask_ratio": 0.75,
            "seed": 3,
            **arguments,
        },
    )
    randomize(model)
    return model


def tubes(batch=2, hidden=12, seed=0):
    """A mask that hides the same places in both frames, others in each sample."""
    places = np.argsort(np.random.default_rng(seed).random((batch, 1, 16))) < hidden
    return np.repeat(places, 2, axis=1).reshape(batch, *GRID)


def overlapping(**arguments):
    """Tubelets of (2, 4, 4) on a grid of (2, 5, 5)."""
    return autoencoder(strides=STEPS, masking="random", hidden_input=True, **arguments)


def random_mask():
    ranks = np.random.default_rng(0).random((2, 50)).argsort(axis=1).argsort(axis=1)
    return (ranks < 37).reshape(2, 2, 5, 5)


def videos(batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, *SMALL_VIDEO)).astype("float32")


def place_of(token, strides=(2, 4, 4)):
    """Where a tubelet is in its video."""
    starts = np.multiply(token, strides)
    return tuple(slice(s, s + n) for s, n in zip(starts, (2, 4, 4), strict=True))


def loss_of(voxels, video, hidden, kept=None, strides=(2, 4, 4)):
    """The mean squared error, tubelet by tubelet."""
    errors = []
    for b in range(len(video)):
        places = list(zip(*np.nonzero(hidden[b]), strict=True))
        for prediction, (t, h, w) in zip(voxels[b], places, strict=True):
            tubelet = video[b, ..., 0][place_of((t, h, w), strides)]
            pixels = tubelet.astype("float64") / 255
            target = (pixels - pixels.mean()) / (pixels.std(ddof=1) + 1e-6)
            if kept is None or kept[b, t, h, w]:
                errors.append(np.mean((prediction - target.ravel()) ** 2))
    return np.mean(errors)


# === What the model computes ===


@each_variant
def test_predictions_are_those_of_the_whole_grid_with_hidden_tokens_masked(variant):
    model = autoencoder(variant, hidden_input=True)
    video, hidden = videos(), tubes()
    voxels = model.predict({"video": video, "hidden": hidden}, verbose=0)

    # The encoder attends over the whole grid, but not to hidden tokens.
    backbone = model.backbone
    x = backbone.get_layer("tubelet_embedding")(video)
    x = backbone.get_layer("encoder_position")(x)
    visible = keras.ops.convert_to_tensor(~hidden)
    for i in range(2):
        x = backbone.get_layer(f"encoder_block_{i}")(x, mask=visible)
    x = model.get_layer("decoder_embedding")(backbone.get_layer("encoder_norm")(x))
    token = flat(model.get_layer("decoder_mask_token").token)[0]
    x = np.where(hidden[..., None], token, flat(x)[0])
    x = model.get_layer("decoder_position")(x)
    x = flat(model.get_layer("decoder_block_0")(x))[0]
    x = x[hidden].reshape(2, 24, -1)
    expected = model.get_layer("decoder_output")(model.get_layer("decoder_norm")(x))

    np.testing.assert_allclose(voxels, flat(expected)[0], atol=1e-4, rtol=1e-5)
    assert voxels.shape == (2, 24, 32)


@once
@each_variant
def test_loss_is_the_error_of_normalized_hidden_tubelets(variant):
    model = autoencoder(variant, hidden_input=True)
    video, hidden = videos(), tubes()
    video[0, :, :8] = 100.0  # constant: the target is 0
    x = {"video": video, "hidden": hidden}
    model.compile("sgd")
    expected = loss_of(model.predict(x, verbose=0), video, hidden)
    np.testing.assert_allclose(model.evaluate(x, verbose=0), expected, rtol=1e-5)


@once
def test_loss_of_overlapping_tubelets():
    model = overlapping()
    video, hidden = videos(), random_mask()
    x = {"video": video, "hidden": hidden}
    model.compile("sgd")
    voxels = model.predict(x, verbose=0)
    assert voxels.shape == (2, 37, 32)
    expected = loss_of(voxels, video, hidden, strides=STEPS)
    np.testing.assert_allclose(model.evaluate(x, verbose=0), expected, rtol=1e-5)


@once
def test_channels_are_normalized_one_by_one():
    model = autoencoder(hidden_input=True)
    both = kv.ViViTMaskedAutoencoder(
        **{**model.get_config(), "video_shape": (*SMALL_VIDEO[:3], 2)}
    )
    video, hidden = videos(), tubes()
    video = np.concatenate([video, 7 * video + 5], axis=-1)
    model.compile("sgd")
    both.compile("sgd")
    voxels = both.predict({"video": video, "hidden": hidden}, verbose=0)
    single = voxels.reshape(2, 24, -1, 2)
    expected = np.mean(
        [loss_of(single[..., c], video[..., c : c + 1], hidden) for c in range(2)]
    )
    found = both.evaluate({"video": video, "hidden": hidden}, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@once
@each_variant
def test_hidden_voxels_have_no_influence(variant):
    model = autoencoder(variant, hidden_input=True)
    video, hidden = videos(), tubes()
    voxel_mask = hidden.repeat(2, 1).repeat(4, 2).repeat(4, 3)[..., None]
    other = np.where(voxel_mask, videos(seed=1), video)
    voxels, again = (
        model.predict({"video": x, "hidden": hidden}, verbose=0) for x in (video, other)
    )
    np.testing.assert_array_equal(voxels, again)


@once
@each_variant
def test_masked_frames_have_no_influence_and_no_loss(variant):
    model = autoencoder(variant, hidden_input=True, masked=True)
    frame_mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    hidden, video = tubes(), videos()
    x = {"video": video, "frame_mask": frame_mask, "hidden": hidden}
    other = np.where(frame_mask[..., None, None, None], video, videos(seed=1))
    model.compile("sgd")
    voxels = model.predict(x, verbose=0)
    again = model.predict({**x, "video": other}, verbose=0)
    np.testing.assert_array_equal(voxels[1], again[1])
    np.testing.assert_array_equal(voxels[0, :12], again[0, :12])  # of the first frame
    kept = np.broadcast_to(frame_mask[:, ::2, None, None], hidden.shape)
    expected = loss_of(voxels, video, hidden, kept)
    np.testing.assert_allclose(model.evaluate(x, verbose=0), expected, rtol=1e-5)


# === Masks ===


def drawn(model, batch=6, training=True):
    layer = model.get_layer("mask")
    return flat(layer(np.zeros((batch, *GRID, 1)), training=training))[0] > 0


@once
@pytest.mark.parametrize("masking", ["tube", "random"])
def test_drawn_masks_hide_the_share_that_was_asked_for(masking):
    masks = drawn(autoencoder(masking=masking, mask_ratio=0.6))
    # 60 % of 16 places are 9; of 32 tokens 19.
    counts = {"tube": 18, "random": 19}
    assert (masks.sum((1, 2, 3)) == counts[masking]).all()
    assert (masks == masks[:, :1]).all() == (masking == "tube")
    assert len({mask.tobytes() for mask in masks}) == 6


@once
def test_all_places_are_hidden_equally_often():
    share = drawn(autoencoder(), batch=2000).mean(0)
    np.testing.assert_allclose(share, 0.75, atol=0.05)


@once
def test_masks_change_in_training_alone_and_follow_the_seed():
    model, twin, other = autoencoder(), autoencoder(), autoencoder(seed=4)
    first, second = drawn(model), drawn(model)
    assert np.any(first != second)
    np.testing.assert_array_equal(first, drawn(twin))
    assert np.any(first != drawn(other))
    fixed = drawn(model, training=False)
    np.testing.assert_array_equal(fixed, drawn(model, training=False))
    np.testing.assert_array_equal(fixed, drawn(twin, training=False))


def test_order_of_tokens_is_that_of_the_grid():
    hidden = tubes(3)
    places = flat(visible_first(keras.ops.convert_to_tensor(hidden)))[0]
    for row, mask in zip(places, hidden.reshape(3, -1), strict=True):
        assert [*row[:8]] == [*np.flatnonzero(~mask)]
        assert [*row[8:]] == [*np.flatnonzero(mask)]


@each_variant
def test_a_mask_that_does_not_fit_gives_nan_for_its_sample(variant):
    model = autoencoder(variant, hidden_input=True)
    hidden = tubes(4)
    hidden[1] = tubes(1, hidden=11)[0]
    hidden[2, 1] = ~hidden[2, 1] if variant == VARIANTS[0] else hidden[2, 1, ::-1]
    voxels = model.predict({"video": videos(4), "hidden": hidden}, verbose=0)
    wrong = np.isnan(voxels).all((1, 2))
    assert [*wrong] == [False, True, True, False]
    assert not np.isnan(voxels[~wrong]).any()


# === Training ===


@once
def test_fit_takes_videos_alone_and_learns():
    model = autoencoder()
    model.compile(keras.optimizers.Adam(0.01))
    ramp = np.linspace(0, 255, 16, dtype="float32")[:, None]
    video = np.broadcast_to(ramp, (8, *SMALL_VIDEO)) + normal(8, *SMALL_VIDEO)
    before = model.evaluate(video, verbose=0)
    history = model.fit(video, validation_data=(video,), epochs=8, verbose=0).history
    assert history["val_loss"][-1] < 0.5 * before
    assert history["loss"][-1] < history["loss"][0]


@once
def test_labels_are_ignored():
    model, twin = autoencoder(), autoencoder()
    losses = []
    for m, data in ((model, (videos(),)), (twin, (videos(), np.arange(2)))):
        m.compile(keras.optimizers.SGD(0.01))
        losses.append(m.fit(*data, shuffle=False, verbose=0).history["loss"])
    assert losses[0] == losses[1]


@once
def test_remat_trains_to_the_same_weights():
    steps = []
    for remat in (False, True):
        model = autoencoder(remat=remat)
        model.compile(keras.optimizers.SGD(0.01))
        model.fit(videos(), shuffle=False, verbose=0)
        steps.append(flat(model.trainable_variables))
    for a, b in zip(*steps, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# === Files, and what comes after ===


@once
def test_saved_model_with_all_inputs_gives_the_same_outputs(tmp_path):
    model = autoencoder(hidden_input=True, masked=True)
    x = {"video": videos(), "hidden": tubes(), "frame_mask": np.ones((2, 4), bool)}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*(m.predict(x, verbose=0) for m in (model, again)))


@once
@pytest.mark.parametrize("variant", [VARIANTS[0], *slow(VARIANTS[1])])
def test_preset_folder_holds_the_model_and_its_encoder(variant, tmp_path):
    model = autoencoder(variant, rescaling=(1 / 255, 0.0))
    model.save_to_preset(tmp_path / "m", sampling={"stride": 2})
    assert "| model | ViViTMaskedAutoencoder" in (tmp_path / "m/README.md").read_text()
    again = kv.ViViTMaskedAutoencoder.from_preset(tmp_path / "m")
    assert again.sampling == {"stride": 2}
    other = kv.ViViTMaskedAutoencoder.from_preset(tmp_path / "m", hidden_input=True)
    np.testing.assert_array_equal(*(m.predict(videos()) for m in (model, again)))
    for a, b in zip(flat(model.weights), flat(other.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    backbone = kv.ViViTBackbone.from_preset(tmp_path / "m")
    classifier = kv.ViViTClassifier.from_preset(tmp_path / "m", num_classes=3)
    expected = flat(model.backbone(videos()))[0]
    for encoder in (backbone, classifier.backbone):
        np.testing.assert_array_equal(flat(encoder(videos()))[0], expected)
    assert classifier(videos()).shape == (2, 3)


@once
def test_another_grid_gets_its_position_tables(tmp_path):
    model = autoencoder()
    model.save_to_preset(tmp_path / "m")
    shape = (8, 16, 16, 1)
    again = kv.ViViTMaskedAutoencoder.from_preset(tmp_path / "m", video_shape=shape)
    for name in ("encoder_position", "decoder_position"):
        table, other = (flat(m.get_layer(name).table)[0] for m in (model, again))
        np.testing.assert_allclose(other, kv.resize_position_table(table, (4, 4, 4)))
    assert again(np.zeros((1, *shape))).shape == (1, 48, 32)


@once
def test_a_backbone_gets_a_new_decoder(tmp_path):
    backbone = autoencoder().backbone
    backbone.save_to_preset(tmp_path / "m")
    model = kv.ViViTMaskedAutoencoder.from_preset(
        tmp_path / "m", decoder_dim=12, decoder_num_layers=2, decoder_num_heads=2
    )
    for a, b in zip(flat(backbone.weights), flat(model.backbone.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.decoder_num_layers == 2


@once
def test_presets_give_their_sizes():
    model = kv.ViViTMaskedAutoencoder.from_preset(
        "vivit_ti16x2_spatio_temporal", video_shape=(4, 32, 32, 3), num_layers=1
    )
    assert model.backbone.embed_dim == 192
    assert model.mask_ratio == 0.9
    model = kv.ViViTMaskedAutoencoder.from_preset("vivit_organmnist3d_v2")
    assert model.get_config()["strides"] == (5, 5, 5)
    assert model.get_layer("mask").output.shape == (None, 5, 5, 5)


@once
def test_classifier_takes_the_strides_of_a_preset_folder(tmp_path):
    model = overlapping()
    model.save_to_preset(tmp_path / "m")
    classifier = kv.ViViTClassifier.from_preset(tmp_path / "m", num_classes=3)
    encoded = [flat(m(videos()))[0] for m in (model.backbone, classifier.backbone)]
    np.testing.assert_array_equal(*encoded)


# === A backbone as the start of a classifier ===


@once
@pytest.mark.parametrize("variant", [VARIANTS[0], *slow(VARIANTS[1])])
def test_classifier_shares_the_backbone(variant, tmp_path):
    backbone = autoencoder(variant, dtype="mixed_bfloat16").backbone
    model = kv.ViViTClassifier(num_classes=3, backbone=backbone)
    assert model.backbone is backbone
    randomize(model.get_layer("head"))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_config() == model.get_config()
    np.testing.assert_array_equal(
        *(m.predict(videos(), verbose=0) for m in (model, again))
    )
    model.save_to_preset(tmp_path / "m")
    same = kv.ViViTClassifier.from_preset(tmp_path / "m")
    assert same.get_config() == model.get_config()


@once
def test_classifier_pools_as_the_backbone_says():
    backbone = kv.ViViTBackbone(SMALL_VIDEO, pooling="token", **SMALL)
    model = kv.ViViTClassifier(num_classes=3, backbone=backbone, head_norm_epsilon=1e-5)
    assert model.get_config()["pooling"] == "token"
    assert model.predict(videos(), verbose=0).shape == (2, 3)


@once
def test_arguments_of_a_given_backbone_must_be_left_out():
    backbone = autoencoder().backbone
    with pytest.raises(ValueError, match=r"`num_heads` must be left out.*num_heads=2"):
        kv.ViViTClassifier(num_classes=3, backbone=backbone, num_heads=2)


# === Pictures ===


@once
@pytest.mark.parametrize("shape", [SMALL_VIDEO, (5, 18, 16, 2)])
@pytest.mark.filterwarnings("ignore:.*ignores.*of its input")
def test_reconstruction_fills_hidden_tubelets_alone(shape):
    model = autoencoder(hidden_input=True)
    model = kv.ViViTMaskedAutoencoder(**{**model.get_config(), "video_shape": shape})
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (2, *shape)).astype("float32")
    hidden = tubes()
    x = {"video": video, "hidden": hidden}
    filled, covered = kv.visualization.reconstruct(model, x)
    expected = hidden.repeat(2, 1).repeat(4, 2).repeat(4, 3)
    np.testing.assert_array_equal(covered[:, :4, :16], expected)
    assert not covered[:, 4:].any()
    assert not covered[:, :, 16:].any()
    np.testing.assert_array_equal(filled[~covered], video[~covered])
    # The first hidden tubelet of the second sample, channel by channel.
    place = (1, *place_of(np.argwhere(hidden[1])[0]))
    voxels = model.predict(x, verbose=0)[1, 0].reshape(2, 4, 4, -1)
    tubelet, axes = video[place], (0, 1, 2)
    expected = voxels * tubelet.std(axes, ddof=1) + tubelet.mean(axes)
    np.testing.assert_allclose(filled[place], expected, rtol=1e-3, atol=1e-2)


@once
def test_reconstruction_of_overlapping_tubelets_is_the_mean_of_what_covers_a_voxel():
    model, x = overlapping(), {"video": videos(), "hidden": random_mask()}
    visible = np.zeros(x["video"].shape[:-1], bool)
    total, means, count = (np.zeros(visible.shape) for _ in range(3))
    voxels = model.predict(x, verbose=0)
    for b in range(2):
        predictions = iter(voxels[b])
        for token in np.ndindex(2, 5, 5):
            place = (b, *place_of(token, STEPS))
            if not x["hidden"][b][token]:
                visible[place] = True
                continue
            tubelet = x["video"][..., 0][place]
            scaled = next(predictions).reshape(2, 4, 4) * tubelet.std(ddof=1)
            total[place] += scaled + tubelet.mean()
            means[place] += tubelet.mean()
            count[place] += 1
    for alone, expected in ((False, total), (True, means)):
        filled, covered = kv.visualization.reconstruct(model, x, means_alone=alone)
        np.testing.assert_array_equal(covered, ~visible)
        assert 0 < covered.mean() < 37 / 50
        np.testing.assert_array_equal(filled[visible], x["video"][visible])
        np.testing.assert_allclose(
            filled[covered][:, 0],
            expected[covered] / count[covered],
            rtol=1e-3,
            atol=1e-2,
        )


@once
def test_reconstruction_needs_a_mask_that_fits():
    model = autoencoder(hidden_input=True)
    x = {"video": videos(), "hidden": tubes(hidden=11)}
    with pytest.raises(ValueError, match=r"\[22, 22\] hidden tokens, mask_ratio=0.75"):
        kv.visualization.reconstruct(model, x)


@once
def test_reconstruction_with_a_drawn_mask():
    filled, hidden = kv.visualization.reconstruct(autoencoder(), videos())
    assert filled.shape == (2, *SMALL_VIDEO)
    assert hidden.mean() == 0.75
