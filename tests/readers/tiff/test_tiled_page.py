"""Pages that are read directly have the samples of the Zarr store; tiles are decoded once."""

import dask
import numpy as np
import pytest
import tifffile
import zarr

import dask_slides as ds
from dask_slides.core.geometry import Region
from dask_slides.readers.codecs.jpeg import JpegDecoder
from dask_slides.readers.codecs.tile_bytes import TileByteReader
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.remote.byte_ranges import LocalFile
from dask_slides.readers.tiff import file as tiff_file
from dask_slides.readers.tiff import tiled_page

KINDS = {
    "jpeg": {"compression": "jpeg", "photometric": "rgb", "subsampling": (2, 2)},
    "jpeg rgb": {"compression": "jpeg", "photometric": "rgb", "subsampling": (1, 1)},
    "jpeg 2000": {"compression": "jpeg2000", "photometric": "rgb"},
    "deflate": {"compression": "zlib", "photometric": "rgb", "predictor": True},
    "lzw": {"compression": "lzw", "photometric": "rgb"},
    "zstd": {"compression": "zstd", "photometric": "rgb"},
    "webp": {"compression": "webp", "photometric": "rgb"},
    "none": {"photometric": "rgb"},
    "big endian": {"photometric": "rgb", "compression": "zlib"},
}
SHAPE = (300, 420, 3)
TILES = {"tile": (64, 96)}
"""Tile sizes that do not divide the image."""
LAYOUTS = {
    "tiles": TILES,
    "strips": {"rowsperstrip": 16},
    "single rows": {"rowsperstrip": 1},
    "one strip": {"rowsperstrip": 300},
}


def written(folder, name, layout=TILES):
    """Write noise as `name`."""
    dtype = np.uint16 if name == "big endian" else np.uint8
    pixels = np.random.default_rng(1).integers(0, 255, SHAPE).astype(dtype)
    path = folder / f"{name}.tif"
    byteorder = ">" if name == "big endian" else None
    with tifffile.TiffWriter(path, byteorder=byteorder) as writer:
        writer.write(pixels, **layout, **KINDS[name])
    return path


def regions():
    """Return regions within a tile, over its edges, and all of it."""
    rng = np.random.default_rng(2)
    found = [(0, 0, 300, 420), (299, 419, 1, 1), (63, 95, 2, 2), (64, 96, 64, 96)]
    for _ in range(8):
        y, x = rng.integers(0, 299), rng.integers(0, 419)
        found.append((y, x, rng.integers(1, 301 - y), rng.integers(1, 421 - x)))
    return [tuple(int(n) for n in region) for region in found]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", KINDS)
def test_the_samples_are_those_of_the_zarr_store(tmp_path, monkeypatch, name, layout):
    if layout == "single rows" and name.startswith("jpeg"):
        pytest.skip("no writer makes JPEG of one row")
    path = written(tmp_path, name, LAYOUTS[layout])
    direct = [ds.open_slide(path).read(*region) for region in regions()]
    monkeypatch.setattr(tiff_file, "can_read_directly", lambda level: False)
    tiff_file.opened.cache_clear()
    if not name.startswith("jpeg"):
        whole = tifffile.imread(path)
        assert np.array_equal(direct[0], whole[: SHAPE[0], : SHAPE[1]])
    for region, found in zip(regions(), direct, strict=True):
        np.testing.assert_array_equal(found, ds.open_slide(path).read(*region))
    tiff_file.opened.cache_clear()


def test_each_tile_of_a_region_is_decoded_once_and_no_other(tmp_path, monkeypatch):
    slide = ds.open_slide(written(tmp_path, "deflate"))
    decoded = []
    once = TileDecoder._tile
    monkeypatch.setattr(
        TileDecoder,
        "_tile",
        lambda self, n, d, into=None: (decoded.append(n), once(self, n, d, into))[1],
    )
    slide.read(60, 100, 70, 100)  # rows 0 to 2, columns 1 to 2 of 5 x 5 tiles
    assert sorted(decoded) == [1, 2, 6, 7, 11, 12]
    decoded.clear()
    slide.to_dask(chunks=(64, 96)).compute(scheduler="sync")
    assert sorted(decoded) == list(range(25))
    decoded.clear()
    with dask.config.set(scheduler="sync"):
        ds.blank_map(slide, tile_size=(128, 96), detector=ds.Contrast(0.05)).compute()
    assert sorted(decoded) == list(range(25))


def test_a_file_that_ends_within_a_tile_raises(tmp_path):
    path = written(tmp_path, "none")
    slide = ds.open_slide(path)
    with tifffile.TiffFile(path) as opened:
        page = tiled_page.TiledPage(
            TileByteReader(LocalFile(path), opened.pages[0]), opened.pages[0], 255
        )
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size - 100)
        with pytest.raises(ValueError, match="ends within tile 24"):
            page.read(Region(290, 400, 10, 20))
    with pytest.raises(ds.errors.SlideChangedError):
        slide.read(290, 400, 10, 20)


def test_strips_of_one_row_are_fetched_together_and_decoded_without_a_store(tmp_path, monkeypatch):
    slide = ds.open_slide(written(tmp_path, "deflate", LAYOUTS["single rows"]))
    ranges, fetched = LocalFile.ranges, []

    def counted(self, wanted):
        fetched.extend(wanted)
        return ranges(self, wanted)

    monkeypatch.setattr(LocalFile, "ranges", counted)
    monkeypatch.setattr(zarr, "open_array", None)
    slide.read(100, 7, 150, 300)
    assert len(fetched) == 1
    with tifffile.TiffFile(slide.path) as opened:
        assert fetched[0][1] - fetched[0][0] == sum(opened.pages[0].databytecounts[100:250])


def test_an_absent_strip_is_the_fill_and_a_corrupt_one_is_named(tmp_path):
    path = written(tmp_path, "deflate", LAYOUTS["strips"])
    with tifffile.TiffFile(path) as opened:
        page = opened.pages[0]
        values, offset = list(page.databytecounts), page.dataoffsets[5]
        pixels = page.asarray()
    values[2] = 0
    with tifffile.TiffFile(path, mode="r+") as opened:
        opened.pages[0].tags["StripByteCounts"].overwrite(values)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"damaged")
    slide = ds.open_slide(path)
    pixels[32:48] = 255
    assert np.array_equal(slide.read(0, 0, 80, 420), pixels[:80])
    with pytest.raises(ds.errors.TileDecodeError, match=f"rows 80 to 96, .*, at byte {offset}"):
        slide.read(0, 0, 300, 420)
    masked = ds.open_slide(path, on_bad_tile="mask")
    pixels[80:96] = 255
    assert np.array_equal(masked.read(0, 0, 300, 420), pixels)
    found = ds.check_slide(masked)
    assert found.statuses == {"ok": 17, "absent": 1, "corrupt": 1}


def test_a_page_is_tested_once_per_version_of_its_file(tmp_path, monkeypatch):
    tested = []
    matches = JpegDecoder.matches_imagecodecs

    def counted(self, *arguments):
        tested.append(self)
        return matches(self, *arguments)

    monkeypatch.setattr(JpegDecoder, "matches_imagecodecs", counted)
    for versions in (1, 2):
        path = tmp_path / "a.tif"
        pixels = np.random.default_rng(versions).integers(0, 255, (64 * versions, 64, 3), np.uint8)
        tifffile.imwrite(path, pixels, tile=(64, 64), compression="jpeg")
        slide = ds.open_slide(path)
        found = []
        for _ in range(3):
            tiff_file.opened.cache_clear()
            found.append(slide.read(0, 0, 64, 64))
        assert len(tested) == versions
        assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_files_with_many_tiles_are_closed_earlier(tmp_path, monkeypatch):
    made = []
    opened_file = tiff_file.TiffFile
    monkeypatch.setattr(tiff_file, "TiffFile", lambda *key: made.append(key) or opened_file(*key))
    paths = [tmp_path / f"{n}.tif" for n in range(3)]
    for path in paths:
        tifffile.imwrite(path, np.zeros((64, 64), np.uint8), tile=(16, 16), compression="zlib")
    slides = [ds.open_slide(path) for path in paths]

    def openings(tiles):
        monkeypatch.setattr(tiff_file, "OPEN_TILES", tiles)
        tiff_file.opened.cache_clear()
        made.clear()
        for slide in (*slides, *slides):
            slide.read(0, 0, 8, 8)
        return len(made)

    assert openings(48) == 3  # 16 tiles each
    assert openings(47) == 6
