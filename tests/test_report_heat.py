"""What predictions rest on, beside the animations of the report."""

import base64
import io
import re
import sys
import types
from html import escape

import numpy as np
import pytest
from browser import needs_browser
from test_organmnist3d_report import (
    EXAMPLE,
    NASTY,
    Page,
    browse,
    data,
    dataset,
    gallery,
    guesses,
    write,
)

sys.path.insert(0, str(EXAMPLE.parent))

from common.report import heat


@pytest.fixture(scope="module")
def asked():
    """What the report has asked to explain: pairs of volumes and classes."""
    return []


@pytest.fixture(scope="module")
def page(asked, tmp_path_factory):
    def explain(volumes, classes):
        asked.append((volumes, classes))
        return np.random.default_rng(0).random((len(volumes), 6, 6, 6))

    names = [*dataset("custom").class_names]
    names[3] = NASTY
    loaded = dataset("custom", class_names=tuple(names), md5="4a1d")
    folder = tmp_path_factory.mktemp("runs") / "heat"
    write(folder, loaded, guesses(loaded), explain=explain)
    return Page(folder)


def test_each_volume_has_what_its_prediction_rests_on(page, asked):
    volumes, mistakes = page.section("samples"), page.section("mistakes")
    assert volumes.count('<span class="heat">') == 25
    assert volumes.count("data:image/gif") == 2 * 25
    assert mistakes.count('<span class="heat">') == 2 * 10
    assert mistakes.count("data:image/gif") == 3 * 10
    assert escape(NASTY) in volumes + mistakes
    assert NASTY not in page.source


def test_mistakes_show_the_wrong_and_the_right_class(page, asked):
    labels = dataset("custom").test.labels
    predicted = guesses(dataset("custom")).argmax(axis=1)
    shown = [int(row) for row in re.findall(r"no\. (\d+)", page.section("samples"))]
    wrong = [int(row) for row in re.findall(r"no\. (\d+)", page.section("mistakes"))]
    assert [len(volumes) for volumes, _ in asked] == [25, 10, 10]
    for (volumes, classes), rows, expected in zip(
        asked, (shown, wrong, wrong), (predicted, predicted, labels), strict=True
    ):
        images = dataset("custom").test.images[rows]
        np.testing.assert_array_equal(volumes, images)
        np.testing.assert_array_equal(classes, expected[rows])


def test_a_switch_that_needs_no_mouse_hides_it(page):
    (switch,) = (tag for tag in page.all("input") if tag["id"] == "heat")
    assert switch["type"] == "checkbox"
    assert "checked" in switch
    assert [tag for tag in page.all("label") if tag["for"] == "heat"]
    assert not page.all("script")
    assert "main:has(#heat:not(:checked)) .heat { display: none; }" in page.source


def test_a_report_without_a_model_has_no_switch(tmp_path):
    loaded = dataset("custom", volumes=11)
    write(tmp_path, loaded, guesses(loaded))
    assert 'id="heat"' not in Page(tmp_path).source


def test_pictures_are_small_and_have_all_frames():
    from PIL import Image

    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (28, 28, 28, 3)).astype("uint8")
    text = heat.gif(frames)
    assert 45 * len(text) < 4e6  # even noise, which cannot be compressed
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as image:
        assert (image.n_frames, image.size) == (28, (28, 28))
    ramp = np.zeros((4, 8, 8, 3), "uint8")
    ramp[2, :4] = (252, 128, 0)
    with Image.open(
        io.BytesIO(base64.b64decode(heat.gif(ramp).partition(",")[2]))
    ) as image:
        image.seek(image.n_frames - 1)
        assert image.n_frames == 3  # The first two are one, shown twice as long.


def test_large_volumes_show_as_many_slices():
    volume = np.zeros((1, 64, 64, 64, 1), "uint8")
    loaded = dataset("custom", 1)
    test = data.Split(volume, np.zeros(1, "int64"))
    (view,) = heat.views_of(
        lambda volumes, classes: np.random.default_rng(0).random((1, 4, 4, 4)),
        np.array([0]),
        loaded._replace(test=test),
        types.SimpleNamespace(noun="volume"),
        np.array([2]),
    )
    assert len(gallery.frames_of(volume[0])) == 22
    assert 'width="64"' in view


@pytest.mark.slow
@needs_browser
def test_browser_shows_and_hides_it_on_phones_and_desks(page, tmp_path):
    hidden = page.source.replace('id="heat" checked', 'id="heat"')
    still = page.source.replace('id="pause"', 'id="pause" checked')
    frames = [(320, page.source), (1280, page.source), (1280, hidden), (1280, still)]
    *found, without, stopped = browse(tmp_path, frames)
    for measured in found:
        assert measured["overflow"] == measured["broken"] == 0
        assert measured["requests"] == []
        assert (measured["moving"], measured["still"]) == (35 + 45, 0)
    assert (without["moving"], without["still"]) == (35, 0)
    assert (stopped["moving"], stopped["still"]) == (0, 35 + 45)
