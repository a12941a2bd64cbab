"""Small volumes: arrays, NIfTI files and DICOM series."""

import numpy as np
import pytest

from keras_vivit.data import read_volume

nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")
pydicom = pytest.importorskip("pydicom", reason="needs the extra `volume`")

SHAPE = (4, 5, 6)


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


def refused(path, reason, **options):
    with pytest.raises(ValueError, match=reason) as error:
        read_volume(path, **options)
    assert str(path) in str(error.value)
