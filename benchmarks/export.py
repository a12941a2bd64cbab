"""Size and latency of the OrganMNIST3D model, in each format and precision.

    KERAS_BACKEND=torch taskset -c 1 python benchmarks/export.py organmnist3d.npz

writes `benchmarks/results/export-BACKEND.json`. Each file predicts in a process of its
own, without Keras where it is not Keras' own, in interleaved rounds; medians are kept.
Times are those of the processor, on which other programs have little influence.
Formats whose packages are not installed are left out. `--tables` prints the tables of
`docs/export.md` and `docs/precision.md` from the results of all backends.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent / "examples"))

from export_and_serve import save_onnx  # noqa: E402

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
BATCHES = (1, 32)
PRECISIONS = ("mixed_bfloat16", "bfloat16", "mixed_float16", "float16", "int8", "int4")
PACKAGES = (
    *("keras", "jax", "tensorflow", "tensorflow-cpu", "torch", "onnxruntime"),
    *("openvino", "ai-edge-litert"),
)


# === Formats ===


class Format(NamedTuple):
    """How a model is written, and a file turned into a function of videos."""

    file: str
    needs: dict[str, tuple[str, ...]]  # packages, for each backend that can
    save: Callable
    load: Callable


def signature(model, batch):
    import keras

    shape = (batch, *model.input_shape[1:])
    return [keras.InputSpec(shape=shape, dtype="float32")]


def save_keras(model, path):
    model.save(path)


def load_keras(path):
    import keras

    import keras_vivit  # noqa: F401

    return keras.saving.load_model(path).predict_on_batch


def save_model(model, path):
    model.export(path, format="tf_saved_model", verbose=False)


def load_saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # The function alone does not keep its weights.
    return lambda videos: loaded.serve(videos).numpy()


def load_onnx(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()
    session = onnxruntime.InferenceSession(path, options)
    (source,) = session.get_inputs()
    return lambda videos: session.run(None, {source.name: videos})[0]


def save_openvino(model, path):
    model.export(str(path), format="openvino", verbose=False)


def load_openvino(path):
    import openvino

    # Else bfloat16 on processors that have it.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(path, "CPU", options)
    return lambda videos: compiled(videos)[0]


def save_litert(model, path):
    shape = signature(model, 1)
    model.export(path, format="litert", input_signature=shape, verbose=False)


def load_litert(path):
    """One video after the other: the batch is fixed."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=processors())
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    (result,) = interpreter.get_output_details()

    def predict(video):
        interpreter.set_tensor(source["index"], video)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return lambda videos: np.concatenate([predict(video[None]) for video in videos])


def save_torch(model, path):
    import torch

    model.export(
        path,
        format="torch",
        input_signature=signature(model, 2),
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        verbose=False,
    )


def load_torch(path):
    import torch

    module = torch.export.load(path).module()

    def predict(videos):
        with torch.inference_mode():
            return module(torch.from_numpy(videos)).numpy()

    return predict


FORMATS = {
    "tf_saved_model": Format(
        "model",
        {"jax": ("tensorflow",), "tensorflow": ()},
        save_model,
        load_saved_model,
    ),
    "onnx": Format(
        "model.onnx",
        {
            "jax": ("jax2onnx", "onnxruntime"),
            "tensorflow": ("tf2onnx", "onnxruntime"),
            "torch": ("onnxscript", "onnxruntime"),
        },
        save_onnx,
        load_onnx,
    ),
    "openvino": Format(
        "model.xml",
        {"tensorflow": ("openvino",), "torch": ("openvino",)},
        save_openvino,
        load_openvino,
    ),
    "litert": Format(
        "model.tflite",
        {
            "tensorflow": ("ai_edge_litert",),
            "torch": ("ai_edge_litert", "litert_torch"),
        },
        save_litert,
        load_litert,
    ),
    "torch": Format("model.pt2", {"torch": ()}, save_torch, load_torch),
}
KERAS = Format("model.keras", {}, save_keras, load_keras)


# === Measuring ===


def processors():
    return len(os.sched_getaffinity(0))


def volumes(path):
    with np.load(path, allow_pickle=False) as file:
        images = file["test_images"][..., None].astype("float32")
        return images, file["test_labels"].reshape(-1)


def organs(precision="float32"):
    import keras_vivit

    build, integers = keras_vivit.ViViTClassifier.from_preset, precision[:3] == "int"
    model = build("vivit_organmnist3d", dtype="float32" if integers else precision)
    if integers:
        model.quantize(precision)
    return model


def write(folder):
    """Writes every file; returns name -> format and path."""
    files = {}

    def save(name, form, model):
        path = folder / name / form.file
        path.parent.mkdir()
        form.save(model, path)
        files[name] = form, path

    for precision in ("float32", *PRECISIONS):
        save(precision, KERAS, organs(precision))
    for name, form in FORMATS.items():
        if BACKEND in form.needs and all(map(find_spec, form.needs[BACKEND])):
            try:
                save(name, form, organs())
            except Exception as error:
                print(f"{name}: {str(error).splitlines()[0]}")
    return files


def measure(name, path, data, judge):
    """Prints seconds for each batch, and how many volumes are named rightly."""
    predict = FORMATS.get(name, KERAS).load(path)
    images, labels = volumes(data)
    result = {}
    for batch in BATCHES:
        videos, samples = images[:batch], []
        predict(videos)
        while not samples or (len(samples) < 100 and sum(samples) < 1):
            start = time.process_time()
            predict(videos)
            samples.append(time.process_time() - start)
        result[batch] = statistics.median(samples)
    if judge:
        found = [np.argmax(predict(image[None])) for image in images]
        result["right"] = int(np.sum(found == labels))
    print(json.dumps(result))


def size(path):
    return sum(p.stat().st_size for p in path.parent.rglob("*") if p.is_file())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, help="organmnist3d.npz")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tables", action="store_true", help="of earlier results")
    options = parser.parse_args()
    if options.tables:
        print("\n\n".join(tables().values()))
        return
    out = FOLDER / "results" / f"export-{BACKEND}.json"
    with tempfile.TemporaryDirectory() as name:
        files = write(Path(name))
        rows = {case: [] for case in files}
        for number in range(options.rounds):
            for case, (_, path) in files.items():
                arguments = case, str(path), str(options.data.resolve()), not number
                code = f"import export; export.measure(*{arguments})"
                command = [sys.executable, "-c", code]
                run = subprocess.run(
                    command, cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=True
                )
                rows[case].append(json.loads(run.stdout.splitlines()[-1]))
                print(number + 1, case, rows[case][-1], flush=True)
        sizes = {case: size(path) for case, (_, path) in files.items()}
    record = {
        "machine": f"{processor()}, {processors()} of its cores",
        "backend": BACKEND,
        "versions": versions(),
        "rounds": options.rounds,
        "volumes": len(volumes(options.data)[1]),
        "results": {
            case: {
                "bytes": sizes[case],
                "right": found[0]["right"],
                **{
                    f"seconds_{batch}": statistics.median(r[str(batch)] for r in found)
                    for batch in BATCHES
                },
            }
            for case, found in rows.items()
        },
    }
    out.write_text(json.dumps(record, indent=2) + "\n")


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def versions():
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# === Tables ===


def tables():
    """The Markdown tables of formats and of precisions, over all backends."""
    records = [
        json.loads(p.read_text()) for p in sorted(FOLDER.glob("results/export-*"))
    ]
    head = "| backend | {} | bytes | one volume, ms | 32 volumes, ms | right |"
    rules = "|---|---|--:|--:|--:|--:|"
    cases = {"format": ("float32", *FORMATS), "precision": ("float32", *PRECISIONS)}
    return {
        kind: "\n".join(
            [
                head.format(kind),
                rules,
                *(
                    line(record, case, "`.keras`" if kind == "format" else "float32")
                    for record in records
                    for case in names
                    if case in record["results"]
                ),
            ]
        )
        for kind, names in cases.items()
    }


def line(record, case, own):
    row, base = record["results"][case], record["results"]["float32"]
    cells = [record["backend"], own if case == "float32" else f"`{case}`"]
    cells.append(f"{row['bytes']:,}")
    for batch in BATCHES:
        seconds, keras = row[f"seconds_{batch}"], base[f"seconds_{batch}"]
        cells.append(f"{seconds * 1e3:.1f} ({seconds / keras:.2f})")
    cells.append(f"{row['right']} of {record['volumes']}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
