"""The layout of islands of tissue, from a blank map and a lattice of tiles."""

from __future__ import annotations

import math

import numpy as np

from dask_slides.core.geometry import Region, rectangles
from dask_slides.core.grid import TileGrid
from dask_slides.core.layout import IslandLayout, IslandPart
from dask_slides.core.types import Array
from dask_slides.numerics.island_packing import Canvas, pack_islands


def island_layout(
    blank: Array,
    grid: TileGrid,
    step: tuple[int, int],
    margin: int,
    gutter: tuple[float, float],
    compact: float,
) -> IslandLayout:
    """Return a compact layout of the connected cells of `grid` that are not `blank`.

    Parameters
    ----------
    blank : ndarray, (rows, cols) of bool
        The cells of `grid`, which do not overlap.
    grid : TileGrid
        In pixels of the slide.
    step : (int, int)
        Height and width of a cell of the lattice on which islands lie, on the slide as well as on
        the canvas. An island holds all of the lattice that its cells and their margin touch.
    margin : int
        Pixels around the cells.
    gutter : (float, float)
        Least distance of two islands on the canvas in pixels (y, x); rounded up to the lattice,
        and at least one of its cells.
    compact : float
        Area of the canvas per area of the tissue, both in cells of the lattice, above which islands
        are cut into pieces.
    """
    between = [max(1, math.ceil(pixels / side)) for pixels, side in zip(gutter, step, strict=True)]
    touched = _lattice_cells(~blank, grid, step, margin)
    if not touched.any():
        return IslandLayout(())
    canvas = pack_islands(touched, (between[0], between[1]), step, compact)
    return IslandLayout(tuple(sorted(_parts(canvas, step, grid.shape))))


def _lattice_cells(tissue: Array, grid: TileGrid, step: tuple[int, int], margin: int) -> Array:
    """Return which cells of the lattice the `tissue` cells of the grid and their margin touch."""
    counts = [-(-size // side) for size, side in zip(grid.shape, step, strict=True)]
    first, last = [], []
    for axis, size in enumerate(grid.shape):
        starts = grid.starts(axis)
        stops = np.minimum(starts + grid.tile[axis] + margin, size)
        first.append(np.maximum(starts - margin, 0) // step[axis])
        last.append(-(-stops // step[axis]))
    rows, columns = np.nonzero(tissue)
    # each box adds 1 at its corner; sums along both axes fill the boxes
    corners = np.zeros((counts[0] + 1, counts[1] + 1), np.int64)
    for y, x, sign in ((first, first, 1), (first, last, -1), (last, first, -1), (last, last, 1)):
        np.add.at(corners, (y[0][rows], x[1][columns]), sign)
    return np.asarray(corners.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0)


def _parts(canvas: Canvas, step: tuple[int, int], full: tuple[int, int]) -> list[IslandPart]:
    """Return the rectangles of the shapes in pixels, cut at the edge of the slide."""
    parts = []
    for shape, (top, left) in zip(canvas.shapes, canvas.at, strict=True):
        for cells in _few_rectangles(shape.mask):
            y, x = (shape.y + cells.y) * step[0], (shape.x + cells.x) * step[1]
            height = min(cells.height * step[0], full[0] - y)
            width = min(cells.width * step[1], full[1] - x)
            at = ((top + cells.y) * step[0], (left + cells.x) * step[1])
            parts.append(IslandPart(shape.island, y, x, height, width, *at))
    return parts


def _few_rectangles(mask: Array) -> list[Region]:
    """Return rectangles that cover `mask`, of whole rows or of whole columns: the fewer ones."""
    rows = rectangles(mask)
    columns = [Region(r.x, r.y, r.width, r.height) for r in rectangles(mask.T)]
    return min(rows, columns, key=len)
