"""Training on one's own videos: whole runs, resuming, predictions, and mistakes."""

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import needs_av, normal, once, randomize

from keras_vivit import ViViTBackbone, ViViTClassifier
from keras_vivit.data import predict_views

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from common import run_folder
from video import collect, frozen, moving_shapes, predict, train, training

pytestmark = needs_av
VIT = Path(__file__).parent / "parity" / "transformers" / "vit"
SMALL = ["--frames", "8", "--size", "16", "--grid", "2", "2", "2", "--epochs", "2"]


@pytest.fixture(autouse=True, scope="module")
def small_models_on_this_backend():
    """Backends take long to compile more layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", keras.config.backend())
        for name, size in {"embed_dim": 16, "num_layers": 1, "mlp_dim": 16}.items():
            patch.setitem(training.SCRATCH, name, size)
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    moving_shapes.write(folder, {"train": 4, "test": 2})
    return folder


def start(videos, out, *more):
    return train.main(list(map(str, [videos, *SMALL, "--out", out, *more])))


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert start(videos, folder) == 0
    return folder


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


# === A run ===


def test_run_ends_with_a_preset_that_knows_classes_and_sampling(finished):
    model = ViViTClassifier.from_preset(finished / "preset")
    assert model.class_names == list(moving_shapes.MOTIONS)
    assert model.sampling == {"stride": 1, "rule": "scenic"}
    assert model.input_shape == (None, 8, 16, 16, 3)
    assert {path.name for path in finished.iterdir()} == {
        *("history.csv", "metrics.json", "predictions.csv", "predictions.npz"),
        *("preset", "report.html", "run.json"),
    }


def test_metrics_are_those_of_the_preset_on_the_test_files(finished, videos):
    metrics = metrics_of(finished)
    assert metrics["test_videos"] == 8
    assert metrics["tested_on"] == "test"
    recalls = [row["recall"] for row in metrics["per_class"]]
    assert metrics["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    model = ViViTClassifier.from_preset(finished / "preset")
    saved = np.load(finished / "predictions.npz")["probabilities"]
    with (finished / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, expected in zip(rows[::3], saved[::3], strict=True):
        found = predict_views(model, row["file"], num_clips=1, num_crops=1)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert row["label"] == Path(row["file"]).parent.name


def test_page_shows_coloured_animations_and_what_predictions_rest_on(finished):
    page = (finished / "report.html").read_text("utf-8")
    assert "8 test videos, frame by frame" in page
    with np.load(finished / "predictions.npz") as saved:
        wrong = (saved["probabilities"].argmax(axis=1) != saved["labels"]).sum()
    assert page.count('<span class="heat">') == 8 + 2 * wrong
    assert page.count("data:image/gif") == 2 * 8 + 3 * wrong
    assert "volume" not in page.split("<body>")[1]
    assert str(finished.parent) not in page


# What is stopped here leaves its file open, as a kill does.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_run_resumes_to_the_same_end(finished, videos, tmp_path, monkeypatch):
    def kill(self, epoch, logs=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("common.progress.ProgressLine.on_epoch_end", kill)
        with pytest.raises(KeyboardInterrupt):
            start(videos, tmp_path / "run")
    assert len(run_folder.read_history(tmp_path / "run")) == 1
    assert start(videos, tmp_path / "run", "--resume") == 0
    found, expected = (
        np.load(folder / "predictions.npz")["probabilities"]
        for folder in (tmp_path / "run", finished)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_finished_run_reports_again(finished, videos, capsys):
    before = metrics_of(finished)
    (finished / "report.html").unlink()
    assert start(videos, finished, "--resume") == 0
    assert "is finished" in capsys.readouterr().out
    assert (finished / "report.html").exists()
    assert metrics_of(finished) == before


# === Checkpoints ===


@pytest.mark.slow
def test_frozen_backbone_stays_as_it_was(finished, videos, tmp_path):
    out, source = tmp_path / "run", finished / "preset"
    assert start_from(source, videos, out, "--frozen", "--stride", "2") == 0
    before, after = (ViViTClassifier.from_preset(f / "preset") for f in (finished, out))
    assert after.sampling == {"stride": 2, "rule": "scenic"}
    for old, new in zip(before.weights, after.weights, strict=True):
        same = np.array_equal(*map(keras.ops.convert_to_numpy, (old, new)))
        assert same == (not new.path.startswith("head"))
    saved = np.load(out / "predictions.npz")["probabilities"]
    assert not (out / "features.npz").exists()
    assert saved.shape == (8, 4)


def start_from(source, videos, out, *more):
    options = [videos, "--checkpoint", source, "--out", out, "--epochs", 2, *more]
    return train.main(list(map(str, options)))


@pytest.mark.slow
def test_checkpoint_tells_size_and_sampling(finished, videos, tmp_path):
    wide = {"video_shape": (8, 16, 24, 3)}
    model = ViViTClassifier.from_preset(finished / "preset", **wide)
    model.save_to_preset(tmp_path / "source", {"stride": 2, "fps": 6})
    assert start_from(tmp_path / "source", videos, tmp_path / "run") == 0
    tuned = ViViTClassifier.from_preset(tmp_path / "run" / "preset")
    assert tuned.input_shape == model.input_shape == (None, 8, 16, 24, 3)
    assert "sees 8 &times; 16 &times; 24 pixels" in (
        tmp_path / "run" / "report.html"
    ).read_text("utf-8")
    assert tuned.sampling == {"stride": 2, "rule": "scenic", "fps": 6}


def from_image(videos, *more):
    """Returns the model that a run starts with."""
    options = [videos, "--image-vit", VIT, "--frames", 4, "--size", 24, *more]
    configuration = train.configure(train.parse(list(map(str, options))), videos)
    training.complete(configuration)
    return training.build(configuration, training.read(configuration))


@pytest.mark.slow
@pytest.mark.parametrize("variant", train.VARIANTS[:2])
def test_model_starts_as_an_image_model(variant, videos):
    model = from_image(videos, "--variant", variant)
    backbone = ViViTBackbone.from_image_preset(VIT, (4, 24, 24, 3), variant=variant)
    assert model.class_names == list(moving_shapes.MOTIONS)
    for old, new in zip(backbone.weights, model.backbone.weights, strict=True):
        same = np.array_equal(*map(keras.ops.convert_to_numpy, (old, new)))
        assert same or "temporal" in new.path


@pytest.mark.parametrize("variant", train.VARIANTS[:2])
def test_frozen_image_model_trains_all_that_is_new(variant, videos):
    model = from_image(videos, "--variant", variant, "--frozen")
    randomize(model)
    body, rest = frozen.divide(model)
    video = normal(2, 4, 24, 24, 3)
    outputs = rest(body(video)), model(video)
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, outputs), atol=1e-5)
    trained = {weight.path for weight in rest.weights}
    assert trained == {weight.path for weight in model.trainable_weights}
    assert all("head" in path or "temporal" in path for path in trained)
    temporal = any("temporal_block" in path for path in trained)
    assert temporal == (variant == "factorized_encoder")


# === Predictions ===


def predicted(capsys, *arguments):
    assert predict.main(list(map(str, arguments))) == 0
    return capsys.readouterr().out.splitlines()


def test_video_gets_a_line_for_each_clip(finished, videos, capsys):
    preset, path = finished / "preset", videos / "test" / "grow" / "000.mp4"
    *_, first, second, third, whole = predicted(capsys, path, "--model", preset)
    share = r"(fall|grow|shrink|slide) [01]\.\d{3}"
    for title, text in (("0.0", first), ("0.7", second), ("1.3", third)):
        assert re.fullmatch(rf" +{title} s: {share}(, {share}){{3}}", text)
    assert whole.startswith(" whole video: ")
    model = ViViTClassifier.from_preset(preset)
    probabilities = predict_views(model, path, num_crops=1)
    best = moving_shapes.MOTIONS[probabilities.argmax()]
    assert f"whole video: {best} {probabilities.max():.3f}" in whole


def test_clips_reach_over_more_frames_of_faster_videos():
    sampling = {"stride": 2, "fps": 10}
    model = SimpleNamespace(input_shape=(None, 8, 16, 16, 3), sampling=sampling)
    assert predict.span_of(model, 30.0) == 48
    assert predict.span_of(model, None) == 16


def test_folder_becomes_a_table(finished, videos, tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    good = (videos / "test" / "grow" / "000.mp4").read_bytes()
    (folder / "a.mp4").write_bytes(good)
    (folder / "bad.mp4").write_bytes(good[:300])
    table = tmp_path / "table.csv"
    options = ["--csv", table, "--model", finished / "preset"]
    *_, last = predicted(capsys, folder, *options)
    assert last == f"1 files predicted, 1 cannot be read: {table}"
    with table.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["file"] == str(folder / "a.mp4")
    shares = {name: float(first[name]) for name in moving_shapes.MOTIONS}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert first["prediction"] == max(shares, key=shares.get)
    assert first["error"] == ""
    assert second["file"] == str(folder / "bad.mp4")
    assert second["prediction"] == ""
    assert second["error"]


def test_newest_preset_is_the_default(finished, videos, tmp_path, monkeypatch, capsys):
    path = videos / "test" / "grow" / "000.mp4"
    monkeypatch.chdir(tmp_path)
    assert predict.main([str(path)]) == 2
    assert "`--model` must be given" in capsys.readouterr().err
    (tmp_path / "runs").symlink_to(finished.parent)
    assert "runs/finished/preset" in predicted(capsys, path)[1]


# === Mistakes ===


def fails(capsys, script, *arguments):
    """Runs a script; returns the error that it ends with."""
    assert script.main(list(map(str, arguments))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    return error


def test_mistakes_are_named(finished, videos, tmp_path, capsys):
    out = ["--out", tmp_path / "run"]
    for message, arguments in {
        "FOLDER must be a folder": [tmp_path / "none", *out],
        "`--frozen` needs": [videos, "--frozen", *out],
        "`--variant` and `--grid` must be left out": [
            *(videos, "--checkpoint", "x", "--variant", train.VARIANTS[1], *out)
        ],
        "`--validation-split` must be between": [
            *(videos, "--validation-split", "1", *out)
        ],
        "`source` must be the name of a preset": [videos, "--checkpoint", "x", *out],
        "`--window` must be given for volumes, and for nothing else": [
            *(videos, "--window", "-160", "240", *out)
        ],
        "`--out` must not hold a run yet": [videos, "--out", finished],
        "Received: seed 0 -> 1": [
            *(videos, *SMALL, "--seed", "1", "--out", finished, "--resume")
        ],
    }.items():
        assert message in fails(capsys, train, *arguments)
        assert not (tmp_path / "run").exists()


def test_folder_without_files_or_classes_is_named(videos, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    out = ["--out", tmp_path / "run"]
    assert "where nothing is found" in fails(capsys, train, tmp_path / "data", *out)
    (tmp_path / "data" / "grow").symlink_to(videos / "train" / "grow")
    error = fails(capsys, train, tmp_path / "data", *out)
    assert "FOLDER must hold two classes or more. Received: ('grow',)" in error


def test_files_of_other_classes_are_left_out(videos):
    options = train.parse([str(videos), *SMALL, "--classes", "slide", "fall"])
    configuration = train.configure(options, videos)
    training.complete(configuration)
    sets = training.read(configuration)
    assert sets.train.class_names == ("slide", "fall")
    assert {path.parent.name for path in sets.test.files} == {"slide", "fall"}


def test_damaged_files_are_left_out_with_a_warning(videos, tmp_path):
    for motion in moving_shapes.MOTIONS[:2]:
        (tmp_path / motion).mkdir()
        for path in (videos / "train" / motion).iterdir():
            (tmp_path / motion / path.name).write_bytes(path.read_bytes())
    (tmp_path / "grow" / "000.mp4").write_bytes(b"not a video")
    options = train.parse([str(tmp_path), *SMALL, "--validation-split", "0.25"])
    configuration = train.configure(options, tmp_path)
    training.complete(configuration)
    with pytest.warns(UserWarning, match="1 of . files cannot be read"):
        sets = training.read(configuration)
    assert sets.tested == "validation"
    assert len(sets.train.files) + len(sets.validation.files) == 7


def test_wrong_sources_of_predictions_are_named(finished, tmp_path, capsys):
    model = ["--model", finished / "preset"]
    assert "SOURCE must be" in fails(capsys, predict, tmp_path / "none", *model)
    (tmp_path / "text.mp4").write_text("not a video")
    error = fails(capsys, predict, tmp_path / "text.mp4", *model)
    assert "text.mp4" in error
    error = fails(capsys, predict, tmp_path / "text.mp4", "--model", tmp_path)
    assert str(tmp_path) in error


# === Results ===


def test_results_are_kept_without_paths(finished, videos, tmp_path, capsys):
    collect.main([str(finished), "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert path.name == "shapes-scratch-spatio_temporal-seed0.json"
    assert str(videos.parent) not in path.read_text()
    assert json.loads(path.read_text())["versions"]["machine"]
    value = f"{metrics_of(finished)['balanced_accuracy']:.3f}".removeprefix("0")
    row = f"| shapes | scratch | `spatio_temporal` | {value} | {value} | 8 |"
    assert capsys.readouterr().out == f"{row}\n"


def test_starts_and_shares_have_files_and_rows_of_their_own(finished, tmp_path, capsys):
    path = finished / "metrics.json"
    whole = path.read_text()
    metrics = json.loads(whole)
    start = {"config": "init", "init": str(tmp_path / "x"), "train_share": 0.1}
    metrics["configuration"] |= start
    path.write_text(json.dumps(metrics))
    try:
        collect.main([str(finished), "--out", str(tmp_path)])
    finally:
        path.write_text(whole)
    (kept,) = tmp_path.iterdir()
    collect.main([str(finished), "--out", str(tmp_path / "b"), "--start", "tuned x"])
    (named,) = (tmp_path / "b").iterdir()
    assert named.name == "shapes-tuned-x-spatio_temporal-seed0.json"
    name = "shapes-pre-trained-10-of-the-files-spatio_temporal-seed0.json"
    assert kept.name == name
    assert str(tmp_path) not in kept.read_text()
    assert "| pre-trained 10% of the files |" in capsys.readouterr().out


def test_read_me_has_the_table_of_the_results():
    text = Path(train.__file__).with_name("README.md").read_text()
    assert all(row in text for row in collect.table())


# === The built-in videos ===


def test_motions_are_told_apart_by_motion_alone():
    rng = np.random.default_rng(0)
    for motion in moving_shapes.MOTIONS:
        video = moving_shapes.draw(motion, rng)
        shape = (moving_shapes.FRAMES, *(moving_shapes.SIZE,) * 2, 3)
        assert video.shape == shape
        assert np.abs(video[0].astype("float32") - video[-1]).mean() > 1


@once
@pytest.mark.slow
def test_command_without_a_folder_learns_in_two_minutes(tmp_path):
    command = [sys.executable, train.__file__]
    begin = time.perf_counter()
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "moving-shapes-scratch-seed0"
    assert metrics_of(run)["balanced_accuracy"] > 0.8, result.stdout
    assert seconds < 300  # Two minutes on two cores that do nothing else.
