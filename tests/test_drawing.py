"""Overlays, and the GIFs that show them."""

import numpy as np
import pytest
from helpers import normal

from keras_vivit.visualization import overlay, save_gif

image = pytest.importorskip("PIL.Image", reason="needs Pillow")


def grey(*shape):
    return np.full(shape, 100, "uint8")


def test_zeros_change_nothing():
    videos = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), "uint8")
    np.testing.assert_array_equal(overlay(videos, np.zeros((2, 1, 2, 2))), videos)


def test_a_map_covers_its_own_tubelets():
    maps = np.zeros((2, 2, 2, 2))
    maps[0, 1, 0, 1] = 3  # late, above, right
    videos = grey(2, 8, 16, 16, 1)
    frames = overlay(videos, maps)
    assert frames.dtype == "uint8"
    assert frames.shape == (2, 8, 16, 16, 3)
    changed = np.abs(frames[0].astype(int) - 100).max(axis=-1)
    assert changed[-1, 0, -1] == changed.max() > 50
    assert not changed[0].any()
    assert not changed[:, -1].any()
    assert not changed[:, :, 0].any()
    np.testing.assert_array_equal(frames[1], 100)


def test_maps_are_scaled_one_by_one():
    maps = np.stack([np.eye(2)[None], np.eye(2)[None] * 1e-6])
    frames = overlay(grey(2, 1, 8, 8, 1), maps)
    np.testing.assert_array_equal(*frames)


def test_alpha_says_how_much_is_covered():
    videos, maps = grey(1, 2, 4, 4, 1), np.ones((1, 1, 1, 1))
    np.testing.assert_array_equal(overlay(videos, maps, alpha=0)[0], 100)
    brightest = overlay(videos, maps, alpha=1)[0, 0, 0, 0]
    np.testing.assert_array_equal(brightest, (252, 255, 164))


def test_values_are_scaled_to_pixels():
    videos, maps = normal(1, 2, 4, 4, 1), np.zeros((1, 1, 1, 1))
    frames = overlay(videos, maps)
    assert (frames.min(), frames.max()) == (0, 255)
    assert overlay(videos * 0, maps, value_range=(-1, 1)).max() == 128
    wide = overlay(videos, maps, value_range=(-100, 100))
    assert abs(wide.astype(int) - 128).max() < 10


@pytest.mark.parametrize(
    ("videos", "maps", "options", "message"),
    [
        (grey(2, 4, 4, 1), np.ones((1, 1, 1, 1)), {}, "`videos` must have the shape"),
        (grey(1, 2, 4, 4, 2), np.ones((1, 1, 1, 1)), {}, "1 or 3 channels"),
        (
            grey(1, 2, 4, 4, 1),
            np.ones((2, 1, 1, 1)),
            {},
            r"must .* \(1, t, h, w",
        ),
        (grey(1, 2, 4, 4, 1), np.ones((1, 1, 1)), {}, "`maps` must have the shape"),
        (
            grey(1, 2, 4, 4, 1),
            -np.ones((1, 1, 1, 1)),
            {},
            "must not be negative",
        ),
        (grey(1, 2, 4, 4, 1), np.full((1, 1, 1, 1), np.nan), {}, "`maps` must not"),
        (grey(1, 2, 4, 4, 1), np.ones((1, 1, 1, 1)), {"alpha": 2}, "`alpha` must lie"),
    ],
)
def test_overlays_of_wrong_arrays_are_an_error(videos, maps, options, message):
    with pytest.raises(ValueError, match=message):
        overlay(videos, maps, **options)


def test_gif_has_the_frames(tmp_path):
    frames = np.zeros((2, 4, 6, 8, 3), "uint8")
    for i in range(4):
        frames[:, i, :, 2 * i : 2 * i + 2] = 255
    save_gif(tmp_path / "two.gif", frames, fps=10, scale=3)
    with image.open(tmp_path / "two.gif") as gif:
        assert gif.n_frames == 4
        assert gif.size == (2 * 8 * 3, 6 * 3)
        assert gif.info["duration"] == 100
        assert gif.info["loop"] == 0
        gif.seek(3)
        shown = np.asarray(gif.convert("RGB"))
    expected = np.concatenate([frames[0, 3], frames[1, 3]], axis=1)
    expected = expected.repeat(3, axis=0).repeat(3, axis=1)
    np.testing.assert_allclose(shown.astype(int), expected, atol=8)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 6, 8, 3)),
        np.zeros((4, 6, 8), "uint8"),
        np.zeros((4, 6, 8, 1), "uint8"),
        np.zeros((0, 6, 8, 3), "uint8"),
    ],
)
def test_gifs_of_other_arrays_are_an_error(frames, tmp_path):
    with pytest.raises(ValueError, match=r"`frames` must be uint8 .* Received: "):
        save_gif(tmp_path / "no.gif", frames)
