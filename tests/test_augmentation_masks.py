"""What belongs to a video moves with it: labels, frame masks and segmentation masks."""

import keras
import numpy as np
import pytest
from helpers import augmentation_of, augmented, normal
from scipy import ndimage

from keras_vivit import augmentation
from keras_vivit.augmentation import geometry

PERMUTATION = (0, 2, 1, 4, 5, 3)  # With a cycle of three: not its own inverse.
SHAPE = (40, 4, 5, 6, 1)
mixing = pytest.mark.parametrize("name", ["MixUp", "CutMix"])


def numbers(shape=SHAPE, dtype="uint8"):
    """Another label in each voxel."""
    return np.random.default_rng(1).integers(0, 200, shape).astype(dtype)


def soft(n, classes=3):
    return np.eye(classes, dtype="float32")[np.arange(n) % classes]


# === Flips ===


@pytest.mark.parametrize("axis", ["frames", "height", "width"])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_flip_mirrors_what_belongs_to_the_video(axis, channels):
    number = {"frames": 1, "height": 2, "width": 3}[axis]
    data = {
        "videos": normal(*SHAPE),
        "frame_mask": np.arange(4) < 1 + np.arange(40)[:, None] % 4,
        "segmentation_masks": numbers((*SHAPE[:4], *channels)),
    }
    outputs = augmented(augmentation.RandomFlip(axis, seed=0), **data)
    flipped = np.any(outputs["videos"] != data["videos"], axis=(1, 2, 3, 4))
    assert 8 < flipped.sum() < 32
    for key, x in data.items():
        mirrored = np.flip(x, number) if number < x.ndim else x
        where = flipped.reshape(-1, *[1] * (x.ndim - 1))
        np.testing.assert_array_equal(outputs[key], np.where(where, mirrored, x))


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"]
)
def test_flip_permutes_integers_of_any_dtype(dtype, shape):
    labels = (np.arange(40) % 6).astype(dtype).reshape(shape)
    layer = augmentation.RandomFlip(rate=1, label_permutation=PERMUTATION)
    outputs = augmented(layer, videos=normal(*SHAPE), labels=labels)["labels"]
    expected = keras.ops.convert_to_tensor(labels).dtype
    assert outputs.dtype == keras.backend.standardize_dtype(expected)
    np.testing.assert_array_equal(outputs, np.array(PERMUTATION)[labels])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_flip_permutes_columns_of_any_dtype(dtype):
    labels = np.eye(6)[np.arange(40) % 6].astype(dtype)
    layer = augmentation.RandomFlip(rate=1, label_permutation=PERMUTATION)
    outputs = augmented(layer, videos=normal(*SHAPE), labels=labels)["labels"]
    np.testing.assert_array_equal(
        outputs.argmax(1), np.array(PERMUTATION).take(np.arange(40) % 6)
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.full(40, 6), r"`labels` must lie in \[0, 6\).*\[6\]"),
        (np.arange(40) % 6 - 1, r"`labels` must lie in.*Received: \[-1\]"),
        (np.full((40, 1), -1, "int8"), r"must lie in.*\[-1\]"),
        (np.full((40, 1), 255, "uint8"), r"must lie in.*\[255\]"),
        (np.full(40, 2**32), "must lie in"),
        (np.zeros((40, 5)), r"`labels` must have the shape.*\(40, 5\)"),
        (np.zeros((40, 2), "int32"), r"or \(batch, 6\).*\(40, 2\)"),
        (np.zeros((40, 1, 1), "int32"), r"`labels` must have the shape"),
        (np.zeros(40, "float32"), "`labels` must be integers.*float32"),
        (np.zeros((40, 1), "float32"), "`labels` must be integers.*float32"),
    ],
)
def test_flip_refuses_labels_outside_of_its_permutation(labels, words):
    if keras.backend.backend() == "jax" and labels.max() == 2**32:
        pytest.skip("JAX makes 32 bits of it before a layer sees it")
    layer = augmentation.RandomFlip(label_permutation=PERMUTATION)
    with pytest.raises(ValueError, match=words):
        layer({"videos": normal(*SHAPE), "labels": labels}, training=True)


def test_flip_checks_no_values_that_it_does_not_use():
    data = {"videos": normal(*SHAPE), "labels": np.full(40, -1, "int32")}
    layer = augmentation.RandomFlip(label_permutation=PERMUTATION)
    np.testing.assert_array_equal(augmented(layer, False, **data)["labels"], -1)


@pytest.mark.parametrize(
    "permutation", [(), (1, 2), (0, 0), (0.5, 0), ((0, 1), (1, 0)), 3]
)
def test_permutations_hold_each_label_once(permutation):
    for name in ("label_permutation", "mask_permutation"):
        with pytest.raises(ValueError, match=f"`{name}` must hold each label once"):
            augmentation.RandomFlip(**{name: permutation})


@pytest.mark.parametrize("channels", [(), (1,)])
def test_flip_permutes_voxels_that_have_sides(channels):
    data = {
        "videos": normal(*SHAPE),
        "segmentation_masks": numbers((*SHAPE[:4], *channels)) % 6,
    }
    layer = augmentation.RandomFlip(rate=1, mask_permutation=np.array(PERMUTATION))
    mirrored = np.flip(data["segmentation_masks"], 3)
    outputs = augmented(layer, **data)["segmentation_masks"]
    assert outputs.dtype == "uint8"
    np.testing.assert_array_equal(outputs, np.array(PERMUTATION)[mirrored])
    with pytest.raises(ValueError, match="`segmentation_masks` must lie in"):
        layer({**data, "segmentation_masks": mirrored + 1}, training=True)
    with pytest.raises(ValueError, match="with 'videos' and 'segmentation_masks'"):
        layer({"videos": data["videos"]}, training=True)


# === Affine ===


def test_nearest_sampling_is_scipys():
    masks = numbers((2, 4, 5, 6, 2))
    points = np.random.default_rng(1).uniform(-1, 7, (2, 3, 120)).astype("float32")
    outputs = geometry._nearest(*map(keras.ops.convert_to_tensor, (masks, points)))
    outputs = keras.ops.convert_to_numpy(outputs)
    assert outputs.dtype == "uint8"
    for sample, channel in np.ndindex(2, 2):
        expected = ndimage.map_coordinates(
            masks[sample, ..., channel], points[sample], order=0, mode="nearest"
        )
        np.testing.assert_array_equal(outputs[sample, ..., channel].ravel(), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_affine_moves_segmentation_masks_to_the_nearest_voxel(axis):
    """Pixels that hold their place show where both came from."""
    place = np.broadcast_to(np.indices((8, 9, 10))[axis], (20, 8, 9, 10))
    outputs = augmented(
        augmentation.RandomAffine(30, 0.3, 0.3, seed=0),
        videos=place[..., None].astype("float32"),
        segmentation_masks=place.astype("uint8"),
    )
    distance = outputs["videos"][..., 0] - outputs["segmentation_masks"]
    assert np.abs(distance).max() < 0.5 + 1e-4
    assert np.abs(distance).mean() > 0.1
    assert np.abs(outputs["segmentation_masks"].astype(int) - place).max() > 2


def test_affine_moves_the_frame_mask_and_mixes_no_masked_frame():
    """Pixels that hold the number of their frame show where it came from."""
    frame = np.arange(16.0)
    kept = (frame > 3) & (frame < 11)
    videos = np.where(kept, frame, np.nan)[None, :, None, None, None]
    masks = np.where(kept, frame, 99).astype("uint8")[None, :, None, None]
    outputs = augmented(
        augmentation.RandomAffine(shift=0.25, seed=0),
        videos=np.tile(videos, (30, 1, 3, 3, 1)),
        frame_mask=np.tile(kept, (30, 1)),
        segmentation_masks=np.tile(masks, (30, 1, 3, 3)),
    )
    moved = set()
    for video, mask, segments in zip(*outputs.values(), strict=True):
        source = video[:, 0, 0, 0]
        inside = (source > 4) & (source < 10)
        shift = np.median((frame - source)[inside])
        moved.add(round(shift))
        origin = frame - shift
        np.testing.assert_allclose(source, origin.clip(4, 10), atol=1e-4)
        nearest = np.floor(origin.clip(0, 15) + 0.5)
        np.testing.assert_array_equal(mask, (nearest > 3) & (nearest < 11))
        np.testing.assert_array_equal(segments[:, 0, 0], nearest.clip(4, 10))
    assert {-3, 3} <= moved


def test_affine_of_videos_without_a_kept_frame():
    mask = np.zeros((40, 4), bool)
    layer = augmentation.RandomAffine(shift=0.2, seed=0)
    outputs = augmented(layer, videos=normal(*SHAPE), frame_mask=mask)
    assert not outputs["frame_mask"].any()
    assert np.isfinite(outputs["videos"]).all()


# === Intensity, erasing ===


@pytest.mark.parametrize("name", ["RandomIntensity", "RandomErasing"])
def test_changes_of_values_leave_the_masks(name):
    data = {
        "videos": normal(*SHAPE),
        "frame_mask": np.arange(4) < 1 + np.arange(40)[:, None] % 4,
        "segmentation_masks": numbers(SHAPE[:4]),
    }
    outputs = augmented(augmentation_of(name), **data)
    assert np.any(outputs["videos"] != data["videos"])
    for key in ("frame_mask", "segmentation_masks"):
        np.testing.assert_array_equal(outputs[key], data[key])


# === Mixing ===


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
@mixing
def test_mixing_refuses_class_numbers(name, dtype):
    layer = augmentation_of(name)
    data = {"videos": normal(*SHAPE), "labels": np.ones((40, 1), dtype)}
    for training in (True, False):
        with pytest.raises(ValueError, match=r"`labels` must be soft.*class numbers"):
            layer(data, training=training)
    with pytest.raises(ValueError, match=r"`labels` must be soft.*class numbers"):
        layer({n: keras.Input(x.shape[1:], dtype=x.dtype) for n, x in data.items()})


@mixing
def test_mixing_takes_probabilities_of_one_class_and_several_heads(name):
    videos = np.broadcast_to(np.arange(8.0).reshape(8, 1, 1, 1, 1), (8, 4, 5, 6, 1))
    labels = {"one": np.arange(8.0)[:, None], "all": np.eye(8, dtype="float32")}
    outputs = augmentation_of(name)({"videos": videos, "labels": labels}, training=True)
    mean = keras.ops.convert_to_numpy(outputs["videos"]).mean(axis=(1, 2, 3))
    one, columns = (
        keras.ops.convert_to_numpy(outputs["labels"][head]) for head in labels
    )
    np.testing.assert_allclose(one, mean, atol=1e-5)
    np.testing.assert_allclose(columns @ np.arange(8)[:, None], mean, atol=1e-5)
    with pytest.raises(ValueError, match="`labels` must be soft"):
        augmentation_of(name)({"videos": videos, "labels": {"one": np.arange(8)}})


@mixing
def test_mixing_leaves_frames_that_one_video_lacks(name):
    """Each video is full of its number; NaN is where it has no frame."""
    mask = np.arange(6) < (1 + np.arange(24) % 6)[:, None]
    mask[23] = False
    videos = np.where(mask, np.arange(24.0)[:, None], np.nan)[..., None, None, None]
    outputs = augmented(
        augmentation_of(name),
        videos=np.tile(videos, (1, 1, 7, 9, 1)),
        labels=np.eye(24),
        frame_mask=mask,
    )
    np.testing.assert_array_equal(outputs["frame_mask"], mask)
    differ = []
    for i in range(23):
        kept = outputs["videos"][i, mask[i]]
        assert np.isfinite(kept).all()
        differ.append(np.ptp(kept.mean(axis=(1, 2, 3))))
        label = outputs["labels"][i]
        assert kept.mean() == pytest.approx(label @ np.arange(24), abs=1e-5)
        assert label.sum() == pytest.approx(1, abs=1e-6)
        if name == "CutMix":
            shares = [(kept == number).mean() for number in range(24)]
            np.testing.assert_allclose(label, shares, atol=1e-6)
    assert max(differ) > 0.01  # Of some video not all frames are mixed.
    np.testing.assert_array_equal(outputs["labels"][23], np.eye(24)[23])
    assert np.count_nonzero(outputs["labels"]) > 24


@pytest.mark.parametrize("channels", [(), (1,), (2,)])
def test_cutmix_puts_the_same_box_into_segmentation_masks(channels):
    number = np.arange(8).reshape(8, 1, 1, 1, 1)
    data = {
        "videos": np.tile(number, (1, 6, 7, 8, 1)).astype("float32"),
        "labels": np.eye(8),
        "segmentation_masks": np.tile(number, (1, 6, 7, 8, 2)).astype("uint8"),
    }
    if channels != (2,):
        masks = data["segmentation_masks"][..., 0]
        data["segmentation_masks"] = masks.reshape(*masks.shape, *channels)
    outputs = augmented(augmentation.CutMix(seed=0), **data)
    masks = outputs["segmentation_masks"]
    assert masks.dtype == "uint8"
    videos = outputs["videos"] if channels else outputs["videos"][..., 0]
    np.testing.assert_array_equal(masks, np.broadcast_to(videos, masks.shape))
    assert np.any(videos != data["videos"][..., :1].reshape(videos.shape))


def test_mixup_blends_soft_segmentation_masks_as_videos():
    videos = normal(*SHAPE[:4], 2)
    data = {"videos": videos, "labels": soft(40), "segmentation_masks": videos}
    outputs = augmented(augmentation.MixUp(seed=0), **data)
    np.testing.assert_array_equal(outputs["segmentation_masks"], outputs["videos"])
    assert np.any(outputs["videos"] != videos)


@pytest.mark.parametrize("channels", [(), (1,)])
def test_mixup_refuses_class_numbers_of_voxels(channels):
    data = {
        "videos": normal(*SHAPE),
        "labels": soft(40),
        "segmentation_masks": numbers((*SHAPE[:4], *channels)),
    }
    with pytest.raises(ValueError, match="`segmentation_masks` must be soft"):
        augmentation.MixUp()(data, training=True)


def test_labels_are_blended_in_full_precision():
    labels = np.random.default_rng(0).dirichlet(np.ones(11), 40).astype("float32")
    videos = np.repeat(labels, 12, axis=1).reshape(40, 11, 3, 4, 1)
    layer = augmentation.MixUp(seed=0, dtype="mixed_bfloat16")
    outputs = augmented(layer, videos=videos, labels=labels)
    np.testing.assert_allclose(
        outputs["labels"], outputs["videos"][:, :, 0, 0, 0], atol=1e-6
    )
    np.testing.assert_allclose(outputs["labels"].sum(axis=1), 1, atol=1e-6)
