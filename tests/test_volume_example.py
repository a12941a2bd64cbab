"""Training on one's own volumes: NIfTI files in class folders, whole runs, mistakes."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import data_folder, once

from keras_vivit import ViViTClassifier
from keras_vivit.data import predict_views

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from video import predict, train, training

nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")
WINDOW = ["--window", "0", "255"]
SMALL = ["--frames", "8", "--size", "8", "--grid", "2", "2", "2", "--epochs", "2"]


@pytest.fixture(autouse=True, scope="module")
def this_backend():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", keras.config.backend())
        yield


def write_volumes(folder, volumes, names):
    """Writes volumes of values 0 to 255 as NIfTI files of class folders."""
    for number, (volume, name) in enumerate(zip(volumes, names, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(volume.astype("int16"), np.diag([2, 2, 2, 1]))
        nibabel.save(image, folder / name / f"{number:04d}.nii.gz")


def spheres(count, size=12):
    """Bright balls of two radii in noise."""
    rng = np.random.default_rng(0)
    place = np.indices((size,) * 3) - (size - 1) / 2
    for number in range(count):
        inside = np.linalg.norm(place, axis=0) < (2, 5)[number % 2]
        yield np.where(inside, 180, 60) + rng.normal(0, 10, inside.shape)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scans"
    write_volumes(folder, spheres(16), ["small", "large"] * 8)
    return folder


def start(folder, out, *more):
    return train.main(list(map(str, [folder, *WINDOW, "--out", out, *more])))


@pytest.fixture(scope="module")
def finished(scans, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {"embed_dim": 16, "num_layers": 1, "mlp_dim": 16}.items():
            patch.setitem(training.SCRATCH, name, size)
        assert start(scans, folder, *SMALL, "--validation-split", "0.25") == 0
    return folder


def test_preset_reads_new_scans_as_those_of_the_training(finished, scans):
    model = ViViTClassifier.from_preset(finished / "preset")
    assert model.class_names == ["large", "small"]
    assert model.sampling == {"window": [0, 255], "orientation": "RAS"}
    assert model.input_shape == (None, 8, 8, 8, 1)
    saved = np.load(finished / "predictions.npz")
    rows = (finished / "predictions.csv").read_text().splitlines()[1:]
    found = predict_views(model, rows[0].split(",")[0])
    np.testing.assert_allclose(found, saved["probabilities"][0], atol=1e-5)


def test_report_speaks_of_volumes_and_of_missing_test_files(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["test_volumes"] == 4
    assert metrics["tested_on"] == "validation"
    page = (finished / "report.html").read_text("utf-8")
    assert "4 test volumes, slice by slice" in page
    assert "No test files." in page
    assert "video" not in page.split("<main>")[1]


def test_volume_gets_one_line_and_a_folder_a_table(finished, scans, tmp_path, capsys):
    path = next((scans / "large").iterdir())
    model = ["--model", str(finished / "preset")]
    assert predict.main([str(path), *model]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.strip().startswith(f"{path.name}: ")
    table = tmp_path / "table.csv"
    assert predict.main([str(scans), *model, "--csv", str(table)]) == 0
    assert len(table.read_text().splitlines()) == 1 + 16


def test_volumes_without_a_window_are_an_error(scans, tmp_path, capsys):
    assert train.main([str(scans), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "`--window` must be given for volumes" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_shipped_model_learns_new_classes(scans, tmp_path):
    options = ["--checkpoint", "vivit_organmnist3d", "--frozen", "--epochs", 2]
    assert start(scans, tmp_path, *options, "--validation-split", "0.25") == 0
    model = ViViTClassifier.from_preset(tmp_path / "preset")
    assert model.class_names == ["large", "small"]
    shipped = ViViTClassifier.from_preset("vivit_organmnist3d")
    for old, new in zip(shipped.backbone.weights, model.backbone.weights, strict=True):
        assert np.array_equal(*map(keras.ops.convert_to_numpy, (old, new)))


@once
@pytest.mark.slow
def test_real_organs_are_learned_from_files(tmp_path):
    path = data_folder("organmnist3d.npz")
    organs = {0: "liver", 6: "heart", 5: "bladder"}
    for split in ("train", "test"):
        with np.load(path, allow_pickle=False) as file:
            volumes, labels = file[f"{split}_images"], file[f"{split}_labels"].ravel()
        rows = [np.flatnonzero(labels == label)[:40] for label in organs]
        chosen = np.concatenate(rows)
        names = [organs[label] for label in labels[chosen]]
        write_volumes(tmp_path / "organs" / split, volumes[chosen], names)
    assert start(tmp_path / "organs", tmp_path / "run", "--epochs", 12) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["tested_on"] == "test"
    assert metrics["balanced_accuracy"] > 0.8
