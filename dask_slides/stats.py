"""One pass over the pixels: a small record of statistics for each grid cell.

Counts and sums are whole numbers held in float64, exact up to 2**53, so that they do not
depend on the order in which a cell is read. Every detector decides from them alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.counting import BINS, byte_sums, bytes_counted, moments_of
from dask_slides.geometry import Region, bounds
from dask_slides.graph import MAX_TASKS, Block, read_unit, task_bytes, task_side
from dask_slides.grid import TileGrid
from dask_slides.readers.bad_tiles import Hole
from dask_slides.readers.protocol import Source, pieces
from dask_slides.resample import STRIP_PIXELS

Array = NDArray[Any]

FIELDS = ("histogram", "saturation")
"""What a record can hold beyond count, sum and sum of squares."""
COUNTS = ("missing", "nodata")
"""What every record ends with."""


@dataclass(frozen=True)
class CellStats:
    """Statistics of the colour samples of each cell; arrays of shape (rows, cols).

    Alpha never counts: it is composited when reading. Of float images only finite samples
    count.
    """

    count: Array
    """Samples: pixels times channels."""
    total: Array
    """Sum of the samples."""
    squares: Array
    """Sum of their squares."""
    histogram: Array | None = None
    """(rows, cols, 256): samples by brightness, the dtype's range in 256 steps."""
    saturation: Array | None = None
    """(rows, cols, 256): pixels by HSV saturation in 256 steps; zero for images not RGB."""
    missing: Array | None = None
    """Pixels without a value: of absent and corrupt tiles, nodata and masked ones. They are in none
    of the others. None is 0."""
    nodata: Array | None = None
    """Those of the missing pixels that are nodata or masked. None is 0."""

    @property
    def whole(self) -> Array:
        """(rows, cols) bool: whether every pixel of a cell has a value."""
        return np.ones(self.count.shape, bool) if self.missing is None else self.missing == 0

    @property
    def known(self) -> Array:
        """(rows, cols) bool: whether no tile that a cell touches is absent or corrupt."""
        if self.missing is None:
            return np.ones(self.count.shape, bool)
        return np.asarray(self.missing == (0 if self.nodata is None else self.nodata))

    @property
    def mean(self) -> Array:
        """Mean sample; 0 for a cell without samples."""
        return np.asarray(self.total / np.maximum(self.count, 1))

    @property
    def std(self) -> Array:
        """Population standard deviation of the samples."""
        variance = self.squares / np.maximum(self.count, 1) - self.mean**2
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def packed(self) -> Array:
        """Return one float64 array (rows, cols, 3 + 256 for each field + 2)."""
        none = np.zeros(self.count.shape)
        missing = none if self.missing is None else self.missing
        nodata = none if self.nodata is None else self.nodata
        parts = [self.count[..., None], self.total[..., None], self.squares[..., None]]
        parts += [part for part in (self.histogram, self.saturation) if part is not None]
        parts += [missing[..., None], nodata[..., None]]
        return np.concatenate(parts, axis=-1, dtype=np.float64)


def record_length(fields: tuple[str, ...]) -> int:
    """Return the length of a packed record with `fields`."""
    return 3 + BINS * len(fields) + len(COUNTS)


def unpacked(records: Array, fields: tuple[str, ...]) -> CellStats:
    """Return the statistics that `packed` made an array of."""
    parts = {
        name: records[..., 3 + BINS * i : 3 + BINS * (i + 1)]
        for i, name in enumerate(name for name in FIELDS if name in fields)
    }
    if records.shape[-1] == record_length(fields):
        parts |= {"missing": records[..., -2], "nodata": records[..., -1]}
    return CellStats(records[..., 0], records[..., 1], records[..., 2], **parts)


def record_of(
    pixels: Array,
    fields: tuple[str, ...],
    above: Array | None = None,
    seen: Array | None = None,
) -> Array:
    """Return the packed record of `pixels` (h, w, c), added to that of the rows `above`.

    `seen` (h, w) bool leaves out the pixels without a value, and counts them; None is all.
    """
    record: Array = np.zeros(record_length(fields)) if above is None else above.copy()
    valid = pixels if seen is None else pixels[seen][None]
    if pixels.dtype == np.uint8:
        histogram = bytes_counted(valid).astype(np.float64) if valid.size else np.zeros(BINS)
        moments = moments_of(histogram)
    elif pixels.dtype == np.uint16:
        moments, histogram = _short_moments(valid)
    else:
        moments, histogram = _wide_moments(pixels, record[:3], seen)
        record[:3] = 0.0  # they are in the moments
    parts = [moments]
    if "histogram" in fields:
        parts.append(histogram)
    if "saturation" in fields:
        parts.append(_saturation(valid))
    record[:-2] += np.concatenate(parts)
    record[-2] += 0 if seen is None else seen.size - np.count_nonzero(seen)
    return record


def _short_moments(pixels: Array) -> tuple[Array, Array]:
    histogram = np.bincount(pixels.reshape(-1), minlength=2**16)
    return moments_of(histogram), histogram.reshape(BINS, -1).sum(axis=1).astype(np.float64)


def _wide_moments(pixels: Array, before: Array, seen: Array | None) -> tuple[Array, Array]:
    """Add other dtypes to the moments `before`, row by row: the bits of strips of any height."""
    rows = pixels.reshape(len(pixels), -1).astype(np.float64)
    finite = np.isfinite(rows)
    if seen is not None:
        finite &= np.repeat(seen, pixels.shape[2], axis=1)
    rows[~finite] = 0.0
    sums = np.stack((finite.sum(axis=1), rows.sum(axis=1), (rows**2).sum(axis=1)))
    moments = np.add.accumulate(np.column_stack((before, sums)), axis=1)[:, -1]
    if pixels.dtype.kind == "f":
        low, high = 0.0, 1.0  # the convention of float images
    else:
        info = np.iinfo(pixels.dtype)
        low, high = float(info.min), float(info.max) + 1.0
    bins = np.clip((rows[finite] - low) * (BINS / (high - low)), 0, BINS - 1).astype(np.intp)
    return moments, np.bincount(bins, minlength=BINS).astype(np.float64)


def _saturation(pixels: Array) -> Array:
    if pixels.shape[-1] != 3:
        return np.zeros(BINS)
    red, green, blue = (pixels[..., i] for i in range(3))
    high = np.maximum(np.maximum(red, green), blue).astype(np.float64)
    low = np.minimum(np.minimum(red, green), blue)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(high > 0, (high - low) / high, 0.0)
    bins = np.nan_to_num(np.clip(np.rint(share * (BINS - 1)), 0, BINS - 1)).astype(np.intp)
    return np.bincount(bins.reshape(-1), minlength=BINS).astype(np.float64)


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

    def __call__(self, source: Source, block: Block) -> Array:
        """Return (rows, cols, record) float64."""
        row0, row1, col0, col1 = self._cells(block)
        shape = (row1 - row0, col1 - col0)
        unseen = self._areas(block)
        nodata = np.zeros(shape, np.int64)
        if source.dtype == np.uint8 and "saturation" not in self.fields:
            samples = math.prod(self.grid.shape) * source.channels
            sums = byte_sums(shape, bool(self.fields), samples)
            for cell, part, seen, empty in self._parts(source, block):
                nodata[cell] += empty
                valid = part if seen is None else part[seen][None]
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
        for cell, part, seen, empty in self._parts(source, block):
            nodata[cell] += empty
            records[cell] = record_of(part, self.fields, records[cell], seen)
            unseen[cell] -= part.shape[0] * part.shape[1] if seen is None else seen.sum()
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
    ) -> Iterator[tuple[tuple[int, int], Array, Array | None, int]]:
        """Yield what each piece that is read holds of each cell, as cell of the block and pixels.

        And which of the pixels (h, w) have a value, None if all of them do, and how many are
        nodata or masked.
        """
        row0, row1, col0, col1 = self._cells(block)
        rows = [(n - row0, self.grid.span(n, n + 1, col0, col0 + 1)) for n in range(row0, row1)]
        columns = [(n - col0, self.grid.span(row0, row0 + 1, n, n + 1)) for n in range(col0, col1)]
        _, region = self.window(block)
        for place, pixels, holes, valid in pieces(source, 0, region, STRIP_PIXELS):
            seen, empty = seen_of(place, holes), None
            if valid is not None:
                empty = ~valid if seen is None else ~valid & seen
                seen = valid if seen is None else valid & seen
            across = [
                (col, max(place.x, cell.x) - place.x, min(place.stop_x, cell.stop_x) - place.x)
                for col, cell in columns
                if cell.x < place.stop_x and cell.stop_x > place.x
            ]
            for row, cell in rows:
                top, bottom = max(place.y, cell.y), min(place.stop_y, cell.stop_y)
                if top < bottom:
                    for col, left, right in across:
                        part = slice(top - place.y, bottom - place.y), slice(left, right)
                        own = None if seen is None else seen[part]
                        count = 0 if empty is None else int(np.count_nonzero(empty[part]))
                        if own is None or count or own.any():  # else there is nothing to count
                            yield (row, col), pixels[part], own, count


def seen_of(region: Region, holes: tuple[Hole, ...]) -> Array | None:
    """Return which pixels (h, w) of `region` lie in none of its `holes`; None if all do."""
    if not holes:
        return None
    seen = np.ones((region.height, region.width), bool)
    for hole in holes:
        seen[hole.region.slices(region.y, region.x)] = False
    return seen


def stats_bytes_of_task(grid: TileGrid, source: Source) -> int:
    """Return the peak bytes of a task: a strip, what it is counted with, and the records."""
    rows, columns = cell_chunks(grid, read_unit(source))
    cells = grid.span(0, rows[0], 0, columns[0])
    height, width = source.levels[0].tile
    pixels = min(cells.area, max(STRIP_PIXELS, height * (cells.width + 2 * width)))
    samples = pixels * source.channels
    strip = task_bytes(source, 0, Region(0, 0, -(-pixels // cells.width), cells.width))
    # bytes are counted where they lie; others as numbers of 64 bits, with their squares
    counted = samples * (1 if source.dtype.itemsize == 1 else 16)
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
