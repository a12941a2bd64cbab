"""Folders of small videos, whose pixels tell which video and frame they are."""

import csv
import time

import numpy as np
from helpers import write_video

SHAPE = (4, 8, 8, 3)


def write_clip(path, grey, frames=12, rate=10, shape=(8, 8)):
    """A video whose pixels are `grey + number of the frame`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video = np.empty((frames, *shape, 3), "uint8")
    video[:] = (grey + np.arange(frames))[:, None, None, None] % 256
    return write_video(path, video, rate=rate)


def write_clips(tmp_path):
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


def labelled(tmp_path, texts, **more):
    rows = []
    for i, text in enumerate(texts):
        write_clip(tmp_path / f"{i}.mov", 20 * i)
        rows.append({"file": f"{i}.mov", "label": text})
        rows[-1] |= {name: values[i] for name, values in more.items()}
    return write_table(tmp_path / "clips.csv", rows)


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def epoch_of(folder, epoch):
    folder.start_epoch(epoch)
    return [(numbers(videos), labels.tolist()) for videos, labels in batches(folder)]


def epochs(folder, epoch):
    folder.start_epoch(epoch)
    return [videos for videos, _ in batches(folder)]
