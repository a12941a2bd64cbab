"""Writes the OrganMNIST3D model as an ONNX file, and serves it without Keras.

    python examples/export_and_serve.py export organs.onnx
    python examples/export_and_serve.py predict organs.onnx VOLUMES.npy

`export` needs PyTorch with `pip install onnxscript`, or TensorFlow with `tf2onnx`
(`jax2onnx` knows no 3-D convolutions, which overlapping tubelets need). `predict` needs
onnxruntime and NumPy alone. The file takes volumes (n, 28, 28, 28, 1), or without the
last axis, with voxels of 0 to 255.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    export = commands.add_parser("export", help="write the ONNX file")
    export.add_argument("path", type=Path)
    export.add_argument("--preset", default="vivit_organmnist3d", help="or a folder")
    export.set_defaults(run=run_export)
    predict = commands.add_parser("predict", help="name organs, with onnxruntime")
    predict.add_argument("path", type=Path)
    predict.add_argument("volumes", type=Path, help="of np.save, 0 to 255")
    predict.set_defaults(run=run_predict)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def run_export(options):
    import keras_vivit

    if not options.path.parent.is_dir():
        raise ValueError(f"The folder must exist. Received: {options.path.parent}")
    model = keras_vivit.ViViTClassifier.from_preset(options.preset)
    save_onnx(model, options.path)
    add_metadata(options.path, classes=CLASSES)
    print(f"{options.path}: {options.path.stat().st_size / 1e6:.1f} MB")


def save_onnx(model, path):
    """Writes a model with one input as ONNX, for batches of any size."""
    import keras

    if keras.backend.backend() != "torch":
        model(np.zeros((1, *model.input_shape[1:]), "float32"))  # Keras wants a call
        return model.export(path, format="onnx", verbose=False)

    import torch

    # Keras' own way uses PyTorch's older exporter, which knows no 3-D convolutions of
    # Keras. Two samples: one would be taken for a constant.
    sample = torch.zeros((2, *model.input_shape[1:]))
    batch = ({0: torch.export.Dim.DYNAMIC},)
    model.eval().to("cpu")
    torch.onnx.export(
        model,
        (sample,),
        path,
        dynamo=True,
        dynamic_shapes=(batch,),
        external_data=False,
        verbose=False,
    )


# As `medmnist.INFO["organmnist3d"]` has them.
CLASSES = (
    *("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder"),
    *("heart", "lung-right", "lung-left", "spleen", "pancreas"),
)


def add_metadata(path, **values):
    """Writes values into an ONNX file; any tool can read them there."""
    import onnx

    model = onnx.load(path)
    texts = {key: json.dumps(value) for key, value in values.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, path)


def run_predict(options):
    import onnxruntime

    volumes = read(options.volumes)
    session = onnxruntime.InferenceSession(options.path)
    (source,) = session.get_inputs()
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    (probabilities,) = session.run(None, {source.name: volumes})
    for number, row in enumerate(probabilities):
        print(f"{number}: {classes[row.argmax()]} {row.max():.3f}")


def read(path):
    volumes = np.load(path, allow_pickle=False)
    if volumes.ndim == 4:
        volumes = volumes[..., None]
    if volumes.ndim != 5 or volumes.shape[1:] != (28, 28, 28, 1) or not len(volumes):
        raise ValueError(
            "Volumes must have the shape (n, 28, 28, 28) or (n, 28, 28, 28, 1), n at "
            f"least 1. Received: {volumes.shape}"
        )
    return volumes.astype("float32")


if __name__ == "__main__":
    main()
