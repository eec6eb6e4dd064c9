"""Tables with more or fewer entries than tiles, and lists of pages without an end."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from rw_fixtures import noise, one_line
from tiff_bytes import ROWS, tags_of, tiff

import dask_slides as ds

PIXELS = noise(40, 48, 3)
SPARE = {"none": [], "one": [b"spare"], "several": [b"\0" * 600, b"", b"of no tile"] * 4}


def pixels_of(path):
    slide = ds.open_slide(path)
    return slide.read(0, 0, *slide.shape[:2])


def pieces_of(pixels, layout):
    """Return the strips or tiles of 16 px, row by row, plane by plane."""
    width = 16 if layout == "tiles" else pixels.shape[1]
    full = np.pad(pixels, ((0, -len(pixels) % 16), (0, 0), (0, 0)))
    rows = len(full) if layout == "tiles" else len(pixels)
    planes = [full[..., [c]] for c in range(3)] if layout == "planes" else [full]
    return [
        np.ascontiguousarray(plane[y : min(y + ROWS, rows), x : x + width]).tobytes()
        for plane in planes
        for y in range(0, rows, ROWS)
        for x in range(0, pixels.shape[1], width)
    ]


@pytest.mark.parametrize("spare", SPARE)
@pytest.mark.parametrize("code", [1, 8], ids=["raw", "deflate"])
@pytest.mark.parametrize("layout", ["strips", "tiles", "planes"])
def test_more_entries_than_tiles_are_ignored(tmp_path, layout, code, spare):
    path = tmp_path / "a.tif"
    pieces = pieces_of(PIXELS, layout)
    encode = bytes if code == 1 else imagecodecs.zlib_encode
    tags = tags_of(
        PIXELS.shape, code, ROWS, tile=16 if layout == "tiles" else None,
        more={284: (3, [2])} if layout == "planes" else (),
    )  # fmt: skip
    path.write_bytes(tiff(tags, [*map(encode, pieces), *SPARE[spare]]))
    np.testing.assert_array_equal(pixels_of(path), PIXELS)
    np.testing.assert_array_equal(ds.open_slide(path).read(10, 5, 20, 30), PIXELS[10:30, 5:35])
    if code == 8:  # which Pillow hands to libtiff
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), PIXELS)
    checked = ds.check_slide(path)
    assert checked.good and not checked.statuses["absent"]
    found = ds.blank_map(path, tile_size=16, detector=ds.Contrast(0.05)).compute()
    assert found.blank.shape == (3, 3)
    assert not ds.open_slide(path).bad_tiles()


@pytest.mark.parametrize("code", [1, 8], ids=["raw", "deflate"])
@pytest.mark.parametrize("layout", ["strips", "tiles"])
def test_an_absent_tile_beside_unused_entries(tmp_path, layout, code):
    path = tmp_path / "a.tif"
    pieces = pieces_of(PIXELS, layout)
    encode = bytes if code == 1 else imagecodecs.zlib_encode
    tags = tags_of(PIXELS.shape, code, ROWS, tile=16 if layout == "tiles" else None)
    stored = [encode(piece) for piece in pieces]
    stored[1] = b""
    path.write_bytes(tiff(tags, [*stored, b"spare", b""]))
    expected = PIXELS.copy()
    expected[(slice(0, 16), slice(16, 32)) if layout == "tiles" else slice(16, 32)] = 255
    np.testing.assert_array_equal(pixels_of(path), expected)
    (absent,) = ds.open_slide(path).bad_tiles()
    assert (absent.status, absent.y, absent.x) == (
        ("absent", 0, 16) if layout == "tiles" else ("absent", 16, 0)
    )


@pytest.mark.parametrize("code", [1, 8], ids=["raw", "deflate"])
@pytest.mark.parametrize("layout", ["strips", "tiles", "planes"])
def test_too_few_entries_are_refused(tmp_path, layout, code):
    path = tmp_path / "a.tif"
    encode = bytes if code == 1 else imagecodecs.zlib_encode
    tags = tags_of(
        PIXELS.shape, code, ROWS, tile=16 if layout == "tiles" else None,
        more={284: (3, [2])} if layout == "planes" else (),
    )  # fmt: skip
    pieces = pieces_of(PIXELS, layout)
    path.write_bytes(tiff(tags, [encode(piece) for piece in pieces[:-1]]))
    with pytest.raises(ds.errors.SlideFormatError, match=f"for {len(pieces)} tiles") as error:
        ds.open_slide(path)
    one_line(error)


def directories(data):
    """Return byte order, number format, and (offset, tags) of each directory."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    head, word = ("Q", "Q") if big else ("H", "I")
    size = 20 if big else 12
    at, found = struct.unpack_from(order + word, data, 8 if big else 4)[0], []
    while at:
        (count,) = struct.unpack_from(order + head, data, at)
        end = at + struct.calcsize(head) + count * size
        found.append((at, end))
        (at,) = struct.unpack_from(order + word, data, end)
    return order + word, found


def ended(pages, **options):
    """Return a file that ends with its last directory, and the size of its pointers."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, **options) as writer:
        for page in pages:
            writer.write(page, photometric="rgb", tile=(16, 16), metadata=None)
    data = bytearray(stream.getvalue())
    form, found = directories(data)
    start, stop = found[-1]
    data += bytes(-len(data) % 8)
    before = found[-2][1] if len(found) > 1 else (8 if form[1] == "Q" else 4)
    struct.pack_into(form, data, before, len(data))
    return bytes(data + data[start:stop]), struct.calcsize(form)


FORMS = {
    "little": {"byteorder": "<"},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_list_of_pages_may_end_with_the_file(tmp_path, form, count):
    """The pointer to a next page is missing or cut short."""
    pages = [noise(40, 48 + 16 * number, 3, seed=number) for number in range(count)]
    data, pointer = ended(pages, **FORMS[form])
    path = tmp_path / "a.tif"
    for left in range(pointer + 1):
        path.write_bytes(data + bytes(left))
        np.testing.assert_array_equal(pixels_of(path), pages[-1])
        assert len(ds.open_slide(path).images) == (count if count > 1 else 0)
        if count > 1:
            slide = ds.open_slide(path, image=0)
            np.testing.assert_array_equal(slide.read(0, 0, 40, 48), pages[0])
    np.testing.assert_array_equal(ds.open_slide(path).data.compute(scheduler="sync"), pages[-1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_list_of_pages_that_was_cut_is_refused(tmp_path, form, count):
    pages = [noise(40, 48 + 16 * number, 3, seed=number) for number in range(count)]
    data, pointer = ended(pages, **FORMS[form])
    path = tmp_path / "a.tif"
    parts = [data[:-less] for less in (1, 2, 11, 12, 20, 30)]
    parts += [data + b"\x01" * left for left in range(1, pointer)]
    for part in parts:
        path.write_bytes(part)
        with pytest.raises(ds.errors.SlideTruncatedError, match="directory") as error:
            ds.open_slide(path)
        one_line(error)
