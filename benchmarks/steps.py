"""Where the time of a training step goes, on every backend.

    python benchmarks/steps.py

The parts are differences: a prediction is the forward pass; a step of plain SGD beyond
it the gradient, with loss and metrics; a step of AdamW beyond that the optimizer.
Beside them stands what the products of matrices need at the rate of large ones. Results
are written after each case, and the same command goes on where a killed one stopped.
"""

import argparse
import statistics
from pathlib import Path

import run
from flops import operations
from sizes import BACKENDS, MODELS, SIZES

COMMON = {"device": "cpu", "dtype": "float32"}
MODEL = "vivit1"
HEAD = """\
| framework | tokens | step, ms | forward | gradient | AdamW | products alone |
|---|--:|--:|--:|--:|--:|--:|"""


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    sizes = ["tokens27", "tokens64", "tokens343"]
    add("--sizes", nargs="+", choices=SIZES, default=sizes)
    add("--rounds", type=int, default=3)
    add("--out", type=Path, default=run.FOLDER / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    path = options.out / "steps-cpu-float32.json"
    record = run.load(path, run.environment("cpu", "float32", run.processors()))
    for number in range(1, options.rounds + 1):
        run.complete(cases(options.backends, options.sizes, number), record, path)
    print(table(record["rows"]))


def cases(backends, sizes, number):
    common = {**COMMON, "round": number}
    models = {"kind": "model", "model": MODEL, "compiled": False}
    return [{"kind": "gemm", "backend": b, **common} for b in backends] + [
        {**models, "backend": b, "size": size, "optimizer": name, **common}
        for b in backends
        for size in sizes
        for name in ("sgd", "adamw")
    ]


def table(rows):
    """Returns a line for each framework and size: medians of the rounds."""
    good = [row for row in rows if "error" not in row]

    def median(key, **case):
        found = [r[key] for r in good if case.items() <= r.items()]
        return statistics.median(found) if found else None

    lines = [HEAD]
    for backend, size in dict.fromkeys((r["backend"], r.get("size")) for r in good):
        if size is None:
            continue
        case = {"backend": backend, "size": size}
        forward = median("predict", **case)
        sgd = median("train", **case, optimizer="sgd")
        adamw = median("train", **case, optimizer="adamw")
        rate = median("operations", kind="gemm", backend=backend)
        if None in (sgd, adamw, rate):
            continue
        products = operations(SIZES[size], MODELS[MODEL], training=True) / rate
        parts = (adamw, forward, sgd - forward, adamw - sgd, products)
        cells = (f"{seconds * 1e3:.1f}" for seconds in parts)
        tokens = size.removeprefix("tokens")
        lines.append(f"| {backend} | {tokens} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
