"""Open stored blank maps, without the slide."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.bad_tiles import MARK
from dask_slides.core.grid import TileGrid, tile_pair
from dask_slides.core.limits import Limits
from dask_slides.core.types import Array
from dask_slides.errors import SlideError, SlideFormatError
from dask_slides.numerics.detectors import AllOf, AnyOf, Brightness, Contrast, Otsu, Saturation
from dask_slides.numerics.statistics import COUNTS, record_length
from dask_slides.numerics.tissue_mask import BLANK, MISSING, TISSUE, TissueMask, edges_of_grid
from dask_slides.ops.blank_map import BlankMap
from dask_slides.readers.dask_array import array_source
from dask_slides.readers.ome_zarr import check_chunks
from dask_slides.readers.remote.object_store import open_group
from dask_slides.slide import Slide
from dask_slides.writers.store.attributes import bad_tiles_in, open_own

DETECTORS: dict[str, Any] = {
    one.__name__: one for one in (Contrast, Otsu, Brightness, Saturation, AnyOf, AllOf)
}
"""Detectors of statistics by the names that are stored."""


def open_blank_map(path: Any) -> BlankMap:
    """Open a blank map that `write` made.

    It is the map that was written, with its mask or its statistics. Its slide has the name, the
    size and the pixel size of the one that the map was made of, and no pixels. If the array
    ``blank_map/blank`` was changed in the store, or version 0.1 wrote it, the tissue is
    that of whole tiles.

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
        more = " that also holds a blank map" if "blank_map" in group else ", not a blank map"
        raise SlideFormatError(
            f"{path}: is a store of kind {str(own['kind'])!r:.30}{more}; give a store that was "
            "written from one, with write(blank_map, ...)"
        )
    stored = group["blank_map"]
    height, width = (int(side) for side in stored.attrs["source_shape"])
    tile = tile_pair(stored.attrs["tile_size"])
    grid = TileGrid((height, width), tile, tile)
    blank, unknown = (_booleans(path, stored[name], grid) for name in ("blank", "unknown"))
    nothing = array_source(da.zeros((height, width), dtype=np.uint8, chunks=4096))
    slide = Slide(nothing, str(own["source"]), _pixel_size(stored.attrs.get("mpp")))
    empty = BlankMap(grid, str(stored.attrs["detector"]), slide, bad_tiles=bad_tiles_in(path))
    found = _as_written(path, stored, empty)
    if found is not None and all(
        np.array_equal(one, other)
        for one, other in ((found.blank, blank), (found.unknown, unknown))
    ):
        return found
    kinds = np.where(unknown, MISSING, np.where(blank, BLANK, TISSUE)).astype(np.uint8)
    return empty.with_mask(TissueMask(kinds, *edges_of_grid(grid)))


def _pixel_size(mpp: Any) -> tuple[float, float] | None:
    """Return micrometres per pixel of a store; None if they are not known."""
    if mpp is None:
        return None
    y, x = (float(value) for value in mpp)
    if not (0 < y < np.inf and 0 < x < np.inf):
        raise ValueError("mpp")
    return y, x


def _as_written(path: str, stored: Any, empty: BlankMap) -> BlankMap | None:
    """Return the map with the mask or statistics of the store; None if it has no usable ones."""
    if "mask" in stored:
        found = empty.with_min_tissue(float(stored.attrs["min_tissue"]))
        return found.with_mask(_mask(path, stored, empty.grid.shape))
    detector = _detector(str(empty.detector))
    if "statistics" not in stored or detector is None:
        return None
    names = stored.attrs["statistics"]
    fields = tuple(names[3 : len(names) - len(COUNTS)])
    grid = empty.grid
    shape = (grid.rows, grid.cols, record_length(fields))
    records = _array(path, stored["statistics"], shape, np.float64)
    return replace(empty, detector=detector, statistics=records, fields=fields)


def _mask(path: str, stored: Any, slide: tuple[int, int]) -> TissueMask:
    rows, columns = shape = stored["mask"].shape
    kinds = _array(path, stored["mask"], shape, np.uint8)
    picture = stored.get("mask_picture")
    edges = [
        _array(path, stored[name], (count + 1,), np.int64)
        for name, count in (("mask_y_edges", rows), ("mask_x_edges", columns))
    ]
    ends = [(int(one[0]), int(one[-1])) for one in edges]
    rises = all((np.diff(one) >= 0).all() for one in edges)
    if kinds.max(initial=0) > MISSING or ends != [(0, side) for side in slide] or not rises:
        raise ValueError("mask")
    grey = None if picture is None else _array(path, picture, shape, np.uint8)
    return TissueMask(kinds, edges[0], edges[1], grey)


def _booleans(path: str, array: Any, grid: TileGrid) -> Array:
    return _array(path, array, (grid.rows, grid.cols), np.bool_)


def _array(path: str, array: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Read an array that has to have this shape and dtype."""
    check_chunks(path, array, Limits())
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(array.path)
    return np.asarray(array[...])


def _detector(text: str) -> Any:
    """Return the detector of statistics that `text` is the repr of; None if it is of none."""
    try:
        return _evaluated(ast.parse(text, mode="eval").body)
    except (SyntaxError, KeyError, TypeError, ValueError, SlideError):
        return None


def _evaluated(node: ast.expr) -> Any:
    """Return the value of an expression of literals and of the classes `DETECTORS`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        options = {str(one.arg): _evaluated(one.value) for one in node.keywords}
        return DETECTORS[node.func.id](**options)
    if isinstance(node, ast.Tuple):
        return tuple(map(_evaluated, node.elts))
    return ast.literal_eval(node)
