"""What each fast path brings: the time with it, divided by the time without it.

    python benchmarks/paths.py
    python benchmarks/paths.py --backends torch --sizes tokens64 --threads 1

A function of `keras_vivit/fast/BACKEND.py` is taken away, so that the plain form runs,
in a process of its own. In each round the complete library is measured, too.
"""

import argparse
import ast
import datetime
import json
import statistics
from pathlib import Path

from run import FOLDER, processor, processors, run, versions
from sizes import BACKENDS, SIZES

# Not of a model: augmentation has a table of its own, `remat` saves memory, not time.
OTHERS = ("augment", "remat")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    add("--sizes", nargs="+", choices=SIZES, default=("tokens64", "tokens343"))
    add("--dtype", choices=("float32", "mixed_bfloat16"), default="float32")
    add("--compiled", action="store_true", help="TensorFlow with jit_compile=True")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=processors(), help="default: all processors")
    add("--out", type=Path, default=FOLDER / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    for backend in options.backends:
        rows = [
            row for size in options.sizes for row in measure(backend, size, options)
        ]
        record = {
            "machine": processor(),
            "threads": options.threads,
            "dtype": options.dtype,
            "date": datetime.date.today().isoformat(),
            "versions": versions(),
            "rows": rows,
        }
        compiled = "-compiled" if options.compiled else ""
        path = options.out / f"paths-{backend}{compiled}-{options.dtype}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(table(rows))


def measure(backend, size, options):
    """Returns the ratios for each fast path of a backend."""
    case = {
        "kind": "model",
        "backend": backend,
        "size": size,
        "model": "vivit1",
        "compiled": options.compiled,
        "device": "cpu",
        "dtype": options.dtype,
        "threads": options.threads,
    }
    names = paths(backend)
    ratios = {name: {"train": [], "predict": []} for name in names}
    for _ in range(options.rounds):
        complete = run(case, "cpu")
        for name in names:
            plain = run({**case, "without": name}, "cpu")
            for kind, values in ratios[name].items():
                values.append(complete[kind] / plain[kind])
    return [
        {"backend": backend, "size": size, "path": name, **ratios[name]}
        for name in names
    ]


def paths(backend):
    """The functions of a backend's file that get their plain form, or are `xla`'s."""
    file = FOLDER.parent / "keras_vivit" / "fast" / f"{backend}.py"
    names = []
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            if node.args.args[:1] and node.args.args[0].arg == "plain":
                names.append(node.name)
        elif isinstance(node, ast.Assign):
            targets = [x.id for x in ast.walk(node.targets[0]) if hasattr(x, "id")]
            names += [name for name in targets if name.islower()]
    return [x for x in names if not x.startswith("_") and x not in OTHERS]


def table(rows):
    lines = ["| backend | size | path | train | predict |", "|---|---|---|--:|--:|"]
    for row in rows:
        numbers = (
            f"{statistics.median(row[kind]):.2f} ({min(row[kind]):.2f} to "
            f"{max(row[kind]):.2f})"
            for kind in ("train", "predict")
        )
        lines.append(
            f"| {row['backend']} | {row['size']} | `{row['path']}` | "
            f"{' | '.join(numbers)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
