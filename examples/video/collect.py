"""Keeps the metrics of runs, and prints the table of README.md.

    python examples/video/collect.py RUN_FOLDER ...

writes `results/DATASET-START-VARIANT-seedN.json` for each run: its `metrics.json`
without paths. `--start` names the start of runs that began from a run's preset.
"""

import argparse
import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "results"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--start", help="default: as the run's folder names it")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    for folder in options.folders:
        keep(folder, options.out, options.start)
    print("\n".join(table(options.out)))


def keep(folder, out, start=None):
    metrics = json.loads((folder / "metrics.json").read_text())
    settings = metrics["configuration"]
    settings["source"] = source_of(settings)
    if start:
        settings |= {"config": start, "source": None}
    for name in ("data_path", "checkpoint", "image_vit", "init"):
        settings.pop(name, None)
    out.mkdir(exist_ok=True)
    parts = metrics["dataset"], label(settings), settings["variant"]
    name = f"{'-'.join(parts)}-seed{settings['seed']}.json"
    path = out / name.replace(" ", "-").replace("%", "")
    path.write_text(json.dumps(metrics, indent=1) + "\n")


def source_of(settings):
    """Returns the name of the checkpoint that a run started from, without its path."""
    source = settings["checkpoint"] or settings["image_vit"]
    return source and Path(source).name


def label(settings):
    start = {"init": "pre-trained"}.get(settings["config"], settings["config"])
    share = settings.get("train_share", 1)
    files = f"{share:.0%} of the files" if share < 1 else None
    return " ".join(filter(None, (start, settings["source"], files)))


def table(folder=FOLDER):
    """Returns the rows of the table: a row for each dataset, start and variant."""
    groups = {}
    for path in sorted(folder.glob("*.json")):
        metrics = json.loads(path.read_text())
        settings = metrics["configuration"]
        key = metrics["dataset"], label(settings), settings["variant"]
        groups.setdefault(key, []).append(metrics)
    return [row(*key, runs) for key, runs in groups.items()]


def row(dataset, start, variant, runs):
    values = summary([run["balanced_accuracy"] for run in runs])
    count = runs[0]["test_videos"]
    return f"| {dataset} | {start} | `{variant}` | {values} | {count} |"


def summary(values):
    """Returns two cells of a table: mean and standard deviation, and each value."""
    mean = short(np.mean(values))
    if len(values) > 1:
        mean += f" ± {short(np.std(values, ddof=1))}"
    return f"{mean} | {', '.join(map(short, values))}"


def short(value):
    return f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    main()
