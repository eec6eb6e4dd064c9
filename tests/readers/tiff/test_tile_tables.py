"""Tables with more or fewer entries than tiles."""

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from rw_fixtures import noise, one_line
from tiff_bytes import ROWS, pixels_of, tags_of, tiff

import dask_slides as ds

PIXELS = noise(40, 48, 3)
SPARE = {"none": [], "one": [b"spare"], "several": [b"\0" * 600, b"", b"of no tile"] * 4}


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
