"""Kills: what a `kill -9` interrupts goes on to the same end, and no file is damaged.

`cd tests && python -m campaigns.kills --kills 50` kills each command of `commands` at
random moments, looks at all its files, and lets it end. To add a command, add a
`Command`; `--only` takes a part of its name.
"""

import argparse
import csv
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np
from campaigns.output import write

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TIMEOUT = 1800


class Command(NamedTuple):
    """A command line, how it goes on after a kill, and what it leaves.

    `start` and `resume` take a folder and return a command line; `result` takes the
    folder and returns arrays.
    """

    name: str
    start: Callable[[pathlib.Path], list[str]]
    resume: Callable[[pathlib.Path], list[str]]
    result: Callable[[pathlib.Path], Any]


# === Commands ===

SMALL = {"num_layers": 1, "tubelet_size": [14, 14, 14], "strides": [14, 14, 14]}
TRAIN = f"""
import sys; sys.path.insert(0, {str(EXAMPLES / "organmnist3d")!r})
import configs, train; configs.QUICK["model"] = {SMALL}
sys.exit(train.main(sys.argv[1:]))
"""
SEARCH = f"""
import sys; sys.path.insert(0, {str(EXAMPLES / "organmnist3d")!r})
import search; search.HEARTBEAT = 1
search.GRIDS, suggest = {{"14/14": (14, 14)}}, search.suggest
def small(trial):
    found = suggest(trial)
    return {{**found, "model": {{**found["model"], "num_layers": 1}}, "batch_size": 8}}
search.suggest = small
sys.exit(search.main(sys.argv[1:]))
"""
VIDEO = f"""
import sys; sys.path.insert(0, {str(EXAMPLES)!r})
from video import train, training
training.SCRATCH.update(embed_dim=16, num_layers=1, mlp_dim=16)
sys.exit(train.main(sys.argv[1:]))
"""
PRESET = """
import pathlib, sys, keras_vivit
folder = pathlib.Path(sys.argv[1])
for number in range(20):
    model = keras_vivit.ViViTBackbone(
        (2, 8, 8, 1), (2, 8, 8), embed_dim=8, num_layers=1, num_heads=1, mlp_dim=8)
    for weight in model.weights:
        weight.assign(weight * 0 + number)
    model.save_to_preset(folder / "preset")
"""


def commands(folder):
    """Returns all commands; they read their data in the folder."""
    npz, clips = folder / "small.npz", folder / "clips"
    _write_volumes(npz)
    _write_clips(clips)

    def code(text, *arguments):
        return [sys.executable, "-c", text, *map(str, arguments)]

    def train(out):
        options = ("--epochs", 4, "--batch-size", 8)
        return code(TRAIN, "--data", npz, "--out", out, *options)

    def video(out):
        sizes = ("--frames", 4, "--size", 8, "--grid", 2, 2, 2, "--epochs", 3)
        return code(VIDEO, clips, *sizes, "--window", 0, 255, "--out", out)

    def search(out):
        return code(SEARCH, "--data", npz, "--out", out, "--trials", 2, "--epochs", 2)

    def distributed(out):
        script = EXAMPLES / "distributed.py"
        return [sys.executable, str(script), "--epochs", "2", "--out", str(out)]

    def preset(out):
        return code(PRESET, out)

    def many(out):
        script, options = EXAMPLES / "video" / "predict_many.py", ("--workers", 1)
        options += ("--part", 2, "--preset", folder / "model", "--out", out)
        return [sys.executable, str(script), str(clips), *map(str, options)]

    def again(start):
        return lambda out: [*start(out), "--resume"]

    found = [
        Command("train.py", train, again(train), _predictions),
        Command("search.py", search, search, _trials),
        Command("video/train.py", video, again(video), _predictions),
        Command("save_to_preset", preset, preset, _preset),
        Command("distributed.py", distributed, distributed, _checkpoint),
    ]
    if find_spec("ray"):
        _write_model(folder / "model")
        found.append(Command("video/predict_many.py", many, many, _rows))
    return found


def _write_volumes(path):
    sys.path.insert(0, str(EXAMPLES / "organmnist3d"))
    import shapes

    arrays = {}
    for seed, (split, count) in enumerate({"train": 24, "val": 8, "test": 8}.items()):
        images, labels = shapes.sample(count, 28, seed)
        arrays |= {f"{split}_images": images[..., 0], f"{split}_labels": labels}
    np.savez(path, **arrays)


def _write_clips(folder):
    """Arrays of volumes: what is read is no matter here."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 4, "test": 2}.items():
        for label in "ab":
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                array = rng.integers(0, 255, (4, 8, 8), "uint8")
                np.save(folder / split / label / f"{number}.npy", array)


def _write_model(folder):
    import keras_vivit

    keras_vivit.ViViTClassifier(
        (4, 8, 8, 1), 2, tubelet_size=(4, 8, 8), embed_dim=8, num_layers=1, num_heads=1
    ).save_to_preset(folder)


def _predictions(folder):
    with np.load(folder / "predictions.npz") as saved:
        return [saved["probabilities"]]


def _trials(folder):
    """How many trials ended; their parameters are drawn anew after a kill."""
    import sqlite3

    query = "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"
    with sqlite3.connect(folder / "study.db") as study:
        return [np.array(study.execute(query).fetchone())]


def _preset(folder):
    import keras_vivit

    model = keras_vivit.ViViTBackbone.from_preset(folder / "preset")
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def _checkpoint(folder):
    with np.load(folder / "checkpoint.npz") as saved:
        return [saved[name] for name in saved.files]


def _rows(folder):
    """What each file's row has: a file without one, or with two, changes that."""
    from pyarrow import parquet

    rows = parquet.read_table(folder / "predictions").to_pylist()
    rows.sort(key=lambda row: row["path"])
    return [np.array([sorted(row["probabilities"]) for row in rows])]


# === Files ===


def damaged(folder):
    """Returns the files that cannot be read; those not yet renamed do not count."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not _is_unfinished(path, folder) and not _is_whole(path)
    ]


def _is_unfinished(path, folder):
    parts = path.relative_to(folder).parts
    names = ("partial.npz", "unfinished.keras")
    return (
        path.name in names
        or path.suffix == ".part"
        or any(part.startswith((".", "_", "tmp")) for part in parts)
    )


def _is_whole(path):
    try:
        match path.suffix:
            case ".json":
                json.loads(path.read_text())
            case ".npz" | ".keras":
                with zipfile.ZipFile(path) as archive:
                    return archive.testzip() is None
            case ".h5":
                with h5py.File(path) as file:
                    file.visititems(lambda _, x: np.asarray(x) if x.shape else 0)
            case ".parquet":
                from pyarrow import parquet

                parquet.read_table(path)
            case ".csv":
                with path.open(newline="") as file:
                    rows = list(csv.reader(file))
                return len({len(row) for row in rows}) <= 1
            case ".html":
                return path.read_text().rstrip().endswith("</html>")
    except AttributeError:
        return True  # A group of an HDF5 file has no shape.
    except Exception:
        return False
    return True


# === Kills ===


def start(command, **options):
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process, code=0):
    errors = process.communicate(timeout=TIMEOUT)[1]
    assert process.returncode == code, (process.returncode, errors[-500:])


def uninterrupted(command, folder):
    """Returns the result, and the seconds, of a run that nothing interrupts."""
    begin = time.monotonic()
    finish(start(command.start(folder)))
    assert not damaged(folder)
    return command.result(folder), time.monotonic() - begin


def kill(command, folder, moment):
    """Kills a run after `moment` seconds; returns whether it had not ended."""
    process = start(command.start(folder), start_new_session=True)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    process.communicate()
    return False


def trial(command, folder, moment, expected):
    """Kills a run and lets it end; returns in words what is wrong, or `None`."""
    if not kill(command, folder, moment):
        return "ended before it was killed"
    if names := damaged(folder) if folder.exists() else []:
        return f"damaged: {', '.join(names)}"
    begun = (folder / "run.json").exists() or command.resume is command.start
    try:
        finish(start((command.resume if begun else command.start)(folder)))
        for a, b in zip(command.result(folder), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    return None


def campaign(kills, seed=0, only=""):
    results = {}
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        for command in commands(root):
            if only not in command.name:
                continue
            expected, seconds = uninterrupted(command, root / "whole")
            rng, counts, faults = random.Random(f"{seed} {command.name}"), [], []
            while len(counts) < kills:
                moment = rng.uniform(0, seconds)
                fault = trial(command, root / "killed", moment, expected)
                shutil.rmtree(root / "killed", ignore_errors=True)
                if fault != "ended before it was killed":
                    counts.append(moment)
                if fault and fault != "ended before it was killed":
                    faults.append({"second": round(moment, 2), "is": fault})
                print(command.name, round(moment, 1), fault or "ok", file=sys.stderr)
            shutil.rmtree(root / "whole")
            results[command.name] = {
                "kills": len(counts),
                "seconds": round(seconds, 1),
                "found": faults,
            }
            results[command.name] |= full_disk(command, root / "full")
    return {"backend": keras.backend.backend(), "seed": seed, "commands": results}


def full_disk(command, folder):
    """Runs with files of at most 4 KiB, which stands in for a full disk."""
    limit = ("bash", "-c", 'trap "" XFSZ; ulimit -f 4; exec "$@"', "bash")
    process = start([*limit, *command.start(folder)])
    errors = process.communicate(timeout=TIMEOUT)[1]
    found = {
        "full disk": "ends with an error" if process.returncode else "ends without one",
        "its last line": (errors.strip().splitlines() or [""])[-1][:200],
        "damaged": damaged(folder) if folder.exists() else [],
    }
    shutil.rmtree(folder, ignore_errors=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the commands' names")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file")
    arguments = parser.parse_args()
    result = campaign(arguments.kills, arguments.seed, arguments.only)
    write(result, arguments.out)


if __name__ == "__main__":
    main()
