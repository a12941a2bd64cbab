"""Which frames and crops the rules of other projects choose, to the frame."""

import itertools
import math

import numpy as np
import pytest
from helpers import only

from keras_vivit.data import sample_clips, three_crops
from keras_vivit.data.sampling import RULES

# (length, num_frames, stride, num_clips): frames, worked out by hand from the projects'
# formulas.
TABLE = {
    "scenic": {
        (100, 4, 8, 1): [[34, 42, 50, 58]],
        (100, 4, 8, 3): [[0, 8, 16, 24], [34, 42, 50, 58], [68, 76, 84, 92]],
        (10, 4, 4, 2): [[0, 4, 8, 2], [0, 4, 8, 2]],  # The video is repeated.
        (1, 4, 2, 1): [[0, 0, 0, 0]],
    },
    "slowfast": {
        (100, 4, 8, 1): [[0, 10, 20, 31]],
        (100, 4, 8, 3): [[0, 10, 20, 31], [22, 33, 43, 53], [45, 55, 66, 76]],
        (10, 4, 4, 2): [[0, 5, 9, 9], [0, 5, 9, 9]],  # The last frame is repeated.
        (1, 4, 2, 1): [[0, 0, 0, 0]],
    },
    "mmaction2": {
        (100, 4, 8, 1): [[37, 45, 53, 61]],
        # The middle one starts at 37.5, rounded to an even number.
        (100, 4, 8, 3): [[0, 8, 16, 24], [38, 46, 54, 62], [75, 83, 91, 99]],
        (10, 4, 4, 2): [[0, 4, 8, 2], [0, 4, 8, 2]],
        (3, 4, 2, 1): [[0, 2, 1, 0]],
    },
    "mmaction2_uniform": {
        (100, 4, 1, 1): [[12, 37, 62, 86]],
        (100, 4, 1, 3): [[6, 31, 56, 80], [12, 37, 62, 86], [18, 43, 68, 92]],
        (3, 4, 1, 2): [[0, 0, 1, 2], [0, 0, 1, 2]],
        (1, 4, 1, 1): [[0, 0, 0, 0]],
    },
    "mmaction2_dense": {
        (100, 4, 8, 1): [[0, 8, 16, 24]],
        (100, 4, 8, 3): [[0, 8, 16, 24], [34, 42, 50, 58], [68, 76, 84, 92]],
        (10, 4, 4, 2): [[0, 4, 8, 2], [0, 4, 8, 2]],
        (300, 8, 8, 2): [list(range(0, 64, 8)), list(range(236, 300, 8))],
    },
    "videomae": {
        (100, 4, 8, 1): [[0, 8, 16, 24]],
        # 13 frames remain: the middle clip starts at the fifth, int(4.5).
        (100, 4, 8, 3): [[0, 8, 16, 24], [32, 40, 48, 56], [72, 80, 88, 96]],
        (10, 4, 4, 2): [[0, 4, 8, 8], [0, 4, 8, 8]],
        (1, 4, 2, 1): [[0, 0, 0, 0]],
    },
    "videomae_segments": {
        (100, 4, 1, 2): [[0, 25, 50, 75], [12, 37, 62, 87]],
        (10, 4, 1, 2): [[0, 2, 5, 7], [1, 3, 6, 8]],
        (100, 4, 1, 1): [[0, 25, 50, 75]],
        (2, 4, 1, 2): [[0, 0, 1, 1], [0, 0, 1, 1]],
    },
}


@pytest.mark.parametrize(
    ("rule", "arguments", "frames"),
    [(rule, *row) for rule, rows in TABLE.items() for row in rows.items()],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_clips_are_those_of_the_table(rule, arguments, frames):
    clips = sample_clips(*arguments, rule=rule)
    assert clips.dtype == "int64"
    assert clips.tolist() == frames


# === The formulas once more, a frame at a time ===


def scenic(length, n, s, k, clips):
    space = max(0, length - n * s)
    offset = space // 2 if clips == 1 else math.floor(k * space / (clips - 1) + 1e-6)
    return [(offset + s * i) % length for i in range(n)]


def mmaction2(length, n, s, k, clips):
    space = max(length - (n - 1) * s - 1, 0)
    offset = space // 2 if clips == 1 else round(k * (space / (clips - 1)))
    return [(offset + s * i) % length for i in range(n)]


def mmaction2_uniform(length, n, s, k, clips):
    gap = (length - 1) / n
    return [round(gap * i) + int(gap / (clips + 1) * (k + 1)) for i in range(n)]


def mmaction2_dense(length, n, s, k, clips):
    last = max(1, 1 + length - n * s) - 1
    offset = 0 if clips == 1 else int(np.linspace(0, last, clips)[k])
    return [(offset + s * i) % length for i in range(n)]


def videomae(length, n, s, k, clips):
    frames = list(range(0, length, s))
    while len(frames) < n:
        frames.append(frames[-1])
    start = int(k * ((len(frames) - n) / max(clips - 1, 1)))
    return frames[start : start + n]


def videomae_segments(length, n, s, k, clips):
    tick, views = length / n, max(clips, 2)
    frames = [int(tick / 2 + tick * i) for i in range(n)]
    frames += [int(tick * i) for i in range(n)]
    while len(frames) < n * views:
        frames.append(frames[-1])
    return sorted(frames)[k::views]


@pytest.mark.parametrize(
    "formula",
    [
        scenic,
        mmaction2,
        mmaction2_uniform,
        mmaction2_dense,
        videomae,
        videomae_segments,
    ],
    ids=lambda function: function.__name__,
)
def test_clips_follow_the_formula(formula):
    lengths, sizes = (1, 2, 5, 16, 31, 64, 65, 100, 299, 300), ((4, 1), (8, 8), (16, 4))
    for length, (n, s), clips in itertools.product(lengths, sizes, (1, 2, 3, 4, 5)):
        expected = [formula(length, n, s, k, clips) for k in range(clips)]
        found = sample_clips(length, n, s, clips, formula.__name__)
        assert found.tolist() == expected, (length, n, s, clips)


def slowfast_cases():
    for length, (n, s), fps in itertools.product(
        (1, 7, 40, 64, 65, 100, 150, 299, 300, 333),
        ((8, 8), (16, 4), (32, 2), (16, 5)),
        (24, 25, 29.97, 30, 60),
    ):
        span = s * n / 30 * fps
        space = max(length - span, 0)
        for k in range(10):
            start = space * k / 10
            yield length, n, s, fps, k, start, start + span - 1


@only("torch")
def test_slowfast_rounds_as_pytorch_does():
    import torch

    differing = 0
    for length, n, s, fps, k, start, end in slowfast_cases():
        reference = torch.linspace(start, end, n)
        expected = torch.clamp(reference, 0, length - 1).long().numpy()
        clips = sample_clips(length, n, s, 10, "slowfast", fps=fps)
        assert clips[k].tolist() == expected.tolist(), (length, n, s, fps, k)
        in_float64 = np.clip(np.linspace(start, end, n), 0, length - 1).astype(int)
        differing += (in_float64 != expected).any()
    assert differing, "no case would tell float32 from float64"


@only("tensorflow")
def test_scenic_rounds_as_tensorflow_does():
    import tensorflow as tf

    differing = 0
    for space, clips in itertools.product(range(0, 200), (4, 10, 15)):
        offsets = tf.cast(tf.linspace(0.0, float(space), clips), tf.int32).numpy()
        found = sample_clips(space + 2, 2, 1, clips)
        assert found[:, 0].tolist() == offsets.tolist(), (space, clips)
        differing += (np.linspace(0, space, clips).astype(int) != offsets).any()
    assert differing, "no case would tell float32 from float64"


# === Training ===


def drawn(rule, *arguments):
    """All first frames of many draws."""
    rng = np.random.default_rng(0)
    return [
        sample_clips(*arguments, rule=rule, training=True, seed=rng)[0].tolist()
        for _ in range(400)
    ]


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        ("scenic", set(range(20 - 3 * 4))),  # Up to the last frame.
        ("slowfast", set(range(20 - 16))),  # uniform(0, 4), rounded down
        ("mmaction2", set(range(20 - 16 + 1))),
        ("mmaction2_dense", set(range(20 - 16))),  # The last start is never drawn.
        ("videomae", set(range(20 - 16))),
    ],
)
def test_training_draws_every_start_and_no_other(rule, first):
    clips = drawn(rule, 20, 4, 4)
    assert {clip[0] for clip in clips} == first
    if rule in ("scenic", "mmaction2", "mmaction2_dense"):
        steps = {b - a for clip in clips for a, b in itertools.pairwise(clip)}
        assert steps == {4}


def test_training_draws_one_frame_of_each_segment():
    for frames, bounds in zip(
        zip(*drawn("mmaction2_uniform", 9, 4), strict=True),
        [(0, 2), (2, 4), (4, 6), (6, 8)],
        strict=True,
    ):
        assert set(frames) == set(range(bounds[0], bounds[1] + 1))
    segments = zip(*drawn("videomae_segments", 12, 4), strict=True)
    for i, frames in enumerate(segments):
        assert set(frames) == {3 * i, 3 * i + 1, 3 * i + 2}


@pytest.mark.parametrize(
    ("rule", "length", "frames"),
    [
        ("scenic", 3, [0, 2, 1, 0]),
        ("slowfast", 3, [0, 2, 2, 2]),
        ("mmaction2", 3, [0, 2, 1, 0]),
        ("mmaction2_dense", 3, [0, 2, 1, 0]),
        ("videomae", 3, [0, 2, 2, 2]),  # linspace(0, 3, 1), then 3, clipped to 2
        ("videomae_segments", 3, [0, 0, 0, 0]),
    ],
)
def test_short_videos_leave_training_no_choice(rule, length, frames):
    assert {tuple(clip) for clip in drawn(rule, length, 4, 2)} == {tuple(frames)}


def test_several_clips_of_mmaction2_are_spread_in_training():
    rng = np.random.default_rng(0)
    for length, clips in ((100, 5), (20, 8), (15, 3), (2, 3)):
        offsets = sample_clips(length, 4, 4, clips, "mmaction2", True, seed=rng)[:, 0]
        average = (length - 16 + 1) // clips
        if average > 0:  # One in each part.
            assert (offsets // average).tolist() == list(range(clips))
        else:
            assert offsets.tolist() == sorted(offsets)


@pytest.mark.parametrize("rule", RULES)
def test_a_seed_repeats_the_draw(rule):
    arguments = (200, 8, 4, 3, rule, True)
    first, second = (sample_clips(*arguments, seed=3) for _ in range(2))
    assert (first == second).all()
    assert (first != sample_clips(*arguments, seed=4)).any()
    assert first.shape == (3, 8)
    assert first.min() >= 0
    assert first.max() < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "`length` must be a positive integer"),
        ({"num_frames": 2.5}, "`num_frames` must be a positive integer"),
        ({"stride": -1}, "`stride` must be a positive integer"),
        ({"num_clips": 0}, "`num_clips` must be a positive integer"),
        ({"rule": "timesformer"}, "`rule` must be one of 'scenic', 'slowfast'"),
        ({"fps": 0}, "`fps` must be a positive number"),
        ({"target_fps": float("nan")}, "`target_fps` must be a positive number"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        sample_clips(**{"length": 10, "num_frames": 2, **change})


# === Crops ===


@pytest.mark.parametrize(
    ("rule", "left", "top"),
    [
        ("scenic", (0, 6, 11), 1),
        ("slowfast", (0, 6, 11), 1),
        ("mmaction2", (0, 10, 5), 0),
        ("mmaction2_uniform", (0, 10, 5), 0),
        ("videomae", (0, 5, 11), 0),
        ("videomae_segments", (0, 5, 11), 0),
    ],
)
def test_crops_lie_where_the_rule_puts_them(rule, left, top):
    rows, columns = np.indices((9, 19))
    wide = np.stack([rows, columns], axis=-1)[None]  # Odd spaces: 1 and 11.
    crops = three_crops(wide, 8, rule)
    assert crops.shape == (3, 1, 8, 8, 2)
    assert crops[:, 0, 0, 0].tolist() == [[top, x] for x in left]
    tall = three_crops(wide.swapaxes(1, 2), 8, rule)
    assert (tall == crops.swapaxes(2, 3)).all()


def test_crops_of_a_square_run_along_the_side_that_the_project_takes():
    square = np.indices((12, 12)).transpose(1, 2, 0)[None]
    assert three_crops(square, 8)[:, 0, 0, 0].tolist() == [[2, 0], [2, 2], [2, 4]]
    corners = three_crops(square, 8, "videomae")[:, 0, 0, 0]
    assert corners.tolist() == [[0, 2], [2, 2], [4, 2]]


def test_crops_that_do_not_fit_are_refused():
    video = np.zeros((2, 8, 12, 3))
    with pytest.raises(ValueError, match=r"`size` must not exceed the video, 8 x 12"):
        three_crops(video, 9)
    with pytest.raises(ValueError, match="`video` must have the shape"):
        three_crops(video[0], 8)
    with pytest.raises(ValueError, match="`size` must be 2 positive integers"):
        three_crops(video, (8, 0))
