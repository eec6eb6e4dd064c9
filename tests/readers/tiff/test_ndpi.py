"""NDPI: each interval between the restart markers of one JPEG is decoded as a tile."""

import dask
import numpy as np
import pytest
import tifffile
from ndpi_files import ndpi
from rw_fixtures import noise, one_line, smooth

import dask_slides as ds

HEIGHT, WIDTH = 96, 512
VARIANTS = {
    "4:4:4": {},
    "4:2:0": {"subsampling": 2},
    "rows": {"across": 1},
    "grey": {"grey": True},
}


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="sync"):
        yield


def intervals(path):
    """Return (offset, byte count) and (y, x, height, width) of each interval."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert page.jpegheader is not None
        found = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        across = page.imagewidth // page.tilewidth
        size = (page.tilelength, page.tilewidth)
    return [(one, (n // across * size[0], n % across * size[1], *size))
            for n, one in enumerate(found)]  # fmt: skip


def decoded(path):
    """Return the intervals as tifffile decodes them, one at a time."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        out = np.zeros((page.imagelength, page.imagewidth, page.samplesperpixel), np.uint8)
        for tile, (_, _, y, x, _), (_, height, width, _) in page.segments():
            out[y : y + height, x : x + width] = tile[0]
    return out


@pytest.mark.parametrize("variant", VARIANTS)
def test_pixels_are_those_of_tifffile(tmp_path, variant):
    path = ndpi(tmp_path / "a.tif", smooth(HEIGHT, WIDTH), **VARIANTS[variant])
    slide = ds.open_slide(path)
    np.testing.assert_array_equal(slide.data.compute(), decoded(path))
    assert slide.properties["format"] == "TIFF (ndpi)"


def test_intervals_are_decoded_by_simplejpeg_once_it_matches_imagecodecs(tmp_path, monkeypatch):
    import imagecodecs

    calls = []
    real = imagecodecs.jpeg8_decode
    monkeypatch.setattr(
        imagecodecs, "jpeg8_decode", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    path = ndpi(tmp_path / "a.tif", smooth(HEIGHT, WIDTH))
    slide = ds.open_slide(path)
    slide.data.compute()
    assert len(intervals(path)) == 24
    assert 0 < len(calls) <= 8  # several threads may decode the first tiles at the same time


def middle_zeroed(data):
    """The end marker is intact, so only libjpeg can detect the damage."""
    half = len(data) // 2
    return data[:half] + bytes(len(data) - half - 2) + data[-2:]


DAMAGES = {
    "zeros to the end": lambda data: data[: len(data) // 2].ljust(len(data), b"\0"),
    "zeros but for the end": middle_zeroed,
    "restart marker lost": lambda data: data[:-2] + b"\x55\x55",
    "marker within": lambda data: data[:20] + b"\xff\xd9" + data[22:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("number", [0, 11, 23])
def test_damage_that_libjpeg_only_warns_of_is_an_error(tmp_path, damage, number):
    pixels = noise(HEIGHT, WIDTH, 3)
    path = ndpi(tmp_path / "a.tif", pixels)
    expected = decoded(path)
    (offset, count), (y, x, height, width) = intervals(path)[number]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = DAMAGES[damage](bytes(data[offset : offset + count]))
    path.write_bytes(data)
    decoded(path)  # tifffile does not raise
    with pytest.raises(ds.errors.TileDecodeError) as error:
        ds.open_slide(path).data.compute()
    one_line(error)
    assert (error.value.y, error.value.x, error.value.offset) == (y, x, offset)
    masked = ds.open_slide(path, on_bad_tile="mask")
    expected[y : y + height, x : x + width] = 255
    np.testing.assert_array_equal(masked.data.compute(), expected)
    (tile,) = masked.bad_tiles()
    assert (tile.y, tile.x, tile.status, tile.offset) == (y, x, "corrupt", offset)
