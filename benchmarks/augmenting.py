"""Time of augmentation beside torchvision's transforms and Keras' layers for images.

    python benchmarks/augmenting.py
    python benchmarks/augmenting.py --backends torch --out /tmp/try

Each operation runs on the same batch of videos:

- `ours`: the layer of `keras_vivit.augmentation`, each video changed in its own way;
- `keras`: Keras' layer for images on the frames of all videos as one batch, where there
  is such a layer. Each frame is then changed in its own way, which breaks its motion;
- `torchvision`: its transform v2, one call for each video, where it is installed.

Pixels are uint8, as decoders return them. Each case runs in a process of its own, in
rounds; a time is the shortest one of several calls.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import run
from sizes import BACKENDS

SHAPE = (8, 16, 112, 112, 3)
CALLS = 12
OPERATIONS = ("crop", "flip", "color", "randaugment", "erasing", "affine", "mixup")


def main(arguments=None):
    options = parse(arguments)
    backends = options.backends or [name for name in BACKENDS if find_spec(name)]
    rows = []
    for number in range(1, options.rounds + 1):
        for case in cases(backends):
            result = run_case(case)
            rows.append({**case, "round": number, **result})
            print(number, *case.values(), result, flush=True)
    record = {
        "environment": {
            "machine": run.processor(),
            "shape": SHAPE,
            "versions": run.versions(),
        },
        "rows": rows,
        "summary": summary(rows),
    }
    run.save(options.out / "augmenting-cpu.json", record)
    print(table(record["summary"]))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--backends", nargs="*", choices=BACKENDS, help="default: all installed")
    add("--rounds", type=int, default=3)
    add("--out", type=Path, default=run.FOLDER / "results", metavar="FOLDER")
    return parser.parse_args(arguments)


def cases(backends):
    for backend in backends:
        yield {"source": "ours", "backend": backend}
        yield {"source": "keras", "backend": backend}
    if "torch" in backends and find_spec("torchvision"):
        yield {"source": "torchvision", "backend": "torch"}


def run_case(case):
    environment = {
        **os.environ,
        "KERAS_BACKEND": case["backend"],
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([str(run.FOLDER.parent), *sys.path[1:]]),
    }
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [str(process.returncode)]
        return {"error": lines[-1][:200]}
    return json.loads(process.stdout.splitlines()[-1])


# === In a process of its own ===


def measure(case, shape=SHAPE, calls=CALLS):
    """Returns the milliseconds of each operation that the source has."""
    videos = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    functions = globals()[f"{case['source']}_functions"](videos)
    return {name: milliseconds(functions[name], calls) for name in functions}


def milliseconds(function, calls):
    seconds = []
    for _ in range(1 + calls):  # The first call compiles.
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return 1000 * min(seconds[1:])


def settings(shape):
    return {"size": shape[2:4], "scale": (0.3, 1.0)}


def ours_functions(videos):
    import keras

    from keras_vivit import augmentation

    labels = np.eye(len(videos), dtype="float32")
    layers = {
        "crop": augmentation.RandomResizedCrop(**settings(videos.shape)),
        "flip": augmentation.RandomFlip("width"),
        "color": augmentation.RandomColorJitter(0.4, 0.4, 0.4, 0.1),
        "randaugment": augmentation.RandAugment(num_ops=2, magnitude=0.5),
        "erasing": augmentation.RandomErasing((4, 16, 16), rate=0.25),
        "affine": augmentation.RandomAffine(rotation=15, scale=0.1, shift=0.1),
        "mixup": augmentation.MixUp(),
    }

    def call(layer):
        data = {"videos": videos, "labels": labels}
        return keras.ops.convert_to_numpy(layer(data)["videos"])

    return {name: lambda layer=layer: call(layer) for name, layer in layers.items()}


def keras_functions(videos):
    """Keras' layers on frames; it has no random resized crop."""
    import keras

    frames = videos.reshape(-1, *videos.shape[2:])
    labels = np.eye(10, dtype="float32")[np.arange(len(frames)) % 10]
    pixels = {"value_range": (0, 255)}
    layers = {
        "flip": keras.layers.RandomFlip("horizontal"),
        "color": keras.layers.RandomColorJitter(
            brightness_factor=0.4,
            contrast_factor=0.4,
            saturation_factor=0.4,
            hue_factor=0.1,
            **pixels,
        ),
        "randaugment": keras.layers.RandAugment(num_ops=2, factor=0.5, **pixels),
        "erasing": keras.layers.RandomErasing(**pixels),
        "affine": keras.layers.RandomRotation(15 / 360),
        "mixup": keras.layers.MixUp(),
    }

    def call(layer, name):
        inputs = {"images": frames, "labels": labels} if name == "mixup" else frames
        outputs = layer(inputs, training=True)
        outputs = outputs["images"] if name == "mixup" else outputs
        return keras.ops.convert_to_numpy(outputs)

    return {n: lambda x=x, n=n: call(x, n) for n, x in layers.items()}


def torchvision_functions(videos):
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    # Videos as torchvision wants them: channels before height and width.
    tensors = torch.from_numpy(videos).permute(0, 1, 4, 2, 3).contiguous()
    transforms = {
        "crop": v2.RandomResizedCrop(**settings(videos.shape), antialias=True),
        "flip": v2.RandomHorizontalFlip(),
        "color": v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        "randaugment": v2.RandAugment(2, 15),
        "erasing": v2.RandomErasing(p=1.0),
        "affine": v2.RandomAffine(
            15, translate=(0.1, 0.1), scale=(0.9, 1.1), interpolation=BILINEAR
        ),
        "mixup": None,
    }
    mixup = v2.MixUp(num_classes=len(videos))
    labels = torch.arange(len(videos))

    def call(transform):
        if transform is None:
            return mixup(tv_tensors.Video(tensors.float()), labels)[0].numpy()
        return torch.stack([transform(video) for video in tensors]).float().numpy()

    return {name: lambda x=x: call(x) for name, x in transforms.items()}


BILINEAR = 2  # torchvision's number of it


# === Results ===


def summary(rows):
    """Returns medians over the rounds: source and backend -> operation -> ms."""
    found = {}
    for row in rows:
        if "error" in row:
            continue
        mine = found.setdefault(f"{row['source']}, {row['backend']}", {})
        for name in OPERATIONS:
            if name in row:
                mine.setdefault(name, []).append(row[name])
    return {
        case: {name: statistics.median(values) for name, values in times.items()}
        for case, times in found.items()
    }


def table(found):
    """Returns the rows of the table in `docs/augmentation.md`."""
    lines = [f"| ms | {' | '.join(OPERATIONS)} |", f"|---|{'--:|' * len(OPERATIONS)}"]
    for case, times in found.items():
        cells = [f"{times[n]:.3g}" if n in times else "" for n in OPERATIONS]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(measure(json.loads(sys.argv[2]))))
    else:
        main()
