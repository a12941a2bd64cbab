"""The notebooks of the site: made from their scripts, and run as Jupyter runs them."""

import ast
import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import only
from local_hub import hub  # noqa: F401

from keras_vivit import ViViTClassifier, save_to_transformers

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"

if not FOLDER.exists():
    pytest.skip("a source distribution has no docs", allow_module_level=True)

nbclient = pytest.importorskip("nbclient", reason="running notebooks needs nbclient")
nbformat = pytest.importorskip("nbformat")
sys.path.insert(0, str(ROOT / "examples" / "organmnist3d"))

import shapes  # noqa: E402

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
pytestmark = pytest.mark.slow
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path):
    """The install cell, and the notebook without it."""
    notebook = nbformat.read(path, as_version=4)
    (install,) = (cell for cell in notebook.cells if cell.source.startswith("%pip"))
    notebook.cells.remove(install)
    return install.source, notebook


def test_notebooks_are_those_that_the_scripts_make(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER.parent)
    made = importlib.import_module("notebooks").notebooks()
    assert sorted(made) == [path.name for path in NOTEBOOKS]
    for name, text in made.items():
        assert (FOLDER / name).read_text() == text, "run docs/notebooks.py"


@each_notebook
def test_install_cell_names_what_the_notebook_imports(path):
    install, notebook = cells(path)
    extras, others = re.fullmatch(
        r'%pip install -q "keras-vivit\[([\w,]+)\]"(.*)', install
    ).groups()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = {"keras", "keras_vivit", "numpy", *sys.stdlib_module_names}
    for extra in extras.split(","):
        requirements = project["optional-dependencies"][extra]
        installed.update(name.replace("-", "_") for name in requirements)
    installed.update(others.split())
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= installed
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in installed


# === Running them ===


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a notebook with some text replaced; returns what it prints, and pictures."""
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as in conftest.py
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    def run(name, **replacements):
        _, notebook = cells(FOLDER / f"{name}.ipynb")
        for old, new in replacements.items():
            assert sum(cell.source.count(old) for cell in notebook.cells) == 1
            for cell in notebook.cells:
                cell.source = cell.source.replace(old, new)
        nbclient.NotebookClient(notebook, kernel_name="python3").execute()
        outputs = [o for c in notebook.cells for o in c.get("outputs", ())]
        text = "".join(output.get("text", "") for output in outputs)
        return text, [o for o in outputs if "image/png" in o.get("data", ())]

    return run


@only("torch")
def test_compose_a_model(run):
    text, pictures = run("compose_a_model", **{"epochs=12": "epochs=4"})
    overlaps = [float(x) for x in re.findall(r"^(?:left|right): (.*)", text, re.M)]
    assert len(overlaps) == 2
    assert min(overlaps) > 0.2
    assert len(pictures) == 1


@only("torch")
def test_organmnist3d_in_five_minutes(run, monkeypatch, tmp_path):
    data = {}
    for seed, (split, count) in enumerate({"train": 32, "val": 18, "test": 18}.items()):
        images, labels = shapes.sample(count, 28, seed)
        data |= {f"{split}_images": images[..., 0], f"{split}_labels": labels[:, None]}
    np.savez(tmp_path / "organmnist3d.npz", **data)
    monkeypatch.setenv("KERAS_VIVIT_DATA", str(tmp_path))
    text, pictures = run(
        "organmnist3d_in_five_minutes", **{"EPOCHS, BATCH = 20": "EPOCHS, BATCH = 2"}
    )
    assert re.search(r"accuracy \d\.\d+, top-5 \d\.\d+", text)
    assert len(pictures) == 3


@only("torch")
def test_load_official_weights(run, hub):  # noqa: F811
    """A small model with the videos and the classes of the real one."""
    model = ViViTClassifier(
        (32, 224, 224, 3),
        num_classes=400,
        pooling="token",
        embed_dim=12,
        num_layers=1,
        num_heads=2,
        mlp_dim=12,
    )
    rng = np.random.default_rng(0)
    kernel = model.get_layer("head").kernel
    kernel.assign(rng.normal(size=kernel.shape))  # It starts at zero.
    checkpoint = hub / "google" / "vivit-b-16x2-kinetics400"
    save_to_transformers(model, checkpoint)
    clips = hub / "datasets" / "hf-internal-testing" / "spaghetti-video"
    labels = hub / "datasets" / "huggingface" / "label-files"
    clips.mkdir(parents=True)
    labels.mkdir(parents=True)
    frames = rng.integers(256, size=(32, 360, 640, 3), dtype="uint8")
    np.save(clips / "eating_spaghetti_32_frames.npy", frames)
    names = {str(index): f"action {index}" for index in range(400)}
    (labels / "kinetics400-id2label.json").write_text(json.dumps(names))
    text, pictures = run("load_official_weights")
    assert "(None, 32, 224, 224, 3) to (None, 400)" in text
    found = re.findall(r"[\d.]+%  action (\d+)$", text, re.M)
    assert len(found) == 10  # five at each size
    video = keras.ops.image.resize(
        frames.astype("float32"), (224, 224), crop_to_aspect_ratio=True
    )
    expected = ViViTClassifier.from_preset(checkpoint).predict(video[None], verbose=0)
    assert int(found[0]) == expected.argmax()
    assert "gives way to a new one" in text
    assert "val_accuracy" in text
    assert len(pictures) == 1
