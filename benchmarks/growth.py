"""Time and memory by the number of tokens, for all variants, on every backend.

    python benchmarks/growth.py
    python benchmarks/growth.py --backends torch --sizes growth27 growth64 --out /tmp

Every size has the same number of tokens in a batch, so that a cost which is linear in
the tokens is a level line. Each case runs in a process of its own, on one thread.
Results are written after each case, and the same command goes on where a killed one
stopped.
"""

import argparse
import itertools
from pathlib import Path

import run
from flops import operations
from sizes import BACKENDS, GROWTH, MODELS, SIZES, tokens

OURS = ("vivit1", "vivit2", "vivit3", "vivit4")
COMMON = {
    **{"kind": "model", "device": "cpu", "dtype": "float32", "compiled": False},
    "round": 1,
}
UNITS = {"train": ("us", 1e6), "predict": ("us", 1e6), "memory": ("KB", 1e-3)}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    add("--sizes", nargs="+", choices=GROWTH, default=list(GROWTH))
    add("--out", type=Path, default=run.FOLDER / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    path = options.out / "growth-cpu-float32.json"
    record = run.load(path, run.environment("cpu", "float32", threads=1))
    todo = [
        {**COMMON, "backend": backend, "size": size, "model": model}
        for backend, size, model in itertools.product(
            options.backends, options.sizes, OURS
        )
    ]
    run.complete(todo, record, path)
    rows = per_token(record["rows"])
    print(worst(rows))
    plot(rows, path.with_suffix(".png"))


def per_token(rows):
    """Returns what each case takes for a token, and what its operations would take.

    The latter is at the best rate that the same model reaches at any size. Memory is
    compared with the least that a token takes at any size.
    """
    found = []
    for row in rows:
        if "error" in row:
            continue
        size, model = SIZES[row["size"]], MODELS[row["model"]]
        length = tokens(size, model)
        values = {key: row[key] / (size.batch * length) for key in UNITS}
        needed = {
            key: operations(size, model, key == "train") / (size.batch * length)
            for key in ("train", "predict")
        }
        case = {key: row[key] for key in ("backend", "model")}
        found.append({**case, "tokens": length, **values, "operations": needed})
    for row in found:
        same = [r for r in found if alike(r, row)]
        rate = {
            key: max(r["operations"][key] / r[key] for r in same)
            for key in row["operations"]
        }
        row["expected"] = {key: row["operations"][key] / rate[key] for key in rate}
        row["expected"]["memory"] = min(r["memory"] for r in same)
    return sorted(found, key=lambda row: row["tokens"])


def alike(a, b):
    return (a["backend"], a["model"]) == (b["backend"], b["model"])


def worst(rows):
    """Returns a table: the most that a size takes beyond what is expected."""
    lines = ["| backend | model | train | predict | memory |", "|---|---|--:|--:|--:|"]
    for first in rows:
        same = [row for row in rows if alike(row, first)]
        if first is not same[0]:
            continue
        cells = []
        for key in UNITS:
            ratio, length = max(
                (r[key] / r["expected"][key], r["tokens"]) for r in same
            )
            cells.append(f"{ratio:.2f} at {length:,}")
        lines.append(f"| {first['backend']} | {first['model']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows, path):
    """Draws a panel for each backend and unit; dashed is what is expected."""
    from matplotlib.figure import Figure

    backends = list(dict.fromkeys(row["backend"] for row in rows))
    figure = Figure((4.2 * len(backends), 7.5), layout="constrained")
    panels = figure.subplots(len(UNITS), len(backends), squeeze=False, sharex=True)
    for line, (key, (unit, scale)) in zip(panels, UNITS.items(), strict=True):
        for axes, backend in zip(line, backends, strict=True):
            for number, model in enumerate(OURS):
                case = {"backend": backend, "model": model}
                mine = [row for row in rows if alike(row, case)]
                lengths, colour = [r["tokens"] for r in mine], f"C{number}"
                values = [r[key] * scale for r in mine]
                expected = [r["expected"][key] * scale for r in mine]
                axes.loglog(lengths, values, "o-", ms=3, color=colour, label=model)
                axes.loglog(lengths, expected, "--", lw=0.8, color=colour)
            axes.set_title(f"{backend}: {key}, {unit} a token", fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].legend(fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("tokens")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
