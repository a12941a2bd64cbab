"""Reading video files: frames, sizes, rotation, and all that is wrong with files."""

import csv
import os
import pathlib
import struct
import subprocess
import sys
import wave

import numpy as np
import pytest
from helpers import data_folder, moving_video, needs_av, once, write_video

from keras_vivit.data import decoding, read_video, video, video_info

pytestmark = [needs_av, once]


@pytest.fixture
def frames():
    return moving_video()


@pytest.fixture
def path(tmp_path, frames):
    return write_video(tmp_path / "clip.mov", frames)


# === Frames ===


def test_all_frames_come_back(path, frames):
    found = read_video(path)
    assert found.dtype == "uint8"
    assert (found == frames).all()
    assert (read_video(str(path)) == frames).all()


@pytest.mark.parametrize(
    "indices", [[3], [0, 1, 2], [5, 2, 2, 7], range(0, 8, 3), np.array([6, 0])]
)
def test_indices_choose_frames_in_any_order(path, frames, indices):
    assert (read_video(path, indices) == frames[list(indices)]).all()


def test_decoding_ends_with_the_last_index(path, monkeypatch):
    read = []
    decode = decoding.decode
    monkeypatch.setattr(
        decoding, "decode", lambda *a: (read.append(1) or x for x in decode(*a))
    )
    read_video(path, [2, 0])
    assert len(read) == 3


@pytest.mark.parametrize(
    ("size", "shape"),
    [(12, (12, 16)), (48, (48, 64)), ((10, 30), (10, 30)), ([24, 32], (24, 32))],
)
def test_size_is_of_the_short_side_or_both(path, size, shape):
    assert read_video(path, size=size).shape == (8, *shape, 3)


def test_the_long_side_is_rounded_down(tmp_path):
    file = write_video(tmp_path / "odd.mov", moving_video(1, 10, 19))
    assert read_video(file, size=7).shape == (1, 7, 13, 3)  # 13.3


def test_resizing_keeps_the_picture(tmp_path):
    ramp = np.linspace(0, 250, 64).astype("uint8")
    frame = np.broadcast_to(ramp[None, None, :, None], (1, 48, 64, 3))
    file = write_video(tmp_path / "ramp.mov", np.ascontiguousarray(frame))
    small = read_video(file, size=12).astype(int)
    expected = ramp.reshape(16, 4).mean(axis=1)
    assert np.abs(small - expected[None, None, :, None]).max() <= 4


def test_crop_is_the_centre_after_resizing(path, frames):
    assert (read_video(path, crop=(10, 20)) == frames[:, 7:17, 6:26]).all()
    resized = read_video(path, size=12)
    assert (read_video(path, size=12, crop=(8, 9)) == resized[:, 2:10, 3:12]).all()


def test_a_gif_is_a_video(tmp_path):
    black_and_white = np.where(moving_video(5, 16, 16) < 128, 0, 255).astype("uint8")
    black_and_white[..., 1:] = black_and_white[..., :1]
    file = tmp_path / "clip.gif"
    write_video(file, black_and_white, codec="gif", pix_fmt="gray")
    assert (read_video(file) == black_and_white).all()


def test_images_of_a_folder_are_frames_in_the_order_of_their_numbers(tmp_path):
    frames = moving_video(11)
    for number, frame in enumerate(frames):
        write_video(tmp_path / f"frame{number + 1}.png", frame[None])
    (tmp_path / "notes.txt").write_text("no image")
    assert (read_video(tmp_path) == frames).all()
    assert (read_video(tmp_path, [10, 3]) == frames[[10, 3]]).all()
    assert video_info(tmp_path) == (11, None, (24, 32), 0, "png")


# A display matrix turns and mirrors: (x', y') = (a x + c y, b x + d y).
POSES = {
    (1, 0, 0, 1): lambda x: x,
    (0, 1, -1, 0): lambda x: np.rot90(x, -1, (1, 2)),
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2, (1, 2)),
    (0, -1, 1, 0): lambda x: np.rot90(x, 1, (1, 2)),
    (-1, 0, 0, 1): lambda x: x[:, :, ::-1],
    (1, 0, 0, -1): lambda x: x[:, ::-1],
    (0, 1, 1, 0): lambda x: x.swapaxes(1, 2),
    (0, -1, -1, 0): lambda x: np.rot90(x, 2, (1, 2)).swapaxes(1, 2),
}


@pytest.mark.parametrize("matrix", POSES)
def test_frames_stand_upright(path, frames, matrix):
    a, b, c, d = (n * 0x10000 for n in matrix)
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    track = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    content = path.read_bytes()
    header = content.index(b"tkhd")
    path.write_bytes(content[:header] + content[header:].replace(identity, track, 1))

    upright = POSES[matrix](frames)
    assert (read_video(path) == upright).all()
    # Sizes and crops are those of upright frames.
    assert read_video(path, size=(9, 7)).shape == (8, 9, 7, 3)
    rows, columns = upright.shape[1:3]
    expected = upright[:, (rows - 20) // 2 :, (columns - 10) // 2 :][:, :20, :10]
    assert (read_video(path, crop=(20, 10)) == expected).all()


def test_info_says_what_the_file_declares(path):
    info = video_info(path)
    assert info == (8, 10.0, (24, 32), 0, "png")
    assert (info.frames, info.codec) == (8, "png")


def test_a_file_that_declares_too_few_or_too_many_frames_is_read_whole(path, frames):
    content = path.read_bytes()
    assert content.count(b"stts") == 1
    place = content.index(b"stts") + 12  # After version, flags and number of entries.
    assert struct.unpack_from(">I", content, place) == (8,)
    for declared in (3, 100):
        changed = bytearray(content)
        struct.pack_into(">I", changed, place, declared)
        path.write_bytes(changed)
        assert (read_video(path) == frames).all()


# === What cannot be read ===


def refused(path, reason, *arguments, **options):
    with pytest.raises(ValueError, match=reason) as error:
        read_video(path, *arguments, **options)
    assert str(path) in str(error.value)
    return str(error.value)


def test_what_is_no_video_is_refused(tmp_path):
    text, empty, sound = (tmp_path / n for n in ("a.mp4", "b.avi", "c.wav"))
    text.write_text("no video " * 100)
    empty.touch()
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    refused(text, "Invalid data found")
    refused(empty, "must name a readable video")
    refused(sound, "no video, only audio")
    refused(tmp_path / "missing.mp4", "no such file or folder")
    refused(tmp_path, "a folder without images")
    for file in (text, empty, sound):
        with pytest.raises(ValueError, match="must name a readable video"):
            video_info(file)


def test_a_file_without_a_frame_is_refused(path):
    content = path.read_bytes()
    frame = content.index(b"\x89PNG")
    path.write_bytes(content[:frame] + bytes(len(content) - frame - 2000))
    refused(path, "must name a readable video")


def test_a_damaged_file_is_refused_but_its_good_frames_can_be_read(path, frames):
    content = path.read_bytes()
    places = [i for i in range(len(content)) if content[i:].startswith(b"\x89PNG")]
    changed = bytearray(content)
    changed[places[5] : places[5] + 60] = bytes(60)
    path.write_bytes(changed)
    refused(path, "after 5 frames")
    assert (read_video(path, range(5)) == frames[:5]).all()


def test_an_index_past_the_end_is_refused(path):
    refused(path, "`indices` must be below the 8 frames of .* Received: 8", [0, 8])


def test_the_limit_on_memory_comes_before_allocation(path, monkeypatch):
    monkeypatch.setattr(video, "LIMIT", 4 * 24 * 32 * 3)
    monkeypatch.setattr(np, "empty", None)
    refused(path, "8 frames of 24 x 32 exceed 4 GiB")
    refused(path, "5 frames of 24 x 32 exceed 4 GiB", [0] * 5)
    monkeypatch.undo()
    monkeypatch.setattr(video, "LIMIT", 4 * 24 * 32 * 3)
    assert len(read_video(path, range(4))) == 4
    assert len(read_video(path, size=12)) == 8


def test_the_limit_on_memory_does_not_trust_the_file(path, monkeypatch):
    monkeypatch.setattr(video, "LIMIT", 4 * 24 * 32 * 3)
    monkeypatch.setattr(video, "_expected", lambda *_: 2)
    refused(path, "8 frames of 24 x 32 exceed 4 GiB")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": []}, "`indices` must be integers from 0, one or more"),
        ({"indices": [-1]}, "`indices` must be integers from 0"),
        ({"indices": [0.5]}, "`indices` must be integers from 0"),
        ({"indices": "all"}, "`indices` must be integers from 0"),
        ({"size": 0}, "`size` must be a positive integer"),
        ({"size": (1, 2, 3)}, "`size` must be 2 positive integers"),
        ({"crop": 12}, "`crop` must be 2 positive integers"),
        ({"crop": (25, 32)}, "`crop` must not exceed the frames, 24 x 32"),
        ({"size": 12, "crop": (12, 17)}, "`crop` must not exceed the frames, 12 x 16"),
    ],
)
def test_wrong_arguments_are_named(path, change, message):
    with pytest.raises(ValueError, match=message):
        read_video(path, **change)


def test_names_are_names_alone(tmp_path, frames):
    for name in ("a:b.mov", "frame%03d.mov", "concat:a|b.mov", "ä ö.mov"):
        file = tmp_path / name
        write_video(tmp_path / "plain.mov", frames)
        os.rename(tmp_path / "plain.mov", file)
        assert (read_video(file) == frames).all()
    assert read_video(tmp_path / "ä ö.mov", [0]).shape == (1, 24, 32, 3)


def test_playlists_and_text_are_no_videos(path):
    playlist = path.with_name("list.m3u8")
    for target in ("http://127.0.0.1:9/a.ts", path.name):
        playlist.write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"
        )
        refused(playlist, "must name a readable video")
    text = path.with_name("notes.txt")
    text.write_text("no video\n" * 1000)  # FFmpeg would draw it.
    refused(text, "its format, tty, is no video")


def test_of_two_video_streams_one_is_read(tmp_path):
    av = pytest.importorskip("av")
    sizes, path = ((32, 32), (48, 64)), tmp_path / "two.mkv"
    with av.open(path, "w") as container:
        streams = [container.add_stream("mpeg4", rate=10) for _ in sizes]
        for stream, (stream.height, stream.width) in zip(streams, sizes, strict=True):
            stream.pix_fmt = "yuv420p"
        for k in range(5):
            for stream, size in zip(streams, sizes, strict=True):
                frame = av.VideoFrame.from_ndarray(moving_video(5, *size)[k], "rgb24")
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    assert read_video(path).shape in ((5, 32, 32, 3), (5, 48, 64, 3))


def test_a_size_that_changes_is_made_that_of_the_first_frame(tmp_path):
    parts = []
    for name, size in (("a.ts", (64, 64)), ("b.ts", (96, 128))):
        file = tmp_path / name
        write_video(file, moving_video(6, *size), 25, "mpeg2video", "yuv420p")
        parts.append(file.read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    found = read_video(path)
    assert found.shape[1:] == (64, 64, 3)
    assert len(found) > 6


def test_a_video_of_one_pixel_is_read(tmp_path):
    frames = moving_video(3, 1, 1)
    path = write_video(tmp_path / "one.mov", frames)
    assert (read_video(path) == frames).all()
    assert read_video(path, size=5).shape == (3, 5, 5, 3)


def test_without_pyav_the_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for function in (read_video, video_info):
        with pytest.raises(ImportError, match=r'pip install "keras-vivit\[video\]"'):
            function(path)


# === The script that surveys files ===


def survey(*paths):
    lines = "".join(f'"{path}"\n' for path in paths)
    command = [sys.executable, "-I", decoding.__file__]
    run = subprocess.run(command, input=lines, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    return [line for line in run.stdout.splitlines() if line != "null"]


def test_script_counts_frames_and_names_errors(path, tmp_path):
    found = survey(path, tmp_path / "missing.mp4", path)
    good = '{"frames": 8, "rate": 10.0, "size": [24, 32]}'
    assert found == [good, '{"error": "no such file or folder"}', good]


def test_script_imports_pyav_and_numpy_alone(path):
    script = (
        "import runpy, sys\n"
        f"runpy.run_path({decoding.__file__!r})['survey']({str(path)!r})\n"
        "assert not {'keras', 'keras_vivit', 'torch', 'jax', 'tensorflow'} "
        "& set(sys.modules)\n"
        "assert 'av' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# === Real files ===


def index():
    root = os.environ.get("KERAS_VIVIT_DATA")
    table = pathlib.Path(root or "", "files", "index.csv")
    if not root or not table.is_file():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def real_files():
    for row in index():
        # Ten thousand frames take minutes.
        long = row["frames_decoded"] and int(row["frames_decoded"]) > 2000
        yield pytest.param(
            row, id=row["file"], marks=[pytest.mark.slow] if long else []
        )


@pytest.mark.parametrize("row", list(real_files()))
def test_real_file_gives_what_its_index_says(row):
    path = data_folder("files", row["file"])
    if row["error"] or row["frames_decoded"] in ("", "0"):
        refused(path, "must name a readable video", size=32)
        return
    video = read_video(path, size=32)
    assert len(video) == int(row["frames_decoded"])
    info = video_info(path)
    if row["size"]:
        declared = int(row["frames_declared"] or 0) or None
        numerator, _, denominator = row["average_rate"].partition("/")
        rate = None
        if numerator != "None":
            rate = int(numerator) / int(denominator or 1)
        width, height = map(int, row["size"].split("x"))
        expected = (declared, rate, (height, width), int(row["rotation"]), row["codec"])
        assert info == expected
        upright = (width, height) if info.rotation % 180 else (height, width)
        assert video.shape[1:3] == tuple(32 * n // min(upright) for n in upright)


def test_a_small_file_of_many_frames_is_refused_at_once():
    path = data_folder("files/androidx-media/mp4/long_1080p_videoonly_lowbitrate.mp4")
    refused(path, "10883 frames of 1080 x 1920 exceed 4 GiB")


def test_a_clip_of_a_damaged_file_can_be_read():
    path = data_folder("files/decord/corrupted.mp4")
    refused(path, "after 28 frames", size=32)
    assert len(read_video(path, range(28), size=32)) == 28
