"""Images without the rows and columns that were cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dask_slides.core.geometry import Placement, Region, reduced_size
from dask_slides.core.intervals import Intervals
from dask_slides.core.source import Level, Source, Span
from dask_slides.core.types import Array
from dask_slides.graph.batch_read import read_each
from dask_slides.graph.moved_tiles import MovedPart, MovedTiles
from dask_slides.graph.resized import STRIP_PIXELS


@dataclass(frozen=True)
class CutSource(MovedTiles):
    """The image `parent` with only the intervals `rows` and `columns`."""

    parent: Source
    rows: Intervals
    columns: Intervals

    @property
    def layer_name(self) -> str:
        """The name of the graph layer, "cutoff"."""
        return "cutoff"

    def _scaled(self, number: int, factor: int = 1) -> tuple[Intervals, Intervals] | None:
        """Return the intervals on a level of the parent; None if a cut divides a pixel."""
        full, level = self.parent.levels[0].shape, self.parent.levels[number]
        rows, columns = (
            axis.scaled(level.downsample[i] * factor, reduced_size(level.shape[i], factor), full[i])
            for i, axis in enumerate((self.rows, self.columns))
        )
        return None if rows is None or columns is None else (rows, columns)

    @cached_property
    def _cut_levels(self) -> list[tuple[int, Intervals, Intervals]]:
        """The levels of the parent whose pixels no cut divides: number, rows, columns."""
        scaled = [(number, self._scaled(number)) for number in range(len(self.parent.levels))]
        return [(number, *intervals) for number, intervals in scaled if intervals is not None]

    @property
    def levels(self) -> tuple[Level, ...]:
        """Level 0, and the levels of the parent whose pixels no cut divides."""
        return tuple(
            replace(self.parent.levels[number], shape=(rows.length, columns.length))
            for number, rows, columns in self._cut_levels
        )

    @property
    def operation(self) -> str:
        """The operation, "cut off"."""
        return "cut off"

    @property
    def placement(self) -> Placement:
        """The placement of the first pixel. Pixels after a cut lie further away."""
        y, x = (axis.starts[0] if axis.starts else 0 for axis in (self.rows, self.columns))
        return Placement(offset=(float(y), float(x)))

    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and smallest region of the parent that hold all pieces of `region`."""
        number, rows, columns = self._cut_levels[level]
        tops = rows.pieces(region.y, region.stop_y)
        lefts = columns.pieces(region.x, region.stop_x)
        top, left = tops[0][0], lefts[0][0]
        bottom, right = (pieces[-1][0] + pieces[-1][2] for pieces in (tops, lefts))
        return number, Region(top, left, bottom - top, right - left)

    def spans(self, level: int, region: Region) -> tuple[int, list[Span], list[Span]]:
        """Return the level, and the ranges of rows and of columns of the parent."""
        number, rows, columns = self._cut_levels[level]
        down = [(top, top + n) for top, _, n in rows.pieces(region.y, region.stop_y)]
        across = [(left, left + n) for left, _, n in columns.pieces(region.x, region.stop_x)]
        return number, down, across

    def read(self, level: int, region: Region) -> Array:
        """Read `region`, piece by piece of the parent."""
        number, rows, columns = self._cut_levels[level]
        if number:
            return self._joined(
                rows, columns, region, lambda piece, _: self.parent.read(number, piece)
            )
        # pieces may share tiles: each tile is decoded only once
        out = np.empty((region.height, region.width, self.channels), self.dtype)
        regions, arrays = [], []
        for part in self.moved_parts(level, region):
            own = replace(part.source, y=part.y, x=part.x)
            regions.append(part.source)
            arrays.append(out[own.slices(region.y, region.x)])
        read_each(self.parent, number, regions, arrays, min(region.area, STRIP_PIXELS))
        return out

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read `region`, and a mask of its pixels with a value."""
        if not self.masked:
            return self.read(level, region), None
        number, rows, columns = self._cut_levels[level]
        valid = np.ones((region.height, region.width), bool)

        def read(piece: Region, index: tuple[slice, slice]) -> Array:
            pixels, piece_valid = self.parent.read_valid(number, piece)
            if piece_valid is not None:
                valid[index] = piece_valid
            return pixels

        pixels = self._joined(rows, columns, region, read)
        return pixels, None if valid.all() else valid

    def gutters(self, rows: Array, columns: Array) -> Array | None:
        """Return the gutters of the parent at these rows and columns."""
        y, x = self.rows.to_source(rows + 0.5), self.columns.to_source(columns + 0.5)
        return self.parent.gutters(y.astype(np.int64), x.astype(np.int64))

    def parent_level(self, level: int) -> int:
        """Return the level of the parent of which `level` is made."""
        return self._cut_levels[level][0]

    def moved_parts(self, level: int, region: Region) -> Iterator[MovedPart]:
        """Yield the parts of `region` between cuts."""
        _, rows, columns = self._cut_levels[level]
        for top, y, height in rows.pieces(region.y, region.stop_y):
            for left, x, width in columns.pieces(region.x, region.stop_x):
                yield MovedPart(Region(top, left, height, width), y, x)

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the reductions of the parent whose pixels no cut divides."""
        number = self._cut_levels[level][0]
        return tuple(f for f in self.parent.reductions(number) if self._scaled(number, f))

    def coarseness(self, level: int) -> int:
        """Return the coarseness of the parent."""
        return self.parent.coarseness(self._cut_levels[level][0])

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Read the pieces of `region` of `level` reduced by `factor`."""
        number = self._cut_levels[level][0]
        axes = self._scaled(number, factor)
        assert axes is not None
        read_reduced = self.parent.read_reduced
        return self._joined(*axes, region, lambda piece, _: read_reduced(number, factor, piece))

    def _joined(
        self,
        rows: Intervals,
        columns: Intervals,
        region: Region,
        read: Callable[[Region, tuple[slice, slice]], Array],
    ) -> Array:
        """Join pieces of the parent; `read` gets the region of one and its index in the result."""
        out = np.empty((region.height, region.width, self.channels), self.dtype)
        for top, y, height in rows.pieces(region.y, region.stop_y):
            for left, x, width in columns.pieces(region.x, region.stop_x):
                index = Region(y, x, height, width).slices(region.y, region.x)
                out[index] = read(Region(top, left, height, width), index)
        return out

    def working_bytes(self, level: int, region: Region) -> int:
        """Return the bytes of the result and of the pieces that are read together."""
        together = region.area if level else region.area + min(region.area, STRIP_PIXELS)
        return together * self.channels * self.dtype.itemsize

    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and a piece of the largest height and width."""
        number, rows, columns = self._cut_levels[level]
        top, _, height = max(rows.pieces(region.y, region.stop_y), key=lambda piece: piece[2])
        left, _, width = max(columns.pieces(region.x, region.stop_x), key=lambda piece: piece[2])
        return number, Region(top, left, height, width)
