"""Time of the four variants at the paper's size: ViViT-B/16x2, one video, prediction.

    python benchmarks/b16x2.py

uses PyTorch on one thread and counts the seconds of the processor, which other programs
on the machine change little. The variants take turns; medians over the rounds are kept
in `benchmarks/results/b16x2-cpu-float32.json`, which `docs/variants.md` quotes.
"""

import argparse
import datetime
import json
import os
import statistics
import time

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import run
import torch

import keras_vivit
from keras_vivit.backbone import VARIANTS


def seconds_of(model, video):
    start = time.process_time()
    model.predict_on_batch(video)
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    models = {
        variant: keras_vivit.ViViTClassifier.from_preset(f"vivit_b16x2_{variant}")
        for variant in VARIANTS
    }
    video = np.random.default_rng(0).random((1, 32, 224, 224, 3), "float32")
    found = [
        {variant: seconds_of(model, video) for variant, model in models.items()}
        for _ in range(1 + rounds)  # The first one is a warm-up.
    ][1:]
    record = {
        "machine": run.processor(),
        "threads": 1,
        "versions": {"keras": keras.__version__, "torch": torch.__version__},
        "date": str(datetime.date.today()),
        "rounds": rounds,
        "seconds": {
            variant: round(statistics.median(row[variant] for row in found), 3)
            for variant in VARIANTS
        },
    }
    text = json.dumps(record, indent=2)
    (run.FOLDER / "results" / "b16x2-cpu-float32.json").write_text(text + "\n")
    print(text, *found, sep="\n")


if __name__ == "__main__":
    main()
