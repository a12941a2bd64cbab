"""The pages of the site: links, pictures, the reference, and what they quote."""

import importlib
import inspect
import itertools
import json
import os
import pathlib
import re

import keras
import numpy as np
import pytest
from helpers import once

import keras_vivit
from keras_vivit import (
    augmentation,
    config,
    data,
    initializers,
    optimizers,
    visualization,
)

pytestmark = once
ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)\s]+)\)")
DIRECTIVE = re.compile(r"^::: (\S+)\n(?: {4}options:\n {6}members: \[(.*)\])?", re.M)
PICTURES = ("tubelets", "variants", "videos")
DATA = pathlib.Path(os.environ.get("KERAS_VIVIT_DATA", "")) / "organmnist3d.npz"

if not PAGES:
    pytest.skip("a source distribution has no docs", allow_module_level=True)

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(DOCS))
)


def prose(page):
    return CODE.sub("", FENCE.sub("", page.read_text()))


def anchors(page):
    """The ids of headings, as Python-Markdown's `toc` makes them."""
    text = FENCE.sub("", page.read_text())
    found = set(DIRECTIVE_NAMES.get(page, ()))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        found.add(re.sub(r"[-\s]+", "-", words))
    return found


def directives(page):
    """Names and listed members of what the reference shows on a page."""
    found = DIRECTIVE.findall(page.read_text())
    return {name: re.findall(r"\w+", members) for name, members in found}


DIRECTIVE_NAMES = {page: directives(page) for page in PAGES}


def public_names():
    yield from (
        f"keras_vivit.{name}"
        for name in keras_vivit.__all__
        if not inspect.ismodule(getattr(keras_vivit, name))
    )
    yield from (f"keras_vivit.augmentation.{name}" for name in augmentation.__all__)
    yield from (f"keras_vivit.data.{name}" for name in data.__all__)
    yield from (f"keras_vivit.optimizers.{name}" for name in optimizers.__all__)
    yield from (f"keras_vivit.visualization.{name}" for name in visualization.__all__)
    for module in (config, initializers):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and not name.startswith("_"):
                yield f"{module.__name__}.{name}"


def picture_files(name, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module(name).pictures()


@each_page
def test_links_lead_somewhere(page):
    for _, _, target in LINK.findall(prose(page)):
        if re.match("https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert file.is_relative_to(DOCS), f"{target} is outside of the site"
        if anchor:
            assert anchor in anchors(file), target


@each_page
def test_pictures_have_a_text(page):
    text = prose(page)
    for image, alt, target in LINK.findall(text):
        assert not image or len(alt.split()) > 2, target
    for tag in re.findall(r"<img\b[^>]*>", text):
        assert re.search(r'\balt="[^"]', tag), tag


@each_page
def test_no_path_of_somebodys_machine(page):
    assert not re.search(r"(?<![\w.:/~])/(home|root|tmp|work|Users)/", page.read_text())


@each_page
def test_page_has_one_title_and_skips_no_level(page):
    levels = re.findall(r"^(#+) ", FENCE.sub("", page.read_text()), re.MULTILINE)
    sizes = list(map(len, levels))
    assert sizes.count(1) == 1
    assert sizes[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(sizes))


def test_navigation_names_every_page_once():
    text = (ROOT / "mkdocs.yml").read_text()
    named = re.findall(r"^ +- .*: ([\w/-]+\.md)$", text, re.MULTILINE)
    assert sorted(named) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def test_site_asks_no_other_host():
    assert re.search("^  font: false", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    for file in (*DOCS.glob("**/*.css"), *DOCS.glob("**/*.svg")):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text), file


def test_reference_shows_every_public_name_once():
    shown = [name for names in DIRECTIVE_NAMES.values() for name in names]
    assert sorted(shown) == sorted(public_names())


@pytest.mark.parametrize(
    "name", ["ViViTBackbone", "ViViTClassifier", "ViViTMaskedAutoencoder"]
)
def test_reference_shows_the_methods_of_a_model(name):
    methods = (
        attribute
        for attribute, value in vars(getattr(keras_vivit, name)).items()
        if inspect.isfunction(value) or isinstance(value, classmethod)
        if not attribute.startswith("_") and not hasattr(keras.Model, attribute)
    )
    pages = {k: v for found in DIRECTIVE_NAMES.values() for k, v in found.items()}
    assert sorted(pages[f"keras_vivit.{name}"]) == sorted(methods)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_those_that_the_script_draws(name, monkeypatch):
    for file, text in picture_files(name, monkeypatch).items():
        assert (DOCS / file).read_text() == text, f"run docs/{name}.py"


def test_variants_have_the_numbers_of_the_library_and_the_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    text = (DOCS / "variants.md").read_text()
    for row in importlib.import_module("variants").rows():
        assert row in text


@pytest.mark.parametrize("name", ["retrieval", "retrieval-videos"])
def test_retrieval_has_the_numbers_of_the_benchmark(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    lines = (DOCS / "features.md").read_text().splitlines()
    assert set(importlib.import_module("retrieval").table(record)) <= set(lines)


def test_maps_have_the_numbers_of_the_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    lines = (DOCS / "visualization.md").read_text().splitlines()
    assert set(importlib.import_module("visualization").tables()) <= set(lines)


def test_reconstructions_of_a_volume_and_a_clip_are_drawn(monkeypatch, tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(DOCS)
    draw = importlib.import_module("pretraining").draw
    decoder = {"dim": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}
    for channels in (1, 3):
        model = keras_vivit.ViViTMaskedAutoencoder(
            (8, 16, 16, channels),
            tubelet_size=(2, 8, 8),
            mask_ratio=0.5,
            embed_dim=8,
            num_layers=1,
            num_heads=2,
            mlp_dim=8,
            **{f"decoder_{name}": value for name, value in decoder.items()},
        )
        path = tmp_path / f"{channels}.jpg"
        draw(path, model, np.full((3, 8, 16, 16, channels), 255, "uint8"))
        with image.open(path) as picture:
            shown = np.asarray(picture.convert("L"))
        # Four rows: the input is white, and so are the means of its tubelets.
        white = [(part > 250).mean() for part in np.array_split(shown, 4)]
        assert white[0] > white[1] + 0.2
        assert white[3] == pytest.approx(white[0], abs=0.02)


@pytest.mark.skipif(
    not DATA.is_file(), reason="KERAS_VIVIT_DATA names no folder with organmnist3d.npz"
)
def test_confusions_are_those_of_the_shipped_model(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    script = importlib.import_module("organmnist3d")
    _, _, labels, probabilities = script.predict(DATA)
    if len(labels) != 304:
        pytest.skip("the picture is that of other 304 volumes")
    drawn = (DOCS / "organmnist3d-confusion.svg").read_text()
    assert script.confusion(labels, probabilities.argmax(axis=1)) == drawn


@pytest.mark.filterwarnings("ignore:.*ignores 37%:UserWarning")
def test_presets_are_those_of_the_library(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    lines = (DOCS / "checkpoints.md").read_text().splitlines()
    assert set(importlib.import_module("presets").tables()) <= set(lines)


def test_new_lines_of_the_migration_are_in_code_that_runs():
    blocks = FENCE.findall((DOCS / "migration.md").read_text())
    run = " ".join(" ".join(code for kind, code in blocks if kind == "python").split())
    for kind, code in blocks:
        if kind != "diff" or "hf://" in code:  # That one needs a download.
            continue
        new = re.findall(r"^\+(.*)$", code, re.MULTILINE)
        assert all(" ".join(line.split()) in run for line in new), code
