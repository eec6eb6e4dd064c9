"""Packs for the tests of exports."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import tifffile

import dask_slides as ds


def _unreadable(block):
    raise AssertionError("pixels were read")


@pytest.fixture
def without_pixels():
    """Return a function that makes the pixels of a pack unreadable."""

    def change(pack):
        tiles = da.map_blocks(
            _unreadable, pack.tiles, dtype=pack.tiles.dtype, meta=pack.tiles._meta
        )
        return replace(pack, tiles=tiles, reader=None)

    return change


@pytest.fixture
def slide(pyramid):
    """Return real histology of 768 x 1024 px with levels at 1/2, 1/4 and 1/8."""
    return ds.open_slide(pyramid, mpp=0.25)


@pytest.fixture
def pack_of(slide):
    """Return a function that packs all tiles of `slide`."""

    def pack(tile_size=64, **options):
        return ds.pack_tiles(slide, tile_size=tile_size, detector=ds.Contrast(0.0), **options)

    return pack


@pytest.fixture
def stored_levels(pyramid):
    """Return the pixels of the levels of `slide`, as tifffile reads them."""
    with tifffile.TiffFile(pyramid) as tiff:
        return [level.asarray() for level in tiff.series[0].levels]


@pytest.fixture
def labelled():
    """Return tiles of 100 px of a slide of 400 x 600 px: tumour from column 200 on, some of it."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (400, 600, 3), dtype="uint8")
    classes = np.zeros((400, 600), np.uint8)
    classes[:, 200:450] = 1
    classes[300:, :100] = 2
    labels = ds.label_mask(classes, (400, 600), {1: "50% tumour", 2: 'the "rest"'})
    slide = ds.from_dask(pixels, mpp=0.5)
    return ds.pack_tiles(slide, tile_size=100, detector=ds.Contrast(0.05), labels=labels)
