"""What a step of masked pre-training costs, beside a step of the whole encoder.

    KERAS_BACKEND=torch python benchmarks/masked.py

ViT-B and videos of 16 x 224 x 224 pixels, 1568 tokens, of which nine in ten are hidden;
a decoder of 4 layers and width 384. On PyTorch `transformers` takes the same step, with
its own kernels for attention. All take turns within this process.
"""

import argparse
import datetime
import json
import statistics
import time
from pathlib import Path

import keras
import numpy as np
import run

import keras_vivit

VIDEO, TUBELET = (16, 224, 224, 3), (2, 16, 16)
ENCODER = {"embed_dim": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072}
DECODER = {"dim": 384, "num_layers": 4, "num_heads": 6, "mlp_dim": 1536}
RATIO = 0.9


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--batch", type=int, default=2)
    add("--rounds", type=int, default=5)
    add("--out", type=Path, default=run.FOLDER / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    steps = subjects(options.batch)
    seconds = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if number:  # The first round compiles.
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    record = {
        "machine": run.processor(),
        "date": datetime.date.today().isoformat(),
        "backend": keras.backend.backend(),
        "versions": run.versions(),
        "batch": options.batch,
        "seconds": seconds,
        "ratios": {name: medians["masked"] / medians[name] for name in medians},
    }
    path = options.out / f"masked-{keras.backend.backend()}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["ratios"], indent=1))


def subjects(batch):
    """Returns functions that take one step each."""
    videos = np.random.default_rng(0).random((batch, *VIDEO), "float32")
    sizes = {"tubelet_size": TUBELET, **ENCODER}
    decoder = {f"decoder_{name}": value for name, value in DECODER.items()}
    masked = keras_vivit.ViViTMaskedAutoencoder(
        VIDEO, mask_ratio=RATIO, value_range=(0, 1), **sizes, **decoder
    )
    masked.compile(keras.optimizers.AdamW(1e-4))
    whole = keras_vivit.ViViTClassifier(VIDEO, 400, **sizes)
    whole.compile(keras.optimizers.AdamW(1e-4), "sparse_categorical_crossentropy")
    labels = np.arange(batch)
    steps = {
        "masked": lambda: float(masked.train_on_batch(videos)),
        "whole": lambda: float(whole.train_on_batch(videos, labels)),
    }
    if keras.backend.backend() == "torch" and run.find_spec("transformers"):
        steps["transformers"] = transformers_step(videos)
    return steps


def transformers_step(videos):
    import torch
    import transformers

    config = transformers.VideoMAEConfig(
        image_size=VIDEO[1],
        patch_size=TUBELET[1],
        num_frames=VIDEO[0],
        tubelet_size=TUBELET[0],
        hidden_size=ENCODER["embed_dim"],
        num_hidden_layers=ENCODER["num_layers"],
        num_attention_heads=ENCODER["num_heads"],
        intermediate_size=ENCODER["mlp_dim"],
        decoder_hidden_size=DECODER["dim"],
        decoder_num_hidden_layers=DECODER["num_layers"],
        decoder_num_attention_heads=DECODER["num_heads"],
        decoder_intermediate_size=DECODER["mlp_dim"],
        attn_implementation="sdpa",
    )
    model = transformers.VideoMAEForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    pixels = torch.from_numpy(videos.transpose(0, 1, 4, 2, 3).copy())
    frames, places = VIDEO[0] // TUBELET[0], (VIDEO[1] // TUBELET[1]) ** 2
    tube = torch.rand(places).argsort() < int(RATIO * places)
    hidden = tube.repeat(len(videos), frames)

    def step():
        optimizer.zero_grad()
        loss = model(pixels, bool_masked_pos=hidden).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
