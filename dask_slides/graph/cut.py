"""An image without the rows and columns that were cut off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dask_slides.core.bad_tiles import MissingRegion
from dask_slides.core.geometry import Placement, Region, reduced_size
from dask_slides.core.intervals import Intervals
from dask_slides.core.source import DerivedSource, Level, Source, Span
from dask_slides.core.types import Array
from dask_slides.graph.batch_read import read_each
from dask_slides.graph.resized import STRIP_PIXELS


@dataclass(frozen=True)
class CutSource(DerivedSource):
    """`parent` without the rows and columns that were cut off."""

    parent: Source
    rows: Intervals
    columns: Intervals

    @property
    def layer_name(self) -> str:
        """A cut-off."""
        return "cutoff"

    def _scaled(self, number: int, factor: int = 1) -> tuple[Intervals, Intervals] | None:
        """Return the kept intervals on a level of the parent; None if a cut divides a pixel."""
        full, level = self.parent.levels[0].shape, self.parent.levels[number]
        rows, columns = (
            kept.scaled(level.downsample[i] * factor, reduced_size(level.shape[i], factor), full[i])
            for i, kept in enumerate((self.rows, self.columns))
        )
        return None if rows is None or columns is None else (rows, columns)

    @cached_property
    def _cut_levels(self) -> list[tuple[int, Intervals, Intervals]]:
        """The levels of the parent whose pixels no cut divides: number, rows, columns."""
        scaled = [(number, self._scaled(number)) for number in range(len(self.parent.levels))]
        return [(number, *kept) for number, kept in scaled if kept is not None]

    @property
    def levels(self) -> tuple[Level, ...]:
        """Level 0, and the levels of the parent whose pixels no cut divides."""
        return tuple(
            replace(self.parent.levels[number], shape=(rows.length, columns.length))
            for number, rows, columns in self._cut_levels
        )

    @property
    def operation(self) -> str:
        """That blank rows and columns were cut off."""
        return "cut off"

    @property
    def placement(self) -> Placement:
        """Where the first kept row and column lie; pixels after a cut lie further off."""
        first = (runs.starts[0] if runs.starts else 0 for runs in (self.rows, self.columns))
        y, x = first
        return Placement(offset=(float(y), float(x)))

    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the smallest region of the parent that holds every piece of `region`."""
        number, rows, columns = self._cut_levels[level]
        tops = rows.pieces(region.y, region.stop_y)
        lefts = columns.pieces(region.x, region.stop_x)
        top, left = tops[0][0], lefts[0][0]
        bottom, right = (pieces[-1][0] + pieces[-1][2] for pieces in (tops, lefts))
        return number, Region(top, left, bottom - top, right - left)

    def spans(self, level: int, region: Region) -> tuple[int, list[Span], list[Span]]:
        """Return the pieces of the rows and columns of `region` in the parent."""
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
        # a tile may hold parts of several pieces: it is decoded once for all
        out = np.empty((region.height, region.width, self.channels), self.dtype)
        regions, places = [], []
        for top, y, height in rows.pieces(region.y, region.stop_y):
            for left, x, width in columns.pieces(region.x, region.stop_x):
                regions.append(Region(top, left, height, width))
                places.append(out[Region(y, x, height, width).slices(region.y, region.x)])
        read_each(self.parent, number, regions, places, min(region.area, STRIP_PIXELS))
        return out

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read `region`, and which of its pixels have a value."""
        if not self.masked:
            return self.read(level, region), None
        number, rows, columns = self._cut_levels[level]
        valid = np.ones((region.height, region.width), bool)

        def read(piece: Region, place: tuple[slice, slice]) -> Array:
            pixels, known = self.parent.read_valid(number, piece)
            if known is not None:
                valid[place] = known
            return pixels

        pixels = self._joined(rows, columns, region, read)
        return pixels, None if valid.all() else valid

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the kept parts of the holes of the parent."""
        number, rows, columns = self._cut_levels[level]
        found = []
        for top, y, height in rows.pieces(region.y, region.stop_y):
            for left, x, width in columns.pieces(region.x, region.stop_x):
                for hole in self.parent.holes(number, Region(top, left, height, width)):
                    own = hole.region
                    place = replace(own, y=own.y - top + y, x=own.x - left + x)
                    found.append(MissingRegion(place, hole.tile))
        return tuple(found)

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the reductions of the parent whose pixels no cut divides."""
        number = self._cut_levels[level][0]
        return tuple(f for f in self.parent.reductions(number) if self._scaled(number, f))

    def coarseness(self, level: int) -> int:
        """As the parent."""
        return self.parent.coarseness(self._cut_levels[level][0])

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Read the pieces of `region` of `level` reduced by `factor`."""
        number = self._cut_levels[level][0]
        kept = self._scaled(number, factor)
        assert kept is not None
        read_reduced = self.parent.read_reduced
        return self._joined(*kept, region, lambda piece, _: read_reduced(number, factor, piece))

    def _joined(
        self,
        rows: Intervals,
        columns: Intervals,
        region: Region,
        read: Callable[[Region, tuple[slice, slice]], Array],
    ) -> Array:
        """Join pieces of the parent; `read` gets the region of one and its place in the result."""
        out = np.empty((region.height, region.width, self.channels), self.dtype)
        for top, y, height in rows.pieces(region.y, region.stop_y):
            for left, x, width in columns.pieces(region.x, region.stop_x):
                place = Region(y, x, height, width).slices(region.y, region.x)
                out[place] = read(Region(top, left, height, width), place)
        return out

    def working_bytes(self, level: int, region: Region) -> int:
        """Return the bytes of the result, and of the pieces that are read together."""
        together = region.area if level else region.area + min(region.area, STRIP_PIXELS)
        return together * self.channels * self.dtype.itemsize

    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return a piece of the largest height and width."""
        number, rows, columns = self._cut_levels[level]
        top, _, height = max(rows.pieces(region.y, region.stop_y), key=lambda piece: piece[2])
        left, _, width = max(columns.pieces(region.x, region.stop_x), key=lambda piece: piece[2])
        return number, Region(top, left, height, width)
