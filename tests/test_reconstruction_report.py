"""The report of masked pre-training: its page, and the videos on it."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from browser import needs_browser
from helpers import SMALL, once
from test_organmnist3d_report import HISTORY, RECORD, Page, browse

import keras_vivit

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from common import run_folder
from common.report import reconstructions
from common.report.page import About

pytestmark = once
SHAPE = (4, 16, 24, 3)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    decoder = {"dim": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}
    sizes = {name: SMALL[name] for name in SMALL if name != "num_temporal_layers"}
    return keras_vivit.ViViTMaskedAutoencoder(
        SHAPE,
        mask_ratio=0.55,  # half of six places
        rescaling=(1 / 255, 0),
        seed=0,
        **{f"decoder_{name}": value for name, value in decoder.items()},
        **sizes,
    )


@pytest.fixture(scope="module")
def videos():
    return np.random.default_rng(0).integers(0, 256, (10, *SHAPE), "uint8")


@pytest.fixture(scope="module")
def page(model, videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run_folder.start(folder, RECORD)
    (folder / "history.csv").write_text(HISTORY)
    about = About("<b>", "video", "frame", "made-up ", "lead", "", {"name": "x"})
    reconstructions.write(folder, about, model, videos)
    return Page(folder)


def test_page_shows_the_loss_and_each_step_of_eight_videos(page):
    shown = page.section("samples")
    assert "8 made-up videos, frame by frame" in shown
    assert "50&nbsp;% of the tokens are hidden" in shown
    assert shown.count("data:image/gif") == 8 * 4
    assert page.section("training").count("<svg") == 1
    links = {tag["href"][1:] for tag in page.all("a")}
    assert links == {"training", "samples", "run"}
    assert links <= {tag["id"] for _, tag in page.tags if "id" in tag}
    assert all(tag["alt"] for tag in page.all("img"))


def test_steps_differ_where_tokens_are_hidden(model, videos):
    steps = reconstructions.steps(model, videos)
    _, hidden = keras_vivit.visualization.reconstruct(model, videos)
    assert hidden.any(axis=(1, 2, 3)).all()
    for name, shown in steps.items():
        assert (shown.dtype, shown.shape) == (np.dtype("uint8"), videos.shape)
        np.testing.assert_array_equal(shown[~hidden], videos[~hidden], name)
    np.testing.assert_array_equal(steps["input"], videos)
    assert (steps["visible"][hidden] == reconstructions.GREY).all()
    assert (steps["predicted"][hidden] != videos[hidden]).mean() > 0.9
    tubelet = videos[:, 2:4, 8:16, 16:24]
    expected = np.rint(tubelet.mean(axis=(1, 2, 3), keepdims=True))
    where = hidden[:, 2:4, 8:16, 16:24]
    assert where.any()
    np.testing.assert_array_equal(
        steps["means alone"][:, 2:4, 8:16, 16:24][where],
        np.broadcast_to(expected, tubelet.shape)[where],
    )


@pytest.mark.slow
@needs_browser
def test_page_fits_phones_and_desks(page, tmp_path):
    still_page = page.source.replace('id="pause"', 'id="pause" checked')
    frames = [(320, page.source), (1280, page.source), (1280, still_page)]
    *found, stopped = browse(tmp_path, frames)
    for measured in found:
        assert measured["overflow"] == measured["broken"] == 0
        assert (measured["moving"], measured["still"]) == (32, 0)
    assert (stopped["moving"], stopped["still"]) == (0, 32)
