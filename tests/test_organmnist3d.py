"""The OrganMNIST3D recipe: its data, its numbers, and runs that can be killed."""

import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import once, only, slow

import keras_vivit
from keras_vivit import presets

EXAMPLE = Path(__file__).parents[1] / "examples" / "organmnist3d"
sys.path.insert(0, str(EXAMPLE))  # as Python does for a script in that folder

import configs  # noqa: E402
import data  # noqa: E402
import report  # noqa: E402
import shapes  # noqa: E402
import ship  # noqa: E402
import train  # noqa: E402
import training  # noqa: E402
from common import command_line, run_folder  # noqa: E402
from common.resuming import ResumableEarlyStopping  # noqa: E402
from data import SETS  # noqa: E402
from training import Batches, layers_for  # noqa: E402

ignore_dropped_voxels = pytest.mark.filterwarnings("ignore:.*ignore:UserWarning")
needs_medmnist = pytest.mark.skipif(
    not find_spec("medmnist"), reason="medmnist is not installed"
)


def python(code, *arguments, **environment):
    """Runs code in a process of its own, in the example's folder."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=EXAMPLE,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def arrays(size=28, num_classes=11, **changes):
    counts = {"train": 24, "val": 8, "test": 12}
    made = {}
    for seed, (split, count) in enumerate(counts.items()):
        images, labels = shapes.sample(count, size, seed)
        made[f"{split}_images"] = images[..., 0]
        made[f"{split}_labels"] = (labels % num_classes)[:, None].astype("uint8")
    return {**made, **changes}


def save(path, **changes):
    np.savez(path, **arrays(**changes))
    return path


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    return save(tmp_path_factory.mktemp("data") / "small.npz")


@pytest.fixture(autouse=True)
def this_backend(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())


# === Data ===


@pytest.mark.slow
@needs_medmnist
def test_table_agrees_with_medmnist():
    folder = Path(find_spec("medmnist").submodule_search_locations[0])
    info = runpy.run_path(folder / "info.py")["INFO"]  # the package imports torch
    assert sorted(SETS) == sorted(name for name in info if name.endswith("3d"))
    for name, facts in SETS.items():
        theirs = info[name]
        assert facts.task == theirs["task"]
        assert facts.class_names == tuple(theirs["label"].values())
        assert facts.md5(28) == theirs["MD5"]
        assert facts.md5(64) == theirs["MD5_64"]
        assert data.URL.format(data.file_name(name, 28)) == theirs["url"]
        assert data.URL.format(data.file_name(name, 64)) == theirs["url_64"]


def test_file_gives_uint8_volumes_and_flat_labels(npz, capsys):
    loaded = data.load("organmnist3d", 28, npz)
    assert loaded.source == "custom"
    assert loaded.train.images.shape == (24, 28, 28, 28, 1)
    assert loaded.train.images.dtype == np.uint8
    assert loaded.test.labels.shape == (12,)
    assert "not MedMNIST's own file" in capsys.readouterr().out


def test_folds_divide_the_training_volumes(npz):
    loaded = data.load("organmnist3d", 28, npz)
    labels = np.repeat(np.arange(3), (8, 12, 4))
    every = loaded._replace(train=data.Split(np.arange(24), labels))
    folds = [data.with_fold(every, fold) for fold in range(data.FOLDS)]
    assert sorted(np.concatenate([f.test.images for f in folds])) == [*range(24)]
    for fold in folds:
        assert sorted([*fold.train.images, *fold.test.images]) == [*range(24)]
        assert np.bincount(fold.test.labels).tolist() == [2, 3, 1]
        for split in (fold.train, fold.test):
            np.testing.assert_array_equal(split.labels, labels[split.images])
        assert fold.val is loaded.val
    assert data.with_fold(every, None) is every


def test_cache_folder_comes_before_a_download(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_VIVIT_DATA", str(tmp_path))
    monkeypatch.setattr(data, "URL", "file:///nowhere/{}")
    save(tmp_path / "organmnist3d.npz")
    assert data.load().path == str(tmp_path / "organmnist3d.npz")


def test_download_is_checked_and_kept(npz, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_VIVIT_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "URL", npz.as_uri() + "#{}")
    facts = SETS["organmnist3d"]._replace(md5_28=data.md5_of(npz))
    monkeypatch.setitem(SETS, "organmnist3d", facts)
    assert data.load().source == "official"
    assert os.listdir(tmp_path / "cache") == ["organmnist3d.npz"]


def test_download_with_a_wrong_checksum_is_deleted(npz, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_VIVIT_DATA", str(tmp_path))
    monkeypatch.setattr(data, "URL", npz.as_uri() + "#{}")
    with pytest.raises(data.InputError, match=r"MD5 a0c5a1ff.* Received: "):
        data.load()
    assert os.listdir(tmp_path) == []


def test_no_file_and_no_network_gives_labelled_synthetic_volumes(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KERAS_VIVIT_DATA", str(tmp_path))
    monkeypatch.setattr(data, "URL", "file:///nowhere/{}")
    monkeypatch.setattr(data, "SYNTHETIC_COUNTS", {"train": 11, "val": 2, "test": 2})
    loaded = data.load()
    printed = capsys.readouterr().out
    assert loaded.source == loaded.name == "synthetic"
    assert "cannot be downloaded" in printed
    assert "will say nothing about organmnist3d" in printed
    assert os.listdir(tmp_path) == []


def test_synthetic_volumes_are_repeatable_and_of_eleven_kinds():
    images, labels = shapes.sample(22, 28, seed=0)
    again, _ = shapes.sample(22, 28, seed=0)
    other, _ = shapes.sample(22, 28, seed=1)
    assert images.shape == (22, 28, 28, 28, 1)
    assert images.dtype == np.uint8
    assert np.array_equal(images, again)
    assert not np.array_equal(images, other)
    assert sorted(set(labels)) == list(range(11)) == list(range(len(shapes.NAMES)))


@pytest.mark.skipif(
    "KERAS_VIVIT_DATA" not in os.environ,
    reason="KERAS_VIVIT_DATA does not name a folder with organmnist3d.npz",
)
def test_real_file_can_be_read():
    loaded = data.load("organmnist3d")
    assert loaded.source != "synthetic"
    assert loaded.train.images.shape == (971, 28, 28, 28, 1)
    assert sorted(set(loaded.test.labels)) == list(range(11))


# === Bad input ===


def fails(capsys, *arguments):
    """Runs the script; returns the one line it ends with."""
    assert train.main(list(map(str, arguments))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


BAD_ARRAYS = {
    "size": ({"size": 20}, "uint8 of shape (n, 28, 28, 28). Received: uint8 (24, 20"),
    "dtype": ({"val_images": np.zeros((8, 28, 28, 28))}, "Received: float64 (8, 28"),
    "empty": (
        {"test_images": np.zeros((0, 28, 28, 28), "uint8")},
        "test_images must hold at least one volume. Received: none",
    ),
    "count": (
        {"train_labels": np.zeros((23, 1), "uint8")},
        "train_labels must be integers of shape (24, 1). Received: uint8 (23, 1)",
    ),
    "kind": (
        {"train_labels": np.zeros((24, 1))},
        "train_labels must be integers of shape (24, 1). Received: float64 (24, 1)",
    ),
    "range": (
        {"test_labels": np.full((12, 1), 11, "uint8")},
        "test_labels must be between 0 and 10. Received: 11 to 11",
    ),
    "pickle": (
        {"test_labels": np.array([{}], dtype=object)},
        "readable .npz archive of plain arrays",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_named(case, tmp_path, capsys):
    changes, message = BAD_ARRAYS[case]
    path = save(tmp_path / "bad.npz", **changes)
    error = fails(capsys, "--data", path)
    assert message in error
    assert str(path) in error


def test_missing_file_is_named(tmp_path, capsys):
    error = fails(capsys, "--data", tmp_path / "none.npz")
    assert "`--data` must be 'synthetic' or an existing .npz file" in error
    assert "none.npz" in error


@pytest.mark.parametrize("kind", ["text", "truncated", "flipped", "array"])
def test_damaged_file_is_named(kind, npz, tmp_path, capsys):
    path = tmp_path / "damaged.npz"
    content = bytearray(npz.read_bytes())
    if kind == "text":
        content = b"not an archive"
    elif kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "flipped":
        content[len(content) // 2] ^= 255
    else:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(3))
        content = buffer.getvalue()
    path.write_bytes(content)
    error = fails(capsys, "--data", path)
    assert "must be a readable .npz archive" in error
    assert "damaged.npz" in error


def test_missing_keys_are_named(tmp_path, capsys):
    path = tmp_path / "bad.npz"
    np.savez(path, **{k: v for k, v in arrays().items() if "labels" not in k})
    error = fails(capsys, "--data", path)
    assert "without train_labels, val_labels, test_labels" in error


def test_official_file_of_another_set_is_recognised(npz, monkeypatch, capsys):
    facts = SETS["vesselmnist3d"]._replace(md5_28=data.md5_of(npz))
    monkeypatch.setitem(SETS, "vesselmnist3d", facts)
    error = fails(capsys, "--data", npz)
    assert "which is vesselmnist3d at size 28" in error


def test_unwritable_folder_is_named(npz, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    error = fails(capsys, "--data", npz, "--out", tmp_path / "file" / "run")
    assert "`--out` must be a folder that can be written to" in error


def test_unwritable_cache_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_VIVIT_DATA", str(tmp_path / "file" / "cache"))
    assert "The cache folder must be writable" in fails(capsys)


def test_folder_with_a_run_is_not_overwritten(npz, tmp_path, capsys):
    run_folder.start(tmp_path, {"seed": 0})
    error = fails(capsys, "--data", npz, "--out", tmp_path)
    assert "`--resume` goes on" in error


def test_resume_needs_a_run(npz, tmp_path, capsys):
    error = fails(capsys, "--data", npz, "--out", tmp_path, "--resume")
    assert "must hold a readable run.json" in error


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x"])
def test_bad_numbers_are_refused(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(["--epochs", text])
    assert "must be a whole number from 1 on" in capsys.readouterr().err


def test_complaint_comes_before_keras_is_imported(tmp_path):
    code = """
import sys, train
code = train.main(sys.argv[1:])
sys.exit(99 if "keras" in sys.modules else code)
"""
    (tmp_path / "file").write_text("")
    result = python(code, "--data", "synthetic", "--out", tmp_path / "file" / "run")
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: `--out`")


# === Backend ===


def choose(monkeypatch, tmp_path, capsys, installed, **options):
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(
        command_line, "find_spec", lambda name: name in installed or None
    )
    name = command_line.choose_backend(**options)
    return name, capsys.readouterr().out


def test_installed_backend_is_chosen(monkeypatch, tmp_path, capsys):
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')
    name, printed = choose(monkeypatch, tmp_path, capsys, {"torch"})
    assert name == "torch"
    assert "Backend: torch (installed" in printed


def test_backend_of_keras_json_is_kept(monkeypatch, tmp_path, capsys):
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')
    installed = {"jax", "tensorflow"}
    name, printed = choose(monkeypatch, tmp_path, capsys, installed)
    assert name == "tensorflow"
    assert "keras.json" in printed


def test_backend_of_the_run_is_preferred(monkeypatch, tmp_path, capsys):
    installed = {"jax", "torch"}
    name, _ = choose(monkeypatch, tmp_path, capsys, installed, preferred="torch")
    assert name == "torch"


def test_no_backend_is_an_error(monkeypatch, tmp_path, capsys):
    with pytest.raises(data.InputError, match="none is installed"):
        choose(monkeypatch, tmp_path, capsys, set())


def test_unknown_backend_is_an_error(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    with pytest.raises(data.InputError, match="Received: theano"):
        command_line.choose_backend()


# === Order and early stopping ===


def order_of(count, batch_size, seed, *epochs):
    """The volumes of the last of these epochs, batch by batch."""
    images = np.arange(count, dtype="uint8")
    split = data.Split(images, images.astype("int64"))
    batches = Batches(split, count, batch_size, seed)
    for epoch in epochs:
        batches.start_epoch(epoch)
    return [batches[i][1].argmax(1).tolist() for i in range(len(batches))]


def test_order_depends_on_seed_and_epoch_alone():
    assert order_of(12, 4, 0, 3) == order_of(12, 4, 0, 0, 1, 2, 3)
    assert np.sort(np.ravel(order_of(12, 4, 0, 3))).tolist() == list(range(12))
    assert order_of(12, 4, 0, 3) != order_of(12, 4, 0, 2)
    assert order_of(12, 4, 0, 3) != order_of(12, 4, 1, 3)


def test_first_volumes_fill_up_the_last_batch():
    first, *_, last = order_of(10, 4, 0, 3)
    assert len(first) == len(last) == 4
    assert last[2:] == first[:2]
    (rows,) = order_of(3, 8, 0, 3)
    assert rows == rows[:3] * 2 + rows[:2]


def batch_maker(loaded):
    settings = {**configs.TUNED["augmentation"], "cutmix": {"rate": 0.5}}
    augment = layers_for(settings, loaded.sides)
    return Batches(loaded.train, 11, 8, seed=3, augment=augment)


def numpy(batch):
    return [keras.ops.convert_to_numpy(x) for x in batch]


def test_augmentation_depends_on_seed_epoch_and_batch_alone(npz):
    loaded = data.load("organmnist3d", 28, npz)

    def batch(index, epoch):
        batches = batch_maker(loaded)
        batches.start_epoch(epoch)
        return numpy(batches[index])

    videos, labels = batch(1, epoch=2)
    again, labels_again = batch(1, epoch=2)
    np.testing.assert_array_equal(videos, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert np.abs(videos - batch(1, epoch=3)[0]).mean() > 1
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "batch_size", "size"), [(161, 16, 23), (161, 32, 23), (97, 16, 16)]
)
def test_validation_batches_have_one_size_where_there_is_one(count, batch_size, size):
    assert training.even_batch(count, batch_size) == size


def test_labels_are_swapped_only_where_they_have_sides():
    settings = configs.TUNED["augmentation"]
    for name, facts in SETS.items():
        flips = [x for x in layers_for(settings, facts.sides) if hasattr(x, "axis")]
        permutations = {flip.axis: flip.label_permutation for flip in flips}
        if name == "organmnist3d":
            swapped = {
                n: facts.class_names[i]
                for n, i in zip(facts.class_names, permutations["frames"], strict=True)
            }
            assert list(permutations) == ["frames"]
            for organ, other in swapped.items():
                assert other.replace("left", "right") == organ.replace("left", "right")
                assert (organ == other) == ("-" not in organ)
        else:
            assert permutations == dict.fromkeys(("frames", "height", "width"))


@pytest.mark.parametrize("variant", configs.VARIANTS)
@pytest.mark.parametrize("config", ["quick", *slow("tuned", "baseline")])
@pytest.mark.filterwarnings("ignore:.*ignores 37%:UserWarning")
def test_each_configuration_has_all_variants(npz, config, variant):
    settings = {"seed": 0, "precision": "float32", "variant": variant}
    volumes = data.load("organmnist3d", 28, npz)
    model = training.build(volumes, {**configs.CONFIGS[config], **settings})
    assert model.backbone.variant == variant
    assert model.count_params() < 2.5e6
    assert model.output.shape == (None, 11)


def test_two_views_swap_the_sides_back(npz):
    loaded = data.load("organmnist3d", 28, npz)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(11), (2, 12))

    class Model:
        def predict(self, images, batch_size, verbose):
            assert len(images) == batch_size == 12
            mirrored = not np.array_equal(images, loaded.test.images)
            return probabilities[int(mirrored)]

    one_view, both = training.predict_two_views(Model(), loaded)
    np.testing.assert_allclose(one_view, probabilities[0], atol=1e-6)
    expected = probabilities[1].copy()
    for right, left in ((1, 2), (3, 4), (7, 8)):
        expected[:, [right, left]] = probabilities[1][:, [left, right]]
    np.testing.assert_allclose(both, (probabilities[0] + expected) / 2, atol=1e-6)


def test_early_stopping_relives_the_history():
    losses = [3.0, 1.0, 2.0, 1.5]
    history = [{"val_loss": loss} for loss in losses]

    def relive(patience):
        stopping = ResumableEarlyStopping(
            history, monitor="val_loss", mode="min", patience=patience
        )
        stopping.set_model(SimpleNamespace(stop_training=False))
        stopping.on_train_begin()
        return stopping

    going_on = relive(patience=3)
    assert (going_on.best, going_on.wait, going_on.best_epoch) == (1.0, 2, 1)
    assert going_on.stopped_epoch == 0
    assert relive(patience=2).stopped_epoch == 3


# === Whole runs ===

TRAIN = "import sys, train; sys.exit(train.main(sys.argv[1:]))"
FEW_VOLUMES = "import data; data.SYNTHETIC_COUNTS = dict(train=24, val=8, test=12)\n"
# More layers and tokens take backends long to compile.
SMALL = {"num_layers": 1, "tubelet_size": [14, 14, 14], "strides": [14, 14, 14]}
ONE_LAYER = f"import configs; configs.QUICK['model'] = {SMALL}\n"
FILES = {
    "history.csv",
    "metrics.json",
    "model.keras",
    "predictions.npz",
    "report.html",
    "run.json",
}


def options(npz, out):
    return ["--data", npz, "--out", out, "--epochs", 8, "--batch-size", 8]


def read_run(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return run_folder.read_history(folder), metrics, np.load(folder / "predictions.npz")


@pytest.fixture(scope="module")
def finished(npz, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    result = python(ONE_LAYER + TRAIN, *options(npz, folder))
    assert result.returncode == 0, result.stderr
    (folder / "output.txt").write_text(result.stdout)
    return folder


@once
@pytest.mark.slow
def test_output_says_what_happens_and_ends_with_the_report(finished):
    lines = (finished / "output.txt").read_text().splitlines()
    (begin,) = (i for i, line in enumerate(lines) if line.startswith("Training a"))
    assert "8 tokens" in lines[begin]
    assert "24 volumes for 8 epochs" in lines[begin + 1]
    first, *progress, kept = [x for x in lines[begin + 2 :] if "poch" in x]
    assert re.fullmatch(r"An epoch takes \d+\.\d s: .* to go\.", first)
    assert [line.split(",")[0] for line in progress] == [
        f"Epoch {n}/8" for n in range(1, 9)
    ]
    assert all("validation accuracy" in line for line in progress)
    assert kept.startswith("Keeping epoch 8")
    assert lines[-1] == f"Open {finished / 'report.html'}"
    assert not any("\r" in line or "━" in line for line in lines)


@once
@pytest.mark.slow
def test_synthetic_run_writes_and_labels_everything(tmp_path):
    arguments = ["--data", "synthetic", "--epochs", 1, "--seed", 7]
    arguments += ["--config", "baseline", "--verbose"]
    result = python(FEW_VOLUMES + TRAIN, *arguments, "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "on synthetic volumes" in result.stdout
    assert "1/1" in result.stdout  # Keras' progress bar
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    history, metrics, predictions = read_run(tmp_path / "run")
    assert len(history) == 1
    assert metrics["data"] == metrics["dataset"] == "synthetic"
    assert metrics["data_md5"] is None
    assert metrics["test_volumes"] == 12
    assert metrics["configuration"]["seed"] == 7
    assert metrics["configuration"]["backend"] == keras.config.backend()
    assert metrics["versions"]["keras"] == keras.__version__
    assert metrics["seconds_total"] >= metrics["seconds_per_epoch"] > 0
    assert [row["name"] for row in metrics["per_class"]] == list(shapes.NAMES)
    assert predictions["probabilities"].shape == (12, 11)


@once
@pytest.mark.slow
def test_fold_is_what_the_report_measures(npz, tmp_path):
    folder = tmp_path / "run"
    result = python(ONE_LAYER + TRAIN, *options(npz, folder), "--fold", 1)
    assert result.returncode == 0, result.stderr
    _, metrics, predictions = read_run(folder)
    held_out = data.with_fold(data.load("organmnist3d", 28, npz), 1).test
    np.testing.assert_array_equal(predictions["labels"], held_out.labels)
    assert metrics["configuration"]["fold"] == 1
    assert "held out of the training set" in (folder / "report.html").read_text()
    report.main([str(folder)])
    _, again, _ = read_run(folder)
    assert again["accuracy"] == metrics["accuracy"]
    assert again["test_volumes"] == metrics["test_volumes"] == len(held_out.labels)


@pytest.mark.slow
@only("jax")
def test_devices_train_to_the_same_end(npz, finished, tmp_path):
    folder, devices = tmp_path / "divided", ["--devices", 6, "--model-parallel", 3]
    flags = "--xla_force_host_platform_device_count=6"
    arguments = [*options(npz, folder), *devices]
    result = python(ONE_LAYER + TRAIN, *arguments, XLA_FLAGS=flags)
    assert result.returncode == 0, result.stderr
    expected, found = (
        [epoch["loss"] for epoch in run_folder.read_history(f)]
        for f in (finished, folder)
    )
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def wait_for_epoch(process, history):
    while not (history.exists() and len(history.read_text().splitlines()) > 1):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_end(npz, finished, tmp_path):
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", ONE_LAYER + TRAIN, *options(npz, folder)]
    with subprocess.Popen(
        list(map(str, command)), cwd=EXAMPLE, stdout=subprocess.DEVNULL
    ) as process:
        wait_for_epoch(process, folder / "history.csv")
        process.send_signal(signal.SIGKILL)
    assert not (folder / "model.keras").exists()
    epochs_before = len(run_folder.read_history(folder))

    result = python(ONE_LAYER + TRAIN, *options(npz, folder), "--resume")
    assert result.returncode == 0, result.stderr
    assert f"Going on after epoch {epochs_before}." in result.stdout
    assert "Keeping epoch 8 " in result.stdout
    history, metrics, predictions = read_run(folder)
    expected_history, expected_metrics, expected_predictions = read_run(finished)
    assert [row["epoch"] for row in history] == list(range(8))
    for row, expected in zip(history, expected_history, strict=True):
        assert {**row, "seconds": 0} == pytest.approx({**expected, "seconds": 0})
    for key in ("accuracy", "auc", "top5_accuracy", "best_epoch"):
        assert metrics[key] == pytest.approx(expected_metrics[key])
    np.testing.assert_allclose(
        predictions["probabilities"], expected_predictions["probabilities"], atol=1e-6
    )


@once
@pytest.mark.slow
def test_resume_needs_the_checkpoint_of_the_last_epoch(npz, finished, tmp_path):
    for name in ("run.json", "history.csv"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    result = python(ONE_LAYER + TRAIN, *options(npz, tmp_path), "--resume")
    assert result.returncode == 2, result.stderr
    assert "must hold the checkpoint of epoch 8. Received: no file" in result.stderr


@pytest.mark.slow
def test_resume_with_other_options_names_them(npz, finished, capsys, monkeypatch):
    monkeypatch.setitem(configs.QUICK, "model", SMALL)
    error = fails(capsys, *options(npz, finished), "--resume", "--seed", 1)
    assert "Received: seed 0 -> 1 in " in error


@once
@pytest.mark.slow
def test_resuming_a_finished_run_reports_again(npz, finished, capsys, monkeypatch):
    monkeypatch.setitem(configs.QUICK, "model", SMALL)
    _, metrics, _ = read_run(finished)
    (finished / "metrics.json").unlink()
    assert train.main([*map(str, options(npz, finished)), "--resume"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert read_run(finished)[1] == metrics


@pytest.mark.slow
def test_report_runs_on_its_own(finished):
    _, metrics, _ = read_run(finished)
    (finished / "report.html").unlink()
    assert report.main([str(finished)]) == 0
    assert (finished / "report.html").exists()
    assert read_run(finished)[1] == metrics


@pytest.mark.slow
def test_shipped_weights_are_those_of_the_run(npz, finished, tmp_path, monkeypatch):
    preset = presets.PRESETS["vivit_organmnist3d_v2"]
    weights = tmp_path / "weights.npz"
    monkeypatch.setitem(preset, "weights", weights)
    monkeypatch.setitem(preset, "config", {**preset["config"], **SMALL})
    assert ship.main([str(finished)]) == 0
    model = keras_vivit.ViViTClassifier.from_preset("vivit_organmnist3d_v2")
    images = data.load("organmnist3d", 28, npz).test.images
    np.testing.assert_allclose(
        model.predict(images, verbose=0),
        read_run(finished)[2]["probabilities"],
        atol=1e-3,  # of half precision
    )


@pytest.mark.slow
def test_weights_of_another_architecture_are_not_shipped(finished, tmp_path, capsys):
    assert ship.main([str(finished), "--out", str(tmp_path / "weights.npz")]) == 2
    assert "num_layers=1 instead of 4" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_report_refuses_other_data(finished, capsys):
    assert report.main([str(finished), "--data", "synthetic"]) == 2
    assert "`--data` must be the set that the run" in capsys.readouterr().err


def test_report_needs_a_model(tmp_path, capsys):
    run_folder.start(tmp_path, {"data_path": None})
    assert report.main([str(tmp_path)]) == 2
    assert "must hold a model.keras" in capsys.readouterr().err
