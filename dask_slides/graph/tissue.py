"""Find the tissue of a slide in one task, and measure it in the cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.blockwise import blockwise
from dask.highlevelgraph import HighLevelGraph
from dask.layers import ArrayBlockIdDep
from dask.task_spec import Task, TaskRef
from numpy.typing import NDArray

from dask_slides.core.equality import EqualByFields
from dask_slides.core.geometry import bounds
from dask_slides.core.grid import TileGrid
from dask_slides.core.source import Source
from dask_slides.core.types import Array
from dask_slides.graph.overview import NOT_THERE, VALUE, overview_blocks
from dask_slides.graph.statistics import cell_chunks
from dask_slides.numerics.mask_detectors import MaskDetector, Overview
from dask_slides.numerics.tissue_mask import (
    BLANK,
    MISSING,
    TissueMask,
    edges_of_mask,
    grid_areas,
)
from dask_slides.runtime.threads import in_slices

AREAS = ("tissue", "missing", "pixels")
"""Areas of a cell in pixels of level 0: of tissue, of absent or corrupt tiles, and of the cell."""
ROWS = 256
"""Rows of a picture to work on at a time."""


@dataclass(frozen=True, eq=False)
class FoundTissue(EqualByFields):
    """The mask of a slide, and the detector with what it found out about the slide."""

    mask: TissueMask
    detector: MaskDetector


def find_in_slide(
    small: Source, shape: tuple[int, int], mpp: float | None, detector: MaskDetector
) -> da.Array:
    """Return a lazy array (1, 1, 1) whose item is the `FoundTissue` of a slide of `shape`.

    Its picture `small` is read in parallel; one task finds the tissue in it.
    """
    overview = overview_blocks(small)
    whole = overview.rechunk(overview.shape)
    name = f"find-tissue-{tokenize(overview.name, mpp, detector)}"
    key, picture = (name, 0, 0, 0), TaskRef((whole.name, 0, 0, 0))
    # no Blockwise layer, which Dask would fuse into each of many tasks that measure the mask
    layer = {key: Task(key, _find_block, picture, mpp, detector, shape)}
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[whole])
    return da.Array(graph, name, ((1,),) * 3, meta=np.empty((0, 0, 0), object))


def _find_block(
    picture: Array, mpp: float | None, detector: MaskDetector, shape: tuple[int, int]
) -> Array:
    item = np.empty((1, 1, 1), object)
    item[0, 0, 0] = found_in_picture(picture, mpp, detector, shape)
    return item


def found_in_picture(
    picture: Array, mpp: float | None, detector: MaskDetector, shape: tuple[int, int]
) -> FoundTissue:
    """Find tissue in `picture` (c + 1, h, w) of a slide of `shape`; see `overview_blocks`."""
    pixels, state = np.moveaxis(picture[:-1], 0, 2), picture[-1]
    valid = _where(state, VALUE)
    overview = Overview(pixels, valid, mpp)
    fitted = detector.fit(overview)
    tissue = fitted.find(overview)
    kinds = np.asarray(tissue, np.uint8)  # TISSUE is 1, BLANK is 0
    if valid is not None:
        kinds[~valid] = BLANK
        kinds[state == NOT_THERE] = MISSING
    y_edges, x_edges = edges_of_mask(shape, kinds.shape)
    return FoundTissue(TissueMask(kinds, y_edges, x_edges, grey_of(pixels)), fitted)


def _where(state: Array, value: int) -> NDArray[np.bool_] | None:
    """Return where `state` is `value`; None if it is everywhere."""
    if state.size and state.min() == state.max() == value:
        return None  # the usual case, which needs no mask
    return np.asarray(state == value)


def grey_of(pixels: Array) -> Array:
    """Return the mean of the channels as uint8; other dtypes are stretched over their range."""
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        out = np.empty(pixels.shape[:2], np.uint8)

        def call(rows: slice) -> None:
            red, green, blue = np.moveaxis(pixels[rows], 2, 0)
            out[rows] = (red + 2 * green.astype(np.uint16) + blue) // 4

        in_slices(call, len(out), ROWS)
        return out
    grey = np.nan_to_num(pixels.mean(axis=2, dtype=np.float32))
    low, high = (float(grey.min()), float(grey.max())) if grey.size else (0.0, 1.0)
    return np.asarray((grey - low) * (255 / max(high - low, 1e-12)), np.uint8)


@dataclass(frozen=True)
class AreasBlock:
    """Measure the tissue in blocks of cells."""

    grid: TileGrid
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    """The cells at which blocks start, and the end."""

    def __call__(self, found: Array, block_id: Sequence[int]) -> Array:
        """Return the `AREAS` of the cells of a block, (rows, cols, 3)."""
        i, j = block_id[:2]
        rows = spans_of_grid(self.grid, 0)[self.rows[i] : self.rows[i + 1]]
        columns = spans_of_grid(self.grid, 1)[self.columns[j] : self.columns[j + 1]]
        return areas_of_cells(found.item().mask, rows, columns)


def spans_of_grid(grid: TileGrid, axis: int) -> NDArray[np.int64]:
    """Return where the tiles of `grid` start and end in the image, (n, 2)."""
    starts = grid.starts(axis)
    return np.stack((starts, np.minimum(starts + grid.tile[axis], grid.shape[axis])), axis=1)


def areas_of_cells(
    mask: TissueMask, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the `AREAS` (n, m, 3) of cells that start and end at `rows` and `columns`."""
    areas = np.zeros((len(rows), len(columns), 3))
    areas[..., 0] = grid_areas(mask.tissue, mask, rows, columns)
    if mask.missing is not None:
        areas[..., 1] = grid_areas(mask.missing, mask, rows, columns)
    areas[..., 2] = np.multiply.outer(np.diff(rows)[:, 0], np.diff(columns)[:, 0])
    return areas


def area_blocks(found: da.Array, grid: TileGrid) -> da.Array:
    """Return the `AREAS` of all cells as a lazy array (rows, cols, 3)."""
    rows, columns = cell_chunks(grid)
    task = AreasBlock(grid, bounds(rows), bounds(columns))
    name = f"tissue-areas-{tokenize(found.name, task)}"
    chunks = (rows, columns, (len(AREAS),))
    blocks = ArrayBlockIdDep(chunks)
    layer = blockwise(
        task, name, "ijk", found.name, "ijk", blocks, "ijk", numblocks={found.name: (1, 1, 1)}
    )
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[found])
    return da.Array(graph, name, chunks, meta=np.empty((0, 0, 0)))
