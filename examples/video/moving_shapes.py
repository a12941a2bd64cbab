"""A small set of real encoded videos: shapes that slide, fall, grow or shrink.

The classes differ in motion alone, and mirroring does not change them.
"""

import os
import shutil

import numpy as np

SIZE, FRAMES, RATE = 64, 24, 12
MOTIONS = ("fall", "grow", "shrink", "slide")
COUNTS = {"train": 40, "test": 10}  # of each class


def write(folder, counts=None):
    """Writes `SPLIT/CLASS/NUMBER.mp4`, unless the folder is there."""
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    rng = np.random.default_rng(0)
    for split, count in (counts or COUNTS).items():
        for motion in MOTIONS:
            place = partial / split / motion
            place.mkdir(parents=True)
            for number in range(count):
                encode(place / f"{number:03d}.mp4", draw(motion, rng))
    try:
        os.replace(partial, folder)
    except OSError:  # Another process was faster.
        shutil.rmtree(partial)


def draw(motion, rng):
    """Returns a video, uint8 `(frames, height, width, 3)`."""
    time = np.linspace(-1, 1, FRAMES)[:, None, None]
    radius = rng.uniform(10, 14)
    x, y = SIZE / 2 + rng.uniform(-8, 8, 2)
    travel = rng.uniform(16, 24)
    if motion == "slide":
        x = x + travel * time * rng.choice([-1, 1])
    elif motion == "fall":
        y = y + travel * time
    else:
        radius = radius * (1.1 + 0.7 * time * (1 if motion == "grow" else -1))
    rows, columns = np.indices((SIZE, SIZE))
    distances = np.abs(np.stack(np.broadcast_arrays(columns - x, rows - y)))
    shapes = (np.hypot(*distances), distances.max(axis=0), distances.sum(axis=0))
    inside = shapes[rng.integers(len(shapes))] < radius  # circle, square, diamond
    color, background = rng.uniform(150, 255, 3), rng.uniform(0, 100, 3)
    video = np.where(inside[..., None], color, background)
    video += rng.normal(0, 12, video.shape)
    return video.clip(0, 255).astype("uint8")


def encode(path, video):
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=RATE)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 400_000
        for frame in video:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode())
