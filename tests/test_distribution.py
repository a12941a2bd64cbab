"""How variables are divided, what devices send, and that files do not depend on it.

Run as a script it trains on eight virtual devices of JAX and writes into a folder.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import only

import keras_vivit
from keras_vivit import presets

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path[:0] = [str(ROOT / "examples"), str(DOCS)]

import distributed  # noqa: E402

if not DOCS.exists():
    pytest.skip("a source distribution has no docs", allow_module_level=True)

import scaling  # noqa: E402

VARIANTS = (
    "spatio_temporal",
    "factorized_encoder",
    "factorized_self_attention",
    "factorized_dot_product",
)
RUNS = {  # variant, copies, parts
    "data": ("spatio_temporal", 8, 1),
    "model": ("spatio_temporal", 2, 4),
    "encoders": ("factorized_encoder", 2, 4),
    "self_attention": ("factorized_self_attention", 2, 4),
}

each_variant = pytest.mark.parametrize("variant", VARIANTS)


def mesh(shape, *names):
    devices = [f"cpu:{i}" for i in range(np.prod(shape))]
    return keras.distribution.DeviceMesh(shape, names, devices)


def arguments(variant, **changes):
    sizes = {**distributed.SIZES, "num_classes": distributed.CLASSES, **changes}
    return {**sizes, "variant": variant}


# === Layouts ===


@each_variant
def test_heads_and_hidden_layers_are_divided_and_nothing_else(variant):
    layouts = keras_vivit.layout_map(mesh((1, 4), "batch", "model"))
    model = keras_vivit.ViViTClassifier(**arguments(variant, num_heads=4, mlp_dim=68))
    for weight in model.weights:
        layout = layouts[weight.path]
        inside = re.search("attention/|mlp/", weight.path)
        if inside and not weight.path.endswith("output/bias"):
            assert len(layout.axes) == len(weight.shape)
            side = weight.shape[layout.axes.index("model")]
            assert side == (68 if "mlp/" in weight.path else 4)
        else:
            assert layout is None, weight.path


def test_layouts_fit_blocks_in_models_of_others():
    inputs = keras.Input((4, 16))
    block = keras_vivit.ViViTEncoderBlock(num_heads=4, mlp_dim=32, name="mine")
    model = keras.Model(inputs, block(inputs))
    layouts = keras_vivit.layout_map(mesh((1, 4), "batch", "model"))
    divided = [w.path for w in model.weights if layouts[w.path] is not None]
    assert len(divided) == 10


@pytest.mark.parametrize("names", [("batch", "heads"), ("model", "batch"), ("model",)])
def test_mesh_must_have_a_model_axis_after_the_batch(names):
    with pytest.raises(ValueError, match=r'axis "model" after .* Received: axis_names'):
        keras_vivit.layout_map(mesh((1,) * len(names), *names))


# === The cost model ===


@each_variant
@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_cost_model_counts_the_parameters_of_the_library(variant, pooling):
    if pooling == "token" and variant not in VARIANTS[:3]:
        pytest.skip("this variant has no class token")
    config = arguments(variant, pooling=pooling)
    model = keras_vivit.ViViTClassifier(**config)
    assert sum(scaling.parameters(config)) == model.count_params()


def test_page_has_the_tables_of_the_script():
    page = (DOCS / "scaling.md").read_text()
    for name, table in scaling.tables().items():
        assert f"vivit_{name}_spatio_temporal" in presets.PRESETS
        assert table in page, "run docs/scaling.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder that this file, as a script, writes."""
    folder = tmp_path_factory.mktemp("virtual")
    flags = (
        "--xla_force_host_platform_device_count=8 --xla_dump_hlo_as_text "
        f"--xla_dump_to={folder} --xla_dump_hlo_module_re=.*train_step.*"
    )
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, __file__, folder]
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.slow
@only("jax")
@pytest.mark.parametrize("name", RUNS)
def test_cost_model_agrees_with_the_program(name, trained):
    variant, copies, parts = RUNS[name]
    programs = sorted(trained.glob("*after_optimizations.txt"))
    program = programs[list(RUNS).index(name)].read_text()
    videos = distributed.BATCH_SIZE // copies
    predicted = sum(scaling.reduced(arguments(variant), videos, parts, activation=4))
    found = scaling.collectives(program)
    assert list(found) == ["all-reduce"]
    assert found["all-reduce"] == pytest.approx(predicted, rel=0.01)


# === Files and dropout ===


@pytest.mark.slow
@only("jax")
def test_model_of_one_layout_loads_under_others(trained):
    """Saved when divided; loaded in whole copies (by the script), and alone."""
    expected = np.load(trained / "divided.npy")
    model = keras.saving.load_model(trained / "model.keras")
    predicted = model.predict(distributed.volumes(0, 0)[0], verbose=0)
    np.testing.assert_allclose(predicted, expected, atol=1e-5)
    np.testing.assert_allclose(np.load(trained / "whole.npy"), expected, atol=1e-5)


@pytest.mark.slow
@only("jax")
def test_dropout_does_not_depend_on_the_layout(trained, monkeypatch):
    expected = train_with_dropout()
    losses = json.loads((trained / "dropout.json").read_text())
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)


def train_with_dropout():
    losses, report = [], distributed.report
    options = distributed.parse(["--epochs", "2"])
    sizes = distributed.SIZES
    distributed.SIZES = {**sizes, "dropout_rate": 0.2, "drop_path_rate": 0.2, "seed": 0}
    distributed.report = lambda *row: losses.append(row[2])
    try:
        model = distributed.build(options)
        distributed.fit(model, options, distributed.Checkpoint(options.out))
    finally:
        distributed.SIZES, distributed.report = sizes, report
    return losses


# === The OrganMNIST3D recipe ===


def test_recipe_refuses_devices_before_it_starts(tmp_path):
    on_jax = keras.config.backend() == "jax"
    error = "not exceed the 1 that JAX" if on_jax else "need the backend jax. Received"
    script = ROOT / "examples" / "organmnist3d" / "train.py"
    command = [sys.executable, script, "--data", "synthetic", "--devices", "2"]
    command += ["--out", tmp_path / "run"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 2, run.stderr
    assert error in run.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("count", "parts", "error"),
    [
        (4, 3, "must divide the 4 devices. Received: 3"),
        (4, 2, "must divide num_heads=3. Received: 2"),
        (3, 1, "divisible by the 3 copies of the model. Received: 16"),
    ],
)
def test_recipe_refuses_devices_that_cannot_share(count, parts, error, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "organmnist3d")
    import configs
    from common import devices

    configuration = {**configs.TUNED, "variant": "spatio_temporal"}
    with pytest.raises(devices.InputError, match=error):
        devices.check_parts(count, parts, configuration)


# === On virtual devices ===


def distribute(parts):
    options = distributed.parse(["--model-parallel", str(parts)])
    keras.distribution.set_distribution(distributed.distribution_for(options))


def work(folder):
    for variant, _, parts in RUNS.values():
        distribute(parts)
        options = ["--variant", variant, "--epochs", "1", "--steps", "1"]
        options = distributed.parse(options)
        model = distributed.build(options)
        distributed.fit(model, options, distributed.Checkpoint(options.out))
    model.save(folder / "model.keras")
    videos = distributed.volumes(0, 0)[0]
    np.save(folder / "divided.npy", model.predict(videos, verbose=0))
    (folder / "dropout.json").write_text(json.dumps(train_with_dropout()))
    distribute(1)
    model = keras.saving.load_model(folder / "model.keras")
    np.save(folder / "whole.npy", model.predict(videos, verbose=0))


if __name__ == "__main__":
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    work(Path(sys.argv[1]))
