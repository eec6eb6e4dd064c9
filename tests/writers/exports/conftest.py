"""Packs that the tests of several exports use."""

from collections import Counter

import dask
import numpy as np
import pytest
import tifffile

import dask_slides as ds
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.tile_cache import TILE_CACHE


@pytest.fixture
def new_pack():
    """Return a function that makes a pack of 4 x 5 tiles of 128 px; its array has odd chunks."""

    def make(dtype="uint8", channels=3, chunks=200, seed=1, **options):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, np.iinfo(dtype).max, (512, 640, channels), dtype=dtype)
        slide = ds.from_dask(dask.array.from_array(pixels, chunks=(chunks, chunks, channels)))
        options = {"tile_size": 128, "detector": ds.Contrast(0.05)} | options
        return ds.pack_tiles(slide, **options)

    return make


@pytest.fixture(scope="module")
def noise_tiff(tmp_path_factory):
    """Return the path of a lossless TIFF of 8 x 8 tiles of 128 px."""
    path = tmp_path_factory.mktemp("noise") / "noise.tif"
    pixels = np.random.default_rng(5).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, tile=(128, 128), compression="zlib", photometric="rgb")
    return path


@pytest.fixture
def decodes(monkeypatch, sync):
    """Return a counter of the decodes of each tile of a file, from now on."""
    found = Counter()
    decoded = TileDecoder.__call__

    def counted(self, number, data, factor, into=None):
        found[number] += 1
        return decoded(self, number, data, factor, into)

    monkeypatch.setattr(TileDecoder, "__call__", counted)
    TILE_CACHE.clear()
    return found
