"""Batches of a folder: files, splits, labels, order, and what fit makes of them."""

import csv
import gc
import os
import subprocess
import threading
import time
from collections import Counter

import keras
import numpy as np
import pytest
from helpers import data_folder, moving_video, needs_av, write_video

from keras_vivit.data import VideoFolder, read_video, sample_clips, surveying
from keras_vivit.data import folder as folder_module
from keras_vivit.data import labels as labels_module

pytestmark = needs_av

SHAPE = (4, 8, 8, 3)


def write_clip(path, grey, frames=12, rate=10, shape=(8, 8)):
    """A video whose pixels are `grey + number of the frame`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video = np.empty((frames, *shape, 3), "uint8")
    video[:] = (grey + np.arange(frames))[:, None, None, None] % 256
    return write_video(path, video, rate=rate)


@pytest.fixture
def clips(tmp_path):
    """Ten videos of two classes in two splits, the first pixel tells which."""
    for i in range(10):
        split = "train" if i < 8 else "test"
        name = "cat" if i % 2 else "dog"
        write_clip(tmp_path / split / name / f"{i}.mov", 20 * i)
    return tmp_path


def numbers(videos):
    """Which videos of `clips` a batch shows."""
    return (videos[:, 0, 0, 0, 0] // 20).tolist()


def batches(folder):
    return [folder[i] for i in range(len(folder))]


def write_table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


# === Files and labels ===


def test_folders_are_splits_and_classes(clips):
    train, test = (VideoFolder(clips, SHAPE, split) for split in ("train", "test"))
    assert [len(folder.files) for folder in (train, test)] == [8, 2]
    assert train.class_names == test.class_names == ("cat", "dog")
    videos, labels = test[0]
    assert videos.shape == (2, *SHAPE)
    assert videos.dtype == "uint8"
    assert numbers(videos) == [9, 8]
    assert labels.tolist() == [0, 1]
    assert len(VideoFolder(clips, SHAPE, None).files) == 10


def test_folders_without_splits_are_classes(clips):
    folder = VideoFolder(clips / "train", SHAPE, None, batch_size=3)
    assert [len(labels) for _, labels in batches(folder)] == [3, 3, 2]
    assert [x for videos, _ in batches(folder) for x in numbers(videos)] == [
        *(1, 3, 5, 7),
        *(0, 2, 4, 6),
    ]
    with pytest.raises(ValueError, match="`split` must be one that the files have"):
        VideoFolder(clips / "train", SHAPE, "test")
    with pytest.raises(IndexError):
        folder[3]


def test_other_files_are_no_clips(clips):
    for name in ("README.md", "labels.csv", ".hidden.mov"):
        (clips / "train" / "cat" / name).write_text("text")
    assert len(VideoFolder(clips, SHAPE).files) == 8


def test_images_of_a_folder_are_one_clip(tmp_path):
    for number, frame in enumerate(moving_video(6, 8, 8)):
        path = tmp_path / "cat" / "clip1" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frame[None])
    videos, _ = VideoFolder(tmp_path, SHAPE, None)[0]
    assert (videos[0] == moving_video(6, 8, 8)[1:5]).all()


def test_a_table_names_files_labels_and_splits(clips):
    rows = [
        {"file": f"train/{'cat' if i % 2 else 'dog'}/{i}.mov", "label": f"{i % 3}"}
        for i in range(6)
    ]
    table = write_table(clips / "clips.csv", rows)
    folder = VideoFolder(clips, SHAPE, None)
    assert folder.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert folder.class_names == ("0", "1", "2")
    other = write_table(
        clips / "other.csv",
        [{**r, "split": "val" if i > 3 else "train"} for i, r in enumerate(rows)],
    )
    assert VideoFolder(other, SHAPE, "validation").labels.tolist() == [1, 2]
    assert VideoFolder(other, SHAPE).labels.tolist() == [0, 1, 2, 0]
    table.write_text("name,label\na,b\n")
    with pytest.raises(ValueError, match="must have the columns file, label"):
        VideoFolder(clips, SHAPE)


def test_classes_leave_some_out_and_order_the_others(tmp_path):
    for i, name in enumerate(("a", "b", "c")):
        write_clip(tmp_path / name / "0.mov", 20 * i)
    folder = VideoFolder(tmp_path, SHAPE, None, classes=("c", "a"))
    videos, labels = folder[0]
    assert numbers(videos) == [0, 2]
    assert labels.tolist() == [1, 0]
    assert folder.class_names == ("c", "a")
    with pytest.raises(ValueError, match="`classes` must be among a, b, c"):
        VideoFolder(tmp_path, SHAPE, None, classes=("a", "d"))


def labelled(tmp_path, texts, **more):
    rows = []
    for i, text in enumerate(texts):
        write_clip(tmp_path / f"{i}.mov", 20 * i)
        rows.append({"file": f"{i}.mov", "label": text})
        rows[-1] |= {name: values[i] for name, values in more.items()}
    return write_table(tmp_path / "clips.csv", rows)


def test_label_modes(tmp_path):
    labelled(tmp_path, ["10", "9", "10"])
    modes = {
        "int": [1, 0, 1],
        "categorical": [[0, 1], [1, 0], [0, 1]],
        "number": [10, 9, 10],
    }
    for mode, expected in modes.items():
        folder = VideoFolder(tmp_path, SHAPE, None, label_mode=mode)
        assert folder[0][1].tolist() == expected
        # Numbers are sorted by their value.
        assert folder.class_names == (None if mode == "number" else ("9", "10"))
    assert len(VideoFolder(tmp_path, SHAPE, None, label_mode=None)[0]) == 1


def test_several_labels_at_once(tmp_path):
    labelled(tmp_path, ["run;jump", "", "jump"])
    folder = VideoFolder(tmp_path, SHAPE, None, label_mode="several")
    assert folder.class_names == ("jump", "run")
    assert folder[0][1].tolist() == [[1, 1], [0, 0], [1, 0]]
    folder = VideoFolder(tmp_path, SHAPE, None, label_mode="several", classes=("run",))
    assert folder[0][1].tolist() == [[1], [0], [0]]


def test_several_columns_are_heads(tmp_path):
    labelled(tmp_path, "abc", verb=["go", "see", "go"], noun=["x", "y", "z"])
    folder = VideoFolder(tmp_path, SHAPE, None, label=("verb", "noun"))
    _, found = folder[0]
    assert {name: x.tolist() for name, x in found.items()} == {
        "verb": [0, 1, 0],
        "noun": [0, 1, 2],
    }
    assert folder.class_names == {"verb": ("go", "see"), "noun": ("x", "y", "z")}


def test_words_are_no_numbers(tmp_path):
    labelled(tmp_path, ["1.5", "many"])
    with pytest.raises(ValueError, match=r"Labels must be numbers .* Received: 'many'"):
        VideoFolder(tmp_path, SHAPE, None, label_mode="number")


# === Splits ===


def test_groups_stay_together(tmp_path):
    groups = [f"patient{i // 3}" for i in range(30)]
    labelled(tmp_path, ["a" if i % 6 < 3 else "b" for i in range(30)], group=groups)
    options = {"validation_split": 0.2, "workers": 2}
    splits = [
        VideoFolder(tmp_path, SHAPE, split, **options)
        for split in ("train", "validation")
    ]
    files = [{int(path.stem) for path in folder.files} for folder in splits]
    assert files[0] | files[1] == set(range(30))
    assert not files[0] & files[1]
    assert not {groups[i] for i in files[0]} & {groups[i] for i in files[1]}
    assert np.bincount(splits[1].labels).tolist() == [3, 3]


def test_without_groups_each_class_is_divided(clips):
    options = {"validation_split": 0.25}
    train = VideoFolder(clips, SHAPE, "train", **options)
    validation = VideoFolder(clips, SHAPE, "validation", **options)
    assert np.bincount(train.labels).tolist() == [3, 3]
    assert np.bincount(validation.labels).tolist() == [1, 1]
    assert not set(train.files) & set(validation.files)
    assert train.training
    assert not validation.training


def test_the_seed_chooses_the_split(clips):
    def held_out(seed):
        options = {"validation_split": 0.25, "seed": seed}
        return tuple(VideoFolder(clips, SHAPE, "validation", **options).files)

    assert held_out(0) == held_out(0)
    assert len({held_out(seed) for seed in range(6)}) > 1


def test_splits_that_cannot_be_are_refused(tmp_path):
    labelled(tmp_path, "abab", group=["one"] * 4)
    with pytest.raises(ValueError, match="`validation_split` must leave files"):
        VideoFolder(tmp_path, SHAPE, "validation", validation_split=0.2)
    with pytest.raises(ValueError, match="`validation_split` must be above 0"):
        VideoFolder(tmp_path, SHAPE, "validation")
    with pytest.raises(ValueError, match="`validation_split` must lie in"):
        VideoFolder(tmp_path, SHAPE, validation_split=1)


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


def epoch_of(folder, epoch):
    folder.start_epoch(epoch)
    return [(numbers(videos), labels.tolist()) for videos, labels in batches(folder)]


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


def epochs(folder, epoch):
    folder.start_epoch(epoch)
    return [videos for videos, _ in batches(folder)]


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


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


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
        lambda path, *rest, **more: (
            reads.append(path.stem) or read(path, *rest, **more)
        ),
    )
    size = 12 * 8 * 8 * 3
    folder = VideoFolder(clips, SHAPE, prefetch=1, cache_bytes=5 * size + 1)
    for epoch in range(3):
        epochs(folder, epoch)
    gone = Counter(reads)
    assert folder.cache.used == 5 * size
    assert sum(x is not None for x in folder.cache.arrays.values()) == 5
    assert sorted(gone.values())[:5] == [1] * 5
    assert min(sorted(gone.values())[5:]) >= 3


def test_threads_end_with_the_folder(clips):
    before = threading.active_count()
    folder = VideoFolder(clips, SHAPE, workers=3)
    folder[0]
    assert threading.active_count() > before
    del folder
    gc.collect()
    wait_for(lambda: threading.active_count() <= before)


# === Damaged files ===


def test_all_damaged_files_are_listed_at_once(clips):
    (clips / "train" / "cat" / "broken.mp4").write_text("no video")
    content = (clips / "train" / "dog" / "2.mov").read_bytes()
    (clips / "train" / "dog" / "cut.mov").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="2 of 10 files cannot be read") as error:
        VideoFolder(clips, SHAPE)
    assert "broken.mp4: Invalid data found" in str(error.value)
    assert "cut.mov: " in str(error.value)
    with pytest.warns(UserWarning, match="2 of 10 files cannot be read and are left"):
        folder = VideoFolder(clips, SHAPE, on_error="skip")
    assert len(folder.files) == len(folder.labels) == len(folder.facts) == 8
    assert sorted(path.name for path in folder.skipped) == ["broken.mp4", "cut.mov"]
    assert epoch_of(folder, 0)
    # Files that are not used are not looked at.
    assert len(VideoFolder(clips, SHAPE, "test").files) == 2


def test_a_folder_of_damaged_files_alone_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.mp4").write_text("no video")
    with pytest.raises(ValueError, match="1 of 1 files cannot be read"):
        VideoFolder(tmp_path, SHAPE, None, on_error="skip")


def script(tmp_path, text):
    path = tmp_path / "decoder.py"
    path.write_text(f"import sys, time\nfor line in sys.stdin:\n{text}")
    return str(path)


def test_a_decoder_that_hangs_is_ended(tmp_path, monkeypatch):
    hanging = script(
        tmp_path,
        "    if 'bad' in line: time.sleep(60)\n"
        "    print('null', flush=True)\n"
        "    print('{\"frames\": 1}', flush=True)\n",
    )
    monkeypatch.setattr(surveying.decoding, "__file__", hanging)
    monkeypatch.setattr(surveying, "LIMIT", 1)
    paths = ["good", "bad", "good", "bad", "good"]
    begin = time.monotonic()
    found = surveying.survey_videos(paths, workers=2)
    assert time.monotonic() - begin < 15
    bad = {"error": "decoding fails: no new frame for 1 s"}
    assert found == [bad if path == "bad" else {"frames": 1} for path in paths]


def test_a_slow_decoder_is_left_to_work(tmp_path, monkeypatch):
    slow = script(
        tmp_path,
        "    for _ in range(8):\n"
        "        time.sleep(0.25)\n"
        "        print('null', flush=True)\n"
        "    print('{\"frames\": 8}', flush=True)\n",
    )
    monkeypatch.setattr(surveying.decoding, "__file__", slow)
    monkeypatch.setattr(surveying, "LIMIT", 1)
    assert surveying.survey_videos(["slow"], 1) == [{"frames": 8}]


def test_a_decoder_that_crashes_is_started_again(tmp_path, monkeypatch):
    crashing = script(
        tmp_path,
        "    if 'bad' in line: sys.exit(7)\n    print('{\"frames\": 1}', flush=True)\n",
    )
    monkeypatch.setattr(surveying.decoding, "__file__", crashing)
    found = surveying.survey_videos(["bad", "good", "bad", "good"], 1)
    bad = {"error": "decoding fails: exit code 7"}
    assert found == [bad, {"frames": 1}, bad, {"frames": 1}]


def test_no_process_is_left(clips, monkeypatch):
    started = []
    popen = subprocess.Popen

    def spy(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", spy)
    VideoFolder(clips, SHAPE, workers=3)
    assert len(started) == 3
    assert all(process.poll() is not None for process in started)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_shape": (4, 8, 8)}, "`video_shape` must be 4 positive integers"),
        ({"split": "dev"}, "`split` must be one of 'train', 'validation', 'test'"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"rule": "middle"}, "`rule` must be one of"),
        ({"target_fps": -1}, "`target_fps` must be a positive number"),
        ({"resize": "pad"}, "`resize` must be 'crop', 'stretch' or an integer"),
        ({"window": (1, 0)}, "`window` must be a pair with low < high"),
        ({"label_mode": "text"}, "`label_mode` must be one of"),
        ({"seed": -1}, "`seed` must be an integer from 0"),
        ({"cache_bytes": 0.5}, "`cache_bytes` must be an integer from 0"),
        ({"prefetch": 0}, "`prefetch` must be a positive integer"),
        ({"on_error": "ignore"}, "`on_error` must be one of 'raise', 'skip'"),
        ({"folder": "missing"}, "`folder` must be a folder or a CSV file"),
    ],
)
def test_wrong_arguments_are_named(clips, change, message):
    with pytest.raises(ValueError, match=message):
        VideoFolder(**{"folder": clips, "video_shape": SHAPE, **change})


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`folder` must hold CLASS"):
        VideoFolder(tmp_path, SHAPE)


# === Volumes ===


def write_scans(folder, classes=("liver", "spleen")):
    nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")
    for i in range(6):
        path = folder / classes[i % 2] / f"{i}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        array = np.full((5, 6, 7), 100.0 * i)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, 1, 1, 1])), path)


def test_volumes_are_read_at_the_shape(tmp_path):
    write_scans(tmp_path)
    folder = VideoFolder(tmp_path, (4, 4, 4, 1), None, cache_bytes=10**6)
    videos, labels = folder[0]
    assert videos.dtype == "float32"
    assert videos[:, 0, 0, 0, 0].tolist() == [0, 200, 400, 100, 300, 500]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert folder.cache.used == 6 * 4**3 * 4
    folder = VideoFolder(tmp_path, (4, 4, 4, 3), None, window=(0, 510))
    videos, _ = folder[0]
    assert videos.dtype == "uint8"
    assert videos[:, 0, 0, 0].tolist() == [[n] * 3 for n in (0, 100, 200, 50, 150, 250)]


def test_damaged_volumes_are_listed(tmp_path):
    write_scans(tmp_path)
    (tmp_path / "liver" / "bad.nii").write_text("no volume")
    with pytest.raises(
        ValueError, match=r"(?s)1 of 7 files.*bad\.nii: the format must"
    ):
        VideoFolder(tmp_path, (4, 4, 4, 1), None)
    write_clip(tmp_path / "liver" / "clip.mov", 0)
    with pytest.raises(ValueError, match="`folder` must hold videos or volumes"):
        VideoFolder(tmp_path, (4, 4, 4, 1), None)


def test_files_of_two_parts_count_once(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")
    (tmp_path / "a").mkdir()
    image = nibabel.Nifti1Pair(np.ones((4, 4, 4)), np.eye(4))
    nibabel.save(image, tmp_path / "a" / "scan.img")
    assert sorted(x.name for x in (tmp_path / "a").iterdir()) == [
        "scan.hdr",
        "scan.img",
    ]
    assert len(VideoFolder(tmp_path, (4, 4, 4, 1), None).files) == 1


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


# === Real clips ===


@pytest.mark.skipif(
    keras.config.backend() != "torch", reason="is the same on each backend"
)
@pytest.mark.parametrize(
    ("name", "classes", "counts"),
    [
        ("pocus", 3, (95, 33)),
        pytest.param("sibur-wagon", 4, (376, 120), marks=pytest.mark.slow),
    ],
)
def test_real_clips(name, classes, counts):
    path = data_folder("video", name)
    chosen = None
    if name == "pocus":
        chosen = ("bacterial_pneumonia", "covid19", "healthy")
        with (path / "clips.csv").open(newline="") as file:
            rows = [r for r in csv.DictReader(file) if r["label"] in chosen]
        counts = tuple(sum(r["split"] == s for r in rows) for s in ("train", "test"))
    options = {"classes": chosen, "target_fps": 10}
    train = VideoFolder(path, (4, 16, 16, 3), "train", 0.2, **options)
    held_out = VideoFolder(path, (4, 16, 16, 3), "validation", 0.2, **options)
    test = VideoFolder(path, (4, 16, 16, 3), "test", **options)
    assert (len(train.files) + len(held_out.files), len(test.files)) == counts
    assert len(train.class_names) == classes
    with (path / "clips.csv").open(newline="") as file:
        table = {row["file"]: row for row in csv.DictReader(file)}

    def rows(folder):
        return [table[os.path.relpath(file, path)] for file in folder.files]

    groups = [{row["group"] for row in rows(f)} for f in (train, held_out, test)]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    for folder in (train, held_out, test):
        for row, facts in zip(rows(folder), folder.facts, strict=True):
            assert facts.frames == int(row["frames"])
    videos, found = train[0]
    assert videos.shape == (8, 4, 16, 16, 3)
    assert set(found.tolist()) <= set(range(classes))
