"""Time and memory of loading ViViT-B/16x2 and VideoMAE-B, about 350 MB each.

    KERAS_BACKEND=torch python benchmarks/checkpoints.py --out results.json

Each case runs in a process of its own, in several rounds; medians are kept. Memory is
the process's peak minus that before loading, in units of the checkpoint's size.
Needs `transformers` and PyTorch for the peer, and `msgpack` for Scenic's format.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

MEASURE = """
import os, sys, threading, time
import warnings; warnings.simplefilter("ignore")
{setup}
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = peak = resident()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, resident())
watcher = threading.Thread(target=watch); watcher.start()
start = time.perf_counter()
model = {load}
seconds = time.perf_counter() - start
done.set(); watcher.join()
print(seconds, peak - before)
"""
OURS = "import keras, keras_vivit"
THEIRS = "import torch, transformers; transformers.logging.set_verbosity_error()"
CLASSIFIER = "keras_vivit.ViViTClassifier.from_preset"
CASES = {
    "keras-vivit, transformers' format": (OURS, CLASSIFIER + "({0!r} + '/hf')"),
    "keras-vivit, Scenic's format": (
        OURS,
        CLASSIFIER + "({0!r} + '/scenic', video_shape=(32, 224, 224, 3))",
    ),
    "keras-vivit, no checkpoint": (
        OURS,
        CLASSIFIER + "('vivit_b16x2_spatio_temporal')",
    ),
    "transformers": (
        THEIRS,
        "transformers.VivitForVideoClassification.from_pretrained({0!r} + '/hf')",
    ),
    "keras-vivit, VideoMAE": (OURS, CLASSIFIER + "({0!r} + '/videomae')"),
    "transformers, VideoMAE": (
        THEIRS,
        "transformers.VideoMAEForVideoClassification.from_pretrained("
        "{0!r} + '/videomae')",
    ),
}


def write_checkpoints(folder):
    """The same random weights of ViViT in both formats, and those of VideoMAE."""
    import msgpack
    import transformers

    import keras_vivit
    from keras_vivit.checkpoints import names

    model = keras_vivit.ViViTClassifier.from_preset("vivit_b16x2_spatio_temporal")
    keras_vivit.save_to_transformers(model, folder / "hf")
    tree = {}
    for name, value in names.tensors_of(model).items():
        *path, leaf = name.split("/")
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        content = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
        place[leaf] = msgpack.ExtType(1, content)
    (folder / "scenic").write_bytes(msgpack.packb({"params": tree}))
    config = transformers.VideoMAEConfig(num_labels=400)
    videomae = transformers.VideoMAEForVideoClassification(config)
    videomae.save_pretrained(folder / "videomae")
    return (folder / "scenic").stat().st_size


def measure(setup, load, folder):
    code = MEASURE.format(setup=setup, load=load.format(str(folder)))
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return [float(x) for x in run.stdout.split()[-2:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_checkpoints(folder)
        samples = {case: [] for case in CASES}
        for _ in range(options.rounds):  # Interleaved: the machine's mood is shared.
            for case, (setup, load) in CASES.items():
                samples[case].append(measure(setup, load, folder))
    results = {
        case: {
            "seconds": round(statistics.median(s for s, _ in rows), 2),
            "peak": round(statistics.median(m for _, m in rows) / size, 2),
        }
        for case, rows in samples.items()
    }
    for case, row in results.items():
        print(f"{case:36} {row['seconds']:6.2f} s  {row['peak']:.2f} x checkpoint")
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    names = ("keras", backend.replace("tensorflow", "tensorflow-cpu"), "transformers")
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "backend": backend,
        "versions": {name: version(name) for name in names},
        "checkpoint_bytes": size,
        "rounds": options.rounds,
        "results": results,
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
