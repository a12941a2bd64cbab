"""Changes of colour and RandAugment, beside Pillow's."""

import keras
import numpy as np
import pytest
from helpers import augmented

from keras_vivit import augmentation
from keras_vivit.augmentation import pixels
from keras_vivit.augmentation.policy import GEOMETRIC, OPERATIONS

COLOR = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2}
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


def frames(*shape, seed=0):
    """Bytes whose levels and channels are not equally frequent."""
    rng = np.random.default_rng(seed)
    return (40 + 180 * rng.beta(2, 3 + np.arange(shape[-1]), shape)).astype("uint8")


def still(samples=1, n=3, channels=3):
    """Videos that are the same frame again and again."""
    frame = frames(samples, 1, 12, 15, channels)
    return np.tile(frame, (1, n, 1, 1, 1))


def changed(layer, training=True, **data):
    return list(augmented(layer, training, **data).values())


def by_pillow(name, image, m):
    """One frame; `m` is the magnitude with its sign."""
    from PIL import Image, ImageEnhance, ImageOps

    image = Image.fromarray(image)
    match name:
        case "identity":
            new = image
        case "brightness" | "color" | "contrast" | "sharpness":
            enhance = getattr(ImageEnhance, name.title())
            new = enhance(image).enhance(1 + 0.9 * m)
        case "posterize":
            new = ImageOps.posterize(image, 8 - round(4 * abs(m)))
        case "solarize":
            new = ImageOps.solarize(image, 255 * (1 - abs(m)))
        case _:
            new = getattr(ImageOps, name)(image)
    return np.asarray(new).astype(float)


# === RandAugment ===


@pytest.mark.parametrize(
    "operation", [n for n in OPERATIONS if n not in (*GEOMETRIC, "equalize")]
)
def test_operations_are_pillows(operation):
    pytest.importorskip("PIL")
    layer = augmentation.RandAugment(1, 0.6, (operation,), seed=0)
    videos = still(8)
    (outputs,) = changed(layer, videos=videos)
    seen = set()
    for video, output in zip(videos, outputs, strict=True):
        expected = [by_pillow(operation, video[0], m) for m in (-0.6, 0.6)]
        inner = np.s_[1:-1, 1:-1] if operation == "sharpness" else np.s_[:]
        errors = [np.abs(output[0] - e)[inner].max() for e in expected]
        # Pillow rounds to bytes, once or twice.
        assert min(errors) < 2
        seen.add(int(np.argmin(errors)))
    signed = operation in ("brightness", "color", "contrast", "sharpness")
    assert len(seen) == (2 if signed else 1)


def test_equalize_is_exactly_pillows():
    image_ops = pytest.importorskip("PIL.ImageOps")
    image = pytest.importorskip("PIL.Image")
    videos = frames(4, 1, 40, 50, 3)
    videos[0, ..., 0] = 7  # One level alone stays.
    layer = augmentation.RandAugment(1, 0.5, ("equalize",))
    (outputs,) = changed(layer, videos=videos)
    for video, output in zip(videos, outputs, strict=True):
        expected = np.asarray(image_ops.equalize(image.fromarray(video[0])))
        np.testing.assert_allclose(output[0], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("shear_x", lambda row, column, m: (row, column + 0.3 * m * row)),
        ("shear_y", lambda row, column, m: (row + 0.3 * m * column, column)),
        ("translate_x", lambda row, column, m: (row, column - 0.45 * m * 30)),
        ("translate_y", lambda row, column, m: (row - 0.45 * m * 20, column)),
        (
            "rotate",
            lambda row, column, m: (
                np.cos(np.pi / 6 * m) * row + np.sin(np.pi / 6 * m) * column,
                np.cos(np.pi / 6 * m) * column - np.sin(np.pi / 6 * m) * row,
            ),
        ),
    ],
)
def test_geometric_operations_move_pixels_and_masks(operation, expected):
    """Pixels that hold their row and column show where they came from."""
    place = np.indices((20, 30)).astype("float32")
    videos = np.tile(np.moveaxis(place, 0, -1), (8, 2, 1, 1, 1))
    masks = videos[..., 1].astype("uint8")
    layer = augmentation.RandAugment(1, 0.5, (operation,), (0, 255), seed=0)
    outputs, moved = changed(layer, videos=videos, segmentation_masks=masks)
    row, column = place[0] - 9.5, place[1] - 14.5
    signs = set()
    for video, mask in zip(outputs, moved, strict=True):
        errors = []
        for m in (-0.5, 0.5):
            new_row, new_column = expected(row, column, m)
            new = np.clip(new_row + 9.5, 0, 19), np.clip(new_column + 14.5, 0, 29)
            errors.append(np.abs(video - np.stack(new, axis=-1)).max())
        assert min(errors) < 1e-3
        signs.add(int(np.argmin(errors)))
        assert np.abs(video[..., 1] - mask).max() < 0.5 + 1e-3
    assert signs == {0, 1}


@each_operation
def test_all_frames_change_alike(operation):
    layer = augmentation.RandAugment(1, 0.9, (operation,), seed=0)
    videos = still(4)
    (outputs,) = changed(layer, videos=videos)
    np.testing.assert_array_equal(outputs[:, 1:], outputs[:, :-1])
    assert (np.abs(outputs - videos).max() > 1) == (operation != "identity")


@each_operation
@pytest.mark.parametrize("channels", [1, 2])
def test_videos_without_colours(operation, channels):
    layer = augmentation.RandAugment(1, 0.9, (operation,), seed=0)
    videos = frames(4, 3, 8, 9, channels)
    (outputs,) = changed(layer, videos=videos)
    assert outputs.shape == videos.shape
    assert outputs.min() >= 0
    assert outputs.max() <= 255
    if channels == 1 and operation == "color":
        np.testing.assert_allclose(outputs, videos, atol=1e-3)


def test_videos_draw_operations_of_their_own():
    rotated = augmentation.RandAugment(1, 1.0, ("identity", "solarize"), seed=0)
    videos = np.full((200, 1, 2, 2, 3), 50, "uint8")
    (outputs,) = changed(rotated, videos=videos)
    share = (outputs[:, 0, 0, 0, 0] > 51).mean()
    assert 0.35 < share < 0.65


def test_operations_follow_one_another():
    """Two steps of 9 columns, to either side: 18 in all, or none."""
    layer = augmentation.RandAugment(2, 0.5, ("translate_x",), seed=0)
    column = np.arange(40, dtype="float32").reshape(1, 1, 1, 40, 1)
    (outputs,) = changed(layer, videos=np.tile(column, (30, 2, 3, 1, 1)))
    assert set((outputs[:, 0, 0, 20, 0] - 20).round(3)) == {-18, 0, 18}


@pytest.mark.parametrize(
    "make",
    [
        lambda: augmentation.RandAugment(1, 0.6, ("contrast",), seed=0),
        lambda: augmentation.RandAugment(1, 0.6, ("autocontrast",), seed=0),
        lambda: augmentation.RandAugment(1, 0.6, ("equalize",), seed=0),
        lambda: augmentation.RandAugment(3, 0.6, seed=0),
        lambda: augmentation.RandomColorJitter(**COLOR, seed=0),
    ],
)
@pytest.mark.parametrize("noise", [np.nan, np.inf, 255.0])
def test_masked_frames_have_no_influence(make, noise):
    videos = frames(6, 4, 8, 9, 3).astype("float32")
    mask = np.arange(4) < np.array([1, 2, 3, 4, 1, 2])[:, None]
    noisy = np.where(mask[..., None, None, None], videos, noise)
    expected, _ = changed(make(), videos=videos, frame_mask=mask)
    outputs, kept = changed(make(), videos=noisy, frame_mask=mask)
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_array_equal(outputs[mask], expected[mask])
    assert np.isfinite(outputs[mask]).all()


# === Colour jitter ===


def test_jitter_changes_all_frames_alike_and_samples_differently():
    layer = augmentation.RandomColorJitter(**COLOR, seed=0)
    videos = np.repeat(still(1), 10, axis=0)
    (outputs,) = changed(layer, videos=videos)
    np.testing.assert_allclose(outputs[:, 1:], outputs[:, :-1], atol=1e-3)
    assert len(np.unique(outputs[:, 0, 0, 0].round(2), axis=0)) == 10
    assert outputs.min() >= 0
    assert outputs.max() <= 255


def test_brightness_is_a_factor():
    videos = frames(40, 2, 5, 6, 2).astype("float32") / 4
    layer = augmentation.RandomColorJitter(brightness=0.4, seed=0)
    factors = (changed(layer, videos=videos)[0] / videos).reshape(40, -1)
    assert np.ptp(factors, axis=1).max() < 1e-4
    assert 0.6 <= factors.min() < 0.7
    assert 1.3 < factors.max() <= 1.4


def test_contrast_and_saturation_keep_the_mean_brightness():
    videos = 100 + frames(40, 2, 5, 6, 3).astype("float32") / 10
    luma = np.array([0.299, 0.587, 0.114])
    for name in ("contrast", "saturation"):
        layer = augmentation.RandomColorJitter(**{name: 0.5}, seed=0)
        (outputs,) = changed(layer, videos=videos)
        axes = (1, 2, 3) if name == "contrast" else ()
        before, after = ((x @ luma).mean(axis=axes) for x in (videos, outputs))
        np.testing.assert_allclose(after, before, rtol=1e-4)
        spread = (outputs.std(axis=-1) / videos.std(axis=-1)).reshape(40, -1)
        assert np.ptp(spread, axis=1).max() < 1e-2
        assert 0.5 < spread.min() < 0.6
        assert 1.4 < spread.max() < 1.5


def test_hue_turns_by_its_share_of_the_circle():
    red = np.zeros((1, 1, 1, 1, 3), "float32")
    red[..., 0] = 1
    red = keras.ops.convert_to_tensor(red)
    third = keras.ops.full((1, 1, 1, 1, 1), 1 / 3)
    x = red
    for _ in range(3):
        x = pixels.rotate_hue(x, third)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(x).ravel(), [1, 0, 0], atol=2e-3
    )
    once = keras.ops.convert_to_numpy(pixels.rotate_hue(red, third)).ravel()
    assert np.argmax(once) in (1, 2)
    assert once @ np.array(pixels.LUMA) == pytest.approx(0.299, abs=1e-3)


def test_greys_have_no_hue():
    videos = np.repeat(frames(4, 2, 5, 6, 1), 3, axis=-1)
    layer = augmentation.RandomColorJitter(saturation=0.5, hue=0.5, seed=0)
    np.testing.assert_allclose(changed(layer, videos=videos)[0], videos, atol=0.2)
