"""Models in other formats give the same outputs in these formats' own runtimes.

What upstream cannot do is expected to fail with the error of today, strictly: the day
it works, the test says so, and docs/export.md has to change.
"""

import importlib.util
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize

import keras_vivit as kv
from keras_vivit.backbone import VARIANTS

SCRIPT = pathlib.Path(__file__).parents[1] / "examples" / "export_and_serve.py"
if not SCRIPT.exists():
    pytest.skip("a source distribution has no examples", allow_module_level=True)
sys.path.insert(0, str(SCRIPT.parent))

import export_and_serve  # noqa: E402

BACKEND = keras.backend.backend()
SHAPE = (4, 8, 8, 1)
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def only(*backends):
    return pytest.mark.skipif(BACKEND not in backends, reason=f"not on {BACKEND}")


pytestmark = [
    pytest.mark.skipif(
        tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15),
        reason="Keras' exporters are of version 3.15",
    ),
    pytest.mark.filterwarnings("ignore"),  # There are many, and none is ours.
]


def need(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def small(variant=VARIANTS[0]):
    model = kv.ViViTClassifier(
        SHAPE,
        5,
        variant=variant,
        tubelet_size=(2, 4, 4),
        embed_dim=16,
        num_layers=2,
        num_temporal_layers=1,
        num_heads=4,
        mlp_dim=32,
    )
    randomize(model)
    return model


def check(model, run, batches=(1, 3)):
    """Compares what a runtime returns with what the model does."""
    for batch in batches:
        videos = normal(batch, *SHAPE, seed=batch)
        expected = flat(model(videos, training=False))[0]
        assert np.ptp(expected, axis=-1).min() > 0.01
        np.testing.assert_allclose(run(videos), expected, atol=1e-4)


def spec(batch):
    return [keras.InputSpec(shape=(batch, *SHAPE), dtype="float32")]


# === What works ===


@only("tensorflow", "jax")
@each_variant
def test_saved_model(variant, tmp_path):
    need("tensorflow")
    import tensorflow as tf

    model = small(variant)
    model.export(tmp_path, format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(tmp_path)
    check(model, lambda videos: loaded.serve(videos).numpy())


@each_variant
def test_onnx(variant, tmp_path):
    need({"jax": "jax2onnx", "tensorflow": "tf2onnx", "torch": "onnxscript"}[BACKEND])
    onnxruntime = pytest.importorskip("onnxruntime")
    model, path = small(variant), tmp_path / "model.onnx"
    export_and_serve.save_onnx(model, path)
    session = onnxruntime.InferenceSession(path)
    (source,) = session.get_inputs()
    check(model, lambda videos: session.run(None, {source.name: videos})[0])


@only("tensorflow", "torch")
@each_variant
def test_openvino(variant, tmp_path):
    openvino = pytest.importorskip("openvino")
    model, path = small(variant), tmp_path / "model.xml"
    model.export(str(path), format="openvino", verbose=False)
    # Else bfloat16 on processors that have it.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(path, "CPU", options)
    check(model, lambda videos: compiled(videos)[0])


@only("tensorflow")
@each_variant
def test_litert_of_one_video(variant, tmp_path):
    runtime = pytest.importorskip("ai_edge_litert.interpreter")
    model, path = small(variant), tmp_path / "model.tflite"
    model.export(path, format="litert", input_signature=spec(1), verbose=False)

    def run(videos):
        interpreter = runtime.Interpreter(str(path))
        interpreter.allocate_tensors()
        (source,), (result,) = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )
        interpreter.set_tensor(source["index"], videos)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    check(model, run, batches=(1,))


@only("torch")
@each_variant
def test_pt2(variant, tmp_path):
    import torch

    model, path = small(variant), tmp_path / "model.pt2"
    model.export(
        path,
        format="torch",
        input_signature=spec(2),
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        verbose=False,
    )
    module = torch.export.load(path).module()
    check(model, lambda videos: module(torch.from_numpy(videos)).detach().numpy())


# === What upstream cannot do ===


@only("jax", "tensorflow")
@pytest.mark.parametrize(
    ("format", "suffix"), [("torch", ".pt2"), ("litert", ".tflite")]
)
def test_formats_of_other_backends(format, suffix, tmp_path):
    if BACKEND == "tensorflow" and format == "litert":
        pytest.skip("tensorflow can")
    with pytest.raises(ValueError, match="export requires"):
        small().export(tmp_path / f"model{suffix}", format=format, verbose=False)


def fails_on(backend, error, reason):
    """Marks a test that a backend cannot pass, with its error."""
    expected = pytest.mark.xfail(raises=error, strict=True, reason=reason)
    return lambda test: only(backend)(expected(test))


@fails_on("torch", Exception, "memory_format support is not implemented")
def test_onnx_by_keras_on_torch(tmp_path):
    need("onnxscript")
    model = small()
    model(normal(1, *SHAPE))
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)


@fails_on("torch", Exception, "structure of `inputs` and `dynamic_shapes`")
def test_saved_model_on_torch(tmp_path):
    small().export(tmp_path, format="tf_saved_model", verbose=False)


@fails_on("jax", Exception, "No conversion rule found for operations: XlaCallModule")
def test_openvino_on_jax(tmp_path):
    need("openvino", "tensorflow")
    small().export(str(tmp_path / "model.xml"), format="openvino", verbose=False)


@fails_on("tensorflow", RuntimeError, "transposes of rank 8")
def test_litert_of_any_batch(tmp_path):
    runtime = pytest.importorskip("ai_edge_litert.interpreter")
    path = tmp_path / "model.tflite"
    small().export(path, format="litert", verbose=False)
    runtime.Interpreter(str(path)).allocate_tensors()


# === The example ===


def test_organs_are_named_without_keras(tmp_path, request):
    if BACKEND == "jax":  # Its tubelets overlap, which takes a convolution.
        error = pytest.mark.xfail(raises=NotImplementedError, strict=True)
        request.applymarker(error)
    need({"jax": "jax2onnx", "tensorflow": "tf2onnx", "torch": "onnxscript"}[BACKEND])
    pytest.importorskip("onnxruntime")
    volumes = np.random.default_rng(0).integers(
        256, size=(3, 28, 28, 28), dtype="uint8"
    )
    np.save(tmp_path / "volumes.npy", volumes)
    path = tmp_path / "organs.onnx"
    export_and_serve.main(["export", str(path)])
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import export_and_serve
export_and_serve.main(sys.argv[1:])
assert not {{"keras", "keras_vivit", "jax", "torch", "tensorflow"}} & set(sys.modules)
"""
    command = [sys.executable, "-c", code, "predict", path, tmp_path / "volumes.npy"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    model = kv.ViViTClassifier.from_preset("vivit_organmnist3d")
    expected = model.predict(volumes[..., None], verbose=0)
    assert run.stdout.splitlines() == [
        f"{i}: {export_and_serve.CLASSES[row.argmax()]} {row.max():.3f}"
        for i, row in enumerate(expected)
    ]


def test_other_volumes_are_refused(tmp_path):
    np.save(tmp_path / "volumes.npy", np.zeros((2, 3)))
    with pytest.raises(SystemExit, match=r"must have the shape .* Received: \(2, 3\)"):
        export_and_serve.main(["predict", "a.onnx", str(tmp_path / "volumes.npy")])
