"""Measures a trained model on the test volumes and writes the report.

    python examples/organmnist3d/report.py RUN_FOLDER

writes `report.html`, `metrics.json` and `predictions.npz` of a run again, from its
saved model. `train.py` calls `write` at the end of a training.
"""

import argparse
import sys
from pathlib import Path

from data import load, with_fold

sys.path.insert(0, str(Path(__file__).parents[1]))

import about_medmnist
from common import run_folder
from common.command_line import InputError, choose_backend, exit_status
from common.report import heat, writing


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--data", help="npz file, if it has moved since the training")
    options = parser.parse_args(arguments)
    return exit_status(run, options.folder, options.data)


def run(folder, path=None):
    record = run_folder.record_of(folder)
    if not (folder / "model.keras").exists():
        raise InputError(
            "The run folder must hold a model.keras. "
            f"Received: {folder} (`train.py --resume` finishes an interrupted run)."
        )
    trained_on = record["data_path"] or "synthetic"
    if path and (path == "synthetic") != (trained_on == "synthetic"):
        raise InputError(
            f"`--data` must be the set that the run was trained on, {trained_on}. "
            f"Received: {path}."
        )
    data = load(record["dataset"], record["size"], path or trained_on)
    data = with_fold(data, record.get("fold"))
    choose_backend(record["backend"])

    import training  # Keras, and with it the backend

    model = training.load(folder)
    predictions = training.predict_two_views(model, data)
    write(folder, data, *predictions, heat.explain(model))


def write(folder, data, probabilities, two_views=None, explain=None):
    """Writes predictions, metrics and the page into a run's folder.

    Args:
        folder: The run's folder, with its `run.json` and `history.csv`.
        data: A `Dataset`.
        probabilities: Array `(n, num_classes)` for the test volumes.
        two_views: The same, averaged with what the mirrored volumes give, or `None`.
        explain: Optional function of volumes and of a class each, that returns maps of
            what speaks for it.
    """
    facts = {"dataset": data.name, "data": data.source, "data_md5": data.md5}
    about = about_medmnist.about(data, run_folder.record_of(folder))
    metrics = writing.write(
        folder, data, about, facts, probabilities, two_views, explain
    )
    print(writing.summary(metrics, about))
    print(f"Open {folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
