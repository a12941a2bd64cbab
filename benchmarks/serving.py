"""How fast the shipped model answers: one volume, and all of a test set.

    KERAS_BACKEND=torch python benchmarks/serving.py
    python benchmarks/serving.py --table

writes `results/serving-torch.json`: seconds on the clock with all processors, for
Keras' `predict` and `predict_on_batch`, and for the exported files whose packages are
installed. Each case runs in a process of its own, in interleaved rounds. `--table`
prints the table of `docs/export.md`, with the results of all backends.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from export import FOLDER, FORMATS, KERAS, run, write
from run import processor, processors, versions

VOLUMES, BATCH = 610, 32  # the official test volumes
CALLS = ("predict", "predict_on_batch")  # of Keras' own file
HEAD = """\
| backend | | one volume, ms | 610 volumes, s | volumes a second |
|---|---|--:|--:|--:|"""


def load(name, path):
    """Returns a function of any number of volumes, in batches of at most 32."""
    if name == "predict":
        model = KERAS.load(path).__self__
        return lambda videos: model.predict(videos, batch_size=BATCH, verbose=0)
    predict = FORMATS.get(name, KERAS).load(path)
    return lambda videos: np.concatenate(
        [
            np.asarray(predict(part))
            for part in np.array_split(videos, -(-len(videos) // BATCH))
        ]
    )


def measure(name, path):
    """Prints the seconds for one volume and for all of them."""
    predict = load(name, path)
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 256, (VOLUMES, 28, 28, 28, 1)).astype("float32")
    result = {}
    for count, repeats in ((1, 50), (VOLUMES, 2)):
        predict(videos[:count])
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            predict(videos[:count])
            seconds.append(time.perf_counter() - start)
        result[f"seconds_{count}"] = statistics.median(seconds)
    print(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="of earlier results")
    options = parser.parse_args()
    if options.table:
        return print(table())
    backend = os.environ["KERAS_BACKEND"]
    with tempfile.TemporaryDirectory() as name:
        files = write(Path(name), backend, precisions=())
        files = dict.fromkeys(CALLS, files.pop("float32")) | files
        rows = {case: [] for case in files}
        for _ in range(options.rounds):
            for case, path in files.items():
                rows[case].append(run("serving", case, str(path)))
    record = {
        "machine": f"{processor()}, {processors()} used",
        "backend": backend,
        "versions": versions(),
        "rounds": options.rounds,
        "results": {
            case: {key: statistics.median(r[key] for r in found) for key in found[0]}
            for case, found in rows.items()
        },
    }
    out = FOLDER / "results" / f"serving-{backend}.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


def table():
    lines = [HEAD]
    for path in sorted(FOLDER.glob("results/serving-*.json")):
        record = json.loads(path.read_text())
        for case, row in record["results"].items():
            one, many = row["seconds_1"], row[f"seconds_{VOLUMES}"]
            cells = f"{one * 1e3:.1f} | {many:.2f} | {VOLUMES / many:,.0f}"
            lines.append(f"| {record['backend']} | `{case}` | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
