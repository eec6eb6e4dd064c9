"""Files with the layouts of four scanner vendors: the slide, its levels, its mpp.

The files imitate only the tags and the XML that identify the vendor: there are no small, free files
of these formats.
"""

import logging

import numpy as np
import pytest
import tifffile

import dask_slides as ds

PIXELS = np.random.default_rng(3).integers(0, 255, (512, 768, 3), dtype=np.uint8)
TILED = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib", "metadata": None}


def mean(factor):
    """Return the area mean of PIXELS at 1/factor."""
    height, width = (n // factor for n in PIXELS.shape[:2])
    parts = PIXELS.reshape(height, factor, width, factor, 3).mean((1, 3))
    return np.rint(parts).astype(np.uint8)


@pytest.fixture(autouse=True)
def quiet():
    """Silence the warnings of tifffile about unknown vendor tags."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("tifffile").setLevel(logging.NOTSET)


def assert_slide(path, kind, mpp):
    """Check that the slide is PIXELS with a level at 1/4, and not the macro image."""
    slide = ds.open_slide(path)
    assert kind in slide.properties["format"]
    assert [level.shape for level in slide.levels] == [(512, 768), (128, 192)]
    assert slide.mpp_yx == pytest.approx(mpp)
    np.testing.assert_array_equal(slide.data.compute(), PIXELS)
    np.testing.assert_array_equal(slide.to_dask(1).compute(), mean(4))


def test_philips(tmp_path):
    path = tmp_path / "philips.tiff"
    spacing = (
        '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING">'
        '"{:.6f}" "{:.6f}"</Attribute></DataObject>'
    )
    levels = "".join(spacing.format(0.00025 * f, 0.0005 * f) for f in (1, 4))
    xml = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        f'<Attribute Name="A"><Array>{levels}</Array></Attribute></DataObject>'
    )
    with tifffile.TiffWriter(path) as writer:
        writer.write(PIXELS, description=xml, software="Philips DP v1.0", **TILED)
        writer.write(mean(4), subfiletype=1, software="Philips DP v1.0", **TILED)
        macro = {"photometric": "rgb", "metadata": None, "description": "Macro"}
        writer.write(PIXELS[::2, ::2], **macro)
    assert_slide(path, "philips", (0.25, 0.5))


def test_leica_scn(tmp_path):
    path = tmp_path / "leica.scn"
    xml = """<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">
    <collection name="c" sizeX="768" sizeY="512">
    <image name="macro"><pixels sizeX="384" sizeY="256">
    <dimension sizeX="384" sizeY="256" r="0" ifd="0"/></pixels></image>
    <image name="slide"><pixels sizeX="768" sizeY="512">
    <dimension sizeX="768" sizeY="512" r="0" ifd="1"/>
    <dimension sizeX="192" sizeY="128" r="1" ifd="2"/></pixels></image></collection></scn>"""
    resolution = {"resolution": (20_000, 40_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(PIXELS[::2, ::2], description=xml, **TILED)
        writer.write(PIXELS, **resolution, **TILED)
        writer.write(mean(4), **TILED)
    assert_slide(path, "scn", (0.25, 0.5))


def test_ventana_bif(tmp_path):
    path = tmp_path / "ventana.bif"
    xmp = b"<?xml version='1.0'?><Metadata><iScan Magnification='40' ScanRes=\"0.25\"/></Metadata>"
    extra = [(700, 1, len(xmp), xmp, True)]
    software = "ScanOutputManager 1.1.0.15854"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        label = {"photometric": "rgb", "metadata": None, "description": "Label Image"}
        writer.write(PIXELS[::2, ::2], software=software, extratags=extra, **label)
        writer.write(PIXELS, description="level=0 mag=40 quality=90", **TILED)
        writer.write(mean(4), description="level=1 mag=10 quality=90", **TILED)
    assert_slide(path, "bif", (0.25, 0.25))


def test_hamamatsu_ndpi(tmp_path):
    path = tmp_path / "hamamatsu.tif"
    magnification = [(65421, "f", 1, -1.0, True)]
    tags = [(65420, "I", 1, 1, True), (271, "s", 9, "Hamamatsu", True)]
    resolution = {"resolution": (20_000, 40_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(PIXELS, extratags=tags, **resolution, **TILED)
        writer.write(mean(4), subfiletype=1, **TILED)
        writer.write(PIXELS[::2, :200], extratags=magnification, **TILED)
    assert_slide(path, "ndpi", (0.25, 0.5))
