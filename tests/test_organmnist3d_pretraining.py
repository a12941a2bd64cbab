"""Pre-training on volumes without labels, and the classifier that starts from it."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import once

import keras_vivit

EXAMPLE = Path(__file__).parents[1] / "examples" / "organmnist3d"
sys.path.insert(0, str(EXAMPLE))  # as Python does for a script in that folder

import data  # noqa: E402
import pretrain  # noqa: E402
import shapes  # noqa: E402
import train  # noqa: E402
import training  # noqa: E402
from common import fitting, run_folder  # noqa: E402

pytestmark = once


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    arrays = {}
    for seed, (split, count) in enumerate({"train": 8, "val": 4, "test": 12}.items()):
        images, labels = shapes.sample(count, 28, seed)
        arrays[f"{split}_images"] = images[..., 0]
        arrays[f"{split}_labels"] = labels[:, None].astype("uint8")
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


def make_small(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())
    sizes = {"num_layers": 1, "decoder_num_layers": 1}
    model = {**pretrain.PRETRAINING["model"], **sizes}
    monkeypatch.setitem(pretrain.PRETRAINING, "model", model)


def options(npz, folder, *more):
    given = ["--data", npz, "--out", folder, "--epochs", 3, "--batch-size", 4, *more]
    return list(map(str, given))


def start(npz, folder, *more):
    return pretrain.main(options(npz, folder, "--tubelet", 7, *more))


def weights(folder):
    model = keras_vivit.ViViTMaskedAutoencoder.from_preset(folder / "model")
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


@pytest.fixture(scope="module")
def finished(npz, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        folder = tmp_path_factory.mktemp("runs") / "finished"
        assert start(npz, folder) == 0
    return folder


def test_run_folder_holds_the_model_and_its_losses(finished):
    assert len(run_folder.read_history(finished)) == 3
    assert not (finished / "checkpoints").exists()
    model = keras_vivit.ViViTMaskedAutoencoder.from_preset(finished / "model")
    assert model.backbone.video_shape == (28, 28, 28, 1)


@pytest.mark.parametrize("variant", pretrain._VARIANTS)
def test_tubelets_are_those_of_the_configuration(variant):
    configuration = {"variant": variant, "seed": 0, "precision": "float32"}
    model = pretrain.build({**configuration, **pretrain.PRETRAINING}, (28, 28, 28, 1))
    assert model.backbone.tubelet_size == (8, 8, 8)
    assert model.get_layer("mask").output.shape == (None, 5, 5, 5)
    assert model.masking == ("random" if variant == "spatio_temporal" else "tube")
    side_by_side = {**configuration, **pretrain.PRETRAINING, "tubelet": 7}
    model = pretrain.build(side_by_side, (28, 28, 28, 1))
    assert model.get_layer("mask").output.shape == (None, 4, 4, 4)


def test_report_shows_volumes_of_the_validation(npz, finished, capsys):
    (finished / "report.html").unlink()
    assert start(npz, finished, "--resume") == 0
    assert "is finished" in capsys.readouterr().out
    page = (finished / "report.html").read_text("utf-8")
    assert "Pre-trained without labels on 8 volumes of 28" in page
    assert "4 volumes, slice by slice" in page
    assert page.count("data:image/gif") == 4 * 4
    assert "test volumes" not in page
    assert "CC BY 4.0" in page


def test_interrupted_run_resumes_to_the_same_weights(
    npz, finished, tmp_path, monkeypatch
):
    def interrupt(self, epoch, logs=None):
        finish(self, epoch, logs)
        if epoch == 1:
            self.model.stop_training = True  # A kill would leave files open.

    finish = fitting.ProgressLine.on_epoch_end
    with monkeypatch.context() as patch:
        patch.setattr(fitting.ProgressLine, "on_epoch_end", interrupt)
        assert start(npz, tmp_path / "run") == 2
    assert not (tmp_path / "run" / "model").exists()
    assert start(npz, tmp_path / "run", "--resume") == 0
    for a, b in zip(weights(finished), weights(tmp_path / "run"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    losses = [
        [row["val_loss"] for row in run_folder.read_history(folder)]
        for folder in (finished, tmp_path / "run")
    ]
    assert losses[0] == pytest.approx(losses[1])


def test_other_sets_are_trained_on_too(npz, tmp_path, monkeypatch, capsys):
    other = data.load("organmnist3d", 28, npz)
    load = data.load
    monkeypatch.setattr(
        pretrain, "load", lambda name, *rest: load(name, *rest) if rest[1:] else other
    )
    more = ["--also", "vesselmnist3d", "--epochs", 1]
    assert start(npz, tmp_path / "run", *more) == 0
    assert "on 16 volumes for 1 epochs" in capsys.readouterr().out


def test_classifier_starts_from_the_encoder(npz, finished, tmp_path, monkeypatch):
    started = []

    def build_and_stop(volumes, configuration, *_):
        started.append((training.build(volumes, configuration), volumes))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", build_and_stop)
    given = options(npz, tmp_path / "run", "--init", finished / "model")
    with pytest.raises(KeyboardInterrupt):
        train.main([*given, "--train-share", "0.5"])
    ((model, volumes),) = started
    assert len(volumes.train.labels) == 4
    assert model.class_names == list(volumes.class_names)
    autoencoder = keras_vivit.ViViTMaskedAutoencoder.from_preset(finished / "model")
    for a, b in zip(model.backbone.weights, autoencoder.backbone.weights, strict=True):
        np.testing.assert_array_equal(
            *(keras.ops.convert_to_numpy(weight) for weight in (a, b))
        )
    record = run_folder.record_of(tmp_path / "run")
    assert record["init"] == str((finished / "model").resolve())
    assert record["train_share"] == 0.5


def test_wrong_folder_is_an_error_of_one_line(npz, tmp_path, capsys):
    given = options(npz, tmp_path / "run", "--init", tmp_path)
    assert train.main(given) == 2
    assert "`source` must be a folder" in capsys.readouterr().err


def test_share_is_the_same_for_the_same_seed():
    split = data.Split(np.arange(40), np.arange(40))
    first, again, other = (data.share_of(split, 0.1, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert len(first.labels) == 4
    assert {*first.labels} != {*other.labels}


@pytest.mark.parametrize("share", ["0", "1.5", "half"])
def test_wrong_share_is_an_error(share, capsys):
    with pytest.raises(SystemExit):
        train.parse(["--train-share", share])
    assert "must be a number above 0, at most 1" in capsys.readouterr().err
