"""Which frames, and which part of them, the augmentations take."""

import keras
import numpy as np
from helpers import augmented, normal

from keras_vivit import augmentation


def changed(layer, training=True, **data):
    return list(augmented(layer, training, **data).values())


# === Crops ===


def places(samples=60, frames=2, height=20, width=30):
    """Videos whose two channels are each pixel's row and column."""
    rows, columns = np.indices((height, width))
    frame = np.stack([rows, columns], axis=-1).astype("float32")
    return np.broadcast_to(frame, (samples, frames, height, width, 2))


def boxes(videos):
    """Top, left, height and width of where the pixels of `places` came from."""
    steps = np.median(np.diff(videos[:, 0, :, 0, 0], axis=1), axis=1)
    height = steps * videos.shape[2]
    steps = np.median(np.diff(videos[:, 0, 0, :, 1], axis=1), axis=1)
    width = steps * videos.shape[3]
    middle = videos[:, 0].mean(axis=(1, 2))
    return np.stack([*(middle.T - np.stack([height, width]) / 2), height, width])


def test_crop_cuts_one_box_of_all_frames():
    layer = augmentation.RandomResizedCrop((8, 8), (0.2, 0.5), (0.5, 2.0), seed=0)
    (videos,) = changed(layer, videos=places())
    assert videos.shape == (60, 2, 8, 8, 2)
    np.testing.assert_array_equal(videos[:, 0], videos[:, 1])
    inner = videos[:, 0, 1:-1, 1:-1]  # The border may be clamped.
    for axis in (1, 2):
        steps = np.diff(inner[..., axis - 1], axis=axis)
        assert np.ptp(steps, axis=(1, 2)).max() < 1e-4
        assert np.ptp(inner[..., axis - 1], axis=3 - axis).max() < 1e-4
    top, left, height, width = boxes(videos)
    assert 0.2 * 600 - 1 < (height * width).min() < 0.25 * 600
    assert 0.4 * 600 < (height * width).max() < 0.5 * 600 + 1
    assert (width / height).min() > 0.5 - 0.01
    assert (width / height).max() < 2.0 + 0.01
    assert np.ptp(width / height) > 0.7
    assert np.ptp(top) > 4
    assert np.ptp(left) > 6
    assert videos[..., 0].max() <= 19
    assert videos[..., 1].max() <= 29


def test_crop_of_the_whole_frame_changes_nothing():
    videos = normal(3, 2, 6, 9, 2)
    layer = augmentation.RandomResizedCrop((6, 9), (1.0, 1.0), (1.5, 1.5))
    np.testing.assert_allclose(changed(layer, videos=videos)[0], videos, atol=1e-4)


def test_crop_moves_segmentation_masks_to_the_nearest_pixel():
    videos = places()
    masks = videos[..., 1].astype("uint8")
    layer = augmentation.RandomResizedCrop((7, 9), (0.3, 0.9), seed=0)
    outputs, moved = changed(layer, videos=videos, segmentation_masks=masks)
    assert moved.shape == (60, 2, 7, 9)
    assert moved.dtype == "uint8"
    distance = outputs[..., 1] - moved
    assert np.abs(distance).max() < 0.5 + 1e-4
    assert np.abs(distance).mean() > 0.1


def test_inference_takes_the_middle_of_the_frames():
    layer = augmentation.RandomResizedCrop((4, 4))
    masks = places()[..., 1].astype("int32")
    videos, masks = changed(
        layer, training=False, videos=places(), segmentation_masks=masks
    )
    expected = 5 * np.arange(4) + 2  # A square of 20 pixels from column 5 on.
    np.testing.assert_allclose(videos[0, 0, :, 0, 0], expected, atol=1e-5)
    np.testing.assert_allclose(videos[0, 0, 0, :, 1], expected + 5, atol=1e-5)
    np.testing.assert_array_equal(masks[0, 0, 0], expected + 5)
    assert np.ptp(videos, axis=0).max() == 0


def test_models_take_the_new_size():
    video = keras.Input((8, 20, 30, 2))
    x = augmentation.RandomResizedCrop((6, 5))(augmentation.RandomClip(4)(video))
    assert x.shape == (None, 4, 6, 5, 2)
    outputs = keras.Model(video, x).predict(places(frames=8), verbose=0)
    assert outputs.shape == (60, 4, 6, 5, 2)


# === Clips ===


def numbered(samples=80, frames=20):
    """Videos that are full of the number of each frame."""
    number = np.arange(frames, dtype="float32").reshape(1, -1, 1, 1, 1)
    return np.tile(number, (samples, 1, 2, 2, 1))


def test_clips_are_neighbours_from_random_starts():
    (videos,) = changed(augmentation.RandomClip(6, seed=0), videos=numbered())
    frames = videos[..., 0, 0, 0]
    np.testing.assert_array_equal(np.diff(frames, axis=1), 1)
    assert frames.min() == 0
    assert frames.max() == 19
    assert len(np.unique(frames[:, 0])) > 10


def test_rates_are_steps_from_frame_to_frame():
    layer = augmentation.RandomClip(6, rate=(0.5, 3.0), seed=0)
    frames = changed(layer, videos=numbered())[0][..., 0, 0, 0]
    rates = (frames[:, -1] - frames[:, 0]) / 5
    assert 0.3 < rates.min() < 0.8
    assert 2.5 < rates.max() < 3.2
    even = frames[:, :1] + rates[:, None] * np.arange(6)
    assert np.abs(frames - even).max() <= 1


def test_rate_is_slowed_down_to_the_length_of_the_video():
    layer = augmentation.RandomClip(11, rate=(5.0, 5.0), seed=0)
    frames = changed(layer, videos=numbered(3, 21))[0][..., 0, 0, 0]
    np.testing.assert_array_equal(frames, np.tile(np.arange(0, 21, 2), (3, 1)))


def test_clip_in_inference_is_the_middle():
    layer = augmentation.RandomClip(4, rate=(2.0, 3.0))
    frames = changed(layer, training=False, videos=numbered())[0][..., 0, 0, 0]
    np.testing.assert_array_equal(frames, np.tile([8, 9, 10, 11], (80, 1)))


def test_clips_stay_among_the_frames_that_a_mask_keeps():
    number = np.arange(20)
    mask = np.tile((number > 3) & (number < 14), (80, 1))
    mask[40:] = number < 4  # Shorter than a clip.
    masks = numbered()[..., 0].astype("uint8")
    frames, kept, moved = changed(
        augmentation.RandomClip(6, seed=0),
        videos=numbered(),
        frame_mask=mask,
        segmentation_masks=masks,
    )
    frames = frames[..., 0, 0, 0]
    assert kept[:40].all()
    assert set(frames[:40, 0]) == {4, 5, 6, 7, 8}
    np.testing.assert_array_equal(frames[40:], np.tile(np.arange(6), (40, 1)))
    np.testing.assert_array_equal(kept[40:], np.tile(np.arange(6) < 4, (40, 1)))
    np.testing.assert_array_equal(moved[..., 0, 0], frames)


def test_clip_of_one_frame():
    layer = augmentation.RandomClip(1, rate=(0.5, 2.0), seed=0)
    frames = changed(layer, videos=numbered())[0]
    assert frames.shape == (80, 1, 2, 2, 1)
    assert len(np.unique(frames)) > 12
