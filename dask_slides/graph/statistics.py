"""Compute the statistics of grid cells in one pass over the pixels.

The module `numerics.statistics` describes the record of a cell.
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
from dask_slides.numerics.histograms import BINS, Histograms, byte_sums
from dask_slides.numerics.statistics import FIELDS, TOGETHER, add_records, record_length

LARGE_CELL = 2**12
"""Samples per cell from which counting cells one by one is faster than many in one call."""


@dataclass(frozen=True)
class StatsBlock:
    """Compute the records of blocks of cells, strip by strip."""

    grid: TileGrid
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    """The cells at which blocks start, and the end."""
    fields: tuple[str, ...]

    def _cells(self, block: Block) -> tuple[int, int, int, int]:
        i, j = block[:2]
        return self.rows[i], self.rows[i + 1], self.columns[j], self.columns[j + 1]

    def window(self, block: Block) -> tuple[int, Region]:
        """Return level 0 and the region that the cells of `block` cover."""
        return 0, self.grid.span(*self._cells(block))

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Return the records of the block, (rows, cols, record), float64."""
        missing = self._areas(block_id)
        nodata = np.zeros_like(missing)
        large = math.prod(self.grid.tile) * source.channels >= LARGE_CELL
        if source.dtype == np.uint8 and "saturation" not in self.fields and large:
            samples = math.prod(self.grid.shape) * source.channels
            sums = byte_sums(missing.shape, bool(self.fields), samples, source.channels)
            for row, first, part, valid, empty in self._parts(source, block_id):
                cells = row, slice(first, first + len(part))
                _count_pixels(missing[cells], nodata[cells], part, valid, empty)
                _add_bytes(sums, (row, first), part, valid)
            records = np.zeros((*missing.shape, record_length(self.fields)))
            records[..., :3] = sums.moments()
            records[..., 3:-2] = sums.counts()[..., : BINS * len(self.fields)]
        else:
            records = np.zeros((*missing.shape, record_length(self.fields)))
            for row, first, part, valid, empty in self._parts(source, block_id):
                cells = row, slice(first, first + len(part))
                _count_pixels(missing[cells], nodata[cells], part, valid, empty)
                add_records(records[cells], part, self.fields, valid)
        records[..., -2], records[..., -1] = missing, nodata
        return records

    def _areas(self, block: Block) -> NDArray[np.int64]:
        """Return the number of pixels per cell."""
        row0, row1, col0, col1 = self._cells(block)
        heights = [self.grid.region(row, col0).height for row in range(row0, row1)]
        widths = [self.grid.region(row0, col).width for col in range(col0, col1)]
        return np.multiply.outer(heights, widths).astype(np.int64)

    def _parts(
        self, source: Source, block: Block
    ) -> Iterator[tuple[int, int, Array, Array | None, Array | None]]:
        """Yield the pixels of n adjacent cells of a row, for each piece of the image.

        Yield the row and column of the first cell in the block, its pixels (n, h, w, c), a mask
        (n, h, w) of those with a value (None: all), and one of nodata or masked pixels (None: no
        pixel).
        """
        row0, row1, col0, col1 = self._cells(block)
        rows = [(n - row0, self.grid.span(n, n + 1, col0, col0 + 1)) for n in range(row0, row1)]
        columns = [(n - col0, self.grid.span(row0, row0 + 1, n, n + 1)) for n in range(col0, col1)]
        _, region = self.window(block)
        for piece, pixels, holes, with_value in iter_pieces(source, 0, region, STRIP_PIXELS):
            valid, empty = present_mask(piece, holes), None
            if with_value is not None:
                empty = ~with_value if valid is None else ~with_value & valid
                valid = with_value if valid is None else with_value & valid
            across = _join_cells(
                (col, max(piece.x, cell.x) - piece.x, min(piece.stop_x, cell.stop_x) - piece.x)
                for col, cell in columns
                if cell.x < piece.stop_x and cell.stop_x > piece.x
            )
            for row, cell in rows:
                top, bottom = max(piece.y, cell.y), min(piece.stop_y, cell.stop_y)
                if top < bottom:
                    down = slice(top - piece.y, bottom - piece.y)
                    for col, left, right, count in across:
                        part = down, slice(left, right)
                        own_valid = None if valid is None else valid[part]
                        own_empty = None if empty is None else empty[part]
                        if not (_has_any(own_valid, True) or _has_any(own_empty, False)):
                            continue
                        yield (
                            row,
                            col,
                            _split_cells(pixels[part], count),
                            None if own_valid is None else _split_cells(own_valid, count),
                            None if own_empty is None else _split_cells(own_empty, count),
                        )


def _count_pixels(
    missing: Array, nodata: Array, part: Array, valid: Array | None, empty: Array | None
) -> None:
    """Subtract the valid pixels (n, h, w) of n cells from `missing`, and add those of nodata."""
    area = part.shape[1] * part.shape[2]
    missing -= area if valid is None else np.count_nonzero(valid, axis=(1, 2))
    if empty is not None:
        nodata += np.count_nonzero(empty, axis=(1, 2))


def _add_bytes(sums: Histograms, first: tuple[int, int], part: Array, valid: Array | None) -> None:
    """Add the pixels (n, h, w, c) of n cells from cell `first` on to `sums`, cell by cell."""
    row, column = first
    for number, pixels in enumerate(part):
        counted = pixels if valid is None else pixels[valid[number]][None]
        if counted.size:
            sums.add((row, column + number), counted)


def _has_any(mask: Array | None, default: bool) -> bool:
    return default if mask is None else bool(mask.any())


def _join_cells(cells: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Join adjacent cells (column, left, right) of the same width, and append their number."""
    runs: list[tuple[int, int, int, int]] = []
    for col, left, right in cells:
        if runs:
            first, start, stop, count = runs[-1]
            if left == stop and (stop - start) == count * (right - left):
                runs[-1] = first, start, right, count + 1
                continue
        runs.append((col, left, right, 1))
    return runs


def _split_cells(pixels: Array, count: int) -> Array:
    """Reshape `pixels` (h, n w, ...) of n cells to (n, h, w, ...)."""
    height, width, *rest = pixels.shape
    return pixels.reshape(height, count, width // count, *rest).swapaxes(0, 1)


def stats_bytes_of_task(grid: TileGrid, source: Source) -> int:
    """Return the peak bytes of a task: those of a strip, its counts, and the records."""
    rows, columns = cell_chunks(grid, read_unit(source))
    cells = grid.span(0, rows[0], 0, columns[0])
    height, width = source.levels[0].tile
    pixels = min(cells.area, max(STRIP_PIXELS, height * (cells.width + 2 * width)))
    samples = pixels * source.channels
    strip = task_bytes(source, 0, Region(0, 0, -(-pixels // cells.width), cells.width), cells)
    # bytes are counted without a copy; other samples in parts, converted to 64 bits and bins
    counted = samples + 64 * min(samples, max(TOGETHER, cells.width * source.channels))
    records = 8 * rows[0] * columns[0] * record_length(FIELDS)
    return strip + counted + records


def cell_chunks(
    grid: TileGrid, unit: tuple[int, int] = (0, 0)
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide the cells into few tasks of about equal work; return their lengths along y and x.

    A task reads at least `unit` pixels (y, x) if the image has as many.
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
    """Return the task for all cells of `grid`, and the chunks of its result along y and x."""
    rows, columns = cell_chunks(grid, read_unit(source))
    return StatsBlock(grid, bounds(rows), bounds(columns), fields), (rows, columns)
