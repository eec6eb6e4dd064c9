"""Single crops of a slide: tiles that they cut stay decoded for the next ones."""

from collections import Counter

import numpy as np
import pytest
import tifffile

import dask_slides as ds
from dask_slides.readers import tile_cache
from dask_slides.readers.codecs.tile_decoder import TileDecoder

TILE = 64


@pytest.fixture(params=["jpeg", "zlib"])
def slide(request, stained, tmp_path):
    """Return a slide of 768 x 1024 px, and its pixels."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stained, photometric="rgb", tile=(TILE, TILE), compression=request.param)
    return ds.open_slide(path), tifffile.imread(path)


@pytest.fixture
def decodes(monkeypatch):
    """Count the decodes of each tile, and the bytes that the cache holds after each."""
    counts, decoded = Counter(), TileDecoder.__call__
    cache = tile_cache.TileCache(limit=8 * TILE * TILE * 3)
    for module in ("dask_slides.readers.tile_cache", "dask_slides.readers.tiff.tiled_page"):
        monkeypatch.setattr(f"{module}.TILE_CACHE", cache)

    def count(self, number, data, factor, into=None):
        counts[number] += 1
        return decoded(self, number, data, factor, into)

    monkeypatch.setattr(TileDecoder, "__call__", count)
    return counts, cache


def check(slide, y, x, height, width):
    image, pixels = slide
    found = image.read(y, x, height, width)
    np.testing.assert_array_equal(found, pixels[y : y + height, x : x + width])
    found[...] = 0  # the cached tiles are not the result


def test_crops_of_one_place_decode_its_tiles_once(slide, decodes):
    counts, _ = decodes
    for y, x in ((200, 300), (210, 310), (200, 300), (192, 321), (230, 340)):
        check(slide, y, x, 40, 40)
    assert set(counts.values()) == {1}


def test_the_memory_is_bounded_and_the_oldest_tile_goes(slide, decodes):
    counts, cache = decodes
    for x in range(8, 1000, 16):
        check(slide, 30, x, 20, 10)
        assert cache.nbytes <= 8 * TILE * TILE * 3
    assert set(counts.values()) == {1}
    check(slide, 30, 8, 20, 10)
    check(slide, 30, 970, 20, 10)
    assert sum(counts.values()) == len(counts) + 1


@pytest.mark.parametrize("region", [(64, 128, 128, 64), (60, 60, 40, 140), (5, 5, 700, 30)])
def test_whole_tiles_and_blocks_are_not_kept(slide, decodes, region):
    check(slide, *region)
    assert decodes[1].nbytes == 0
