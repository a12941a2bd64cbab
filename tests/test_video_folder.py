"""What a folder of videos or volumes holds: files, labels, splits."""

import csv
import os
import subprocess
import time

import numpy as np
import pytest
from helpers import data_folder, moving_video, needs_av, once, write_video
from small_videos import (
    SHAPE,
    batches,
    epoch_of,
    labelled,
    numbers,
    write_clip,
    write_clips,
    write_table,
)

from keras_vivit.data import VideoFolder, surveying

pytestmark = [needs_av, once]


@pytest.fixture
def clips(tmp_path):
    return write_clips(tmp_path)


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


# === Real clips ===


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
