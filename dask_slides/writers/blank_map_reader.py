"""Open stored blank maps: the tiles that are tissue, without the slide."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.bad_tiles import MARK
from dask_slides.core.grid import TileGrid, tile_pair
from dask_slides.core.limits import Limits
from dask_slides.core.types import Array
from dask_slides.numerics.tissue_mask import BLANK, MISSING, TISSUE, TissueMask, edges_of_grid
from dask_slides.ops.blank_map import BlankMap
from dask_slides.readers.dask_array import array_source
from dask_slides.readers.ome_zarr import check_chunks
from dask_slides.readers.remote.object_store import open_group
from dask_slides.slide import Slide
from dask_slides.writers.store.attributes import open_own


def open_blank_map(path: Any) -> BlankMap:
    """Open a blank map that `write` made.

    Its tissue is that of whole tiles, as a store does not hold the finer mask. Its slide has the
    name and the size of the one that the map was made of, and no pixels.

    Parameters
    ----------
    path : str or path
        The ``*.ome.zarr`` folder, or its address in a bucket.

    Returns
    -------
    BlankMap
        In memory. Operations on the slide take it as ``blank_map=``.

    Raises
    ------
    SlideNotFoundError
        There is nothing at the path.
    SlideFormatError
        The path is not a blank map of dask_slides.

    Examples
    --------
    >>> import dask_slides as ds
    >>> slide = ds.sample_slide("a.tif", shape=(2048, 2048))
    >>> path = ds.write(ds.blank_map(slide, tile_size=256), "a.mask.ome.zarr")
    >>> ds.open_blank_map(path).shape
    (8, 8)
    """
    advice = "give a store that was written from one"
    return open_own(path, "blank map", advice, _open_blank_map)


def _open_blank_map(path: str) -> BlankMap:
    group = open_group(path)
    own = group.attrs[MARK]
    if own["kind"] != "blank map":
        raise KeyError(MARK)
    stored = group["blank_map"]
    height, width = (int(side) for side in stored.attrs["source_shape"])
    tile = tile_pair(stored.attrs["tile_size"])
    grid = TileGrid((height, width), tile, tile)
    blank, unknown = (_booleans(path, stored[name], grid) for name in ("blank", "unknown"))
    kinds = np.where(unknown, MISSING, np.where(blank, BLANK, TISSUE)).astype(np.uint8)
    nothing = array_source(da.zeros((height, width), dtype=np.uint8, chunks=4096))
    empty = BlankMap(grid, str(stored.attrs["detector"]), Slide(nothing, str(own["source"]), None))
    return empty.with_mask(TissueMask(kinds, *edges_of_grid(grid)))


def _booleans(path: str, array: Any, grid: TileGrid) -> Array:
    check_chunks(path, array, Limits())
    if array.shape != (grid.rows, grid.cols) or array.dtype != np.bool_:
        raise ValueError("grid")
    return np.asarray(array[...])
