"""Writes what was measured on each machine, side by side, into docs/performance.md.

    python benchmarks/machines.py

reads `benchmarks/results/speed-cpu-float32*.json` and replaces what stands between
`<!-- machines -->` and `<!-- end -->`.
"""

import json
import re

import tables
from run import FOLDER

PAGE = FOLDER.parent / "docs" / "performance.md"
NAMES = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
MODEL, SHOWN = "vivit1", ("tokens27", "tokens64", "tokens343")


def table(records):
    """Returns a table of our variant 1: a line for each case, a column for a machine.

    Args:
        records: Dictionaries, as `run.py` writes them.
    """
    columns, lines = [], {}
    for record in sorted(records, key=lambda r: r["environment"]["date"], reverse=True):
        environment = record["environment"]
        columns.append(f"{environment['machine']}, {environment['date']}")
        for row in tables.compare(tables.summarize(record["rows"])):
            if row["model"] == MODEL and row["size"] in SHOWN and "error" not in row:
                case = (row["size"], row["backend"], row["compiled"])
                lines.setdefault(case, {})[columns[-1]] = cell(row)
    head = ["tokens", "framework", *columns]
    body = [
        [
            size.removeprefix("tokens"),
            NAMES[backend] + (", `jit_compile=True`" if compiled else ""),
            *(cells.get(column, "") for column in columns),
        ]
        for (size, backend, compiled), cells in sorted(lines.items(), key=place)
    ]
    rows = [head, ["--:", "---", *["---"] * len(columns)], *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def place(line):
    (size, backend, compiled), _ = line
    case = {"size": size, "backend": backend, "compiled": compiled, "model": MODEL}
    return tables.place(case)


def cell(row):
    """Milliseconds of training and prediction, each with its ratio to the best peer."""
    return " / ".join(
        f"{row[key] * 1e3:.0f} ({row[f'{key}_ratio']:.2f})"
        if row[f"{key}_ratio"]
        else f"{row[key] * 1e3:.0f}"
        for key in ("train", "predict")
    )


def filled(page, records):
    text = f"<!-- machines -->\n{table(records)}\n<!-- end -->"
    return re.sub("<!-- machines -->.*?<!-- end -->", text, page, flags=re.DOTALL)


def records():
    paths = sorted((FOLDER / "results").glob("speed-cpu-float32*.json"))
    return [json.loads(path.read_text()) for path in paths]


def main():
    PAGE.write_text(filled(PAGE.read_text(), records()))


if __name__ == "__main__":
    main()
