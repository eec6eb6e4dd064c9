"""A stream of crops of small JPEG slides, as the tests of the feed need it."""

import numpy as np
import tifffile
from rw_fixtures import smooth

import dask_slides as ds
from dask_slides import feed


def jpeg_stream(folder, count, **options):
    """Return a stream of `count` new slides in `folder`, which are tissue everywhere."""
    paths = [str(folder / f"s{seed}.tif") for seed in range(count)]
    for seed, path in enumerate(paths):
        image = smooth(600, 700, seed)
        tifffile.imwrite(path, image, tile=(64, 64), compression="jpeg", photometric="ycbcr")
    maps = [ds.blank_map(path, tile_size=50).with_blank(np.zeros((12, 14), bool)) for path in paths]
    return feed.CropStream(paths, downsample=1, blank_maps=maps, flips=True, **options)
