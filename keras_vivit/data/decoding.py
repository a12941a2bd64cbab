"""Frames of video files, decoded by PyAV, and a script that counts them.

`VideoFolder` runs this file as a script in processes of their own, which a damaged file
may hang or kill. So that they start fast, it imports neither Keras nor this package.
"""

import contextlib
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What FFmpeg takes text for, and lists of other files.
NO_VIDEOS = ("adf", "bin", "concat", "dash", "hls", "idf", "sdp", "tty", "xbin")
# A playlist must not open other files or hosts, a name must not count as a pattern.
OPTIONS = {"protocol_whitelist": "file", "pattern_type": "none"}


class UnreadableError(ValueError):
    """A file that cannot be read; `reason` says why."""

    def __init__(
        self, path: str | os.PathLike[str], reason: str, kind: str = "video"
    ) -> None:
        super().__init__(
            f"`path` must name a readable {kind}. Received: {path} ({reason})"
        )
        self.path, self.reason = path, reason


class Pose(NamedTuple):
    """How stored frames become upright: first transposed, then reversed."""

    transposed: bool
    reversed_rows: bool
    reversed_columns: bool


# Quarter turns counter-clockwise.
POSES = {
    0: Pose(False, False, False),
    1: Pose(True, True, False),
    2: Pose(False, True, True),
    3: Pose(True, False, True),
}


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """Returns the file of a video, or the sorted images of a folder."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UnreadableError(path, "no such file or folder")
    images = [file for file in path.iterdir() if file.suffix.lower() in IMAGES]
    if not images:
        raise UnreadableError(path, f"a folder without images ({', '.join(IMAGES)})")
    return sorted(images, key=_natural)


def _natural(file: Path) -> list[int | str]:
    """Sorts `frame10` after `frame9`."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def decode(
    path: str | os.PathLike[str], threads: int = 0
) -> Generator[tuple[Any, Any], None, None]:
    """Yields pairs of a video's stream and each of its frames, in order of display.

    Args:
        path: A video file, or a folder of images.
        threads: Integer, of the decoder; 0 for as many as there are processors.

    Raises:
        UnreadableError: If nothing is decoded, or as soon as decoding fails.
    """
    count = 0
    for file in files_of(path):
        for pair in _decode_file(file, threads):
            count += 1
            yield pair
    if count == 0:
        raise UnreadableError(path, "no frame decodes")


def _decode_file(path: Path, threads: int) -> Iterator[tuple[Any, Any]]:
    count = 0
    try:
        with open_container(path) as container:
            stream = find_stream(container, path)
            stream.codec_context.thread_count = threads
            for frame in container.decode(stream):
                yield stream, frame
                count += 1
    except UnreadableError:
        raise
    except Exception as error:  # PyAV raises errors of many kinds for damaged files.
        place = f" after {count} frames" if count else ""
        raise UnreadableError(path, f"{_words(error)}{place}") from error


def open_container(path: str | os.PathLike[str]) -> Any:
    av = importlib.import_module("av")
    return av.open(f"file:{path}", metadata_errors="ignore", options=OPTIONS)


def find_stream(container: Any, path: str | os.PathLike[str]) -> Any:
    """Returns the video stream that a player would show."""
    av = importlib.import_module("av")
    if container.format.name in NO_VIDEOS:
        raise UnreadableError(path, f"its format, {container.format.name}, is no video")
    cover = av.stream.Disposition.attached_pic
    videos = [s for s in container.streams.video if not int(s.disposition) & int(cover)]
    if not videos:
        kinds = sorted({stream.type for stream in container.streams})
        raise UnreadableError(
            path, f"no video, only {' and '.join(kinds) or 'nothing'}"
        )
    best = container.streams.best("video")
    stream = best if best in videos else videos[0]
    if stream.codec_context is None:
        raise UnreadableError(path, "there is no decoder for its codec")
    return stream


def count_packets(path: str | os.PathLike[str]) -> int:
    """Counts frames without decoding them, which is right for most files."""
    count = 0
    with contextlib.suppress(Exception), open_container(path) as container:
        for packet in container.demux(find_stream(container, path)):
            count += packet.size > 0
    return count


def _words(error: Exception) -> str:
    """Returns FFmpeg's message without the path, or the error's first line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def pose_of(frame: Any) -> Pose:
    """Returns the `Pose` that the frame's display matrix asks for."""
    try:
        matrix = bytes(frame.side_data["DISPLAYMATRIX"])
    except (KeyError, ValueError):  # PyAV does not know all kinds of side data.
        return POSES[round(frame.rotation / 90) % 4]
    a, b, _, c, d = np.frombuffer(matrix, "=i4")[:5].astype("int64")
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Pose(True, bool(b < 0), bool(c < 0))
    return Pose(False, bool(d < 0), bool(a < 0))


def shown_size(frame: Any) -> tuple[int, int]:
    """Returns `(height, width)` of a frame that stands upright."""
    size = (frame.height, frame.width)
    return size[::-1] if pose_of(frame).transposed else size


# === The script ===


def survey(
    path: str | os.PathLike[str], on_frame: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Decodes a whole video, and returns what sampling must know of it.

    Returns:
        Dictionary: `frames`; `rate`, frames per second by their time stamps where these
        increase, else as declared, or `None`; `size`, `(height, width)` upright.
    """
    times, size, frames, declared = [], None, 0, None
    for stream, frame in decode(path, threads=1):
        if size is None:
            size = shown_size(frame)
            declared = stream.average_rate or stream.guessed_rate
        frames += 1
        times.append(frame.time)
        on_frame()
    increasing = frames > 1 and None not in times and bool((np.diff(times) > 0).all())
    if increasing and Path(path).is_file():
        rate = (frames - 1) / (times[-1] - times[0])
    else:
        rate = float(declared) if declared and Path(path).is_file() else None
    return {"frames": frames, "rate": rate, "size": size}


def main() -> None:
    """Reads paths, a JSON string each line, and prints a JSON object for each.

    While a file is decoded, `null` shows that there are new frames.
    """
    beat = 0.0

    def on_frame() -> None:
        nonlocal beat
        if time.monotonic() - beat > 0.1:
            beat = time.monotonic()
            print("null", flush=True)

    for line in sys.stdin:
        try:
            result = survey(json.loads(line), on_frame)
        except UnreadableError as error:
            result = {"error": error.reason}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
