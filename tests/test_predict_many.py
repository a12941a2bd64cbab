"""Predictions for many files on Ray: a row for each, once, also after a kill."""

import os
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
TIMEOUT = 900


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    model = keras_vivit.ViViTClassifier(
        (4, 16, 16, 3),
        num_classes=4,
        tubelet_size=(2, 8, 8),
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
    """16 videos, a damaged one, a text that claims to be one, and a broken link."""
    folder = tmp_path_factory.mktemp("data") / "videos"
    moving_shapes.write(folder, {"train": 3, "test": 1})
    good = (folder / "test" / "grow" / "000.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(good[:300])
    (folder / "test" / "text.mp4").write_text("no video")
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "notes.txt").write_text("no clip")
    return folder


def start(source, preset, out, *more):
    options = [source, "--preset", preset, "--out", out, "--workers", 2, *more]
    return subprocess.Popen(
        [sys.executable, predict_many.__file__, *map(str, options)],
        env={**os.environ, "KERAS_BACKEND": keras.config.backend()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output = process.communicate(timeout=TIMEOUT)[0]
    assert process.returncode == 0, output
    return output


def rows_of(out):
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(out / "predictions").to_pylist()


@pytest.mark.slow
def test_killed_command_goes_on_and_each_file_has_one_row(preset, folder, tmp_path):
    pytest.importorskip("ray")
    process = start(folder, preset, tmp_path, "--top", 4, "--features", "--part", 4)
    running = tmp_path / "predictions" / predict_many.RUNNING
    while not list(running.glob("*.parquet")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    output = finish(
        start(folder, preset, tmp_path, "--top", 4, "--features", "--part", 4)
    )
    assert "19 files are done" not in output
    assert not running.exists()

    rows = {row["path"]: row for row in rows_of(tmp_path)}
    assert len(rows) == len(rows_of(tmp_path)) == 19
    for path in (folder / "cut.mp4", folder / "test" / "text.mp4", folder / "gone.mp4"):
        row = rows.pop(str(path))
        assert row["error"]
        assert row["classes"] is row["probabilities"] is row["features"] is None
    model = keras_vivit.ViViTClassifier.from_preset(preset)
    for path, row in rows.items():
        assert row["error"] is None
        expected = predict_views(model, path, num_crops=1)
        found = dict(zip(row["classes"], row["probabilities"], strict=True))
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
        for name, value in zip(model.class_names, expected, strict=True):
            assert found[name] == pytest.approx(value, abs=1e-6)
        assert len(row["features"]) == 16


def rows(*paths):
    return [{"path": str(path)} for path in paths]


def predicted(preset, paths, **changes):
    """What Ray's processes do, in this one."""
    pytest.importorskip("pyarrow")
    settings = {"clips": 2, "crops": 3, "top": 2, "features": False, **changes}
    backend = keras.config.backend()
    layout = predict_many.layout_of(backend, preset)
    read = [predict_many.read(layout, backend, settings, row) for row in rows(*paths)]
    batch = {name: [row[name] for row in read] for name in read[0]}
    return predict_many.Predictor(backend, preset, settings, 6)(batch).to_pylist()


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
def test_batch_without_a_readable_file_has_reasons(preset, folder):
    (row,) = predicted(preset, [folder / "gone.mp4"])
    assert row["error"]


def test_folder_is_read_with_the_folders_in_it(folder, tmp_path):
    found = [Path(path) for path in predict_many.files_of(folder)]
    assert len(found) == 19
    assert folder / "notes.txt" not in found
    images = tmp_path / "images" / "clip"
    images.mkdir(parents=True)
    for number in range(2):
        (images / f"{number}.png").write_bytes(b"")
    assert predict_many.files_of(tmp_path / "images") == [str(images)]


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

    running = tmp_path / predict_many.RUNNING
    running.mkdir()
    parquet.write_table(pyarrow.table({"path": ["a", "b"]}), running / "0.parquet")
    whole = (running / "0.parquet").read_bytes()
    (running / "1.parquet").write_bytes(whole[:-20])
    assert predict_many.settle(tmp_path) == {"a", "b"}
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["0.parquet"]
    assert predict_many.settle(tmp_path) == {"a", "b"}
    assert not running.exists()
