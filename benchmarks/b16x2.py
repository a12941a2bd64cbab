"""ViViT-B/16x2, one video, prediction: the four variants, other packages, the limit.

    python benchmarks/b16x2.py

uses PyTorch on all processors. The models take turns; medians over the rounds are kept
in `benchmarks/results/b16x2-cpu-float32.json`, which `docs/variants.md` and
`docs/performance.md` quote. `limit` is what the products of matrices of variant 1 take
at the rate that PyTorch reaches in large ones.
"""

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import time

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import peers
import run
import torch
from flops import operations
from measure import measure_gemm
from sizes import MODELS, SIZES

import keras_vivit
from keras_vivit.backbone import VARIANTS

SIZE = dataclasses.replace(SIZES["b16x2"], batch=1)
PEERS = ("transformers", "vit-pytorch")


def ours(variant):
    return keras_vivit.ViViTClassifier.from_preset(
        f"vivit_b16x2_{variant}"
    ).predict_on_batch


def peer(name):
    """Returns a function of a video, as ours are."""
    module, arrange = peers.torch_peer(name, SIZE)
    module.eval()

    def predict(video):
        with torch.inference_mode():
            outputs = module(torch.from_numpy(np.ascontiguousarray(arrange(video))))
            return getattr(outputs, "logits", outputs).softmax(-1).numpy()

    return predict


def seconds_of(predict, video):
    start = time.perf_counter()
    predict(video)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    threads = run.processors()
    torch.set_num_threads(threads)
    models = {variant: ours(variant) for variant in VARIANTS}
    models |= {name: peer(name) for name in PEERS if MODELS[name].installed}
    video = np.random.default_rng(0).random((1, *SIZE.video), "float32")
    found = [
        {name: seconds_of(predict, video) for name, predict in models.items()}
        for _ in range(1 + rounds)  # The first one is a warm-up.
    ][1:]
    rate = measure_gemm({"device": "cpu", "dtype": "float32"})["operations"]
    limit = operations(SIZE, MODELS["vivit1"], training=False) / rate
    record = {
        "machine": run.processor(),
        "threads": threads,
        "versions": run.versions(),
        "date": str(datetime.date.today()),
        "rounds": rounds,
        "seconds": {
            **{
                name: round(statistics.median(row[name] for row in found), 3)
                for name in models
            },
            "limit": round(limit, 3),
        },
    }
    text = json.dumps(record, indent=2)
    (run.FOLDER / "results" / "b16x2-cpu-float32.json").write_text(text + "\n")
    print(text, *found, sep="\n")


if __name__ == "__main__":
    main()
