"""Write whole-slide DICOM files (VL Whole Slide Microscopy Image Storage) with pydicom."""

import io

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, generate_uid

STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def write_dicom(
    folder, levels, *, side=64, paths=("0",), planes=1, missing=(), mpp=0.5, codec=None,
    series=None,
):  # fmt: skip
    """Write one file for each of `levels`, and return the paths of the files.

    A level is an array (path, plane, y, x, samples). `missing` are (level, row, column) of tiles
    that are not stored, which makes the level TILED_SPARSE. `codec` is None, "jpeg" or "jpeg2000".
    """
    folder.mkdir(exist_ok=True)
    uids = [series or generate_uid(), generate_uid(), generate_uid(), generate_uid()]
    found = []
    for number, pixels in enumerate(levels):
        absent = {(row, column) for level, row, column in missing if level == number}
        dataset = _level(number, pixels, side, paths, planes, absent, mpp * 2**number, codec, uids)
        found.append(folder / f"{len(list(folder.iterdir()))}.dcm")
        dataset.save_as(found[-1], enforce_file_format=True)
    return found


def write_frame(path, shape, bits, frame, syntax, photometric):
    """Write a slide of one tile from its compressed `frame`, in the transfer syntax `syntax`."""
    dtype = np.uint8 if bits <= 8 else np.uint16
    blank = np.zeros((1, 1, *shape), dtype)
    uids = [generate_uid() for _ in range(4)]
    one = _level(0, blank, shape[0], ("0",), 1, set(), 0.5, None, uids)
    one.file_meta.TransferSyntaxUID = syntax
    one.PhotometricInterpretation = photometric
    one.BitsStored, one.HighBit = bits, bits - 1
    one.PixelData = encapsulate([frame])
    one["PixelData"].VR = "OB"
    one.save_as(path, enforce_file_format=True)
    return path


def frames_of(pixels, side):
    """Yield row, column, path, plane and the samples of each tile, padded with zeros."""
    count, planes, height, width, samples = pixels.shape
    for path in range(count):
        for plane in range(planes):
            for row in range(-(-height // side)):
                for column in range(-(-width // side)):
                    tile = np.zeros((side, side, samples), pixels.dtype)
                    part = pixels[path, plane, row * side :, column * side :][:side, :side]
                    tile[: part.shape[0], : part.shape[1]] = part
                    yield row, column, path, plane, tile


def encoded(tile, codec):
    if codec is None:
        return tile.tobytes()
    out = io.BytesIO()
    image = Image.fromarray(tile if tile.shape[2] == 3 else tile[..., 0])
    image.save(
        out,
        {"jpeg": "JPEG", "jpeg2000": "JPEG2000"}[codec],
        **({"quality": 90, "subsampling": 1} if codec == "jpeg" else {"no_jp2": True}),
    )
    return out.getvalue()  # fmt: skip


def _level(number, pixels, side, paths, planes, absent, mpp, codec, uids):
    _, _, height, width, samples = pixels.shape
    tiles = [one for one in frames_of(pixels, side) if one[:2] not in absent]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = STORAGE
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = {
        None: ExplicitVRLittleEndian, "jpeg": JPEGBaseline8Bit, "jpeg2000": JPEG2000Lossless,
    }[codec]  # fmt: skip
    one = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    one.SOPClassUID, one.SOPInstanceUID = STORAGE, meta.MediaStorageSOPInstanceUID
    one.SeriesInstanceUID, one.StudyInstanceUID, one.FrameOfReferenceUID, one.PyramidUID = uids
    one.ImageType = ["ORIGINAL" if number == 0 else "DERIVED", "PRIMARY", "VOLUME",
                     "NONE" if number == 0 else "RESAMPLED"]  # fmt: skip
    one.Modality, one.SeriesNumber, one.InstanceNumber = "SM", 1, number + 1
    one.PatientName, one.PatientID, one.PatientSex, one.PatientBirthDate = "", "1", "", ""
    one.StudyDate = one.ContentDate = "20260101"
    one.StudyTime = one.ContentTime = "120000"
    one.AcquisitionDateTime = "20260101120000"
    one.ReferringPhysicianName = one.AccessionNumber = one.StudyID = ""
    one.Manufacturer, one.ManufacturerModelName = "Tests", "Tests"
    one.DeviceSerialNumber, one.SoftwareVersions = "1", "1"
    one.ContainerIdentifier, one.ContainerComponentSequence = "1", Sequence()
    one.IssuerOfTheContainerIdentifierSequence = Sequence()
    one.ContainerTypeCodeSequence = Sequence([_code("433466003", "SCT", "Microscope slide")])
    one.AcquisitionContextSequence = Sequence()
    one.SpecimenDescriptionSequence = Sequence()
    one.VolumetricProperties, one.BurnedInAnnotation = "VOLUME", "NO"
    one.SpecimenLabelInImage, one.FocusMethod = "NO", "AUTO"
    one.ExtendedDepthOfField, one.LossyImageCompression = "NO", "01" if codec == "jpeg" else "00"
    one.ImagedVolumeWidth, one.ImagedVolumeHeight = width * mpp / 1000, height * mpp / 1000
    one.ImagedVolumeDepth = 0.001
    one.Rows = one.Columns = side
    one.TotalPixelMatrixRows, one.TotalPixelMatrixColumns = height, width
    one.TotalPixelMatrixFocalPlanes = planes
    one.NumberOfOpticalPaths, one.NumberOfFrames = len(paths), len(tiles)
    one.SamplesPerPixel = samples
    one.PhotometricInterpretation = {
        None: "RGB", "jpeg": "YBR_FULL_422", "jpeg2000": "YBR_RCT",
    }[codec] if samples == 3 else "MONOCHROME2"  # fmt: skip
    if samples == 3:
        one.PlanarConfiguration = 0
    one.BitsAllocated = one.BitsStored = 8 * pixels.dtype.itemsize
    one.HighBit, one.PixelRepresentation = one.BitsStored - 1, 0
    one.OpticalPathSequence = Sequence(_optical_path(n, name) for n, name in enumerate(paths))
    one.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    one.TotalPixelMatrixOriginSequence = Sequence([_with(
        XOffsetInSlideCoordinateSystem=10.0, YOffsetInSlideCoordinateSystem=20.0)])  # fmt: skip
    measures = _with(PixelSpacing=[mpp / 1000, mpp / 1000], SliceThickness=0.001)
    if planes > 1:
        measures.SpacingBetweenSlices = 0.002
    shared = _with(PixelMeasuresSequence=Sequence([measures]))
    shared.WholeSlideMicroscopyImageFrameTypeSequence = Sequence([_with(FrameType=one.ImageType)])
    if not absent and len(paths) == 1:
        shared.OpticalPathIdentificationSequence = Sequence([_with(OpticalPathIdentifier="0")])
    one.SharedFunctionalGroupsSequence = Sequence([shared])
    one.DimensionOrganizationType = "TILED_SPARSE" if absent else "TILED_FULL"
    if absent:
        one.PerFrameFunctionalGroupsSequence = Sequence(
            _with(
                PlanePositionSlideSequence=Sequence([_with(
                    ColumnPositionInTotalImagePixelMatrix=column * side + 1,
                    RowPositionInTotalImagePixelMatrix=row * side + 1,
                    XOffsetInSlideCoordinateSystem=10.0, YOffsetInSlideCoordinateSystem=20.0,
                    ZOffsetInSlideCoordinateSystem=plane * 0.002,
                )]),
                OpticalPathIdentificationSequence=Sequence([_with(OpticalPathIdentifier=str(path))]),
            )
            for row, column, path, plane, _ in tiles
        )  # fmt: skip
    data = [encoded(tile, codec) for *_, tile in tiles]
    if codec is None:
        one.PixelData = b"".join(data)
        one["PixelData"].VR = "OW"
    else:
        one.PixelData = encapsulate(data)
        one["PixelData"].VR = "OB"
    if codec == "jpeg":
        one.LossyImageCompressionRatio, one.LossyImageCompressionMethod = 10, "ISO_10918_1"
    return one


def _optical_path(number, name):
    return _with(
        OpticalPathIdentifier=str(number), OpticalPathDescription=name,
        IlluminationTypeCodeSequence=Sequence([_code("111744", "DCM", "Brightfield illumination")]),
        IlluminationColorCodeSequence=Sequence([_code("371251000", "SCT", "White")]),
        ObjectiveLensPower=20,
    )  # fmt: skip


def _code(value, scheme, meaning):
    return _with(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _with(**values):
    one = Dataset()
    for name, value in values.items():
        setattr(one, name, value)
    return one
