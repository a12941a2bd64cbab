"""The page of `docs/demo` in a browser: Keras' numbers, and a sentence for each error.

`nox -s docs` builds it into the site and runs this.
"""

import base64
import contextlib
import functools
import gzip
import importlib
import io
import itertools
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import BROWSER, FLAGS, needs_browser

driver = pytest.importorskip("playwright.sync_api", reason="needs Playwright")

from small_volumes import (  # noqa: E402
    affine_of,
    dataset,
    nibabel,
    voxels,
    write_dicom,
    write_nifti,
    write_series,
)
from test_site import SITE, serve  # noqa: E402

import keras_vivit  # noqa: E402
from keras_vivit.data import read_volume  # noqa: E402
from keras_vivit.data.resampling import resample  # noqa: E402

SOURCE = Path(__file__).parents[1] / "docs" / "demo"
DEMO = SITE / "demo"
DATA = Path(os.environ.get("KERAS_VIVIT_DATA", ""))
SIZE, CT, AXES = (28, 28, 28), (-160, 240), "LPS"
# Reads a file and prepares it as the page does.
PREPARE = """async ([files, box, window, orientation]) => {
  const [{ readFiles }, { resample, toBytes, turn }, { Refusal }] = await Promise.all(
    ["files", "volume", "numbers"].map((name) => import(`./${name}.js`)));
  const bytes = (text) => Uint8Array.from(atob(text), (x) => x.charCodeAt(0));
  const blobs = files.map((text) => new Blob([bytes(text)]));
  try {
    const volume = turn(await readFiles(blobs), orientation);
    const whole = volume.shape.map((size) => [0, size]);
    return [...toBytes(resample(volume, box ?? whole, [28, 28, 28]), window).data];
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return error.message;
  }
}"""
PREDICT = """async (voxels) => {
  const { predict } = await import("./model.js");
  const { shares, map } = await predict({ data: voxels, shape: [28, 28, 28] });
  return [shares, [...map.data], map.shape];
}"""
needs_site = pytest.mark.skipif(
    not (DEMO / "model.onnx").exists(), reason="`nox -s docs` builds the page"
)
pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser():
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address():
    with serve(DEMO) as address:
        yield address


@pytest.fixture(scope="module")
def model():
    return keras_vivit.ViViTClassifier.from_preset("vivit_organmnist3d_v2")


@contextlib.contextmanager
def opened(browser, address, **options):
    """A page that writes nothing to its console, and asks nobody else for anything."""
    page, flaws = browser.new_page(**options), []
    page.set_default_timeout(120_000)
    page.on("pageerror", lambda error: flaws.append(f"error: {error}"))
    page.on("console", lambda line: flaws.append(f"{line.type}: {line.text}"))
    page.on("requestfailed", lambda request: flaws.append(f"failed: {request.url}"))
    page.on("request", lambda request: flaws.append(f"request: {request.url}"))
    page.goto(address)
    yield page
    page.close()
    own = (f"request: {address}", "request: data:")
    assert [flaw for flaw in flaws if not flaw.startswith(own)] == []


@pytest.fixture(scope="module")
def page(browser, address):
    with opened(browser, address) as page:
        yield page


def choose(page, *paths):
    """Opens files, and returns what the page says of them."""
    page.set_input_files("#files", [])
    page.evaluate("document.getElementById('status').textContent = ''")
    page.set_input_files("#files", paths)
    page.locator("#status", has_not_text="Reading").filter(has_text=":").wait_for()
    return page.inner_text("#status")


def probabilities(page):
    texts = page.locator("#bars li span:last-child").all_inner_texts()
    return [float(text.removesuffix(" %")) / 100 for text in texts]


def predict(page):
    page.click("#predict")
    page.locator("#answer", has_text="It took").wait_for()
    return probabilities(page)


def prepared(page, *paths, box=None, window=CT, orientation=AXES):
    """What the page makes of files: voxels for the model, or a sentence."""
    texts = [base64.b64encode(path.read_bytes()).decode() for path in paths]
    result = page.evaluate(PREPARE, [texts, box, window, orientation])
    return result if isinstance(result, str) else np.reshape(result, SIZE)


def check(actual, expected):
    """Halves may be rounded to the other side, where a sum has another order."""
    assert not isinstance(actual, str), actual
    difference = np.abs(actual - expected[..., 0].astype(int))
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


def test_script_is_short():
    texts = [path.read_text(encoding="utf-8") for path in SOURCE.glob("*.js")]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    assert sum(not line.startswith(("//", "/**")) for line in lines if line) < 400


# === Predictions ===


@needs_site
def test_ten_volumes_have_the_probabilities_of_keras(page, model, tmp_path):
    if (DATA / "organmnist3d.npz").is_file():
        with np.load(DATA / "organmnist3d.npz") as file:
            volumes = file["test_images"][:10]
    else:
        volumes = np.random.default_rng(0).integers(0, 256, (10, *SIZE), "uint8")
    expected = model.predict(volumes[..., None], verbose=0)
    rollout = keras_vivit.visualization.attention_rollout(model, volumes[..., None])
    for i, volume in enumerate(volumes):
        path = tmp_path / f"{i}.npy"
        np.save(path, volume)
        assert choose(page, path) == f"{i}.npy: 28 x 28 x 28 voxels."
        np.testing.assert_allclose(predict(page), expected[i], atol=1e-4)
        # Bars are rounded, the model's own outputs are not.
        numbers, heat, grid = page.evaluate(PREDICT, volume.ravel().tolist())
        np.testing.assert_allclose(numbers, expected[i], atol=1e-5)
        np.testing.assert_allclose(np.reshape(heat, grid), rollout[i], atol=1e-5)


@needs_site
@pytest.mark.skipif(not list(DEMO.glob("samples/*.npy")), reason="built without data")
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_samples_are_predicted_by_a_key(width, scheme, browser, address):
    view = {"width": width, "height": 900}
    with opened(browser, address, viewport=view, color_scheme=scheme) as page:
        for number, button in enumerate(page.locator("[data-file]").all()):
            button.press("Enter")
            label = button.get_attribute("data-label")
            answer = page.locator("#answer", has_text=f"Actual class: {label}.")
            answer.filter(has_text="It took").wait_for()
            right = f"Prediction: {label}." in answer.inner_text()
            assert right == (number < 2)
            assert page.locator(".top span").first.inner_text() in answer.inner_text()
            assert abs(sum(probabilities(page)) - 1) < 1e-3
            assert not page.evaluate(
                "document.documentElement.scrollWidth > innerWidth"
            )


@needs_site
def test_rollout_is_drawn_over_the_box_until_it_is_switched_off(page, tmp_path):
    np.save(tmp_path / "a.npy", voxels(*SIZE).astype("uint8"))
    choose(page, tmp_path / "a.npy")
    maps = page.locator(".box canvas")
    assert not maps.first.is_visible()
    predict(page)
    assert maps.first.is_visible()
    page.uncheck("#show")
    assert not maps.first.is_visible()
    page.check("#show")
    page.locator("#low").press("ArrowRight")  # Another input has no prediction yet.
    page.locator(".box canvas[hidden]").first.wait_for(state="attached")
    assert page.inner_text("#bars li:first-child span:last-child") == ""


# === Files ===


@needs_site
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_nifti_file_gives_what_python_gives(name, page, model, tmp_path):
    scan = voxels(40, 37, 30)
    path = write_nifti(tmp_path / name, scan, "PIR", tilt=0.2)
    expected = read_volume(path, SIZE, window=CT, orientation=AXES)
    assert choose(page, path) == f"{name}: 30 x 40 x 37 voxels."
    result = model.predict(expected[None], verbose=0)[0]
    np.testing.assert_allclose(predict(page), result, atol=1e-3)
    check(prepared(page, path), expected)


@needs_site
def test_all_directions_are_turned_as_nibabel_does(page, tmp_path):
    scan = voxels(7, 9, 8)
    signs = list(itertools.product("RL", "AP", "SI"))
    letters = ["".join(x) for s in signs for x in itertools.permutations(s)]
    assert len(letters) == 48
    for number, stored in enumerate(letters):
        path = write_nifti(tmp_path / "a.nii", scan, stored, tilt=number / 70)
        wanted = letters[-number]
        expected = read_volume(path, SIZE, window=CT, orientation=wanted)
        check(prepared(page, path, orientation=wanted), expected)


@needs_site
def test_axes_at_any_angles_are_turned_as_nibabel_does(page, tmp_path):
    scan, path, rng = voxels(7, 9, 8), tmp_path / "a.nii", np.random.default_rng(0)
    for _ in range(20):
        affine = np.eye(4)
        affine[:3, :3] = rng.normal(size=(3, 3))
        nibabel.save(nibabel.Nifti1Image(scan, affine), path)
        expected = read_volume(path, SIZE, window=CT, orientation="LPS")
        check(prepared(page, path, orientation="LPS"), expected)


@needs_site
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<u2", ">f4", "<f8", "<i4"])
@pytest.mark.parametrize("form", ["nii", "npy", "npz"])
def test_numbers_of_files_are_read(form, dtype, page, tmp_path):
    array, path = voxels(6, 5, 7).clip(0).astype(dtype), tmp_path / f"a.{form}"
    if form == "nii":
        header = nibabel.Nifti2Header(endianness=">" if ">" in dtype else "<")
        header.set_data_dtype(array.dtype)
        image = nibabel.Nifti2Image(array, affine_of("LPS"), header)
        image.header.set_slope_inter(0.5, 3)
        nibabel.save(image, path)
    elif form == "npy":
        np.save(path, np.asfortranarray(array))
    else:
        np.savez_compressed(path, label=3, volume=array)
    options = {"series": "volume"} if form == "npz" else {}
    expected = read_volume(path, SIZE, window=(3, 777), orientation=AXES, **options)
    check(prepared(page, path, window=(3, 777)), expected)


@needs_site
@pytest.mark.parametrize(("pattern", "least"), [("*/*.nii*", 8), ("*/*/**/", 2)])
def test_real_files_are_read_or_refused(pattern, least, page):
    if not DATA.name or not (DATA / "volumes").is_dir():
        pytest.skip("KERAS_VIVIT_DATA names no folder with volumes")
    read = 0
    for path in sorted((DATA / "volumes").glob(pattern)):
        files = [path] if path.is_file() else [x for x in path.iterdir() if x.is_file()]
        if not files:
            continue
        actual = prepared(page, *files, window=(0, 255))
        try:
            expected = read_volume(path, SIZE, window=(0, 255), orientation=AXES)
        except ValueError:
            assert isinstance(actual, str), path
            continue
        if isinstance(actual, str):  # Single slices and NaN, which Python takes.
            assert re.search("no volume|no numbers|one slice|MONOCHROME2", actual), path
            continue
        check(actual, expected)
        read += 1
    assert read >= least


@needs_site
def test_dicom_series_is_sorted_and_turned(page, tmp_path):
    scan, affine = voxels(6, 9, 8) + 1000, affine_of("SLA", tilt=0.3)
    tags = {
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
        "BitsStored": 12,
        "HighBit": 11,
    }
    folder = write_series(tmp_path / "a", scan, affine, (3, 1, 5, 0, 2, 4), **tags)
    expected = read_volume(folder, SIZE, window=CT, orientation=AXES)
    check(prepared(page, *folder.iterdir()), expected)
    assert "one slice" in prepared(page, next(folder.iterdir()))
    missing = prepared(page, *sorted(folder.iterdir())[:-2])
    assert "unevenly spaced" in missing
    choose(page, *folder.iterdir())
    assert page.input_value("#low") == "-160"  # It is CT.


@needs_site
def test_dicom_frames_are_read(page, tmp_path):
    path, tags = tmp_path / "a.dcm", {"RescaleSlope": 0.5, "RescaleIntercept": -20}
    write_dicom(path, voxels(5, 7, 6), **tags)
    check(prepared(page, path), read_volume(path, SIZE, window=CT))
    write_dicom(path, voxels(5, 7, 6), PhotometricInterpretation="MONOCHROME1")
    assert "without a MONOCHROME2 image" in prepared(page, path)


@needs_site
def test_box_and_window_are_those_of_the_sliders(page, model, tmp_path):
    scan = voxels(30, 40, 35)
    path = write_nifti(tmp_path / "scan.nii", scan, AXES)
    choose(page, path)
    for axis, ends in enumerate([(3, 20), (10, 40), (0, 12)]):
        for name, value in zip(("from", "to"), ends, strict=True):
            slider = f"[data-view*='\"axis\": {axis}'] [aria-label^='box {name}']"
            page.fill(slider, str(value))
    page.fill("#low", "-300")
    page.fill("#high", "500")
    box = read_volume(path, orientation=AXES)[3:20, 10:40, 0:12]
    cube = resample(box, SIZE, [size / 28 for size in box.shape[:3]])
    expected = np.rint(((cube + 300) * (255 / 800)).clip(0, 255))
    actual = prepared(page, path, box=[(3, 20), (10, 40), (0, 12)], window=(-300, 500))
    check(actual, expected)
    result = model.predict(expected[None], verbose=0)[0]
    np.testing.assert_allclose(predict(page), result, atol=2e-3)


# === Files that are no volume ===


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def nan():
    array = np.zeros((4, 4, 4), "float32")
    array[1, 2, 3] = np.nan
    return npy(array)


def compressed():
    item = dataset(voxels(3, 4, 5))
    file = io.BytesIO()
    item.save_as(file, enforce_file_format=True)
    old, new = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"
    return file.getvalue().replace(old, new, 1)


BROKEN = {
    "text.nii": (b"This is no volume.", "It is no NIfTI, DICOM, npy or npz file."),
    "empty.npy": (b"", "It is no NIfTI, DICOM, npy or npz file."),
    "cut.npy": (npy(np.zeros((9, 9, 9)))[:-80], "It is cut off: voxels are missing."),
    "cut.nii.gz": (gzip.compress(bytes(9999))[:-20], "It cannot be read"),
    "cut.npz": (b"PK\3\4" + bytes(99), "It cannot be read"),
    "four.npy": (npy(np.zeros((2, 3, 4, 5))), "more than three axes (2 x 3 x 4 x 5)"),
    "picture.npy": (npy(np.zeros((3, 4))), "It is no volume. Its size: 3 x 4."),
    "complex.npy": (npy(np.zeros((3, 4, 5), "c8")), "neither integers nor floats"),
    "pickle.npy": (npy(np.array([{}] * 8).reshape(2, 2, 2)), "cannot be read|numbers"),
    "nan.npy": (nan(), "It has voxels that are no numbers (NaN) or infinite."),
    "compressed.dcm": (compressed(), "It is compressed DICOM: decompress it first."),
}


@needs_site
@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_gets_a_sentence_and_the_page_goes_on(name, page, tmp_path):
    content, sentence = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    text = choose(page, tmp_path / name)
    assert text.startswith(f"{name}: ")
    assert any(part in text for part in sentence.split("|"))
    np.save(tmp_path / "good.npy", np.full(SIZE, 90, "uint8"))
    choose(page, tmp_path / "good.npy")
    assert abs(sum(predict(page)) - 1) < 1e-3


@needs_site
def test_large_file_is_refused_before_it_is_read(page, tmp_path):
    with (tmp_path / "large.nii").open("wb") as file:
        file.truncate(513 * 2**20)
    assert "exceeds 512 MB" in choose(page, tmp_path / "large.nii")


# === What is built ===


@pytest.fixture(scope="module")
def build():
    sys.path.insert(0, str(SOURCE))
    return importlib.import_module("build")


def test_pairs_are_together_and_samples_are_a_right_a_left_and_a_mistake(build):
    names = ["liver", "lung-right", "spleen", "lung-left"]
    assert build.groups(names) == [[0], [1, 3], [2]]
    labels = np.array([0, 3, 1, 3, 1, 2])
    predicted = np.array([2, 1, 1, 3, 1, 2])
    assert build.choose(names, labels, predicted) == [2, 3, 1]
    assert build.choose(names[::2], np.array([0, 1]), np.array([0, 1])) == [0, 1]


def test_pictures_of_a_scan_in_ras_are_turned(build):
    for orientation, back in (("LPS", (False, True)), ("RAS", (True, True))):
        axes = build.view("AP", "Coronal", orientation)
        assert f'"axis": 1, "x": 0, "y": 2, "back": {list(back)}'.lower() in axes
    assert '"axis": 0, "x": 2, "y": 1, "back": [false, false]' in build.view(
        "SI", "Axial", "SPL"
    )


@needs_site
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # PyTorch's exporter.
def test_page_of_another_model_predicts_its_samples(
    build, browser, tmp_path, monkeypatch
):
    model = keras_vivit.ViViTClassifier(
        (4, 16, 12, 1),
        3,
        variant="factorized_dot_product",
        tubelet_size=(2, 8, 4),
        embed_dim=16,
        num_layers=1,
        num_heads=2,
        mlp_dim=16,
        rescaling=(1 / 127.5, -1),
        classifier_activation=None,
    )
    for weight in model.trainable_variables:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape, scale=0.3))
    model.save_to_preset(tmp_path / "mine")
    rng = np.random.default_rng(0)
    volumes = rng.integers(0, 256, (6, 4, 16, 12), "uint8")
    logits = model.predict(volumes[..., None], verbose=0)
    labels = logits.argmax(axis=1)
    labels[0] = (labels[0] + 1) % 3
    np.savez(tmp_path / "samples.npz", volumes=volumes, labels=labels)
    vendor = functools.partial(shutil.copytree, DEMO / "vendor")
    monkeypatch.setattr(build, "copy_packages", vendor)
    paths = {"preset": "mine", "samples": "samples.npz", "out": "page"}
    build.main([f"--{name}={tmp_path / path}" for name, path in paths.items()])
    with serve(tmp_path / "page") as address, opened(browser, address) as page:
        assert page.locator("h1 + p code").inner_text() == "mine"
        button = page.locator("[data-file]").last
        row = int(Path(button.get_attribute("data-file")).stem)
        button.click()
        page.locator("#answer", has_text="It took").wait_for()
        expected = np.exp(logits[row]) / np.exp(logits[row]).sum()
        np.testing.assert_allclose(probabilities(page), expected, atol=1e-4)
        assert page.inner_text("#status") == "The sample: 4 x 16 x 12 voxels."


def test_other_models_and_a_missing_npm_are_refused(build, tmp_path, monkeypatch):
    model = keras_vivit.ViViTClassifier(
        (4, 16, 16, 3),
        2,
        tubelet_size=(2, 8, 8),
        embed_dim=8,
        num_layers=1,
        num_heads=1,
    )
    model.save_to_preset(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"one channel and one head. Received: .*16, 3"
    ):
        build.load_classifier(str(tmp_path / "a"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"error: npm must be installed"):
        build.main(["--out", str(tmp_path / "page")])
