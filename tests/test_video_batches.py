"""Batches of a folder: clips, order, reading ahead, and what fit makes of them."""

import gc
import threading
from collections import Counter

import keras
import numpy as np
import pytest
from helpers import moving_video, needs_av, write_video
from small_videos import (
    SHAPE,
    batches,
    epoch_of,
    epochs,
    labelled,
    numbers,
    wait_for,
    write_clip,
    write_clips,
)

from keras_vivit.data import VideoFolder, read_video, sample_clips
from keras_vivit.data import folder as folder_module
from keras_vivit.data import labels as labels_module

pytestmark = needs_av


@pytest.fixture
def clips(tmp_path):
    return write_clips(tmp_path)


# === Clips ===


def test_clips_follow_the_rule_and_the_rate(tmp_path):
    write_clip(tmp_path / "a" / "slow.mov", 0, frames=40, rate=10)
    write_clip(tmp_path / "a" / "twice.mov", 0, frames=80, rate=20)
    folder = VideoFolder(tmp_path, SHAPE, None, stride=3, rule="mmaction2")
    slow, twice = folder[0][0][..., 0, 0, 0]
    assert slow.tolist() == sample_clips(40, 4, 3, rule="mmaction2")[0].tolist()
    assert twice.tolist() == sample_clips(80, 4, 3, rule="mmaction2")[0].tolist()
    folder = VideoFolder(tmp_path, SHAPE, None, stride=3, target_fps=10)
    slow, twice = folder[0][0][..., 0, 0, 0]
    assert slow.tolist() == [14, 17, 20, 23]
    assert twice.tolist() == [2 * frame + 1 for frame in slow]
    folder = VideoFolder(
        tmp_path, SHAPE, None, 0, stride=3, rule="slowfast", target_fps=10
    )
    _, twice = folder[0][0][..., 0, 0, 0]
    expected = sample_clips(80, 4, 3, rule="slowfast", fps=20, target_fps=10)
    assert twice.tolist() == expected[0].tolist()


@pytest.mark.parametrize(
    ("resize", "size", "crop"),
    [
        ("crop", (9, 12), (8, 12)),
        ("stretch", (8, 12), (8, 12)),
        (10, (10, 13), (8, 12)),
    ],
)
def test_frames_are_resized_and_cropped(tmp_path, resize, size, crop):
    path = tmp_path / "a" / "0.mov"
    path.parent.mkdir()
    write_video(path, moving_video(4, 24, 32))
    folder = VideoFolder(tmp_path, (4, 8, 12, 3), None, resize=resize)
    assert (folder[0][0][0] == read_video(path, size=size, crop=crop)).all()
    with pytest.raises(ValueError, match="Frames must hold"):
        VideoFolder(tmp_path, (4, 8, 12, 3), None, resize=8)


def test_training_crops_at_random(tmp_path):
    path = tmp_path / "a" / "0.mov"
    path.parent.mkdir()
    write_video(path, moving_video(4, 16, 16))
    folder = VideoFolder(tmp_path, (1, 8, 8, 3), resize=9)
    whole = read_video(path, size=9)
    crops = {
        (k, i, j): whole[k, i : i + 8, j : j + 8].tobytes()
        for k in range(4)
        for i in range(2)
        for j in range(2)
    }
    seen = set()
    for epoch in range(60):
        folder.start_epoch(epoch)
        (place,) = (p for p, x in crops.items() if x == folder[0][0][0, 0].tobytes())
        seen.add(place)
    assert seen == set(crops)


def test_one_channel_is_grey(tmp_path):
    path = tmp_path / "a" / "0.mov"
    path.parent.mkdir()
    write_video(path, moving_video(4, 8, 8))
    videos, _ = VideoFolder(tmp_path, (4, 8, 8, 1), None)[0]
    expected = moving_video(4, 8, 8) @ [0.299, 0.587, 0.114]
    assert videos.dtype == "uint8"
    assert np.abs(videos[0, ..., 0] - expected).max() <= 0.5


# === Order ===


def test_epochs_differ_and_a_seed_repeats_them(clips):
    options = {"batch_size": 3, "stride": 2}
    folder, again = (VideoFolder(clips, SHAPE, **options) for _ in range(2))
    first, second = epoch_of(folder, 0), epoch_of(folder, 1)
    assert first != second
    for epoch in (first, second):
        assert sorted(x for videos, _ in epoch for x in videos) == list(range(8))
        assert all(
            (x % 2 == 0) == y for vs, ys in epoch for x, y in zip(vs, ys, strict=True)
        )
    # Another process, which starts in the middle.
    assert epoch_of(again, 1) == second
    assert epoch_of(VideoFolder(clips, SHAPE, **options, seed=1), 0) != first
    again.start_epoch(1)
    assert all(
        (a[0] == b[0]).all()
        for a, b in zip(batches(again), batches(again), strict=True)
    )


def test_batches_do_not_depend_on_workers_prefetch_or_cache(clips):
    expected = None
    for options in ({}, {"workers": 4, "prefetch": 5}, {"cache_bytes": 10**6}):
        folder = VideoFolder(clips, SHAPE, batch_size=3, **options)
        found = [videos for epoch in range(3) for videos in epochs(folder, epoch)]
        expected = expected or found
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_balanced_draws_each_class_equally_often():
    classes = np.array([0] * 40 + [1] * 7 + [2] * 3)
    drawn = labels_module.draw_balanced(classes, np.random.default_rng(0))
    assert np.bincount(classes[drawn]).tolist() in (
        [17, 17, 16],
        [17, 16, 17],
        [16, 17, 17],
    )
    counts = Counter(drawn.tolist())
    # Nothing is drawn again before all of its class have been.
    for name in range(3):
        rows = np.flatnonzero(classes == name)
        times = [counts[row] for row in rows]
        assert max(times) - min(times) <= 1


def test_balanced_folders_and_weights(tmp_path):
    labelled(tmp_path, "aaaaaab")
    folder = VideoFolder(
        tmp_path, SHAPE, batch_size=7, training=True, split=None, balanced=True
    )
    assert np.bincount(folder[0][1]).tolist() in ([4, 3], [3, 4])
    assert folder.class_weights == {0: pytest.approx(7 / 12), 1: pytest.approx(3.5)}
    assert VideoFolder(
        tmp_path, SHAPE, None, label_mode="categorical"
    ).class_weights == (folder.class_weights)
    with pytest.raises(ValueError, match="`balanced` must be False, unless"):
        VideoFolder(tmp_path, SHAPE, None, label_mode="several", balanced=True)


# === Reading ahead, and the cache ===


def watch_reading(monkeypatch):
    read, names = folder_module.clips.read_clip, []

    def spy(facts, *rest):
        names.append(int(facts.path.stem))
        return read(facts, *rest)

    monkeypatch.setattr(folder_module.clips, "read_clip", spy)
    return names


def test_batches_are_read_ahead_over_the_end_of_the_epoch(clips, monkeypatch):
    names = watch_reading(monkeypatch)
    folder = VideoFolder(clips, SHAPE, batch_size=2, prefetch=3)
    folder[0]
    wait_for(lambda: len(names) == 8)
    folder[3]
    wait_for(lambda: len(names) == 10)  # One batch of the next epoch.
    assert sorted(names[:8]) == list(range(8))
    folder.on_epoch_end()
    assert folder.epoch == 1
    ahead, _ = folder[0]
    assert sorted(numbers(ahead)) == sorted(names[8:10])


def test_the_cache_keeps_what_there_is_room_for(clips, monkeypatch):
    reads = []
    read = folder_module.clips.video.read_frames
    monkeypatch.setattr(
        folder_module.clips.video,
        "read_frames",
        lambda path, *rest, **more: reads.append(path) or read(path, *rest, **more),
    )
    size = 12 * 8 * 8 * 3
    folder = VideoFolder(clips, SHAPE, workers=1, prefetch=1, cache_bytes=5 * size + 1)
    for epoch in range(3):
        epochs(folder, epoch)
    # Threads of an earlier test may still read ahead, in its folder.
    gone = Counter(path for path in reads if path.is_relative_to(clips))
    assert folder.cache.used == 5 * size
    assert sum(x is not None for x in folder.cache.arrays.values()) == 5
    assert sorted(gone.values())[:5] == [1] * 5
    assert min(sorted(gone.values())[5:]) >= 3


def test_threads_end_with_the_folder(clips):
    before = set(threading.enumerate())
    folder = VideoFolder(clips, SHAPE, workers=3)
    folder[0]
    threads = set(threading.enumerate()) - before
    assert threads
    del folder

    def ended():
        gc.collect(2)  # Anew: what a thread still reads refers to the folder.
        return not threads & set(threading.enumerate())

    wait_for(ended)


# === Keras ===


def brightness_model():
    inputs = keras.Input(SHAPE)
    x = keras.layers.GlobalAveragePooling3D()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def fit(model, folder, first, last):
    keeping_count = keras.callbacks.LambdaCallback(on_epoch_begin=folder.start_epoch)
    options = {"shuffle": False, "verbose": 0, "callbacks": [keeping_count]}
    return model.fit(folder, initial_epoch=first, epochs=last, **options)


def weights(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def test_fit_trains_on_the_batches_of_its_epochs(clips):
    models = [brightness_model() for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    fit(models[0], VideoFolder(clips, SHAPE, batch_size=3), 2, 4)
    folder = VideoFolder(clips, SHAPE, batch_size=3)
    for epoch in (2, 3):
        folder.start_epoch(epoch)
        for videos, labels in batches(folder):
            models[1].train_on_batch(videos, labels)
    for a, b in zip(*map(weights, models), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_interrupted_training_goes_on_to_the_same_weights(clips):
    def train(*parts):
        keras.utils.set_random_seed(0)
        model = brightness_model()
        for first, last in parts:
            fit(model, VideoFolder(clips, SHAPE, batch_size=3), first, last)
        return weights(model)

    whole, halves = train((0, 4)), train((0, 2), (2, 4))
    for a, b in zip(whole, halves, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_epochs_count_without_a_callback(clips):
    folder = VideoFolder(clips, SHAPE, batch_size=3)
    model = brightness_model()
    model.fit(folder, epochs=3, shuffle=False, verbose=0)
    assert folder.epoch == 3


def test_evaluate_and_predict_take_a_folder(clips):
    folder = VideoFolder(clips, SHAPE, None, batch_size=4)
    model = brightness_model()
    outputs = model.predict(folder, verbose=0)
    assert outputs.shape == (10, 2)
    videos = np.concatenate([videos for videos, _ in batches(folder)])
    np.testing.assert_allclose(outputs, model.predict(videos, verbose=0), atol=1e-5)
    assert np.isfinite(model.evaluate(folder, verbose=0))


def test_fit_takes_weights_of_classes(clips):
    folder = VideoFolder(clips, SHAPE)
    options = {"class_weight": folder.class_weights, "shuffle": False, "verbose": 0}
    brightness_model().fit(folder, **options)
