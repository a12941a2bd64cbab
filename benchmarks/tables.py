"""From measurements to medians, ratios, a Markdown table and a plot.

    python benchmarks/tables.py benchmarks/results/speed-cpu-float32.json

writes the table and the plot anew; `run.py` does so after each run.
"""

import json
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path

from flops import operations
from sizes import BACKENDS, MODELS, SIZES, tokens

CASE = (
    *("kind", "backend", "device", "dtype", "size", "model", "compiled"),
    *("augment", "optimizer"),
)
COMPARED = ("train", "predict", "memory")


def summarize(rows):
    """Returns one row per case: medians over the rounds, and the best of all for best.

    A case that failed in every round keeps its error.
    """
    cases = {}
    for row in rows:
        cases.setdefault(tuple(row.get(key) for key in CASE), []).append(row)
    summary = []
    for case, found in cases.items():
        good = [row for row in found if "error" not in row]
        described = {k: v for k, v in zip(CASE, case, strict=True) if v is not None}
        if not good:
            summary.append({**described, "error": found[-1]["error"]})
            continue
        values = {key: [row[key] for row in good] for key in good[0]}
        summary.append(
            {
                **described,
                **{
                    key: (min if key.endswith("_best") else statistics.median)(numbers)
                    for key, numbers in values.items()
                    if key not in (*CASE, "round")
                },
                **{
                    f"{key}_spread": (max(values[key]) - min(values[key]))
                    / statistics.median(values[key])
                    for key in ("train", "predict")
                    if key in values
                },
                "rounds": len(good),
            }
        )
    return summary


def compare(summary):
    """Returns the rows of models, with their ratios to the best peer and to the peak.

    The best peer is the one with the lowest value on the same framework at the same
    size, compiled or not; a ratio below 1 is better than it. Peers are those of the
    same variant; where the framework has none, those of variant 1.
    """
    peaks = {
        (row["backend"], row["dtype"]): row["operations"]
        for row in summary
        if row["kind"] == "gemm" and "error" not in row
    }
    models = [dict(row) for row in summary if row["kind"] == "model"]
    models.sort(key=place)
    good = [row for row in models if "error" not in row]
    for row in good:
        size, model = SIZES[row["size"]], MODELS[row["model"]]
        row["tokens"] = tokens(size, model)
        peers = [
            peer
            for peer in good
            if MODELS[peer["model"]].package
            and (peer["backend"], peer["size"]) == (row["backend"], row["size"])
        ]
        same = [p for p in peers if MODELS[p["model"]].variant == model.variant]
        peers = same or [p for p in peers if MODELS[p["model"]].variant == 1]
        for key in COMPARED:
            best = min((peer[key] for peer in peers), default=None)
            row[f"{key}_ratio"] = row[key] / best if best else None
        precision = row["dtype"].removeprefix("mixed_")
        peak = peaks.get((row["backend"], precision))
        for key in ("train", "predict"):
            done = operations(size, model, training=key == "train") / row[key]
            row[f"{key}_share"] = done / peak if peak else None
    return models


def place(row):
    """Where a row stands in tables, whatever was measured first."""
    known = {"size": SIZES, "backend": BACKENDS, "model": MODELS}
    position = [list(names).index(row[key]) for key, names in known.items()]
    return [*position, row["compiled"]]


HEAD = """\
| backend | model | tokens | parameters | train ms | predict ms | memory MB \
| first step s | share of peak, train | predict | spread, train | predict |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""


def markdown(record):
    """Returns the whole page of tables."""
    environment, summary = record["environment"], summarize(record["rows"])
    models = compare(summary)
    rounds = max((row.get("rounds", 0) for row in summary), default=0)
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    parts = [
        f"{environment['machine']}, {environment['threads']} threads, "
        f"{environment['dtype']}, {environment['date']}; {versions}. Medians of "
        f"{rounds} rounds; in brackets the ratio to the best peer on the framework. "
        "The spread is the longest time less the shortest one, divided by the median."
    ]
    if busy := record.get("busy"):
        parts[0] += f" Other programs used up to {max(busy.values()):.0%} of the "
        parts[0] += "processors before a round."
    for size in dict.fromkeys(row["size"] for row in models):
        rows = [row for row in models if row["size"] == size]
        parts.append(
            "\n".join([f"`{size}`: {SIZES[size]}", "", HEAD, *map(line, rows)])
        )
    data = [row for row in summary if row["kind"] == "data" and "error" not in row]
    if data:
        parts.append("\n".join(data_lines(data)))
    peaks = [row for row in summary if row["kind"] == "gemm" and "error" not in row]
    if peaks:
        head = ["| backend | dtype | matrix products, GFLOP/s |", "|---|---|--:|"]
        lines = [
            f"| {row['backend']} | {row['dtype']} | {row['operations'] / 1e9:,.0f} |"
            for row in peaks
        ]
        parts.append("\n".join([*head, *lines]))
    return "\n\n".join(parts) + "\n"


def label(row):
    return row["model"] + (" (compiled)" if row["compiled"] else "")


def line(row):
    start = f"| {row['backend']} | {label(row)} |"
    if "error" in row:
        return f"{start} failed: {row['error'].replace('|', ' ')} |" + " |" * 9
    scales = {"train": 1e3, "predict": 1e3, "memory": 1e-6}
    cells = [f"{row['tokens']:,}", f"{row['parameters']:,.0f}"]
    for key in COMPARED:
        ratio = row[f"{key}_ratio"]
        cells.append(
            f"{row[key] * scales[key]:,.1f}" + (f" ({ratio:.2f})" if ratio else "")
        )
    cells.append(f"{row['first_step']:.1f}")
    for key in ("train", "predict"):
        share = row[f"{key}_share"]
        cells.append("" if share is None else f"{share:.0%}")
    several = row["rounds"] > 1
    for key in ("train", "predict"):
        cells.append(f"{row[f'{key}_spread']:.0%}" if several else "")
    return f"{start} {' | '.join(cells)} |"


def data_lines(rows):
    """The lines of the table about the data path."""
    yield "| backend | s / epoch, bare | s / epoch, augmented | ratio |"
    yield "|---|--:|--:|--:|"
    for backend in dict.fromkeys(row["backend"] for row in rows):
        epochs = {r["augment"]: r["epoch"] for r in rows if r["backend"] == backend}
        if len(epochs) == 2:
            bare, augmented = epochs[False], epochs[True]
            ratio = augmented / bare
            yield f"| {backend} | {bare:.1f} | {augmented:.1f} | {ratio:.2f} |"


def plot(record, path):
    """Draws the milliseconds of a training step, one panel per size."""
    from matplotlib.figure import Figure

    models = [row for row in compare(summarize(record["rows"])) if "error" not in row]
    sizes = list(dict.fromkeys(row["size"] for row in models))
    if not sizes:
        return
    most = max(sum(row["size"] == size for row in models) for size in sizes)
    figure = Figure((4.2 * len(sizes), 0.9 + 0.24 * most), layout="constrained")
    panels = figure.subplots(1, len(sizes), squeeze=False)[0]
    for axes, size in zip(panels, sizes, strict=True):
        rows = [row for row in models if row["size"] == size][::-1]
        colours = [
            "#999" if MODELS[row["model"]].package else "#1769aa" for row in rows
        ]
        names = [f"{row['backend']} {label(row)}" for row in rows]
        bars = axes.barh(names, [row["train"] * 1e3 for row in rows], color=colours)
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=7)
        axes.set(title=size, xlabel="ms per training step")
        axes.tick_params("y", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.15)
    figure.savefig(path, dpi=120)


def write(path):
    """Writes the table and the plot beside a file of results."""
    record = json.loads(path.read_text())
    path.with_suffix(".md").write_text(markdown(record))
    if find_spec("matplotlib"):
        plot(record, path.with_suffix(".png"))
    else:
        print("No plot: matplotlib is not installed.")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write(Path(name))
