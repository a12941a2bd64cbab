"""Predictions for many files on Ray: a row for each, once, also after a kill."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import needs_av, once, randomize

import keras_vivit
from keras_vivit.data import predict_views

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from common.command_line import InputError
from video import moving_shapes, predict_many

pytestmark = [once, needs_av]
TIMEOUT = 300
COPIES = 400


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    model = keras_vivit.ViViTClassifier(
        (8, 128, 128, 3),
        num_classes=4,
        tubelet_size=(4, 64, 64),
        embed_dim=16,
        num_layers=1,
        num_heads=2,
        mlp_dim=16,
        rescaling=(1 / 127.5, -1),
        class_names=list(moving_shapes.MOTIONS),
    )
    randomize(model)
    folder = tmp_path_factory.mktemp("model") / "preset"
    model.save_to_preset(folder, {"stride": 2, "rule": "scenic"})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos, a volume, a damaged file, a text that claims to be one, a broken link."""
    folder = tmp_path_factory.mktemp("data") / "videos"
    moving_shapes.write(folder, {"train": 2, "test": 1})
    good = (folder / "test" / "grow" / "000.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(good[:300])
    (folder / "test" / "text.mp4").write_text("no video")
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "notes.txt").write_text("no clip")
    volume = np.random.default_rng(0).uniform(0, 255, (8, 20, 20))
    np.save(folder / "volume.npy", volume.astype("float32"))
    return folder


def bad_files(folder):
    names = ("cut.mp4", "gone.mp4", "test/text.mp4")
    return [str(folder / name) for name in names]


# === With Ray ===


def start(source, preset, out, workers):
    options = ("--workers", workers, "--part", 32, "--top", 4, "--features")
    command = [source, "--preset", preset, "--out", out, *options]
    # Not into a pipe: of a killed command, agents of Ray hold it for minutes.
    with (source.parent / f"{workers}.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, predict_many.__file__, *map(str, command)],
            env={**os.environ, "KERAS_BACKEND": keras.config.backend()},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def memory(process):
    """Bytes that a process and those that it has started hold; shared ones once."""
    psutil = pytest.importorskip("psutil")
    parent, total = psutil.Process(process.pid), 0
    for member in (parent, *parent.children(recursive=True)):
        # One may have ended meanwhile.
        with contextlib.suppress(psutil.Error):
            total += member.memory_full_info().pss
    return total


def follow(process, running):
    """Yields while a process runs, from the first Parquet file in a folder on."""
    limit = time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < limit:
        if any(running.glob("*.parquet")):
            yield
        time.sleep(0.2)


@pytest.fixture(scope="module")
def killed_and_ended(preset, folder, tmp_path_factory):
    """Kills a command, and lets it end; returns what the second one did."""
    for package in ("psutil", "pyarrow", "ray"):
        pytest.importorskip(package)
    from pyarrow import parquet

    root = tmp_path_factory.mktemp("many")
    copies, out, listed = root / "copies", root / "out", root / "list.txt"
    copies.mkdir()
    for number in range(COPIES):
        (copies / f"{number:04d}.npy").hardlink_to(folder / "volume.npy")
    paths = [*predict_many.files_of(folder), *predict_many.files_of(copies)]
    listed.write_text("\n".join(paths))

    killed = start(listed, preset, out, 2)
    next(follow(killed, out / "predictions" / "_0000"), None)
    assert killed.poll() is None, (root / "2.txt").read_text()
    killed.kill()
    killed.wait()
    ended = start(listed, preset, out, 1)
    try:
        held = [memory(ended) for _ in follow(ended, out / "predictions" / "_0001")]
    finally:
        for process in (killed, ended):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    output = (root / "1.txt").read_text()
    assert ended.wait() == 0, output
    rows = parquet.read_table(out / "predictions").to_pylist()
    return paths, out, output, rows, held


@pytest.mark.slow
def test_killed_command_goes_on_and_each_file_has_one_row(killed_and_ended):
    paths, out, output, rows, _ = killed_and_ended
    assert sorted(row["path"] for row in rows) == sorted(paths)
    done = int(output.partition(" files are done")[0].split()[-1])
    assert 32 <= done < len(paths)
    assert {path.name for path in (out / "predictions").iterdir()} == {"0000", "0001"}


@pytest.mark.slow
def test_rows_are_the_predictions_of_predict_views(killed_and_ended, preset, folder):
    rows = {row["path"]: row for row in killed_and_ended[3]}
    for path in bad_files(folder):
        row = rows.pop(path)
        assert row["error"]
        assert row["classes"] is row["probabilities"] is row["features"] is None
    assert not any(row["error"] for row in rows.values())
    model = keras_vivit.ViViTClassifier.from_preset(preset)
    files = sorted(path for path in rows if str(folder) in path)
    assert len(files) == 13
    for path in files:
        expected = predict_views(model, path, num_crops=1)
        row = rows[path]
        found = dict(zip(row["classes"], row["probabilities"], strict=True))
        assert list(found.values()) == sorted(found.values(), reverse=True)
        for name, value in zip(model.class_names, expected, strict=True):
            assert found[name] == pytest.approx(value, abs=1e-6)
        assert len(row["features"]) == 16


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(killed_and_ended):
    *_, held = killed_and_ended
    views = COPIES * 8 * 128 * 128 * 3 * 4
    assert max(held) - held[0] < views / 4


# === What Ray's processes do, in this one ===


def predicted(preset, paths, **changes):
    pytest.importorskip("pyarrow")
    settings = {"preset": preset, "clips": 2, "crops": 3, "top": 2, "features": False}
    settings |= changes
    layout = keras_vivit.data.views.layout_of(predict_many.load(preset))
    read = [predict_many.read({"path": str(x)}, layout, settings) for x in paths]
    batch = {name: [row[name] for row in read] for name in read[0]}
    return predict_many.Predictor(settings, 4)(batch).to_pylist()


@pytest.mark.slow
def test_rows_have_the_highest_classes_first(preset, folder):
    videos = sorted(folder.glob("train/*/*.mp4"))[:3]
    found = predicted(preset, [videos[0], folder / "cut.mp4", *videos[1:]])
    model = keras_vivit.ViViTClassifier.from_preset(preset)
    assert found[1]["error"]
    assert found[1]["classes"] is None
    for row in (found[0], *found[2:]):
        expected = predict_views(model, row["path"], num_clips=2)
        best = np.argsort(-expected)[:2]
        assert row["classes"] == [model.class_names[i] for i in best]
        np.testing.assert_allclose(row["probabilities"], expected[best], atol=1e-6)
        assert row["features"] is row["error"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value")
def test_files_that_cannot_be_predicted_have_reasons(preset, folder, tmp_path):
    np.save(tmp_path / "inf.npy", np.full((8, 20, 20), np.inf, "float32"))
    for row in predicted(preset, [*bad_files(folder), tmp_path / "inf.npy"]):
        assert row["error"]
        assert row["classes"] is row["probabilities"] is None


# === Files ===


def test_folder_is_read_with_the_folders_in_it(folder, tmp_path):
    found = predict_many.files_of(folder)
    assert len(found) == 16
    assert str(folder / "volume.npy") in found
    assert str(folder / "notes.txt") not in found
    images = tmp_path / "images" / "clip"
    images.mkdir(parents=True)
    for number in range(2):
        (images / f"{number}.png").write_bytes(b"")
    assert predict_many.files_of(tmp_path / "images") == [str(images)]


@pytest.mark.skipif(sys.platform != "linux", reason="names there are texts")
def test_names_that_are_no_text_are_shown(tmp_path):
    (tmp_path / os.fsdecode(b"a\xff.mp4")).touch()
    assert predict_many.files_of(tmp_path) == [str(tmp_path / r"a\xff.mp4")]


def test_list_has_a_path_a_line(folder, tmp_path):
    paths = [str(folder / "cut.mp4"), str(folder / "gone.mp4")]
    (tmp_path / "list.txt").write_text("\n".join([*paths, "", paths[0]]))
    assert predict_many.files_of(tmp_path / "list.txt") == paths
    for content in (b"\xff\xfe\x00", b"\n"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(InputError, match="FOLDER_OR_LIST must"):
            predict_many.files_of(tmp_path / "list.txt")


@pytest.mark.slow
def test_rows_of_a_killed_run_are_final_and_torn_files_go(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    running = tmp_path / "_0000"
    running.mkdir()
    parquet.write_table(pyarrow.table({"path": ["a", "b"]}), running / "0.parquet")
    whole = (running / "0.parquet").read_bytes()
    (running / "1.parquet").write_bytes(whole[:-20])
    (running / "2.parquet").write_bytes(b"")
    assert predict_many.finish(tmp_path) == {"a", "b"}
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["0.parquet"]
    assert predict_many.finish(tmp_path) == {"a", "b"}
    assert not running.exists()
