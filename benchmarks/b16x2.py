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
import functools
import json
import os
import statistics

os.environ["KERAS_BACKEND"] = "torch"

import measure
import run
import torch
from devices import Device
from flops import operations
from sizes import MODELS, SIZES

import keras_vivit
from keras_vivit.backbone import VARIANTS

CASE = {"backend": "torch", "device": "cpu", "dtype": "float32", "compiled": False}
SIZE = dataclasses.replace(SIZES["b16x2"], batch=1)
PEERS = ("transformers", "vit-pytorch")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    threads = run.processors()
    torch.set_num_threads(threads)
    device, (video, labels) = Device(CASE), measure.inputs(SIZE)
    models = {}
    for variant in VARIANTS:
        model = keras_vivit.ViViTClassifier.from_preset(f"vivit_b16x2_{variant}")
        models[variant] = functools.partial(model.predict_on_batch, video)
    for name in PEERS:
        if MODELS[name].installed:
            peer = measure.torch_subject(name, CASE, SIZE, video, labels, device)
            models[name] = peer.predict
    found = [
        {name: measure.seconds_of(predict) for name, predict in models.items()}
        for _ in range(1 + rounds)  # The first one is a warm-up.
    ][1:]
    rate = measure.measure_gemm(CASE)["operations"]
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
