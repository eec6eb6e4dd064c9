"""Tiled pages read straight: the same samples as the general path, each tile decoded once."""

import dask
import numpy as np
import pytest
import tifffile

import dask_slides as ds
from dask_slides.readers import tiff_file, tiles
from dask_slides.readers.decoder import TileDecoder
from dask_slides.readers.ranges import LocalFile

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


def written(folder, name):
    """Write noise as `name`, tiles of 64 x 96 px, which do not divide the image."""
    dtype = np.uint16 if name == "big endian" else np.uint8
    pixels = np.random.default_rng(1).integers(0, 255, SHAPE).astype(dtype)
    path = folder / f"{name}.tif"
    byteorder = ">" if name == "big endian" else None
    with tifffile.TiffWriter(path, byteorder=byteorder) as writer:
        writer.write(pixels, tile=(64, 96), **KINDS[name])
    return path


def regions():
    """Return regions within a tile, over its edges, and all of it."""
    rng = np.random.default_rng(2)
    found = [(0, 0, 300, 420), (299, 419, 1, 1), (63, 95, 2, 2), (64, 96, 64, 96)]
    for _ in range(8):
        y, x = rng.integers(0, 299), rng.integers(0, 419)
        found.append((y, x, rng.integers(1, 301 - y), rng.integers(1, 421 - x)))
    return [tuple(int(n) for n in region) for region in found]


@pytest.mark.parametrize("name", KINDS)
def test_the_samples_are_those_of_the_zarr_store(tmp_path, monkeypatch, name):
    path = written(tmp_path, name)
    straight = [ds.open_slide(path).read(*region) for region in regions()]
    monkeypatch.setattr(tiff_file, "is_plain_tiled", lambda level: False)
    tiff_file.opened.cache_clear()
    for region, found in zip(regions(), straight, strict=True):
        np.testing.assert_array_equal(found, ds.open_slide(path).read(*region))
    tiff_file.opened.cache_clear()


def test_the_real_slides_are_those_of_the_zarr_store(test_data, monkeypatch):
    for name in ("CMU-1-Small-Region.svs", "CMU-1-Small-Region.jpeg.tiff", "TCGA-CR-7395.svs"):
        slide = ds.open_slide(test_data / "slides" / name)
        tiff_file.opened.cache_clear()
        straight = [slide.read(1000, 700, 777, 555), slide.read(0, 0, 10, slide.shape[1])]
        with monkeypatch.context() as patch:
            patch.setattr(tiff_file, "is_plain_tiled", lambda level: False)
            tiff_file.opened.cache_clear()
            stored = [slide.read(1000, 700, 777, 555), slide.read(0, 0, 10, slide.shape[1])]
        tiff_file.opened.cache_clear()
        for one, other in zip(straight, stored, strict=True):
            np.testing.assert_array_equal(one, other)


def test_each_tile_of_a_region_is_decoded_once_and_no_other(tmp_path, monkeypatch):
    slide = ds.open_slide(written(tmp_path, "deflate"))
    decoded = []
    once = TileDecoder._tile
    monkeypatch.setattr(
        TileDecoder, "_tile", lambda self, n, d: (decoded.append(n), once(self, n, d))[1]
    )
    slide.read(60, 100, 70, 100)  # rows 0 to 2, columns 1 to 2 of 5 x 5 tiles
    assert sorted(decoded) == [1, 2, 6, 7, 11, 12]
    decoded.clear()
    slide.to_dask(chunks=(64, 96)).compute(scheduler="sync")
    assert sorted(decoded) == list(range(25))
    decoded.clear()
    with dask.config.set(scheduler="sync"):
        ds.blank_map(slide, (128, 96)).compute()
    assert sorted(decoded) == list(range(25))


def test_a_file_that_ends_within_a_tile_is_told(tmp_path):
    path = written(tmp_path, "none")
    slide = ds.open_slide(path)
    with tifffile.TiffFile(path) as opened:
        page = tiles.TiledPage(LocalFile(path), opened.pages[0], 255)
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size - 100)
        with pytest.raises(ValueError, match="ends within tile 24"):
            page[290:300, 400:420, :]
    with pytest.raises(ds.SlideChangedError):
        slide.read(290, 400, 10, 20)
