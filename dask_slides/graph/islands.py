"""Images of islands of tissue that are placed on a canvas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from dask_slides.core.geometry import Placement, Region, hull, reduced_size
from dask_slides.core.layout import IslandLayout
from dask_slides.core.source import DerivedSource, Level, Source, Span, Spans, root_of
from dask_slides.core.types import Array
from dask_slides.graph.batch_read import read_each
from dask_slides.graph.moved_tiles import MovedPart, MovedTiles
from dask_slides.graph.resized import STRIP_PIXELS
from dask_slides.readers.dask_array import ArraySource

SMALLEST_STEP = 64
"""Smallest side of a cell of the lattice in pixels: many small ones take long to place."""
MAX_STEPS = 1024
"""Largest number of cells of the lattice along an axis."""


def lattice_step(source: Source, cell: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of a cell of the lattice on which islands lie.

    They are multiples of the tiles of `source`, so that blocks of the canvas read whole tiles.
    Strips have no tiles along x, and blocks of a dask array can be divided for nothing: there the
    lattice is that of the `cell` of the blank map.
    """
    y, x = (_step(source, axis, cell[axis]) for axis in (0, 1))
    return y, x


def _step(source: Source, axis: int, cell: int) -> int:
    level = source.levels[0]
    size, tile = level.shape[axis], level.tile[axis]
    if isinstance(root_of(source), ArraySource) or 2 * tile > size:
        tile = cell
    least = max(SMALLEST_STEP, -(-size // MAX_STEPS)) if tile != cell else tile
    return tile * -(-least // tile)


@dataclass(frozen=True)
class IslandsSource(MovedTiles):
    """Rectangles of the image `parent` on a canvas, with the fill in the gutters between them.

    Gutters belong to no part of the slide: `gutters` marks them, and `read_valid` shows them as
    pixels without a value. So statistics do not count them, and they are neither tissue nor
    missing. Resampling mixes the fill into the edges of islands, as a resize at the edge of tissue
    on glass does. If the parent has nodata or masks, the fill may be no colour at all: then it is
    never mixed, and pixels that need a gutter have no value.
    """

    parent: Source
    layout: IslandLayout
    gutter: Any
    """Value of the gutters, if the parent has no fill."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields: every worker gets them, and makes the layouts of levels again."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def layer_name(self) -> str:
        """The name of the graph layer, "cutoff"."""
        return "cutoff"

    @property
    def fill(self) -> Any:
        """The fill of the parent, or the value of the gutters."""
        return self.gutter if self.parent.fill is None else self.parent.fill

    @property
    def masked(self) -> bool:
        """Gutters are pixels without a value."""
        return True

    def _scaled(self, number: int, factor: int = 1) -> IslandLayout | None:
        """Return the layout on a level of the parent; None if an edge divides a pixel."""
        full, level = self.parent.levels[0].shape, self.parent.levels[number]
        factors = (level.downsample[0] * factor, level.downsample[1] * factor)
        height, width = (reduced_size(size, factor) for size in level.shape)
        return self.layout.scaled(factors, (height, width), full)

    @cached_property
    def _laid_out(self) -> list[tuple[int, IslandLayout]]:
        """The levels of the parent whose pixels no edge divides: number and layout."""
        scaled = [(number, self._scaled(number)) for number in range(len(self.parent.levels))]
        return [(number, layout) for number, layout in scaled if layout is not None]

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Level 0, and the levels of the parent whose pixels no edge divides."""
        return tuple(
            replace(self.parent.levels[number], shape=layout.shape)
            for number, layout in self._laid_out
        )

    @property
    def operation(self) -> str:
        """The operation, "cut into islands"."""
        return "cut into islands"

    @property
    def placement(self) -> Placement:
        """The placement of the topmost island on the parent. Others lie elsewhere."""
        part = min(self.layout.parts, key=lambda part: (part.canvas_y, part.canvas_x))
        return Placement(offset=(float(part.y - part.canvas_y), float(part.x - part.canvas_x)))

    def _pieces(self, level: int, region: Region) -> list[Region]:
        """Return the regions of the parent in `region`; one pixel if it lies in a gutter."""
        layout = self._laid_out[level][1]
        first = layout.parts[0]
        found = [source for source, _ in layout.pieces(region)]
        return found or [Region(first.y, first.x, 1, 1)]

    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and the smallest region of the parent that hold all its pieces."""
        return self._laid_out[level][0], hull(self._pieces(level, region))

    def all_spans(
        self, level: int, rows: list[Span], columns: list[Span]
    ) -> tuple[int, list[Spans]]:
        """Return the level, and the rows and columns of each piece."""
        number, layout = self._laid_out[level]
        windows = [Region(y, x, end - y, stop - x) for y, end in rows for x, stop in columns]
        pieces = [piece for window in windows for piece, _ in layout.pieces(window)]
        found = [([(one.y, one.stop_y)], [(one.x, one.stop_x)]) for one in pieces]
        if found and isinstance(self.parent, DerivedSource):  # it may be read between pieces too
            found = [([y for (y,), _ in found], [x for _, (x,) in found])]
        return number, found

    def lacks(self, level: int, region: Region) -> bool:
        """Return whether `region` has no gutter, and all its tiles are known to be bad."""
        number, layout = self._laid_out[level]
        pieces = layout.pieces(region)
        covered = sum(piece.area for piece, _ in pieces)
        return 0 < covered == region.area and all(
            self.parent.lacks(number, piece) for piece, _ in pieces
        )

    def gutters(self, rows: Array, columns: Array) -> Array | None:
        """Return a mask of the pixels of level 0 at `rows` and `columns` that lie in gutters."""
        return None if self.parent.masked else self._in_gutter(rows, columns)

    def _in_gutter(self, rows: Array, columns: Array) -> Array:
        return self.layout.part_numbers(rows[:, None], columns[None, :]) < 0

    def read(self, level: int, region: Region) -> Array:
        """Read `region`, piece by piece of the parent, and each tile of the file only once."""
        number, layout = self._laid_out[level]
        out = self._filled(region)
        pieces = layout.pieces(region)
        arrays = [out[canvas.slices(region.y, region.x)] for _, canvas in pieces]
        sources = [source for source, _ in pieces]
        read_each(self.parent, number, sources, arrays, min(region.area, STRIP_PIXELS))
        return out

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read `region`, and a mask of its pixels with a value: those outside of gutters."""
        number, layout = self._laid_out[level]
        if not self.parent.masked:
            valid = np.zeros((region.height, region.width), bool)
            for _, canvas in layout.pieces(region):
                valid[canvas.slices(region.y, region.x)] = True
            return self.read(level, region), None if valid.all() else valid
        return self._read_masked(number, layout, region)

    def _read_masked(
        self, number: int, layout: IslandLayout, region: Region
    ) -> tuple[Array, Array | None]:
        valid = np.zeros((region.height, region.width), bool)

        def read(piece: Region, index: tuple[slice, slice]) -> Array:
            pixels, piece_valid = self.parent.read_valid(number, piece)
            valid[index] = True if piece_valid is None else piece_valid
            return pixels

        pixels = self._joined(layout, region, read)
        return pixels, None if valid.all() else valid

    def parent_level(self, level: int) -> int:
        """Return the level of the parent of which `level` is made."""
        return self._laid_out[level][0]

    def moved_parts(self, level: int, region: Region) -> Iterator[MovedPart]:
        """Yield the rectangles of islands in `region`."""
        for source, canvas in self._laid_out[level][1].pieces(region):
            yield MovedPart(source, canvas.y, canvas.x)

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the reductions of the parent whose pixels no edge divides."""
        number = self._laid_out[level][0]
        return tuple(f for f in self.parent.reductions(number) if self._scaled(number, f))

    def coarseness(self, level: int) -> int:
        """Return the coarseness of the parent."""
        return self.parent.coarseness(self._laid_out[level][0])

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Read the pieces of `region` of `level` reduced by `factor`."""
        number = self._laid_out[level][0]
        layout = self._scaled(number, factor)
        assert layout is not None
        read_reduced = self.parent.read_reduced
        return self._joined(layout, region, lambda piece, _: read_reduced(number, factor, piece))

    def _filled(self, region: Region) -> Array:
        return np.full((region.height, region.width, self.channels), self.fill, self.dtype)

    def _joined(
        self,
        layout: IslandLayout,
        region: Region,
        read: Callable[[Region, tuple[slice, slice]], Array],
    ) -> Array:
        """Join pieces of the parent; `read` gets the region of one and its index in the result."""
        out = self._filled(region)
        for source, canvas in layout.pieces(region):
            index = canvas.slices(region.y, region.x)
            out[index] = read(source, index)
        return out

    def working_bytes(self, level: int, region: Region) -> int:
        """Return the bytes of the result, its mask, and the pieces that are read together."""
        together = region.area + min(region.area, STRIP_PIXELS)
        return together * self.channels * self.dtype.itemsize + region.area

    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and the largest piece."""
        largest = max(self._pieces(level, region), key=lambda piece: piece.area)
        return self._laid_out[level][0], largest
