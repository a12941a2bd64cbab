"""What masked pre-training brings on OrganMNIST3D, with all labels and with a tenth.

    python benchmarks/starts.py

pre-trains once on the training volumes, without labels, in 64 tokens of 7^3 voxels.
Then it trains classifiers of three seeds, which start from it or from random weights
and are the same otherwise. A killed run goes on with the same command.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import run  # It puts the examples on the path.
from video.collect import summary

RECIPE = run.FOLDER.parent / "examples" / "organmnist3d"
TUBELET = 7
STARTS = {"init": "pre-trained", "random": "random"}
EPOCHS = {"1": 30, "0.1": 80}  # by the share of the training volumes
SEEDS = range(3)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--runs", type=Path, default=Path("runs/pretraining"), metavar="FOLDER")
    add("--out", type=Path, default=run.FOLDER / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    finish("pretrain", options.runs / "pre", "--tubelet", TUBELET, "--epochs", 100)
    rows = []
    for seed in SEEDS:
        save_random_model(options.runs / f"random-{seed}", seed)
        for share, epochs in EPOCHS.items():
            for start in STARTS:
                model = options.runs / (
                    "pre/model" if start == "init" else f"random-{seed}"
                )
                folder = options.runs / f"{start}-{share}-{seed}"
                given = ["--init", model, "--epochs", epochs, "--train-share", share]
                finish("train", folder, *given, "--seed", seed)
                rows.append(row(folder, start, share, seed))
    run.save(options.out / "pretraining-organmnist3d.json", {"rows": rows})
    print(table(rows))


def finish(script, folder, *arguments):
    """Runs a script of the recipe, or what is left of its run."""
    done = "model" if script == "pretrain" else "metrics.json"
    if (folder / done).exists():
        return
    resume = ["--resume"] if (folder / "run.json").exists() else []
    command = [sys.executable, RECIPE / f"{script}.py", "--out", folder, *arguments]
    subprocess.run([*map(str, command), *resume], check=True)


def save_random_model(folder, seed):
    """Saves what `pretrain.py` starts from."""
    if folder.exists():
        return
    sys.path.insert(0, str(RECIPE))
    import pretrain

    options = pretrain.parse(["--tubelet", str(TUBELET), "--seed", str(seed)])
    settings = {**pretrain.PRETRAINING, **vars(options)}
    pretrain.build(settings, (28, 28, 28, 1)).save_to_preset(folder)


def row(folder, start, share, seed):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {
        **{"start": STARTS[start], "share": float(share), "seed": seed},
        **{key: metrics[key] for key in ("accuracy", "auc", "epochs", "versions")},
        "accuracy_two_views": metrics["two_views"]["accuracy"],
    }


def table(rows):
    """Returns the table of `docs/pretraining.md`."""
    lines = ["| start | labels | accuracy | each seed |", "|---|--:|--:|---|"]
    for start in STARTS.values():
        for share in sorted({row["share"] for row in rows}, reverse=True):
            found = [
                row["accuracy"]
                for row in rows
                if (row["start"], row["share"]) == (start, share)
            ]
            lines.append(f"| {start} | {share:.0%} | {summary(found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
