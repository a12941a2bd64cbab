"""Both recipes, unchanged, in two processes: losses, kept epoch and report of one.

Run as a script it is a recipe with a small model, called with its own arguments; `DIE`
names a file that the second process writes when it dies, once, after its first epoch.
"""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import needs_av, once, only

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "organmnist3d")]

from common import processes  # noqa: E402
from common.command_line import InputError, launched  # noqa: E402
from video import moving_shapes  # noqa: E402

JOB = "KERAS_DISTRIBUTION_"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
TIMEOUT = 900
each_recipe = pytest.mark.parametrize("recipe", ["video", "organmnist3d"])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """For each recipe, the options of a run of two epochs."""
    import shapes

    folder = tmp_path_factory.mktemp("data")
    moving_shapes.write(folder / "videos", {"train": 5, "test": 3})
    # A file that only one of the processes finds damaged.
    (folder / "videos" / "train" / "fall" / "bad.mp4").write_bytes(b"no video")
    sizes = ["--frames", 8, "--size", 16, "--grid", 2, 2, 2, "--learning-rate", 0.01]
    arrays = {}
    for seed, (split, count) in enumerate({"train": 22, "val": 9, "test": 7}.items()):
        images, labels = shapes.sample(count, 28, seed)
        arrays |= {f"{split}_images": images[..., 0], f"{split}_labels": labels}
    np.savez(folder / "volumes.npz", **arrays)
    volumes = ["--data", folder / "volumes.npz", "--batch-size", 8, "--patience", 3]
    return {
        "video": [folder / "videos", *sizes, "--epochs", 3],
        "organmnist3d": [*volumes, "--epochs", 3],
    }


def start(recipe, options, launcher=(sys.executable,), **environment):
    command = [*launcher, __file__, recipe, *map(str, options)]
    return subprocess.Popen(
        command,
        env={**os.environ, "KERAS_BACKEND": keras.config.backend(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(recipe, options, *more, **environment):
    """Starts two processes, as the backend has it; returns what to wait for."""
    if keras.config.backend() == "torch":
        launcher = (*TORCHRUN, "--nproc-per-node=2", *more)
        return [start(recipe, options, launcher, **environment)]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    names = {f"{JOB}JOB_ADDRESSES": address, f"{JOB}NUM_PROCESSES": "2"}
    return [
        start(recipe, options, **names, **{f"{JOB}PROCESS_ID": i}, **environment)
        for i in "01"
    ]


def finish(*started):
    """Waits, and returns what the first one has printed."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (output, error) in zip(started, outputs, strict=True):
        assert process.returncode == 0, output + error
    return outputs[0][0]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """Returns the function that gives the folder of a run in one process."""
    folders = {}

    def run(recipe):
        if recipe not in folders:
            folders[recipe] = tmp_path_factory.mktemp("alone") / recipe
            finish(start(recipe, [*data[recipe], "--out", folders[recipe]]))
        return folders[recipe]

    return run


def same_run(folder, expected):
    found, wanted = rows_of(folder), rows_of(expected)
    assert [row["epoch"] for row in found] == [row["epoch"] for row in wanted]
    assert np.ptp([row["loss"] for row in wanted]) > 1e-3  # It says something.
    for row, other in zip(found, wanted, strict=True):
        for name in set(other) - {"seconds"}:
            assert row[name] == pytest.approx(other[name], abs=1e-4), name
    found, wanted = (np.load(f / "predictions.npz") for f in (folder, expected))
    for name in ("probabilities", "labels"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4)
    found, wanted = (
        json.loads((f / "metrics.json").read_text()) for f in (folder, expected)
    )
    assert found["balanced_accuracy"] == pytest.approx(wanted["balanced_accuracy"])
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in expected.iterdir()
    }


def rows_of(folder):
    with (folder / "history.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@needs_av
@pytest.mark.slow
@only("torch", "jax")
@each_recipe
def test_two_processes_end_as_one(recipe, data, alone, tmp_path):
    options = [*data[recipe], "--out", tmp_path / "run"]
    output = finish(*start_two(recipe, options))
    assert output.count("Keeping epoch") == 1  # The first process alone prints.
    same_run(tmp_path / "run", alone(recipe))


@needs_av
@pytest.mark.slow
@only("torch", "jax")
def test_two_processes_go_on_after_the_death_of_one(data, alone, tmp_path):
    options = [*data["organmnist3d"], "--out", tmp_path / "run"]
    mark = tmp_path / "died"
    restarts = ("--max-restarts=1",)
    environment = {"DIE": str(mark), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    started = start_two("organmnist3d", options, *restarts, **environment)
    if keras.config.backend() == "jax":  # Nobody starts it again.
        first, second = started
        assert second.wait(TIMEOUT) == -signal.SIGKILL
        first.kill()  # It may wait for the other.
        first.communicate(), second.communicate()
        assert len(rows_of(tmp_path / "run")) >= 1
        started = start_two("organmnist3d", [*options, "--resume"])
    output = finish(*started)
    assert mark.exists()
    assert "Going on after epoch 1." in output
    same_run(tmp_path / "run", alone("organmnist3d"))


# === What is refused ===


@once
def test_torchrun_needs_pytorch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    assert launched() == "torch"
    with pytest.raises(InputError, match="`torchrun` needs the backend torch"):
        processes.join()


@only("torch", "tensorflow")
def test_addresses_of_jax_need_jax(monkeypatch):
    monkeypatch.setenv(f"{JOB}JOB_ADDRESSES", "localhost:1")
    with pytest.raises(InputError, match="JOB_ADDRESSES needs the backend jax"):
        processes.join()


@once
def test_batches_that_processes_cannot_share_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(InputError, match=r"the 3 devices .* Received: 8"):
        processes.check_batch(8)


@once
@needs_av
def test_head_of_a_frozen_model_trains_in_one_process(monkeypatch, tmp_path, capsys):
    from video import train

    monkeypatch.setenv(f"{JOB}JOB_ADDRESSES", "localhost:1")
    arguments = [str(tmp_path), "--frozen", "--checkpoint", "x", "--out", "y"]
    assert train.main(arguments) == 2
    assert "`--frozen` must be left out" in capsys.readouterr().err


@once
def test_other_scripts_run_in_one_process(monkeypatch, tmp_path, capsys):
    from video import predict

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert predict.main([str(tmp_path), "--model", "x"]) == 2
    assert "This script runs in one process" in capsys.readouterr().err


def test_one_process_changes_nothing():
    assert processes.count() == 1
    assert processes.gather("value") == ["value"]
    assert np.arange(8)[processes.rows(8)].tolist() == list(range(8))


# === A process ===


def small_video():
    from video import train, training

    for name in ("embed_dim", "mlp_dim"):
        training.SCRATCH[name] = 16
    # Under `torchrun` each process draws its own numbers for dropout.
    training.SCRATCH |= {"num_layers": 1, "drop_path_rate": 0.0}
    return train


def small_volumes():
    import configs
    import train

    small = {"num_layers": 1, "strides": (7, 7, 7), "drop_path_rate": 0.0}
    configs.QUICK["model"] = {**configs.QUICK["model"], **small}
    return train


def die_once(mark):
    """Has the second process die in its second epoch, unless it has died before."""
    worker = os.environ.get("RANK") or os.environ.get(f"{JOB}PROCESS_ID")

    from common.batches import RepeatableBatches

    start_epoch = RepeatableBatches.start_epoch

    def deadly(self, epoch):
        if (worker, epoch) == ("1", 1) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        start_epoch(self, epoch)

    RepeatableBatches.start_epoch = deadly


if __name__ == "__main__":
    if keras.config.backend() == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", True)
    if mark := os.environ.get("DIE"):
        die_once(Path(mark))
    recipe = {"video": small_video, "organmnist3d": small_volumes}[sys.argv[1]]()
    sys.exit(recipe.main(sys.argv[2:]))
