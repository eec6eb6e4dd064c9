"""One pass over the pixels: a small record of statistics for each grid cell.

Counts and sums are whole numbers held in float64, exact up to 2**53, and beyond that they are
added row by row: they do not depend on the order in which a cell is read. Every detector decides
from them alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.bad_tiles import present_mask
from dask_slides.core.geometry import Region, bounds
from dask_slides.core.grid import TileGrid
from dask_slides.core.source import Source, iter_pieces
from dask_slides.core.types import Array
from dask_slides.graph.blocks import Block
from dask_slides.graph.chunks import MAX_TASKS, read_unit, task_bytes, task_side
from dask_slides.graph.resized import STRIP_PIXELS
from dask_slides.numerics.histograms import BINS, byte_sums
from dask_slides.numerics.statistics import FIELDS, TOGETHER, add_records, record_length

LARGE = 2**12
"""Samples of a cell from which on a call for its bytes alone is faster than one for many cells."""


@dataclass(frozen=True)
class StatsBlock:
    """Records of a block of cells, read strip by strip whatever a cell's size."""

    grid: TileGrid
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    """Cells at which blocks begin, and the end."""
    fields: tuple[str, ...]

    def _cells(self, block: Block) -> tuple[int, int, int, int]:
        i, j = block[:2]
        return self.rows[i], self.rows[i + 1], self.columns[j], self.columns[j + 1]

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the region of level 0 that the cells of `block` cover."""
        return 0, self.grid.span(*self._cells(block))

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Return (rows, cols, record) float64."""
        row0, row1, col0, col1 = self._cells(block_id)
        shape = (row1 - row0, col1 - col0)
        unseen = self._areas(block_id)
        nodata = np.zeros(shape, np.int64)
        large = math.prod(self.grid.tile) * source.channels >= LARGE
        if source.dtype == np.uint8 and "saturation" not in self.fields and large:
            samples = math.prod(self.grid.shape) * source.channels
            sums = byte_sums(shape, bool(self.fields), samples)
            for row, first, part, seen, empty in self._parts(source, block_id):
                for number, pixels in enumerate(part):
                    cell = row, first + number
                    nodata[cell] += 0 if empty is None else np.count_nonzero(empty[number])
                    valid = pixels if seen is None else pixels[seen[number]][None]
                    unseen[cell] -= valid.shape[0] * valid.shape[1]
                    if valid.size:
                        sums.add(cell, valid)
            kept = sums.counts()[..., : BINS * len(self.fields)]
            return np.concatenate(
                (sums.moments(), kept, unseen[..., None], nodata[..., None]),
                axis=-1,
                dtype=np.float64,
            )
        records = np.zeros((*shape, record_length(self.fields)))
        for row, first, part, seen, empty in self._parts(source, block_id):
            cells = row, slice(first, first + len(part))
            if empty is not None:
                nodata[cells] += np.count_nonzero(empty, axis=(1, 2))
            add_records(records[cells], part, self.fields, seen)
            area = part.shape[1] * part.shape[2]
            unseen[cells] -= area if seen is None else np.count_nonzero(seen, axis=(1, 2))
        records[..., -2], records[..., -1] = unseen, nodata
        return records

    def _areas(self, block: Block) -> NDArray[np.int64]:
        """Return the pixels of each cell."""
        row0, row1, col0, col1 = self._cells(block)
        heights = [self.grid.region(row, col0).height for row in range(row0, row1)]
        widths = [self.grid.region(row0, col).width for col in range(col0, col1)]
        return np.multiply.outer(heights, widths).astype(np.int64)

    def _parts(
        self, source: Source, block: Block
    ) -> Iterator[tuple[int, int, Array, Array | None, Array | None]]:
        """Yield what each piece that is read holds of cells side by side.

        As row and column of the first of n cells in the block and their pixels (n, h, w, c). And
        which of those (n, h, w) have a value, and which are nodata or masked; None for all, none.
        """
        row0, row1, col0, col1 = self._cells(block)
        rows = [(n - row0, self.grid.span(n, n + 1, col0, col0 + 1)) for n in range(row0, row1)]
        columns = [(n - col0, self.grid.span(row0, row0 + 1, n, n + 1)) for n in range(col0, col1)]
        _, region = self.window(block)
        for place, pixels, holes, valid in iter_pieces(source, 0, region, STRIP_PIXELS):
            seen, empty = present_mask(place, holes), None
            if valid is not None:
                empty = ~valid if seen is None else ~valid & seen
                seen = valid if seen is None else valid & seen
            across = _runs(
                (col, max(place.x, cell.x) - place.x, min(place.stop_x, cell.stop_x) - place.x)
                for col, cell in columns
                if cell.x < place.stop_x and cell.stop_x > place.x
            )
            for row, cell in rows:
                top, bottom = max(place.y, cell.y), min(place.stop_y, cell.stop_y)
                if top < bottom:
                    down = slice(top - place.y, bottom - place.y)
                    for col, left, right, count in across:
                        part = down, slice(left, right)
                        own = None if seen is None else seen[part]
                        gone = None if empty is None else empty[part]
                        if own is not None and not own.any() and (gone is None or not gone.any()):
                            continue  # there is nothing to count
                        yield (
                            row,
                            col,
                            _side_by_side(pixels[part], count),
                            None if own is None else _side_by_side(own, count),
                            None if gone is None else _side_by_side(gone, count),
                        )


def _runs(cells: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Join cells (column, left, right) of one width that touch, and say how many they are."""
    runs: list[tuple[int, int, int, int]] = []
    for col, left, right in cells:
        if runs:
            first, start, stop, count = runs[-1]
            if left == stop and (stop - start) == count * (right - left):
                runs[-1] = first, start, right, count + 1
                continue
        runs.append((col, left, right, 1))
    return runs


def _side_by_side(pixels: Array, count: int) -> Array:
    """Return `pixels` (h, n w, ...) of n cells as (n, h, w, ...)."""
    height, width, *rest = pixels.shape
    return pixels.reshape(height, count, width // count, *rest).swapaxes(0, 1)


def stats_bytes_of_task(grid: TileGrid, source: Source) -> int:
    """Return the peak bytes of a task: a strip, what it is counted with, and the records."""
    rows, columns = cell_chunks(grid, read_unit(source))
    cells = grid.span(0, rows[0], 0, columns[0])
    height, width = source.levels[0].tile
    pixels = min(cells.area, max(STRIP_PIXELS, height * (cells.width + 2 * width)))
    samples = pixels * source.channels
    strip = task_bytes(source, 0, Region(0, 0, -(-pixels // cells.width), cells.width), cells)
    # bytes are counted where they lie, others a part at a time: as numbers of 64 bits, and bins
    counted = samples + 64 * min(samples, max(TOGETHER, cells.width * source.channels))
    records = 8 * rows[0] * columns[0] * record_length(FIELDS)
    return strip + counted + records


def cell_chunks(
    grid: TileGrid, unit: tuple[int, int] = (0, 0)
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how many cells a task takes along y and x: even work, few tasks.

    It reads `unit` pixels (y, x) at the least, where it has so many.
    """
    counts = (grid.rows, grid.cols)
    target = task_side(grid.shape)
    targets = (target**2 // max(target, unit[1]), target)
    side = [
        max(1, min(n, max(t // s, -(-u // s))))
        for n, t, s, u in zip(counts, targets, grid.stride, unit, strict=True)
    ]
    while True:
        pieces = [-(-n // s) for n, s in zip(counts, side, strict=True)]
        if pieces[0] * pieces[1] <= MAX_TASKS:
            break
        side[0 if pieces[0] >= pieces[1] else 1] *= 2
    rows, columns = (
        tuple(min(s, n - start) for start in range(0, n, s))
        for n, s in zip(counts, side, strict=True)
    )
    return rows, columns


def stats_block(
    grid: TileGrid, fields: tuple[str, ...], source: Source
) -> tuple[StatsBlock, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the task for all cells of `grid`, and the chunks of its result along rows, cols."""
    rows, columns = cell_chunks(grid, read_unit(source))
    return StatsBlock(grid, bounds(rows), bounds(columns), fields), (rows, columns)
