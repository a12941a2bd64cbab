"""Size and time of the OrganMNIST3D model, in each format and precision.

    KERAS_BACKEND=torch taskset -c 1 python benchmarks/export.py organmnist3d.npz

writes `results/export-torch.json`. Each file predicts in a process of its own, without
Keras if it is not Keras' own, in interleaved rounds; medians are kept. Times are the
processor's, so that other programs have little influence: use one core. Formats whose
packages are not installed are left out. `--tables` prints the tables of two pages,
`docs/export.md` and `docs/precision.md`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from run import processor, processors, versions

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent / "examples"))

from export_and_serve import save_onnx  # noqa: E402

BATCHES = (1, 32)
PRECISIONS = ("mixed_bfloat16", "bfloat16", "mixed_float16", "float16", "int8", "int4")


# === Formats ===


class Format(NamedTuple):
    """How a model is written, and how its file becomes a function of videos."""

    file: str
    needs: dict[str, tuple[str, ...]]  # packages, for each backend that can write it
    save: Callable
    load: Callable


def load_keras(path):
    import keras

    import keras_vivit  # noqa: F401

    return keras.saving.load_model(path).predict_on_batch


def save_savedmodel(model, path):
    model.export(path, format="tf_saved_model", verbose=False)


def load_savedmodel(path):
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


def signature(model, batch):
    import keras

    shape = (batch, *model.input_shape[1:])
    return [keras.InputSpec(shape=shape, dtype="float32")]


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


SAVEDMODEL = {"jax": ("tensorflow",), "tensorflow": ()}
ONNX = {
    "jax": ("jax2onnx", "onnxruntime"),
    "tensorflow": ("tf2onnx", "onnxruntime"),
    "torch": ("onnxscript", "onnxruntime"),
}
OPENVINO = {"tensorflow": ("openvino",), "torch": ("openvino",)}
LITERT = {
    "tensorflow": ("ai_edge_litert",),
    "torch": ("ai_edge_litert", "litert_torch"),
}
FORMATS = {
    "tf_saved_model": Format("model", SAVEDMODEL, save_savedmodel, load_savedmodel),
    "onnx": Format("model.onnx", ONNX, save_onnx, load_onnx),
    "openvino": Format("model.xml", OPENVINO, save_openvino, load_openvino),
    "litert": Format("model.tflite", LITERT, save_litert, load_litert),
    "torch": Format("model.pt2", {"torch": ()}, save_torch, load_torch),
}
KERAS = Format("model.keras", {}, lambda model, path: model.save(path), load_keras)


# === Measuring ===


def organs(precision="float32"):
    import keras_vivit

    integers = precision.startswith("int")
    model = keras_vivit.ViViTClassifier.from_preset(
        "vivit_organmnist3d", dtype="float32" if integers else precision
    )
    if integers:
        model.quantize(precision)
    return model


def write(folder, backend, precisions=PRECISIONS):
    """Writes all files; returns name -> path."""
    cases = {precision: (KERAS, precision) for precision in ("float32", *precisions)}
    for name, form in FORMATS.items():
        if backend in form.needs and all(map(find_spec, form.needs[backend])):
            cases[name] = form, "float32"
    files = {}
    for name, (form, precision) in cases.items():
        (folder / name).mkdir()
        try:
            form.save(organs(precision), folder / name / form.file)
            files[name] = folder / name / form.file
        except NotImplementedError as error:  # JAX's ONNX: the tubelets overlap.
            print(f"No {name}: {error}")
    return files


def volumes(path):
    with np.load(path, allow_pickle=False) as file:
        images = file["test_images"][..., None].astype("float32")
        return images, file["test_labels"].reshape(-1)


def measure(name, path, data, judge):
    """Prints seconds for each batch, and how many volumes are named rightly."""
    predict = FORMATS.get(name, KERAS).load(path)
    images, labels = volumes(data)
    result = {}
    for batch in BATCHES:
        samples = []
        predict(images[:batch])
        while not samples or (len(samples) < 100 and sum(samples) < 1):
            start = time.process_time()
            predict(images[:batch])
            samples.append(time.process_time() - start)
        result[f"seconds_{batch}"] = statistics.median(samples)
    if judge:
        found = [np.argmax(predict(image[None])) for image in images]
        result["right"] = int(np.sum(found == labels))
    print(json.dumps(result))


def run(module, *arguments):
    """Returns what `measure` of a module prints, called in a process of its own."""
    code = f"import {module}; {module}.measure(*{arguments})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=True
    )
    print(arguments[0], done.stdout, end="", flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, help="organmnist3d.npz")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tables", action="store_true", help="of earlier results")
    options = parser.parse_args()
    if options.tables:
        return print("\n\n".join(tables().values()))
    backend, data = os.environ["KERAS_BACKEND"], str(options.data.resolve())
    with tempfile.TemporaryDirectory() as name:
        files = write(Path(name), backend)
        results = {
            case: {"bytes": sum(p.stat().st_size for p in path.parent.rglob("*.*"))}
            for case, path in files.items()
        }
        rows = {case: [] for case in files}
        for number in range(options.rounds):
            for case, path in files.items():
                rows[case].append(run("export", case, str(path), data, number == 0))
    for case, found in rows.items():
        results[case] |= found[0]
        for key in (f"seconds_{batch}" for batch in BATCHES):
            results[case][key] = statistics.median(row[key] for row in found)
    record = {
        "machine": f"{processor()}, {processors()} used",
        "backend": backend,
        "versions": versions(),
        "rounds": options.rounds,
        "volumes": len(volumes(data)[1]),
        "results": results,
    }
    out = FOLDER / "results" / f"export-{backend}.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


# === Tables ===

HEAD = """\
| backend | | bytes | one volume, ms | 32 volumes, ms | right |
|---|---|--:|--:|--:|--:|"""


def tables():
    """The tables of two pages, with the results of all backends."""
    paths = sorted(FOLDER.glob("results/export-*.json"))
    records = [json.loads(path.read_text()) for path in paths]
    return {
        page: "\n".join(
            [
                HEAD,
                *(
                    line(record, case)
                    for record in records
                    for case in ("float32", *cases)
                    if case in record["results"]
                ),
            ]
        )
        for page, cases in {"export": FORMATS, "precision": PRECISIONS}.items()
    }


def line(record, case):
    row, keras = record["results"][case], record["results"]["float32"]
    times = (
        f"{row[key] * 1e3:.1f} ({row[key] / keras[key]:.2f})"
        for key in (f"seconds_{batch}" for batch in BATCHES)
    )
    right = f"{row['right']} of {record['volumes']}"
    cells = (record["backend"], f"`{case}`", f"{row['bytes']:,}", *times, right)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
