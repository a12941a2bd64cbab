"""Pre-training on one's own files: a run, resuming, and the classifier from it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import needs_av

import keras_vivit

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from common import fitting, run_folder
from video import moving_shapes, pretrain, train, training

pytestmark = needs_av
SMALL = ["--frames", "4", "--size", "16", "--grid", "2", "2", "2", "--epochs", "2"]


@pytest.fixture(autouse=True, scope="module")
def small_models_on_this_backend():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", keras.config.backend())
        for name, size in {"embed_dim": 16, "num_layers": 1, "mlp_dim": 16}.items():
            patch.setitem(training.SCRATCH, name, size)
        for name, size in {"decoder_dim": 8, "decoder_num_layers": 1}.items():
            patch.setitem(pretrain.DECODER, name, size)
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    moving_shapes.write(folder, {"train": 4, "test": 1})
    for path in folder.glob("test/*/*"):
        path.write_bytes(b"never read")
    return folder


def start(videos, out, *more):
    return pretrain.main([*map(str, [videos, *SMALL, "--out", out, *more])])


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert start(videos, folder, "--mask-ratio", 0.5) == 0
    return folder


def weights(folder):
    model = keras_vivit.ViViTMaskedAutoencoder.from_preset(folder / "preset")
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def test_interrupted_run_ends_as_one_that_was_not(videos, finished, tmp_path, capsys):
    def interrupt(self, epoch, logs=None):
        self.model.stop_training = True  # A kill would leave files open.

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting.ProgressLine, "on_epoch_end", interrupt)
        assert start(videos, tmp_path / "run", "--mask-ratio", 0.5) == 2
    assert not (tmp_path / "run" / "preset").exists()
    assert start(videos, tmp_path / "run", "--mask-ratio", 0.5, "--resume") == 0
    assert "Going on after epoch 1." in capsys.readouterr().out
    for a, b in zip(weights(finished), weights(tmp_path / "run"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_report_shows_videos_of_the_validation(videos, finished, capsys):
    (finished / "report.html").unlink()
    assert start(videos, finished, "--mask-ratio", 0.5, "--resume") == 0
    assert "is finished" in capsys.readouterr().out
    page = (finished / "report.html").read_text("utf-8")
    assert "Pre-trained without labels on 13 videos of 4 &times; 16" in page
    assert "3 videos, frame by frame" in page
    assert page.count("data:image/gif") == 3 * 4
    assert "test videos" not in page
    assert str(finished.parent) not in page


def test_classifier_starts_from_the_encoder(videos, finished, tmp_path, monkeypatch):
    started = []

    def stop(model, sets, *_):
        started.append((model, sets))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stop)
    options = ["--init", str(finished / "preset"), "--out", str(tmp_path / "run")]
    with pytest.raises(KeyboardInterrupt):
        train.main([str(videos / "train"), *options, "--train-share", "0.34"])
    ((model, sets),) = started
    assert sets.train.labels.sum(axis=0).tolist() == [1, 1, 1, 1]
    assert len(sets.validation.files) > 0
    assert model.backbone.input_shape[1:] == (4, 16, 16, 3)
    assert model.backbone.drop_path_rate == training.SCRATCH["drop_path_rate"]
    autoencoder = keras_vivit.ViViTMaskedAutoencoder.from_preset(finished / "preset")
    for a, b in zip(model.backbone.weights, autoencoder.backbone.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (a, b)))
    record = run_folder.record_of(tmp_path / "run")
    assert record["init"] == str((finished / "preset").resolve())
    assert record["train_share"] == 0.34


def test_share_is_of_each_class_and_the_same_for_the_same_seed():
    def kept(share, seed):
        labels = np.repeat(np.eye(3), (20, 10, 1), axis=0)
        source = SimpleNamespace(labels=labels, files=[*range(31)], seed=seed)
        source.facts = [str(file) for file in source.files]
        training.keep_share(source, share)
        assert source.facts == [str(file) for file in source.files]
        np.testing.assert_array_equal(source.labels, labels[source.files])
        return source

    assert kept(0.1, 0).labels.sum(axis=0).tolist() == [2, 1, 1]
    assert kept(0.5, 0).files == kept(0.5, 0).files
    assert kept(0.5, 0).files != kept(0.5, 1).files


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--grid", "3", "2", "2"], "`--grid` must divide `--frames`"),
        (["--mask-ratio", "1.5"], "`mask_ratio` must lie in"),
        (["--mask-ratio", "0"], "`mask_ratio` must hide one token"),
    ],
)
def test_bad_options_are_refused_before_a_run(options, error, videos, tmp_path, capsys):
    assert start(videos, tmp_path / "run", *options) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_encoder_tells_variant_and_grid(videos, finished, capsys):
    options = ["--init", str(finished / "preset"), "--grid", "2", "2", "2"]
    assert train.main([str(videos), *options]) == 2
    error = capsys.readouterr().err
    assert "must be left out with `--checkpoint` and `--init`" in error
