"""Writes the figures of the campaigns into docs/reliability.md.

`cd tests && python -m campaigns.tables` reads `campaigns/results/*.json`, and replaces
what stands between `<!-- NAME -->` and `<!-- end -->`.
"""

import collections
import json
import pathlib
import re

FOLDER = pathlib.Path(__file__).parent / "results"
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "reliability.md"


def results(name):
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"{name}*"))]


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def arguments():
    rows = []
    for x in results("arguments-"):
        good = (x["works"] + x["refused"]) / x["calls"]
        when = "before" if x.get("before") else "now"
        counts = [x["calls"], x["works"], x["refused"], x["faults"], f"{good:.2%}"]
        rows.append([x["backend"], when, *counts])
    head = ["backend", "code", "calls", "work", "refused in words", "faults", "good"]
    return table(head, rows)


def files():
    names = ("read", "refused", "faults")
    rows = [
        [name, *(counts.get(key, 0) for key in names)]
        for x in results("files-")
        for name, counts in x["formats"].items()
    ]
    return table(["format", "read", "refused in words", "faults"], rows)


def extremes():
    rows = []
    for x in results("extremes-"):
        counts = collections.Counter(case["is"] for case in x["cases"].values())
        names = ("finite", "refused in words", "not finite")
        others = len(x["cases"]) - sum(counts[name] for name in names)
        rows.append([x["backend"], *(counts[name] for name in names), others])
    head = ["backend", "finite", "refused in words", "not finite", "other errors"]
    return table(head, rows)


def kills():
    rows = [
        [name, x["kills"], len(x["found"]), x["full disk"], len(x["damaged"])]
        for result in results("kills-")
        for name, x in result["commands"].items()
    ]
    head = ["command", "kills", "faults", "with a full disk", "damaged files"]
    return table(head, rows)


def soak():
    rows = [
        [
            x["backend"],
            x.get("model", "ours"),
            x["rounds"],
            f"{x['growth']:+.1%}",
            f"{each_round(x):.1f}",
            x["threads"],
            x["precisions"],
        ]
        for x in results("soak-")
    ]
    head = [
        "backend",
        "model",
        "rounds",
        "growth of memory",
        "MB a round",
        "8 threads",
        "2 precisions",
    ]
    return table(head, rows)


def each_round(x):
    """Returns by how many megabytes a round grows, after the first quarter."""
    found = x["megabytes"]
    first = len(found) // 4
    return (found[-1] - found[first]) / (x["rounds"] * (1 - first / len(found)))


TABLES = {f.__name__: f for f in (arguments, files, extremes, kills, soak)}


def filled(text):
    """Returns the page with the figures of the files."""

    def fill(match):
        return f"<!-- {match[1]} -->\n\n{TABLES[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
