"""Packs for the tests of exports."""

from dataclasses import replace

import dask.array as da
import numpy as np
import tifffile

import dask_slides as ds


def without_pixels(pack):
    """Return the pack with pixels that cannot be read."""
    tiles = da.map_blocks(_unreadable, pack.tiles, dtype="u1", meta=pack.tiles._meta)
    return replace(pack, tiles=tiles, reader=None)


def _unreadable(block):
    raise AssertionError("pixels were read")


def all_tiles(path, tile_size=64, **options):
    """Return all tiles of a slide with 0.25 µm per pixel."""
    slide = ds.open_slide(path, mpp=0.25)
    return ds.pack_tiles(slide, tile_size=tile_size, detector=ds.Contrast(0.0), **options)


def stored_levels(path):
    """Return the pixels of the levels of a slide, as tifffile reads them."""
    with tifffile.TiffFile(path) as tiff:
        return [level.asarray() for level in tiff.series[0].levels]


def labelled_tiles():
    """Return tiles of 100 px of a slide of 400 x 600 px; columns 200 to 450 are tumour."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (400, 600, 3), dtype="uint8")
    classes = np.zeros((400, 600), np.uint8)
    classes[:, 200:450] = 1
    classes[300:, :100] = 2
    labels = ds.label_mask(classes, (400, 600), {1: "50% tumour", 2: 'the "rest"'})
    slide = ds.from_dask(pixels, mpp=0.5)
    return ds.pack_tiles(slide, tile_size=100, detector=ds.Contrast(0.05), labels=labels)
