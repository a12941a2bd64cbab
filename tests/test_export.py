"""Models in other formats give the same outputs in these formats' own runtimes.

What upstream cannot do is expected to fail with the error of today, strictly: the day
it works, the test says so, and docs/export.md has to change.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import flat, normal, only, randomize

import keras_vivit as kv
from keras_vivit import visualization
from keras_vivit.backbone import VARIANTS

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "export_and_serve.py"
if not (ROOT / "benchmarks").exists():
    pytest.skip("a source distribution has no benchmarks", allow_module_level=True)
sys.path[:0] = [str(SCRIPT.parent), str(ROOT / "benchmarks")]

import export  # noqa: E402
import export_and_serve  # noqa: E402
import serving  # noqa: E402

BACKEND = keras.backend.backend()
SHAPE = (4, 8, 8, 1)
FORMATS = [name for name, form in export.FORMATS.items() if BACKEND in form.needs]


pytestmark = [
    pytest.mark.slow,
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


def small(variant="spatio_temporal", **arguments):
    sizes = {
        "tubelet_size": (2, 4, 4),
        "embed_dim": 16,
        "num_layers": 2,
        "num_temporal_layers": 1,
        "num_heads": 4,
        "mlp_dim": 32,
    }
    model = kv.ViViTClassifier(SHAPE, 5, variant=variant, **{**sizes, **arguments})
    randomize(model)
    return model


def check(model, run):
    """Compares what a runtime returns with what the model does."""
    for batch in (1, 3):
        videos = normal(batch, *SHAPE, seed=batch)
        expected = flat(model(videos, training=False))[0]
        assert np.ptp(expected, axis=-1).min() > 0.01
        np.testing.assert_allclose(run(videos), expected, atol=1e-4)


# === What works ===


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FORMATS)
def test_format_gives_the_same_outputs(name, variant, tmp_path):
    form = export.FORMATS[name]
    need(*form.needs[BACKEND])
    model, path = small(variant), tmp_path / form.file
    form.save(model, path)
    check(model, form.load(path))


def test_rollout_is_exported_beside_the_predictions(tmp_path):
    model, videos = small(), normal(3, *SHAPE)
    explained, path = visualization.with_rollout(model), tmp_path / "model"
    if BACKEND == "torch":
        torch = importlib.import_module("torch")
        path = path.with_suffix(".pt2")
        export.save_torch(explained, path)
        outputs = torch.export.load(path).module()(torch.from_numpy(videos))
    else:
        need("tensorflow")
        export.save_savedmodel(explained, path)
        outputs = importlib.import_module("tensorflow").saved_model.load(path)
        outputs = outputs.serve(videos)
    predictions, rollout = outputs
    np.testing.assert_allclose(flat(predictions)[0], flat(model(videos))[0], atol=1e-4)
    expected = visualization.attention_rollout(model, videos)
    np.testing.assert_allclose(flat(rollout)[0], expected, atol=1e-5)


@only("torch")
@pytest.mark.parametrize("variant", VARIANTS)
def test_rollout_is_exported_to_onnx(variant, tmp_path):
    need("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    pooling = "token" if variant == "spatio_temporal" else "mean"
    model, path = small(variant, num_layers=1, pooling=pooling), tmp_path / "model.onnx"
    export_and_serve.save_onnx(visualization.with_rollout(model), path)
    session = runtime.InferenceSession(path)
    for batch in (1, 3):
        videos = normal(batch, *SHAPE, seed=batch)
        predictions, rollout = session.run(None, {session.get_inputs()[0].name: videos})
        np.testing.assert_allclose(predictions, flat(model(videos))[0], atol=1e-4)
        expected = visualization.attention_rollout(model, videos)
        np.testing.assert_allclose(rollout, expected, atol=1e-5)


# === What upstream cannot do ===

ERRORS = {
    ("jax", "openvino"): "No conversion rule found for operations: XlaCallModule",
    ("jax", "litert"): "LiteRT export requires TensorFlow or PyTorch backend.",
    ("jax", "torch"): "Torch export requires PyTorch backend.",
    ("tensorflow", "torch"): "Torch export requires PyTorch backend.",
    ("torch", "tf_saved_model"): "structure of `inputs` and `dynamic_shapes`"
    if importlib.util.find_spec("tensorflow")
    else "requires the tensorflow module",
    ("torch", "onnx"): "because it is not constant",
}
NEEDED = {
    "openvino": ("openvino", "tensorflow"),
    "onnx": ("onnxscript",),
}


class UpstreamError(Exception):
    """What is expected, and nothing else that may go wrong."""


@pytest.mark.parametrize("name", [n for b, n in ERRORS if b == BACKEND])
@pytest.mark.xfail(raises=UpstreamError, strict=True)
def test_keras_writes_all_formats(name, tmp_path):
    need(*NEEDED.get(name, ()))
    model, path = small(), str(tmp_path / export.FORMATS[name].file)
    model(normal(1, *SHAPE))
    try:
        model.export(path, format=name, verbose=False)
    except Exception as error:
        if ERRORS[BACKEND, name] not in str(error):
            raise
        raise UpstreamError from error


def test_pages_have_these_errors_and_the_tables_of_the_benchmark():
    pages = {
        n: (ROOT / "docs" / f"{n}.md").read_text() for n in ("export", "precision")
    }
    assert all(e.replace("`", "") in pages["export"] for e in ERRORS.values())
    for name, table in export.tables().items():
        assert table in pages[name], "run benchmarks/export.py --tables"
    assert serving.table() in pages["export"], "run benchmarks/serving.py --table"


@only("tensorflow")
@pytest.mark.xfail(raises=RuntimeError, strict=True, reason="transposes of rank 8")
def test_litert_of_any_batch(tmp_path):
    runtime = pytest.importorskip("ai_edge_litert.interpreter")
    path = tmp_path / "model.tflite"
    small().export(path, format="litert", verbose=False)
    runtime.Interpreter(str(path)).allocate_tensors()


# === The benchmark and the example ===


def test_file_is_measured(tmp_path, capsys):
    model, path, data = small(), tmp_path / "model.keras", tmp_path / "data.npz"
    videos = np.random.default_rng(0).integers(9, size=(40, *SHAPE[:3]), dtype="uint8")
    labels = model.predict(videos[..., None], verbose=0).argmax(-1)
    labels[:4] += 1
    np.savez(data, test_images=videos, test_labels=labels)
    model.save(path)
    export.measure("float32", path, data, judge=True)
    result = json.loads(capsys.readouterr().out)
    assert result.pop("right") == 36
    assert list(result) == ["seconds_1", "seconds_32"]
    assert min(result.values()) > 0


@pytest.mark.parametrize("name", serving.CALLS)
def test_answers_are_timed(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(serving, "VOLUMES", 40)
    path = tmp_path / "model.keras"
    export.organs().save(path)
    serving.measure(name, path)
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["seconds_1"] < result["seconds_40"]


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
