"""Reading DICOM: series, cines, values, and what is no volume."""

import numpy as np
import pytest
from helpers import once
from small_volumes import (
    SHAPE,
    affine_of,
    dataset,
    geometry,
    nibabel,
    pydicom,
    refused,
    voxels,
    write_dicom,
    write_series,
)

from keras_vivit.data import read_volume, volume_info

pytestmark = once


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
