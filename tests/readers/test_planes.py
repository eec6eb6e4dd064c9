"""Channels in separate pages, which are decoded with the tags of the first page."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from ome_files import SHAPE, image_of, planes_of, xml_of
from rw_fixtures import one_line

import dask_slides as ds

TILE = 64
QUALITIES = (95, 40, 15)


def one_file_xml(shape=SHAPE):
    """Return the metadata of three planes, one per page of the file."""
    return xml_of(image_of([(ifd, "", "") for ifd in range(3)], shape))


def in_one_file(path, planes, options):
    with tifffile.TiffWriter(path) as tiff:
        for number, (plane, tags) in enumerate(zip(planes, options, strict=True)):
            text = one_file_xml(plane.shape) if number == 0 else None
            tags = {"photometric": "minisblack", "metadata": None} | tags
            tiff.write(plane, description=text, **tags)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 16},
        {"tile": (TILE, TILE)},
        {"tile": (TILE, TILE), "compression": "lzw"},
    ],
    ids=str,
)
@pytest.mark.parametrize("height", [150, 100])
def test_planes_of_one_file(tmp_path, options, height):
    planes = planes_of()[:, :height]
    path = in_one_file(tmp_path / "a.ome.tif", planes, [options] * 3)
    slide = ds.open_slide(path)
    expected = planes.transpose(1, 2, 0)
    np.testing.assert_array_equal(slide.data.compute(), expected)
    np.testing.assert_array_equal(slide.read(31, 40, 60, 99), expected[31:91, 40:139])
    assert slide.bad_tiles() == ()


@pytest.mark.parametrize("change", [{"predictor": True}, {"extratags": [(274, 3, 1, 3, True)]}])
def test_planes_that_are_stored_differently_are_refused(tmp_path, change):
    tags = {"tile": (TILE, TILE), "compression": "zlib"}
    path = in_one_file(tmp_path / "a.ome.tif", planes_of(), [tags, tags, tags | change])
    with pytest.raises(ds.errors.SlideUnsupportedError, match="plane 2") as error:
        ds.open_slide(path)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("orientation", [3, 6])
def test_planes_are_turned_upright(tmp_path, orientation):
    tags = {"tile": (TILE, TILE), "extratags": [(274, 3, 1, orientation, True)]}
    planes = planes_of()
    path = in_one_file(tmp_path / "a.ome.tif", planes, [tags] * 3)
    turns = {3: 2, 6: -1}[orientation]
    expected = np.rot90(planes.transpose(1, 2, 0), turns)
    np.testing.assert_array_equal(ds.open_slide(path).data.compute(), expected)


def abbreviated(stream):
    """Return the tables of a JPEG stream, and the stream without them."""
    tables, rest, at = b"", b"", 2
    while stream[at + 1] != 0xDA:
        stop = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at + 1] in (0xDB, 0xC4):
            tables += stream[at:stop]
        else:
            rest += stream[at:stop]
        at = stop
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[at:]


def write_with_tables(tiff, plane, quality, **options):
    """Write a plane whose JPEG tables are stored apart from its tiles."""
    padded = np.pad(plane, [(0, -side % TILE) for side in plane.shape], mode="edge")
    tiles = [
        np.ascontiguousarray(padded[y : y + TILE, x : x + TILE])
        for y in range(0, padded.shape[0], TILE)
        for x in range(0, padded.shape[1], TILE)
    ]
    encoded = [abbreviated(imagecodecs.jpeg_encode(one, level=quality)) for one in tiles]
    (tables,) = {tables for tables, _ in encoded}
    tiff.write(
        iter([stream for _, stream in encoded]),
        shape=plane.shape,
        dtype=plane.dtype,
        tile=(TILE, TILE),
        compression="jpeg",
        photometric="minisblack",
        jpegtables=tables,
        metadata=None,
        **options,
    )


def test_each_plane_has_jpeg_tables_of_its_own(tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as tiff:
        for number, (plane, quality) in enumerate(zip(planes_of(), QUALITIES, strict=True)):
            text = one_file_xml() if number == 0 else None
            write_with_tables(tiff, plane, quality, description=text)
    found = ds.open_slide(path).data.compute()
    with tifffile.TiffFile(path) as tiff:
        np.testing.assert_array_equal(found, tiff.series[0].asarray().transpose(1, 2, 0))
    assert np.abs(found.astype(int) - planes_of().transpose(1, 2, 0)).max() < 30
