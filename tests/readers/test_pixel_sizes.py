"""Micrometres per pixel are read from the metadata of the image, in any unit of length."""

import logging

import numpy as np
import pytest
import tifffile
import zarr
from rw_fixtures import noise, patch_tag

import dask_slides as ds
from dask_slides.readers.physical_units import micrometres, number_above_zero

IMAGE = noise(64, 96)
INCH = 25_400.0


@pytest.fixture(autouse=True)
def quiet():
    """Silence the warnings of tifffile about unknown vendor tags."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("tifffile").setLevel(logging.NOTSET)


# ---------------------------------------------------------------- numbers and units


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.499", 0.499), ("0,4990", 0.499), (0.25, 0.25), (2, 2.0), ("1e-3", 0.001), (".5", 0.5),
        (" 0.5 ", 0.5), ("+0.5", 0.5), ("2.", 2.0), ("1E+2", 100.0),
        ("unknown", None), ("", None), (None, None), ("-1", None), ("0", None), ("nan", None),
        ("inf", None), (float("nan"), None), (float("inf"), None), (-0.5, None), ("0.5 um", None),
        ("1_0", None), ("1,000.5", None), ("1e999", None), ((1, 2), None), ("0x10", None),
        ("\u0660.\u0665", None),
    ],
)  # fmt: skip
def test_numbers(text, number):
    assert number_above_zero(text) == number


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        # of the schema of OME
        ("Ym", 1e30), ("Zm", 1e27), ("Em", 1e24), ("Pm", 1e21), ("Tm", 1e18), ("Gm", 1e15),
        ("Mm", 1e12), ("km", 1e9), ("hm", 1e8), ("dam", 1e7), ("m", 1e6), ("dm", 1e5), ("cm", 1e4),
        ("mm", 1e3), ("µm", 1.0), ("nm", 1e-3), ("pm", 1e-6), ("fm", 1e-9), ("am", 1e-12),
        ("zm", 1e-15), ("ym", 1e-18), ("Å", 1e-4), ("thou", 25.4), ("li", INCH / 12), ("in", INCH),
        ("ft", 304_800.0), ("yd", 914_400.0), ("mi", 1_609_344_000.0), ("ua", 1.495978707e17),
        ("ly", 9.4607304725808e21), ("pc", 3.0856775814913673e22), ("pt", INCH / 72),
        ("pixel", None), ("reference frame", None),
        # of UDUNITS, as OME-Zarr names them
        ("angstrom", 1e-4), ("attometer", 1e-12), ("centimeter", 1e4), ("decimeter", 1e5),
        ("exameter", 1e24), ("femtometer", 1e-9), ("foot", 304_800.0), ("gigameter", 1e15),
        ("hectometer", 1e8), ("inch", INCH), ("kilometer", 1e9), ("megameter", 1e12),
        ("meter", 1e6), ("micrometer", 1.0), ("mile", 1_609_344_000.0), ("millimeter", 1e3),
        ("nanometer", 1e-3), ("parsec", 3.0856775814913673e22), ("petameter", 1e21),
        ("picometer", 1e-6), ("terameter", 1e18), ("yard", 914_400.0), ("yoctometer", 1e-18),
        ("yottameter", 1e30), ("zeptometer", 1e-15), ("zettameter", 1e27),
        # of ImageJ and people
        ("micron", 1.0), ("microns", 1.0), ("Micron", 1.0), ("um", 1.0), ("\\u00B5m", 1.0),
        ("\u03bcm", 1.0), ("\u00b5m", 1.0), ("\u212b", 1e-4), ("micrometre", 1.0),
        ("Millimeters", 1e3), ("inches", INCH), ("pixels", None), ("", None), (" ", None),
        ("furlong", None), ("second", None), ("MM", None), (None, None), (1, None), ("s", None),
    ],
)  # fmt: skip
def test_units(unit, factor):
    found = micrometres(unit)
    assert found == (None if factor is None else pytest.approx(factor, rel=1e-12))


# ---------------------------------------------------------------- OME-TIFF


def sized(number, unit, **more):
    sides = {f"PhysicalSize{axis}": number for axis in "XY"}
    return {"axes": "YX", **sides, **{f"PhysicalSize{axis}Unit": unit for axis in "XY"}, **more}


NAMES = [("macro image", "scan"), ("", ""), ("same", "same"), ("scan", "scan (2)")]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("shapes", [((64, 96), (128, 160)), ((128, 160), (128, 160))])
def test_each_image_of_ome_tiff_has_its_own_size(tmp_path, names, shapes):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for number, (name, shape) in enumerate(zip(names, shapes, strict=True)):
            tiff.write(noise(*shape), metadata=sized(16.0 / 4**number, "µm", Name=name))
    assert [ds.open_slide(path, image=n).mpp for n in (0, 1)] == [16.0, 4.0]
    assert ds.open_slide(path).mpp == (4.0 if shapes[0] != shapes[1] else 16.0)


def ome(path, pixels, **options):
    """Write IMAGE with metadata of images: name, size, attributes and children of Pixels."""
    images = "".join(
        f'<Image ID="Image:{n}" Name="{name}"><Pixels ID="Pixels:{n}" DimensionOrder="XYCZT" '
        f'Type="uint8" SizeX="{size[1]}" SizeY="{size[0]}" SizeC="1" SizeZ="1" SizeT="1" '
        f"{attributes}>{inner}</Pixels></Image>"
        for n, (name, size, attributes, inner) in enumerate(pixels)
    )
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    text = f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}">{images}</OME>'
    tifffile.imwrite(path, IMAGE, description=text.encode(), metadata=None, **options)
    return path


DATA = '<TiffData IFD="0" PlaneCount="1"/>'


def test_an_image_without_data_is_ignored(tmp_path):
    first = ("a", (64, 96), 'PhysicalSizeX="8" PhysicalSizeY="8"', "")
    second = ("b", (64, 96), 'PhysicalSizeX="2" PhysicalSizeY="3"', DATA)
    slide = ds.open_slide(ome(tmp_path / "a.ome.tif", [first, second]))
    assert slide.mpp_yx == (3.0, 2.0)


@pytest.mark.parametrize("number", ["0,25", "unknown", "-1", "nan", "INF", "0", "", "0.5 um"])
def test_sizes_of_ome_tiff_that_are_no_numbers(tmp_path, number):
    attributes = f'PhysicalSizeX="{number}" PhysicalSizeY="{number}"'
    slide = ds.open_slide(ome(tmp_path / "a.ome.tif", [("a", (64, 96), attributes, DATA)]))
    assert slide.mpp == (0.25 if number == "0,25" else None)


def test_metadata_that_tifffile_does_not_follow(tmp_path):
    # the file was renamed
    other = '<TiffData IFD="0"><UUID FileName="b.tif">urn:uuid:1</UUID></TiffData>'
    image = ("a", (64, 96), 'PhysicalSizeX="2" PhysicalSizeY="3"', other)
    assert ds.open_slide(ome(tmp_path / "a.ome.tif", [image])).mpp_yx == (3.0, 2.0)
    two = [image, ("b", (64, 96), 'PhysicalSizeX="1" PhysicalSizeY="1"', other)]
    assert ds.open_slide(ome(tmp_path / "a.ome.tif", two)).mpp is None  # either may be the image
    two[1] = ("b", (8, 8), 'PhysicalSizeX="1" PhysicalSizeY="1"', other)
    assert ds.open_slide(ome(tmp_path / "a.ome.tif", two)).mpp_yx == (3.0, 2.0)


# ---------------------------------------------------------------- ImageJ, resolution tags


@pytest.mark.parametrize(
    ("unit", "per_unit", "mpp"),
    [
        ("micron", 2, 0.5), ("um", 2, 0.5), ("\\u00B5m", 4, 0.25), ("nm", 0.004, 0.25),
        ("mm", 10, 100.0), ("cm", 40_000, 0.25), ("inch", 50_800, 0.5), ("inch", 72, None),
        ("cm", 30, None), ("pixel", 2, None), ("furlong", 2, None),
    ],
)  # fmt: skip
def test_units_of_imagej(tmp_path, unit, per_unit, mpp):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, IMAGE, imagej=True, resolution=(per_unit, per_unit * 2), metadata={"unit": unit}
    )
    found = ds.open_slide(path).mpp_yx
    assert found == (None if mpp is None else pytest.approx((mpp / 2, mpp)))


def test_units_of_imagej_along_y(tmp_path):
    path = tmp_path / "a.tif"
    metadata = {"unit": "um", "yunit": "nm"}
    tifffile.imwrite(path, IMAGE, imagej=True, resolution=(2, 0.01), metadata=metadata)
    assert ds.open_slide(path).mpp_yx == pytest.approx((0.1, 0.5))


@pytest.mark.parametrize(
    ("unit", "per_unit", "mpp"),
    [(4, 4000, 0.25), (5, 4, 0.25), (4, 1, None), (1, 4, None), (0, 4, None), (9, 4, None)],
)
def test_resolution_units(tmp_path, unit, per_unit, mpp):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(per_unit, per_unit), resolutionunit="INCH")
    patch_tag(path, 296, unit)
    assert ds.open_slide(path).mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.parametrize("value", [(0, 0), (0, 1), (1, 0)])
@pytest.mark.parametrize("code", [282, 283])
def test_invalid_resolutions(tmp_path, value, code):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(40_000, 40_000), resolutionunit="CENTIMETER")
    assert ds.open_slide(path).mpp == pytest.approx(0.25)
    patch_tag(path, code, value)
    assert ds.open_slide(path).mpp is None


@pytest.mark.parametrize(
    ("code", "kind", "value", "mpp"),
    [(282, 2, "40k", None), (282, 12, 40_000.0, 0.25), (282, 4, 40_000, 0.25),
     (282, 5, (1, 1, 2, 1), None), (282, 12, float("nan"), None), (296, 2, "cm", None),
     (296, 3, (3, 3), None)],
)  # fmt: skip
def test_resolution_tags_of_odd_types(tmp_path, code, kind, value, mpp):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(40_000, 40_000), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[code].overwrite(value, dtype=kind)
    assert ds.open_slide(path).mpp == (None if mpp is None else pytest.approx(mpp))


# ---------------------------------------------------------------- vendors


ODD = [("0,4990", 0.499), ("unknown", None), ("-1", None), ("nan", None), ("inf", None),
       ("0.5 um", None), ("", None), ("0", None)]  # fmt: skip
TILED = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib", "metadata": None}
COLOUR = noise(256, 256, 3)


def assert_opens(path, mpp):
    slide = ds.open_slide(path)
    np.testing.assert_array_equal(slide.data.compute(), COLOUR)
    assert slide.mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.parametrize(("text", "mpp"), ODD)
def test_aperio(tmp_path, text, mpp):
    path = tmp_path / "a.svs"
    text_of_page = f"Aperio Image Library v11\r\n256x256 [0,0 256x256] |AppMag = 20|MPP = {text}"
    tifffile.imwrite(path, COLOUR, description=text_of_page, **TILED)
    assert "svs" in ds.open_slide(path).properties["format"]
    assert_opens(path, mpp)


@pytest.mark.parametrize(("text", "mpp"), ODD)
def test_philips(tmp_path, text, mpp):
    path = tmp_path / "a.tiff"
    levels = "".join(
        '<DataObject ObjectType="PixelDataRepresentation">'
        f'<Attribute Name="DICOM_PIXEL_SPACING">"{size}" "{size}"</Attribute></DataObject>'
        for size in (text, text if mpp is None else "0,9980")
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        f'<Attribute Name="A"><Array>{levels}</Array></Attribute></DataObject>'
    )
    macro = noise(100, 90, 3)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(COLOUR, description=xml, software="Philips DP v1.0", **TILED)
        tiff.write(COLOUR[::2, ::2], subfiletype=1, **TILED)
        tiff.write(macro, photometric="rgb", metadata=None, description="Macro")
    assert_opens(path, None if mpp is None else mpp * 1000)
    assert len(ds.open_slide(path).levels) == 2 or mpp is not None
    if mpp is None:  # tifffile reads it without the Philips metadata
        return
    assert "philips" in ds.open_slide(path).properties["format"]
    beside = ds.open_slide(path, image="Macro")
    np.testing.assert_array_equal(beside.data.compute(), macro)
    assert beside.mpp is None  # the metadata describe only the scan


@pytest.mark.parametrize(("text", "mpp"), ODD)
def test_ventana(tmp_path, text, mpp):
    path = tmp_path / "a.bif"
    xmp = f"<?xml version='1.0'?><Metadata><iScan ScanRes=\"{text}\"/></Metadata>".encode()
    label = {"photometric": "rgb", "metadata": None, "description": "Label Image"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            noise(100, 90, 3), software="ScanOutputManager 1.1.0.15854",
            extratags=[(700, 1, len(xmp), xmp, True)], **label,
        )  # fmt: skip
        tiff.write(COLOUR, description="level=0 mag=40 quality=90", **TILED)
    assert "bif" in ds.open_slide(path).properties["format"]
    assert_opens(path, mpp)
    assert ds.open_slide(path, image=1).mpp is None


# ---------------------------------------------------------------- OME-Zarr


@pytest.mark.parametrize(
    ("unit", "scale", "mpp"),
    [("nanometer", 250, 0.25), ("angstrom", 2500, 0.25), ("inch", 1e-5, 0.254), ("um", 0.5, 0.5),
     ("picometer", 5e5, 0.5), ("yard", 1e-6, 0.9144), ("pixel", 1, None), (None, 1, None),
     ("second", 1, None), (3, 1, None), ("micrometer", "0,25", 0.25), ("micrometer", "a", None),
     ("micrometer", 0, None), ("micrometer", -1, None), ("micrometer", None, None)],
)  # fmt: skip
def test_units_of_ome_zarr(tmp_path, unit, scale, mpp):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("0", data=IMAGE)
    axes = [{"name": axis, "type": "space", "unit": unit} for axis in "yx"]
    steps = [{"type": "scale", "scale": [scale, scale]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    image = {"axes": axes, "datasets": datasets}
    group.attrs.update({"ome": {"version": "0.5", "multiscales": [image]}})
    found = ds.open_slide(tmp_path / "a.zarr").mpp
    assert found == (None if mpp is None else pytest.approx(mpp))
