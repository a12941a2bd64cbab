"""Searches for better hyperparameters of the tuned configuration, with Optuna.

    python examples/organmnist3d/search.py --trials 20 --epochs 15

Each trial is a short training; what counts is the cross-entropy on the validation
volumes, the test volumes are never read. The study is a SQLite file in the folder
`--out`: the same command goes on after a kill, trials that were cut off included, and
run several times at once it works on one study with several processes. Processes of
several hosts share `--storage URL`: a database of SQLAlchemy, such as
`postgresql://USER@HOST/NAME`, or `journal:FILE` on a network drive, without a server.
A journal has no heartbeats: there, other trials replace one that was cut off.

The sampler is Bayesian (TPE, which knows what the other processes are trying); trials
that are worse than the median of the others at the same epoch are pruned.
"""

import argparse
import contextlib
import random
import shutil
import sys
import time
import warnings
from pathlib import Path

from configs import TUNED, VARIANTS
from data import SETS, SIZES, load

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import run_folder
from common.command_line import (
    InputError,
    choose_backend,
    exit_status,
    positive,
    whole,
)

STUDY = "organmnist3d"
OBJECTIVE = "val_cross_entropy"
JOURNAL = "journal:"
HEARTBEAT = 10  # seconds; a trial that is silent for three of them is taken over
# Tubelet and stride, along each axis; tokens on volumes of 28^3.
GRIDS = {"7/7": (7, 7), "10/6": (10, 6), "8/5": (8, 5), "8/4": (8, 4)}


def main(arguments=None):
    return exit_status(run, parse(arguments))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", help="npz file, or 'synthetic' (default: download once)")
    add("--dataset", default="organmnist3d", choices=SETS, metavar="NAME")
    add("--size", type=int, default=28, choices=SIZES, help="voxels along each axis")
    add("--trials", type=positive, default=20, help="finished trials, pruned ones too")
    add("--epochs", type=positive, default=15, help="of each trial")
    add("--seed", type=whole, default=0, help="of each training")
    add("--out", type=Path, help="study and results (default: runs/search-DATASET)")
    add("--storage", metavar="URL", help="of a study that several hosts share")
    add("--study", default=STUDY, metavar="NAME", help="in that storage")
    return parser.parse_args(arguments)


def run(options):
    data = load(options.dataset, options.size, options.data)
    folder = options.out or Path("runs") / f"search-{data.name}"
    fixed = {
        "dataset": data.name,
        "data_md5": data.md5,
        "size": options.size,
        "seed": options.seed,
        "epochs": options.epochs,
        "backend": choose_backend(),
    }
    if (folder / "run.json").exists():
        run_folder.check_unchanged(folder, fixed)
    else:
        run_folder.start(folder, fixed)

    try:
        import optuna
    except ImportError as error:
        raise InputError(
            'The search needs Optuna: pip install ".[search]" (nothing was started).'
        ) from error

    import training  # noqa: F401  Now: a trial that is silent for so long seems dead.

    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    storage = options.storage or f"sqlite:///{folder / 'study.db'}"
    with storage_errors(storage):
        study = open_study(storage, options.epochs, options.study)
    check_settings(study, fixed)
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    taken = []
    while len(study.get_trials(states=finished)) < options.trials:
        try:
            study.optimize(
                lambda trial: objective(trial, data, fixed, folder, taken),
                callbacks=[optuna.study.MaxTrialsCallback(options.trials, finished)],
            )
        except ValueError:  # Optuna cannot tell the result of a trial that is over.
            if not taken:
                raise
            print(f"Trial {taken.pop()} was silent, and is taken over.", flush=True)
    write(study, folder)


def open_study(url, epochs, name=STUDY):
    import optuna

    return optuna.create_study(
        storage=open_storage(url),
        study_name=name,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=epochs // 3),
    )


def open_storage(url):
    from optuna import storages
    from sqlalchemy.exc import SQLAlchemyError

    if url.startswith(JOURNAL):
        file = storages.journal.JournalFileBackend(url.removeprefix(JOURNAL))
        return storages.JournalStorage(file)
    for _ in range(4):
        try:
            return open_database(url)
        except SQLAlchemyError:  # Another worker was making the same tables.
            time.sleep(random.SystemRandom().uniform(0, 1))
    return open_database(url)


def open_database(url):
    import optuna

    sqlite = url.startswith("sqlite:")
    storage = optuna.storages.RDBStorage(
        url,
        engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else None,
        heartbeat_interval=HEARTBEAT,
        grace_period=3 * HEARTBEAT,
        heartbeat_stale_trial_callback=retry(),
    )
    if sqlite:
        take_turns(storage.engine)
    return storage


@contextlib.contextmanager
def storage_errors(url):
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (ImportError, OSError, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            "`--storage` must be the URL of a database, or journal:FILE. "
            f"Received: {url} ({reason})."
        ) from error


def check_settings(study, fixed):
    """Raises unless all workers of a study train in the same way."""
    settings = {name: fixed[name] for name in fixed if name != "backend"}
    if not study.user_attrs:
        study.set_user_attr("settings", settings)
    elif (received := study.user_attrs["settings"]) != settings:
        raise InputError(
            f"`--study` must have been started with the same options, {settings}. "
            f"Received: {study.study_name} with {received}."
        )


def take_turns(engine):
    """Locks SQLite from a transaction's first read on, as other databases lock rows.

    Else two workers may give their trials the same number, or take over the same trial.
    """
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def no_implicit_begin(connection, _):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before


def retry():
    """Queues a trial that was cut off again, with its parameters and results so far."""
    import optuna

    return optuna.storages.RetryHeartbeatStaleTrialCallback(
        inherit_intermediate_values=True
    )


def suggest(trial):
    """Returns the tuned configuration with a trial's hyperparameters."""
    tubelet, stride = GRIDS[trial.suggest_categorical("tubelet/stride", list(GRIDS))]
    embed_dim = trial.suggest_categorical("embed_dim", [64, 96, 128])
    model = {
        "tubelet_size": (tubelet,) * 3,
        "strides": (stride,) * 3,
        "embed_dim": embed_dim,
        "num_heads": embed_dim // 32,
        "mlp_dim": 4 * embed_dim,
        "num_layers": trial.suggest_int("num_layers", 2, 6),
        "drop_path_rate": trial.suggest_float("drop_path_rate", 0.0, 0.3),
    }
    mixed = trial.suggest_float("cutmix_rate", 0.0, 0.5)
    return {
        **TUNED,
        "ema_momentum": None,  # Its memory is as long as a trial.
        "model": model,
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 3e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2),
        "augmentation": {**TUNED["augmentation"], "cutmix": {"rate": mixed}},
    }


def objective(trial, data, fixed, folder, taken):
    """Trains, or goes on training, and returns the validation cross-entropy.

    Puts the trial into `taken` if another process thought it dead, as after a laptop's
    sleep, and queued it again.
    """
    import keras
    import optuna
    import training

    place = folder_of(folder, trial.number)
    attempts = retry().retry_history(trial.study.trials[trial.number])
    # Goes on in a copy: the one before may be slow instead of dead. A folder of a host
    # that shares the study alone is not here: that trial starts anew.
    if attempts and (earlier := folder_of(folder, attempts[-1])).exists():
        shutil.copytree(earlier, place, dirs_exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    configuration = {
        **suggest(trial),
        **fixed,
        "variant": VARIANTS[0],
        "precision": "float32",
        "warmup_epochs": max(1, fixed["epochs"] // 10),
    }
    if len(run_folder.read_history(place)) < fixed["epochs"]:
        print(f"Trial {trial.number}: {trial.params}", flush=True)
        keras.backend.clear_session()
        callback = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: tell(trial, epoch, logs, place)
        )
        try:
            training.train(data, configuration, place, [callback])
        except optuna.exceptions.UpdateFinishedTrialError:
            taken.append(trial.number)
            raise
        except KeyboardInterrupt:
            retry()(trial.study, trial.study.trials[trial.number])  # reported to date
            raise
    (place / "model.keras").unlink(missing_ok=True)
    return run_folder.read_history(place)[-1][OBJECTIVE]


def folder_of(folder, number):
    return folder / "trials" / f"{number:04d}"


def tell(trial, epoch, logs, place):
    import optuna

    trial.report(logs[OBJECTIVE], epoch)
    if trial.should_prune():
        shutil.rmtree(place / "checkpoints")
        raise optuna.TrialPruned


def write(study, folder):
    """Writes the trials as a table, best first, and the two plots."""
    from optuna.visualization import matplotlib as plots

    (folder / "trials.md").write_text(table(study))
    figures = {"history.png": plots.plot_optimization_history}
    values = {t.value for t in completed(study)}
    if len(values) > 1:
        figures["importance.png"] = plots.plot_param_importances
    for name, plot in figures.items():
        plot(study).figure.savefig(folder / name, dpi=120, bbox_inches="tight")
    print(f"Best of {len(study.trials)} trials: {study.best_value:.4f}, with")
    for name, value in study.best_params.items():
        print(f"  {name}: {value}")
    print(f"Results: {folder}")


def completed(study):
    from optuna.trial import TrialState

    trials = study.get_trials(states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: trial.value)


def table(study):
    """Returns the finished trials as Markdown, the best first, pruned ones last."""
    from optuna.trial import TrialState

    pruned = study.get_trials(states=(TrialState.PRUNED,))
    names = list(study.best_params)
    head = ["trial", "epochs", OBJECTIVE, *names]
    rows = [head, ["--:"] * len(head)]
    for trial in [*completed(study), *pruned]:
        state = "" if trial.state == TrialState.COMPLETE else " (pruned)"
        last = trial.intermediate_values[trial.last_step]
        cells = [trial.number, trial.last_step + 1, f"{last:.4f}{state}"]
        rows.append([*map(str, cells), *(short(trial.params[name]) for name in names)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def short(value):
    return f"{value:.2g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
