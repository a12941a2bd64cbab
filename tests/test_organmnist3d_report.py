"""The report of an OrganMNIST3D run: its numbers, and the page that shows them."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from html import escape, unescape
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from browser import BROWSER, FLAGS, needs_browser
from helpers import once

EXAMPLE = Path(__file__).parents[1] / "examples" / "organmnist3d"
sys.path.insert(0, str(EXAMPLE))  # as Python does for a script in that folder

import about_medmnist  # noqa: E402
import data  # noqa: E402
import report  # noqa: E402
from common import run_folder  # noqa: E402
from common.report import charts, gallery, measures  # noqa: E402
from data import SETS  # noqa: E402

needs_medmnist = pytest.mark.skipif(
    not find_spec("medmnist"), reason="medmnist is not installed"
)

NASTY = '<script>alert("a&b")</script>'
HOME = "/home/somebody"
RECORD = {
    "config": "tuned",
    "size": 28,
    "seed": 0,
    "patience": None,
    "preset": f"{HOME}/weights.keras",
    "model": {"num_layers": 2, "tubelet_size": [8, 8, 8], "note": NASTY},
    "backend": "torch",
    "data_path": f"{HOME}/organmnist3d.npz",
    "versions": {"python": "3.11", "keras": "3.15.1"},
}
HISTORY = """epoch,accuracy,loss,seconds,val_accuracy,val_loss
0,0.1,2.4,3.0,0.2,2.2
1,0.5,1.4,2.0,0.6,1.1
2,0.7,nan,2.0,0.5,1.3
"""


def dataset(source, volumes=66, name="organmnist3d", **changes):
    """Noise with the labels 0, 1, 2 ..., as a file of that set or as synthetic."""
    facts = SETS[name]
    images = np.random.default_rng(0).integers(0, 256, (volumes, 28, 28, 28, 1))
    labels = np.arange(volumes) % len(facts.class_names)
    split = data.Split(images.astype("uint8"), labels)
    values = {
        **dict.fromkeys(data.Dataset._fields),
        **dict.fromkeys(data.SPLITS, split),
        "name": "synthetic" if source == "synthetic" else name,
        "source": source,
        "task": facts.task,
        "class_names": facts.class_names,
    }
    return data.Dataset(**{**values, **changes})


def guesses(loaded, seed=0):
    """Probabilities of which about a half are right."""
    num_classes = len(loaded.class_names)
    labels = loaded.test.labels
    scores = np.random.default_rng(seed).dirichlet(np.ones(num_classes), len(labels))
    scores[::2] += np.eye(num_classes)[labels[::2]]
    return (scores / scores.sum(axis=1, keepdims=True)).astype("float32")


def write(
    folder,
    loaded,
    probabilities,
    two_views=None,
    history=HISTORY,
    explain=None,
    **changes,
):
    record = {**RECORD, "dataset": loaded.name, "data": loaded.source, **changes}
    run_folder.start(folder, record)
    (folder / "history.csv").write_text(history)
    report.write(folder, loaded, probabilities, two_views, explain)
    return json.loads((folder / "metrics.json").read_text())


class Page(HTMLParser):
    """Start tags with their attributes, and the text of the page."""

    def __init__(self, folder):
        super().__init__()
        self.source = (folder / "report.html").read_text("utf-8")
        self.tags, self.parts, self.open = [], [], []
        self.feed(re.sub("<style>.*?</style>", "", self.source, flags=re.DOTALL))
        self.close()
        self.text = " ".join("".join(self.parts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.parts.append(text)

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]

    def section(self, name):
        """The source of one section."""
        return self.source.split(f'<section id="{name}">')[1].split("</section>")[0]


@pytest.fixture(scope="module")
def nasty():
    names = [*SETS["organmnist3d"].class_names]
    names[3] = NASTY
    return dataset("custom", class_names=tuple(names), md5="4a1d")


@pytest.fixture(scope="module")
def folder(nasty, tmp_path_factory):
    """A run with strings that must not come through as they are."""
    folder = tmp_path_factory.mktemp("runs") / "nasty"
    write(folder, nasty, guesses(nasty), guesses(nasty, seed=1))
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page(folder)


# === Metrics ===


@pytest.mark.slow
@needs_medmnist
def test_accuracy_and_auc_equal_medmnist_evaluator(tmp_path):
    rng = np.random.default_rng(0)
    code = """
import sys, numpy as np
from medmnist.evaluator import Evaluator
folder, *names = sys.argv[1:]
for name in names:
    evaluator = Evaluator(name, "test", root=folder)
    print(*map(float, evaluator.evaluate(np.load(f"{folder}/{name}.npy"))))
"""
    ours, names = [], ("organmnist3d", "vesselmnist3d")
    for name in names:
        facts = SETS[name]
        num_classes = len(facts.class_names)
        labels = np.arange(60) % num_classes
        scores = rng.dirichlet(np.ones(num_classes), 60).astype("float32")
        scores[:20] += np.eye(num_classes, dtype="float32")[labels[:20]]
        scores /= scores.sum(axis=1, keepdims=True)
        np.savez(tmp_path / f"{name}.npz", test_labels=labels[:, None])
        np.save(tmp_path / f"{name}.npy", scores)
        measured = measures.measure(labels, scores, facts.task, facts.class_names)
        ours.append([measured["auc"], measured["accuracy"]])
    command = [sys.executable, "-c", code, str(tmp_path), *names]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs = [list(map(float, line.split())) for line in printed.splitlines()[-2:]]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_mistakes_of_the_side_are_counted_apart():
    labels, predicted = np.array([0, 1, 1, 2, 2, 2]), np.array([0, 2, 1, 1, 0, 1])
    scores, sides = np.eye(3)[predicted], (0, 2, 1)
    about = ("multi-class", "abc", "volume")
    ours = measures.measure(labels, scores, *about, sides)
    assert (ours["mistakes"], ours["mistakes_of_side"]) == (4, 3)
    assert "mistakes" not in measures.measure(labels, scores, *about)


def test_top5_counts_the_five_largest():
    scores = np.tile(np.arange(6.0) / 15, (6, 1))
    ours = measures.measure(np.arange(6), scores, "multi-class", "abcdef")
    assert ours["top5_accuracy"] == pytest.approx(5 / 6)
    assert ours["accuracy"] == pytest.approx(1 / 6)
    assert ours["per_class"][5]["recall"] == 1.0
    assert ours["per_class"][5]["precision"] == pytest.approx(1 / 6)
    assert ours["per_class"][0]["precision"] is None


def test_auc_of_an_absent_class_is_unknown():
    scores = np.full((2, 3), 1 / 3)
    ours = measures.measure(np.array([0, 1]), scores, "multi-class", "abc")
    assert ours["auc"] is None
    assert ours["auc_95"] is None
    assert ours["per_class"][2]["recall"] is None


def test_interval_is_wilsons():
    low, high = measures.binomial_interval(554, 611)
    assert (low, high) == pytest.approx((0.8811, 0.9273), abs=1e-4)
    assert measures.binomial_interval(10, 10)[1] == 1.0
    assert measures.binomial_interval(0, 10)[0] == 0.0


@once
def test_interval_of_the_auc_is_that_of_a_bootstrap():
    loaded = dataset("custom", volumes=220)
    labels, scores, rng = loaded.test.labels, guesses(loaded), np.random.default_rng(0)
    # Each class keeps its size, as in DeLong's variance.
    groups = [np.flatnonzero(labels == label) for label in range(11)]
    aucs = []
    for _ in range(200):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        drawn = measures.measure(
            labels[rows], scores[rows], loaded.task, loaded.class_names
        )
        aucs.append(drawn["auc"])
    expected = np.quantile(aucs, [0.025, 0.975])
    assert measures.auc_interval(labels, scores) == pytest.approx(expected, abs=0.015)


def test_perfect_order_has_no_interval():
    assert measures.auc_interval(np.array([0, 1]), np.eye(2)) is None


# === What is written ===


def test_two_views_are_written_beside_one(folder, nasty, capsys, tmp_path):
    metrics = json.loads((folder / "metrics.json").read_text())
    second = measures.measure(
        nasty.test.labels, guesses(nasty, seed=1), nasty.task, nasty.class_names
    )
    for key in ("accuracy", "accuracy_95", "auc", "top5_accuracy"):
        assert metrics["two_views"][key] == pytest.approx(second[key])
    assert "per_class" not in metrics["two_views"]
    predictions = np.load(folder / "predictions.npz")
    np.testing.assert_array_equal(predictions["two_views"], guesses(nasty, seed=1))
    write(tmp_path, nasty, guesses(nasty), guesses(nasty, seed=1))
    first, line, _ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"Test accuracy {metrics['accuracy']:.4f} (95 %")
    assert "test-time augmentation: accuracy " in line


def test_one_view_is_enough(nasty, tmp_path):
    assert "two_views" not in write(tmp_path, nasty, guesses(nasty))
    assert set(np.load(tmp_path / "predictions.npz")) == {"probabilities", "labels"}
    assert "Two views" not in Page(tmp_path).text


@pytest.mark.parametrize(("patience", "kept"), [(None, 3), (10, 2)])
def test_kept_epoch_depends_on_early_stopping(patience, kept, tmp_path):
    loaded = dataset("custom", volumes=11)
    metrics = write(tmp_path, loaded, guesses(loaded), patience=patience)
    assert (metrics["best_epoch"], metrics["kept_epoch"]) == (2, kept)
    assert f"epoch {kept}, which was kept" in Page(tmp_path).text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 2.4, [0, 0.5, 1, 1.5, 2, 2.5]),
        (1, 120, [0, 50, 100, 150]),
        (1, 3, [1, 1.5, 2, 2.5, 3]),
        (1, 1, [1]),
    ],
)
def test_ticks_are_round_and_include_both_ends(low, high, expected):
    np.testing.assert_allclose(charts.ticks(low, high), expected, atol=1e-12)


# === The page ===


def test_page_loads_nothing(page):
    assert not page.all("script", "iframe", "object", "embed", "base", "form")
    sources = [tag[key] for tag in page.all("img", "source") for key in tag
               if key in ("src", "srcset")]  # fmt: skip
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert [tag["href"] for tag in page.all("link")] == ["data:,"]
    assert "url(" not in page.source
    assert "@import" not in page.source
    for link in page.all("a"):
        assert link["href"].startswith(("#", "https://"))
    assert page.source.count("http") == page.section("licence").count("http") + 1
    assert 'http-equiv="Content-Security-Policy"' in page.source


def test_page_is_well_formed(page):
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("title", "h1", "main")) == 3
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    steps = np.diff([0, *levels])
    assert steps.max() == 1
    ids = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(ids) == len(set(ids))
    targets = {tag["href"][1:] for tag in page.all("a") if tag["href"][0] == "#"}
    assert targets <= set(ids)
    for name in ("svg", "img"):
        labels = [tag.get("alt") or tag.get("aria-label") for tag in page.all(name)]
        assert labels
        assert all(labels)


def test_25_volumes_and_10_mistakes_are_shown(page, nasty):
    volumes, mistakes = page.section("samples"), page.section("mistakes")
    for text, count in ((volumes, 25), (mistakes, 10)):
        for mark in ("data:image/gif", "<details>", "<summary>", 'class="sheet"'):
            assert text.count(mark) == count
        # The still slice: for reduced motion, and for the switch.
        assert text.count("data:image/png") == 2 * count
    assert mistakes.count("✗</span>\nwrong</span>") == 10
    shown = [int(number) for number in re.findall(r"no\. (\d+)", volumes)]
    right = guesses(nasty).argmax(axis=1)[shown] == nasty.test.labels[shown]
    assert volumes.count("✓</span>\nright</span>") == right.sum()
    assert volumes.count("✗</span>\nwrong</span>") == (~right).sum()


def test_mistakes_are_sorted_by_confidence():
    labels = np.array([0, 0, 0, 1])
    scores = np.array([[0.4, 0.6], [0.1, 0.9], [0.8, 0.2], [0.7, 0.3]])
    rows = gallery.most_confident_mistakes(labels, scores.argmax(axis=1), scores)
    assert rows.tolist() == [1, 3, 0]


def test_names_are_escaped_and_paths_left_out(page):
    assert NASTY in page.text
    assert escape(NASTY) in page.section("confusion")
    assert HOME not in page.source
    assert "weights.keras" in page.text
    assert "<dt>tubelet size</dt><dd>8, 8, 8</dd>" in page.section("run")


def test_numbers_are_on_the_page(page, folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    for view in (metrics, metrics["two_views"]):
        for key in ("accuracy", "auc", "top5_accuracy"):
            assert f"<dd>{view[key]:.3f} <small>{view[f'{key}_95'][0]:.3f} to " in (
                page.section("results")
            )
    assert "test-time augmentation" in page.section("results")
    assert page.section("classes").count("<svg") == 11
    assert page.section("confusion").count('<th scope="') == 22


def test_synthetic_results_say_so(tmp_path):
    loaded = dataset("synthetic")
    write(tmp_path, loaded, guesses(loaded), data_path=None)
    page = Page(tmp_path)
    assert re.search("<title>[^<]*synthetic", page.source)
    assert re.search("<h1>[^<]*synthetic", page.source)
    assert 'class="ribbon">Synthetic data' in page.source
    assert "Results on 66 synthetic test volumes" in page.text
    assert "CC BY" not in page.text
    assert not [tag for tag in page.all("a") if tag["href"].startswith("http")]


def test_real_results_name_licence_and_sources(page):
    for words in (
        "Custom data file",
        "MD5",
        "CC BY 4.0",
        "Not for clinical use",
        "Scientific Data 10:41, 2023",
        "1901.04056",
        "Transactions on Medical Imaging 38(8), 2019",
    ):
        assert words in page.text
    assert "synthetic" not in page.text.lower()


@pytest.mark.parametrize("volumes", [30, 1])
def test_two_classes_have_one_curve_and_no_top5(volumes, tmp_path):
    loaded = dataset("official", volumes, "vesselmnist3d")
    write(tmp_path, loaded, guesses(loaded), config="baseline")
    page = Page(tmp_path)
    assert "VesselMNIST3D" in page.text
    assert "Top-5" not in page.text
    assert "1901.04056" not in page.text
    assert page.section("classes").count("<svg") == (volumes > 1)


def test_no_mistakes_and_one_epoch(tmp_path):
    loaded = dataset("custom", volumes=22)
    history = "".join(HISTORY.splitlines(keepends=True)[:2])
    write(tmp_path, loaded, np.eye(11)[loaded.test.labels], history=history)
    page = Page(tmp_path)
    assert "every test volume is predicted right" in page.text
    assert "no interval" in page.section("results")
    assert "nan" not in page.section("training")


def test_contact_sheet_has_the_slices_in_rows():
    frames = np.arange(1, 10, dtype="uint8")[:, None, None] * np.ones(
        (1, 3, 3), "uint8"
    )
    sheet = gallery.contact_sheet(frames)
    assert sheet.shape == (2 * 5, 7 * 5)  # with gaps of two
    assert sheet[0, ::5].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert sheet[5, ::5].tolist() == [8, 9, 0, 0, 0, 0, 0]


def test_animation_has_a_frame_per_slice():
    from PIL import Image

    volume = np.arange(28**3).reshape(28, 28, 28).astype("uint8")
    content = base64.b64decode(gallery.gif(volume).partition(",")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert (image.n_frames, image.size) == (28, (28, 28))


def test_large_volumes_keep_the_page_small():
    volume = np.random.default_rng(0).integers(0, 256, (64, 64, 64)).astype("uint8")
    assert gallery.frames_of(volume[..., None]).shape == (22, 64, 64)
    # Even noise, which cannot be compressed, 35 times.
    loaded = dataset("custom", 1)
    test = data.Split(volume[None, ..., None], np.zeros(1, "int64"))
    about = about_medmnist.about(loaded, RECORD)
    loaded = loaded._replace(test=test)
    text = gallery.cards([0], loaded, about, [0], np.ones((1, 11)) / 11)
    assert 35 * len(text) < 8e6


def palettes():
    """The colours of `page.css`, light and dark."""
    css = (EXAMPLE.parent / "common" / "report" / "page.css").read_text("utf-8")
    found = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)[:2]
    light, dark = (dict(re.findall(r"--([\w-]+): (.*?);", text)) for text in found)
    return {"light": light, "dark": {**light, **dark}}


def luminance(rgb):
    rgb = np.asarray(rgb) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(*colours):
    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(mode):
    named = palettes()[mode]
    rgb = {k: list(bytes.fromhex(v[1:])) for k, v in named.items() if v[0] == "#"}
    for front in ("ink", "soft", "right", "wrong"):
        for back in ("paper", "card"):
            assert contrast(rgb[front], rgb[back]) >= 4.5, (front, back)
    assert contrast(rgb["ink"], rgb["warn"]) >= 4.5
    heat = np.array(list(map(int, named["heat-rgb"].split())))
    hottest = 0.42 * heat + 0.58 * np.array(rgb["paper"])
    assert contrast(rgb["ink"], hottest) >= 4.5


# === In a browser ===

# Each page is measured in a frame as wide as a phone's or a desk's screen.
MEASURE = """
<script>
function decodes(image) {
  const context = document.createElement("canvas").getContext("2d");
  try {
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, 1, 1).data[3] == 255;
  } catch (error) {
    return false;
  }
}
function examine(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  const images = [...page.images];
  const loaded = frame.contentWindow.performance.getEntriesByType("resource");
  return {
    overflow: root.scrollWidth - root.clientWidth,
    images: images.length,
    broken: images.filter(image => !decodes(image)).length,
    requests: loaded.map(e => e.name).filter(name => !name.startsWith("data:")),
    moving: images.filter(image => image.currentSrc.includes("image/gif")
                                   && image.checkVisibility()).length,
    still: images.filter(image => image.currentSrc.includes("image/png")
                                  && image.checkVisibility()).length,
  };
}
// Without any waiting: the browser prints the page right after its load event.
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(examine);
  document.body.innerHTML = "<pre></pre>";
  document.body.firstChild.textContent = JSON.stringify(found);
};
</script>
"""


def browse(tmp_path, pages, *options):
    """Opens `(width, source)` pages in a headless browser; returns what it measures."""
    frames = "".join(
        f'<iframe width="{width}" height="800" srcdoc="{escape(source)}"></iframe>'
        for width, source in pages
    )
    (tmp_path / "frames.html").write_text(f"<body>{frames}{MEASURE}</body>", "utf-8")
    command = [
        BROWSER,
        "--headless",
        *FLAGS,
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
        *options,
        "--dump-dom",
        (tmp_path / "frames.html").as_uri(),
    ]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    return json.loads(unescape(re.search("<pre>(.*)</pre>", run.stdout)[1]))


@pytest.mark.slow
@needs_browser
def test_browser_shows_the_page_on_phones_and_desks(page, tmp_path):
    still_page = page.source.replace('id="pause"', 'id="pause" checked')
    frames = [(320, page.source), (360, page.source), (1280, page.source)]
    *found, stopped = browse(tmp_path, [*frames, (1280, still_page)])
    for measured in found:
        assert measured["overflow"] == measured["broken"] == 0
        assert measured["requests"] == []
        assert measured["images"] == 3 * 35
        assert (measured["moving"], measured["still"]) == (35, 0)
    assert (stopped["moving"], stopped["still"]) == (0, 35)


@pytest.mark.slow
@needs_browser
def test_browser_shows_stills_to_who_wants_less_motion(page, tmp_path):
    options = ["--force-prefers-reduced-motion"]
    (found,) = browse(tmp_path, [(1280, page.source)], *options)
    assert (found["moving"], found["still"]) == (0, 35)


@pytest.mark.slow
@needs_browser
def test_browser_check_can_fail(tmp_path):
    bad = '<div style="width: 999px"><img src="data:image/gif;base64,AAAA">'
    bad += '<img src="http://127.0.0.1:9/x.png"></div>'
    (found,) = browse(tmp_path, [(360, bad)])
    assert found["overflow"] > 0
    assert found["broken"] == 2
    assert found["requests"] == ["http://127.0.0.1:9/x.png"]
