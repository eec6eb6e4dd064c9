"""One pass over the pixels: a small record of statistics for each grid cell.

Counts and sums are whole numbers held in float64, exact up to 2**53, and beyond that they are
added row by row: they do not depend on the order in which a cell is read. Every detector decides
from them alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.counting import BINS, byte_sums
from dask_slides.geometry import Region, bounds
from dask_slides.graph import MAX_TASKS, Block, read_unit, task_bytes, task_side
from dask_slides.grid import TileGrid
from dask_slides.readers.bad_tiles import seen_of
from dask_slides.readers.protocol import Source, pieces
from dask_slides.resample import STRIP_PIXELS
from dask_slides.samples import (
    add_bytes,
    add_samples,
    index_of,
    rebinned,
    saturation_of,
    width_of,
)

Array = NDArray[Any]

FIELDS = ("histogram", "saturation", "range")
"""What a record can hold beyond count, sum and sum of squares."""
LENGTHS = {"histogram": BINS, "saturation": BINS, "range": 3}
"""How many numbers each of them is."""
COUNTS = ("missing", "nodata")
"""What every record ends with."""
TOGETHER = 2**16
"""Samples that are looked at together: what they are turned into stays in the cache."""
LARGE = 2**12
"""Samples of a cell from which on a call for its bytes alone is faster than one for many cells."""


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
    """(rows, cols, 256): samples by brightness. Bin i of a cell counts those from
    ``first + i * width`` on and below ``first + (i + 1) * width``: of uint8 each value has a bin,
    of other dtypes the bins of a cell cover its own samples."""
    saturation: Array | None = None
    """(rows, cols, 256): pixels by HSV saturation in 256 steps; zero for images not RGB."""
    missing: Array | None = None
    """Pixels without a value: of absent and corrupt tiles, nodata and masked ones. They are in none
    of the others. None is 0."""
    nodata: Array | None = None
    """Those of the missing pixels that are nodata or masked. None is 0."""
    low: Array | None = None
    """Smallest sample, None for uint8. It, `high` and `width` are 0 for a cell without samples."""
    high: Array | None = None
    """Largest sample, None for uint8."""
    width: Array | None = None
    """Width of a bin of the histogram, None for uint8, where it is 1: the smallest power of two
    with which 256 bins, the first of which begins at a multiple of it, hold the samples. It is 1 or
    more for integers."""

    @property
    def first(self) -> Array:
        """Where the first bin of each cell's histogram begins."""
        if self.low is None or self.width is None:
            return np.zeros(self.count.shape)
        with np.errstate(over="ignore"):
            return np.asarray(np.nan_to_num(index_of(self.low, self.width) * self.width))

    def pool(self) -> tuple[Array, float, float]:
        """Return the histogram of all cells (256,), where its first bin begins, and a bin's width.

        It is the one that a single cell of all samples has.
        """
        if self.histogram is None:
            raise ValueError("the statistics hold no histogram")
        counts = np.asarray(self.histogram).reshape(-1, BINS)
        if self.low is None or self.high is None or self.width is None:
            return counts.sum(axis=0), 0.0, 1.0
        some = np.asarray(self.width).reshape(-1) > 0
        if not some.any():
            return np.zeros(BINS), 0.0, 1.0
        low, high, width = (
            np.asarray(part).reshape(-1)[some] for part in (self.low, self.high, self.width)
        )
        common = np.maximum(width.max(), width_of(low.min(), high.max(), whole=False))
        first = index_of(low.min(), common)
        pooled = rebinned(counts[some], index_of(low, width), width, first, common)
        with np.errstate(over="ignore"):
            return pooled.sum(axis=0), float(np.nan_to_num(first * common)), float(common)

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
        mean = self.total / np.maximum(self.count, 1)
        if self.low is not None and self.high is not None:
            mean = np.clip(mean, self.low, self.high)  # sums may be rounded
        return np.asarray(mean)

    @property
    def std(self) -> Array:
        """Population standard deviation of the samples; 0 where all of them are the same."""
        with np.errstate(over="ignore", invalid="ignore"):  # of squares beyond float64
            variance = self.squares / np.maximum(self.count, 1) - self.mean**2
        std = np.sqrt(np.maximum(np.nan_to_num(variance, nan=np.inf, posinf=np.inf), 0.0))
        if self.low is not None and self.high is not None:
            std = np.where(self.low == self.high, 0.0, std)  # sums may be rounded
        return np.asarray(std)

    def packed(self) -> Array:
        """Return one float64 array (rows, cols, 3 + the length of each field + 2)."""
        none = np.zeros(self.count.shape)
        missing = none if self.missing is None else self.missing
        nodata = none if self.nodata is None else self.nodata
        parts = [self.count[..., None], self.total[..., None], self.squares[..., None]]
        parts += [part for part in (self.histogram, self.saturation) if part is not None]
        parts += [part[..., None] for part in (self.low, self.high, self.width) if part is not None]
        parts += [missing[..., None], nodata[..., None]]
        return np.concatenate(parts, axis=-1, dtype=np.float64)


def record_length(fields: tuple[str, ...]) -> int:
    """Return the length of a packed record with `fields`."""
    return 3 + sum(LENGTHS[name] for name in fields) + len(COUNTS)


def fields_of(names: Collection[str], dtype: np.dtype[Any]) -> tuple[str, ...]:
    """Return the fields `names` in order, and what other dtypes than uint8 need beside them."""
    return tuple(
        name for name in FIELDS if name in names or (name == "range" and dtype != np.uint8)
    )


def _places(fields: tuple[str, ...]) -> dict[str, slice]:
    """Return where each of the fields lies in a record."""
    found, at = {}, 3
    for name in FIELDS:
        if name in fields:
            found[name] = slice(at, at := at + LENGTHS[name])
    return found


def unpacked(records: Array, fields: tuple[str, ...]) -> CellStats:
    """Return the statistics that `packed` made an array of."""
    parts = {name: records[..., place] for name, place in _places(fields).items()}
    if "range" in parts:
        parts |= zip(("low", "high", "width"), np.moveaxis(parts.pop("range"), -1, 0), strict=True)
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
    add_records(record[None], pixels[None], fields, None if seen is None else seen[None])
    record[-2] += 0 if seen is None else seen.size - np.count_nonzero(seen)
    return record


def add_records(
    records: Array, pixels: Array, fields: tuple[str, ...], seen: Array | None = None
) -> None:
    """Add what lies below, `pixels` (n, h, w, c), to the packed `records` (n, record) of n cells.

    `seen` (n, h, w) bool leaves out the pixels without a value; None is all. In place; what is
    missing is not counted.
    """
    count, height, width, channels = pixels.shape
    cells = max(1, TOGETHER // (height * width * channels))
    rows = max(1, TOGETHER // (width * channels))
    places = _places(fields)
    for first in range(0, count, cells):
        some = slice(first, first + cells)
        parts = [
            (
                pixels[some, top : top + rows],
                None if seen is None else seen[some, top : top + rows],
            )
            for top in range(0, height, rows)
        ]
        if pixels.dtype == np.uint8:  # they are counted where they lie
            add_bytes(records[some], parts if seen is not None else [(pixels[some], None)], places)
        else:
            add_samples(records[some], parts, places)
        if "saturation" in places and channels == 3:
            for part, visible in parts:
                records[some, places["saturation"]] += saturation_of(part, visible)


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
        large = math.prod(self.grid.tile) * source.channels >= LARGE
        if source.dtype == np.uint8 and "saturation" not in self.fields and large:
            samples = math.prod(self.grid.shape) * source.channels
            sums = byte_sums(shape, bool(self.fields), samples)
            for row, first, part, seen, empty in self._parts(source, block):
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
        for row, first, part, seen, empty in self._parts(source, block):
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
        for place, pixels, holes, valid in pieces(source, 0, region, STRIP_PIXELS):
            seen, empty = seen_of(place, holes), None
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
    strip = task_bytes(source, 0, Region(0, 0, -(-pixels // cells.width), cells.width))
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
