"""Clips per second of `VideoFolder`, and what reading costs a training step.

    python benchmarks/reading.py
    python benchmarks/reading.py --folder clips --backends torch --out /tmp/try

Without a folder it encodes a small set of videos. Readers take the same frames of the
same files at the same size:

- `folder`: `VideoFolder`, without a cache;
- `pyav`: a loop over PyAV, one file after the other, every frame an array;
- `torchcodec`: its `VideoDecoder`, where it is installed;
- `limit`: the decoder alone, in as many threads: no frame becomes an array.

A training step is timed on batches of `VideoFolder` with a cache, and on the same
batches as arrays in memory. Each case runs in a process of its own, in rounds.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import run
from sizes import BACKENDS

PACKAGES = ("av", "keras", "jax", "numpy", "tensorflow", "tensorflow-cpu", "torch")
READERS = ("folder", "pyav", "torchcodec", "limit")
SHAPE, STRIDE = (16, 112, 112, 3), 2
PASSES = 3


def main(arguments=None):
    options = parse(arguments)
    backends = options.backends or [name for name in BACKENDS if find_spec(name)]
    with contextlib.ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            encode(folder)
        rows = []
        for number in range(1, options.rounds + 1):
            for case in cases(folder, backends, options.workers):
                result = run_case(case)
                rows.append({**case, "folder": folder.name, "round": number, **result})
                print(number, describe(case), result, flush=True)
    record = {
        "environment": {
            "machine": run.processor(),
            "workers": options.workers,
            "videos": "encoded by this script"
            if options.folder is None
            else folder.name,
            "versions": versions(),
        },
        "rows": rows,
        "summary": summary(rows),
    }
    run.save(options.out / "reading-cpu.json", record)
    print(json.dumps(record["summary"], indent=1))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--folder", type=Path, help="CLASS/*, or with clips.csv (default: made here)")
    add("--backends", nargs="*", choices=BACKENDS, help="default: all installed")
    add("--rounds", type=int, default=3)
    add("--workers", type=int, default=run.processors())
    add("--out", type=Path, default=run.FOLDER / "results", metavar="FOLDER")
    return parser.parse_args(arguments)


def encode(folder, count=32, frames=150, size=(240, 320)):
    """Writes videos of moving noise, as H.264 or, where that is missing, MPEG-4."""
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"class{i % 4}" / f"{i}.mp4"
        path.parent.mkdir(exist_ok=True)
        noise = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), "uint8")
        picture = noise.repeat(8, axis=0).repeat(8, axis=1)
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=30, width=size[1], height=size[0])
            stream.pix_fmt = "yuv420p"
            for k in range(frames):
                moved = np.ascontiguousarray(np.roll(picture, k * (1 + i % 3), axis=1))
                frame = av.VideoFrame.from_ndarray(moved, "rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode())


def cases(folder, backends, workers):
    common = {"folder": str(folder), "workers": workers}
    for reader in READERS:
        if reader != "torchcodec" or find_spec("torchcodec"):
            backend = next((name for name in BACKENDS if find_spec(name)), "jax")
            yield {"reader": reader, "backend": backend, **common}
    for backend in backends:
        yield {"reader": "step", "backend": backend, **common}


def describe(case):
    return f"{case['reader']}, {case['backend']}"


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
        lines = process.stderr.strip().splitlines() or [
            f"exit code {process.returncode}"
        ]
        return {"error": lines[-1][:200]}
    return json.loads(process.stdout.splitlines()[-1])


# === In a process of its own ===


def measure(case):
    from keras_vivit.data import VideoFolder

    options = {"stride": STRIDE, "workers": case["workers"], "resize": "stretch"}
    if case["reader"] == "step":
        cached = VideoFolder(case["folder"], SHAPE, None, cache_bytes=2**31, **options)
        return measure_step(cached)
    folder = VideoFolder(case["folder"], SHAPE, None, **options)
    read = globals()[f"read_{case['reader']}"]
    read(
        folder, case["workers"]
    )  # The first time warms up, and fills the disk's cache.
    begin = time.perf_counter()
    for _ in range(PASSES):
        read(folder, case["workers"])
    seconds = (time.perf_counter() - begin) / PASSES
    return {"clips_per_second": len(folder.files) / seconds}


def indices_of(folder):
    from keras_vivit.data.clips import sample_frames

    for facts in folder.facts:
        yield facts.path, sample_frames(facts, folder.layout)[0].tolist()


def read_folder(folder, workers):
    for i in range(len(folder)):
        folder[i]


def read_pyav(folder, workers):
    import av

    _, height, width, _ = SHAPE
    for path, indices in indices_of(folder):
        with av.open(str(path)) as container:
            frames = []
            for number, frame in enumerate(container.decode(video=0)):
                frames.append(
                    frame.to_ndarray(format="rgb24", width=width, height=height)
                )
                if number == indices[-1]:
                    break
        np.stack([frames[i] for i in indices])


def read_torchcodec(folder, workers):
    from torchcodec.decoders import VideoDecoder

    for path, indices in indices_of(folder):
        VideoDecoder(str(path), num_ffmpeg_threads=workers).get_frames_at(indices)


def read_limit(folder, workers):
    from keras_vivit.data import decoding

    def decode(path, last):
        for number, _ in enumerate(decoding.decode(path, threads=1)):
            if number == last:
                return

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda pair: decode(pair[0], pair[1][-1]), indices_of(folder)))


def measure_step(folder, epochs=9):
    """Returns seconds of a training step with the folder, and with arrays."""
    import keras

    import keras_vivit

    class Arrays(keras.utils.PyDataset):
        def __init__(self, batches):
            super().__init__()
            self.batches = batches

        def __len__(self):
            return len(self.batches)

        def __getitem__(self, index):
            return self.batches[index]

    model = keras_vivit.ViViTClassifier(
        SHAPE,
        len(folder.class_names),
        tubelet_size=(2, 16, 16),
        embed_dim=64,
        num_layers=2,
        num_heads=2,
        mlp_dim=128,
        rescaling=(1 / 127.5, -1),
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    whole = [folder[i] for i in range(len(folder))]
    sources = {"folder": folder, "arrays": Arrays(whole)}
    seconds = {name: [] for name in sources}
    for _ in range(epochs):
        for name, source in sources.items():
            begin = time.perf_counter()
            model.fit(source, shuffle=False, verbose=0)
            seconds[name].append((time.perf_counter() - begin) / len(source))
    # The first epoch warms up.
    return {f"step_{name}": statistics.median(s[1:]) for name, s in seconds.items()}


# === Results ===


def summary(rows):
    """Returns medians over the rounds."""
    found = {}
    for case in dict.fromkeys((row["reader"], row["backend"]) for row in rows):
        mine = [
            r for r in rows if (r["reader"], r["backend"]) == case and "error" not in r
        ]
        if mine and case[0] == "step":
            ratios = [row["step_folder"] / row["step_arrays"] for row in mine]
            found[f"step, {case[1]}"] = {"ratio": statistics.median(ratios)}
        elif mine:
            values = [row["clips_per_second"] for row in mine]
            found[case[0]] = {"clips_per_second": statistics.median(values)}
    return found


def versions():
    found = {}
    for name in (*PACKAGES, "torchcodec"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(measure(json.loads(sys.argv[2]))))
    else:
        main()
