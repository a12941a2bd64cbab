"""What the augmentations do to voxels and to labels."""

import keras
import numpy as np
import pytest
from helpers import augmentation_of, flat, normal
from scipy import ndimage, stats

from keras_vivit import augmentation
from keras_vivit.augmentation import geometry

PERMUTATION = (0, 2, 1, 4, 5, 3)  # With a cycle of three: not its own inverse.
SHAPE = (40, 4, 5, 6, 1)


def changed(layer, videos, labels=None):
    if labels is None:
        return flat(layer(videos, training=True))[0]
    outputs = layer({"videos": videos, "labels": labels}, training=True)
    return [keras.ops.convert_to_numpy(outputs[name]) for name in ("videos", "labels")]


def mirrored_samples(videos, outputs, axis):
    flipped = np.array(
        [
            np.array_equal(np.flip(a, axis), b)
            for a, b in zip(videos, outputs, strict=True)
        ]
    )
    for a, b in zip(videos[~flipped], outputs[~flipped], strict=True):
        np.testing.assert_array_equal(a, b)
    return flipped


# === Flips ===


@pytest.mark.parametrize(
    ("axis", "number"), [("frames", 0), ("height", 1), ("width", 2)]
)
def test_flip_mirrors_about_half_of_the_samples(axis, number):
    videos = normal(*SHAPE)
    outputs = changed(augmentation.RandomFlip(axis, seed=0), videos)
    flipped = mirrored_samples(videos, outputs, number)
    assert 8 < flipped.sum() < 32


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_flip_of_none_or_all(rate):
    videos = normal(*SHAPE)
    outputs = changed(augmentation.RandomFlip("width", rate), videos)
    assert np.all(mirrored_samples(videos, outputs, 2) == rate)


def test_flip_permutes_integer_labels():
    videos, labels = normal(*SHAPE), np.arange(40) % 6
    layer = augmentation.RandomFlip(label_permutation=PERMUTATION, seed=0)
    outputs, new = changed(layer, videos, labels)
    flipped = mirrored_samples(videos, outputs, 2)
    expected = np.where(flipped, np.array(PERMUTATION)[labels], labels)
    np.testing.assert_array_equal(new, expected)
    assert np.any(new != labels)


def test_flip_permutes_soft_labels_as_integer_ones():
    videos, labels = normal(*SHAPE), np.arange(40) % 6
    hard, soft = (
        changed(augmentation.RandomFlip(label_permutation=PERMUTATION, seed=0), *given)[
            1
        ]
        for given in ((videos, labels), (videos, np.eye(6, dtype="float32")[labels]))
    )
    np.testing.assert_array_equal(np.eye(6)[hard], soft)


# === Affine ===


def test_sampling_is_scipys():
    videos = normal(2, 4, 5, 6, 2)
    points = np.random.default_rng(1).uniform(-1, 7, (2, 3, 50)).astype("float32")
    ours = flat(geometry._trilinear(videos, np.resize(points, (2, 3, 4 * 5 * 6))))[0]
    for sample, channel in np.ndindex(2, 2):
        where = np.resize(points, (2, 3, 4 * 5 * 6))[sample]
        expected = ndimage.map_coordinates(
            videos[sample, ..., channel], where, order=1, mode="nearest"
        )
        np.testing.assert_allclose(
            ours[sample, ..., channel].ravel(), expected, atol=1e-4
        )


def test_affine_without_change_changes_nothing():
    videos = normal(*SHAPE)
    outputs = changed(augmentation.RandomAffine(), videos)
    np.testing.assert_allclose(outputs, videos, atol=1e-5)


def test_rotations_turn_by_their_angles():
    angles = np.deg2rad([[0, 0, 90], [90, 0, 0], [0, 90, 0], [10, 20, 30]])
    turns = flat(geometry._rotation(keras.ops.convert_to_tensor(angles, "float32")))[0]
    np.testing.assert_allclose(turns[0] @ [1, 0, 0], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(turns[1] @ [0, 1, 0], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(turns[2] @ [1, 0, 0], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(turns[3] @ turns[3].T, np.eye(3), atol=1e-6)


def blob(shape, center):
    grid = np.moveaxis(np.indices(shape), 0, -1)
    values = np.exp(-np.sum((grid - np.array(center)) ** 2, axis=-1) / 8)
    return np.tile(values[None, ..., None], (64, 1, 1, 1, 1)).astype("float32")


def centers(videos):
    grid = np.indices(videos.shape[1:4])
    mass = videos[..., 0] / videos[..., 0].sum(axis=(1, 2, 3), keepdims=True)
    return np.einsum("bthw,athw->ba", mass, grid)


def test_shift_moves_by_at_most_its_share():
    videos = blob((21, 21, 21), (10, 10, 10))
    moved = centers(changed(augmentation.RandomAffine(shift=0.2, seed=0), videos)) - 10
    assert np.abs(moved).max() < 0.2 * 21 + 0.1
    assert np.all(np.abs(moved).max(axis=0) > 3)
    assert len(np.unique(moved.round(3), axis=0)) == 64  # Each in its own way.


def test_scale_moves_points_away_from_the_centre_or_towards_it():
    videos = blob((21, 21, 21), (10, 10, 15))
    moved = centers(changed(augmentation.RandomAffine(scale=0.3, seed=0), videos))
    assert 12.8 < moved[:, 2].min() < 14
    assert 16 < moved[:, 2].max() < 17.2
    np.testing.assert_allclose(moved[:, :2], 10, atol=0.1)


def test_rotation_keeps_the_distance_to_the_centre():
    videos = blob((21, 21, 21), (10, 10, 15))
    outputs = changed(augmentation.RandomAffine(rotation=30, seed=0), videos)
    moved = centers(outputs) - 10
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 5, atol=0.2)
    assert np.abs(moved[:, :2]).max() > 2


def test_rate_is_the_share_of_volumes_that_affine_changes():
    videos = blob((21, 21, 21), (10, 10, 15))
    layer = augmentation.RandomAffine(30, 0.3, 0.2, rate=0.75, seed=0)
    differences = np.abs(changed(layer, videos) - videos).max(axis=(1, 2, 3, 4))
    stays = differences < 1e-6
    assert 6 <= stays.sum() <= 26
    assert differences[~stays].min() > 0.05
    assert np.any(np.diff(stays))  # Each sample has its own draw.
    every = augmentation.RandomAffine(30, 0.3, 0.2, rate=1.0, seed=0)
    same = augmentation.RandomAffine(30, 0.3, 0.2, seed=0)
    np.testing.assert_array_equal(changed(every, videos), changed(same, videos))
    none = augmentation.RandomAffine(30, 0.3, 0.2, rate=0, seed=0)
    np.testing.assert_allclose(changed(none, videos), videos, atol=1e-6)


def test_axes_of_one_voxel_stay():
    videos = normal(3, 1, 5, 6, 1)
    outputs = changed(augmentation.RandomAffine(shift=0.5, seed=0), videos)
    assert outputs.shape == videos.shape
    assert np.isfinite(outputs).all()


# === Intensity ===


def test_gain_and_offset_are_one_line_per_sample():
    values = np.linspace(0.3, 0.7, 4 * 5 * 6, dtype="float32")
    videos = np.tile(values.reshape(1, 4, 5, 6, 1), (40, 1, 1, 1, 1))
    layer = augmentation.RandomIntensity(
        gain=0.2, offset=0.1, value_range=(0, 1), seed=0
    )
    outputs = changed(layer, videos).reshape(40, -1)
    lines = np.array([np.polyfit(values, y, 1) for y in outputs])
    for y, line in zip(outputs, lines, strict=True):
        np.testing.assert_allclose(np.polyval(line, values), y, atol=1e-4)
    assert np.all((lines >= (0.8, -0.1)) & (lines <= (1.2, 0.1)))
    assert np.all(lines.std(axis=0) > (0.05, 0.02))


def test_noise_and_gamma_stay_in_the_range_of_values():
    videos = np.random.default_rng(0).uniform(0, 255, SHAPE).astype("float32")
    layer = augmentation.RandomIntensity(gamma=0.5, noise=0.5, seed=0)
    outputs = changed(layer, videos)
    assert outputs.min() >= 0
    assert outputs.max() <= 255
    assert np.abs(outputs - videos).mean() > 10


def test_gamma_keeps_black_white_and_order():
    values = np.linspace(0, 1, 4 * 5 * 6, dtype="float32")
    videos = np.tile(values.reshape(1, 4, 5, 6, 1), (40, 1, 1, 1, 1))
    layer = augmentation.RandomIntensity(gamma=0.5, value_range=(0, 1), seed=0)
    outputs = changed(layer, videos).reshape(40, -1)
    np.testing.assert_allclose(outputs[:, [0, -1]], [[0, 1]] * 40, atol=1e-3)
    assert np.all(np.diff(outputs, axis=1) > 0)


# === Erasing ===


def test_erasing_fills_whole_tubelets():
    videos = 1 + np.random.default_rng(0).random((40, 4, 6, 6, 1)).astype("float32")
    outputs = changed(augmentation.RandomErasing((2, 3, 2), 0.3, seed=0), videos)
    cells = outputs.reshape(40, 2, 2, 2, 3, 3, 2)
    erased = (cells == 0).transpose(0, 1, 3, 5, 2, 4, 6).reshape(40, 12, 12)
    assert set(erased.mean(axis=2).ravel()) == {0.0, 1.0}
    assert erased.mean() == pytest.approx(0.3, abs=0.06)
    np.testing.assert_array_equal(outputs[outputs != 0], videos[outputs != 0])


# === Mixing ===


def numbered():
    """Each video is full of its own number, and its label says so."""
    videos = np.broadcast_to(np.arange(8.0).reshape(-1, 1, 1, 1, 1), (8, 6, 7, 8, 1))
    return videos.astype("float32"), np.eye(8, dtype="float32")


def test_mixup_blends_videos_as_their_labels():
    videos, labels = changed(augmentation.MixUp(seed=0), *numbered())
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    assert np.ptp(videos, axis=(1, 2, 3, 4)).max() == 0
    np.testing.assert_allclose(videos[:, 0, 0, 0, 0], labels @ np.arange(8), atol=1e-5)
    assert np.count_nonzero(labels) > 8


@pytest.mark.parametrize("alpha", [0.4, 1.0, 8.0])
def test_shares_have_a_beta_distribution(alpha):
    """Of as many samples as show a difference of .02, and stay clear of rounding."""
    count = 4000
    batch = np.zeros((count, 1, 1, 1, 1)), np.eye(2)[np.arange(count) % 2]
    _, labels = changed(augmentation.MixUp(alpha, seed=0), *batch)
    shares = labels[np.ptp(labels, axis=1) < 1].max(axis=1)  # Of two unlike samples.
    cdf = stats.beta(alpha, alpha).cdf
    larger = stats.kstest(shares, lambda x: np.maximum(cdf(x) - cdf(1 - x), 0))
    assert larger.statistic < 1.63 / len(shares) ** 0.5  # One in a hundred.


def test_cutmix_labels_are_the_share_of_voxels():
    videos, labels = changed(augmentation.CutMix(seed=0), *numbered())
    for i, (video, label) in enumerate(zip(videos, labels, strict=True)):
        shares = [(video == number).mean() for number in range(8)]
        np.testing.assert_allclose(label, shares, atol=1e-6)
        other = video[..., 0] != i
        box = [np.ptp(place) + 1 for place in np.nonzero(other)] if other.any() else [0]
        assert np.prod(box) == other.sum()  # One box, with no gaps.
    assert np.count_nonzero(labels) > 8


# === Where they are used ===


@pytest.mark.parametrize("name", augmentation.__all__)
def test_raw_bytes_are_augmented_as_numbers(name):
    videos = np.random.default_rng(0).integers(0, 256, SHAPE, "uint8")
    labels = np.eye(2, dtype="int32")[np.arange(40) % 2]
    bytes_ = changed(augmentation_of(name), videos, labels)
    numbers = changed(
        augmentation_of(name), videos.astype("float32"), labels.astype("float32")
    )
    assert bytes_[0].dtype == "float32"
    for a, b in zip(bytes_, numbers, strict=True):
        np.testing.assert_array_equal(a, b)


untrained = pytest.mark.filterwarnings("ignore:The model does not have any trainable")


@untrained
def test_model_augments_in_fit_alone():
    video = keras.Input((4, 5, 6, 1))
    erased = augmentation.RandomErasing((4, 5, 6), 0.999)(video)
    model = keras.Model(video, keras.layers.Flatten()(erased))
    model.compile(loss="mse")
    videos = np.ones(SHAPE, "float32")
    history = model.fit(videos, np.zeros((40, 120)), verbose=0).history
    assert history["loss"][0] < 0.5
    assert model.predict(videos, verbose=0).mean() == 1
    assert model.evaluate(videos, np.zeros((40, 120)), verbose=0) == 1


@untrained
def test_pipeline_augments_batches():
    class Batches(keras.utils.PyDataset):
        layer = augmentation.RandomErasing((4, 5, 6), 0.999)

        def __len__(self):
            return 2

        def __getitem__(self, index):
            videos = self.layer(np.ones(SHAPE, "float32"), training=True)
            return flat(videos)[0], np.zeros((40, 120), "float32")

    video = keras.Input(SHAPE[1:])
    model = keras.Model(video, keras.layers.Flatten()(video))
    model.compile(loss="mse")
    assert model.fit(Batches(), verbose=0).history["loss"][0] < 0.5
