"""The hyperparameter search: a study that survives a kill and has several workers."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import once

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

EXAMPLE = Path(__file__).parents[1] / "examples" / "organmnist3d"
sys.path.insert(0, str(EXAMPLE))  # as Python does for a script in that folder

import search  # noqa: E402
import shapes  # noqa: E402
from common import run_folder  # noqa: E402

EPOCHS = 3
# Small models.
SCRIPT = """
import sys, search
search.GRIDS, suggest = {"14/14": (14, 14)}, search.suggest
def small(trial):
    found = suggest(trial)
    return {**found, "model": {**found["model"], "num_layers": 1}, "batch_size": 8}
search.suggest = small
sys.exit(search.main(sys.argv[1:]))
"""


@pytest.fixture
def npz(tmp_path):
    arrays = {}
    for seed, (split, count) in enumerate({"train": 24, "val": 8, "test": 4}.items()):
        images, labels = shapes.sample(count, 28, seed)
        arrays |= {f"{split}_images": images[..., 0], f"{split}_labels": labels}
    np.savez(tmp_path / "small.npz", **arrays)
    return tmp_path / "small.npz"


def worker(npz, folder, trials, *more):
    options = ["--data", npz, "--out", folder, "--trials", trials, "--epochs", EPOCHS]
    options += more
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, options)],
        cwd=EXAMPLE,
        env={**os.environ, "KERAS_BACKEND": keras.config.backend()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@once
@pytest.mark.slow
def test_killed_search_goes_on_with_two_workers_and_loses_nothing(npz, tmp_path):
    folder = tmp_path / "search"
    history = folder / "trials" / "0000" / "history.csv"
    with worker(npz, folder, trials=4) as first:
        while not (history.exists() and len(history.read_text().splitlines()) > 1):
            assert first.poll() is None, first.stderr.read()
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    with sqlite3.connect(folder / "study.db") as study:  # instead of waiting
        study.execute("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'")

    with worker(npz, folder, trials=4) as one, worker(npz, folder, trials=4) as two:
        for process in (one, two):
            error = process.communicate()[1]
            assert process.returncode == 0, error

    study = optuna.load_study(
        study_name=search.STUDY, storage=f"sqlite:///{folder / 'study.db'}"
    )
    killed, *others = study.trials
    assert killed.state.name == "FAIL"
    finished = [t for t in others if t.state.name in ("COMPLETE", "PRUNED")]
    assert len(finished) >= 4
    (again,) = [t for t in finished if t.params == killed.params]
    assert again.intermediate_values.items() >= killed.intermediate_values.items()
    rows = run_folder.read_history(search.folder_of(folder, again.number))
    assert [row["epoch"] for row in rows] == list(range(len(rows)))
    assert rows[-1][search.OBJECTIVE] == pytest.approx(again.value)

    table = (folder / "trials.md").read_text().splitlines()
    assert len(table) == 2 + len(finished)
    assert (
        f"| {study.best_trial.number} | {EPOCHS} | {study.best_value:.4f} |" in table[2]
    )
    assert {"history.png", "importance.png"} <= {p.name for p in folder.iterdir()}


@once
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("storage", ["sqlite:///{}.db", "journal:{}.log"])
def test_two_hosts_work_on_one_study(npz, tmp_path, monkeypatch, storage):
    """As two hosts do that share the storage alone: each has a folder of its own."""
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())
    ready = threading.Barrier(2, timeout=60)

    def train(data, configuration, place, callbacks):
        if place.name in ("0000", "0001"):
            ready.wait()  # Both workers have a trial.
        callbacks[0].on_epoch_end(0, {search.OBJECTIVE: 1.0})
        (place / "history.csv").write_text(f"epoch,{search.OBJECTIVE}\n0,1.0\n")

    monkeypatch.setattr("training.train", train)
    monkeypatch.setattr("search.write", lambda study, folder: None)
    url = storage.format(tmp_path / "study")
    arguments = ["--data", str(npz), "--epochs", "1", "--trials", "4", "--storage", url]
    folders = [tmp_path / "one", tmp_path / "two"]
    with ThreadPoolExecutor(2) as pool:
        mains = [
            pool.submit(search.main, [*arguments, "--out", str(folder)])
            for folder in folders
        ]
    assert [main.result() for main in mains] == [0, 0]
    trials = search.open_study(url, 1).trials
    assert [trial.state.name for trial in trials][:4] == ["COMPLETE"] * 4
    places = [sorted(f.name for f in (x / "trials").iterdir()) for x in folders]
    numbers = sorted(place for folder in places for place in folder)
    assert numbers == [f"{trial.number:04d}" for trial in trials]
    assert all(places)


@pytest.mark.slow
def test_trial_that_another_worker_took_over_is_left_to_it(npz, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())
    trials, url = [], f"sqlite:///{tmp_path / 'study.db'}"

    def train(data, configuration, place, callbacks):
        (trial,) = search.open_study(url, 1).get_trials(
            states=(optuna.trial.TrialState.RUNNING,)
        )
        trials.append(trial)
        if trial.number == 0:  # what a worker does that finds it silent
            storage = search.open_study(url, 1)._storage
            storage.set_trial_state_values(
                trial._trial_id, optuna.trial.TrialState.FAIL
            )
        callbacks[0].on_epoch_end(0, {search.OBJECTIVE: 1.0 + trial.number})
        text = f"epoch,{search.OBJECTIVE}\n0,{1.0 + trial.number}\n"
        (place / "history.csv").write_text(text)

    monkeypatch.setattr("training.train", train)
    arguments = ["--data", str(npz), "--out", str(tmp_path), "--epochs", "1"]
    assert search.main([*arguments, "--trials", "2"]) == 0
    assert [trial.number for trial in trials] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_queued_trial_is_taken_by_one_worker(tmp_path):
    url, queued, workers = f"sqlite:///{tmp_path / 'study.db'}", 20, 4
    study = search.open_study(url, EPOCHS)
    for number in range(queued):
        study.enqueue_trial({"number": number})
    ready = threading.Barrier(workers)

    def work(_):
        study = search.open_study(url, EPOCHS)
        ready.wait()
        study.optimize(lambda trial: trial.number, n_trials=queued // workers)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * queued


def test_search_with_other_options_is_another_study(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())
    arguments = ["--data", str(npz), "--out", str(tmp_path), "--epochs"]
    run_folder.start(tmp_path, {"epochs": 3})
    assert search.main([*arguments, "4"]) == 2
    assert "epochs 3 -> 4" in capsys.readouterr().err


@once
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_storage_that_does_not_fit_is_named(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())
    arguments = ["--data", str(npz), "--storage"]
    for number, url in enumerate(("nonsense", f"sqlite:////{tmp_path}/none/study.db")):
        out = ["--out", str(tmp_path / str(number))]
        assert search.main([*arguments, url, *out]) == 2
        assert "`--storage` must be the URL" in capsys.readouterr().err
    url = f"sqlite:///{tmp_path / 'study.db'}"
    search.open_study(url, 1).set_user_attr("settings", {"epochs": 1})
    assert search.main([*arguments, url, "--out", str(tmp_path / "run")]) == 2
    assert "`--study` must have been started with" in capsys.readouterr().err
