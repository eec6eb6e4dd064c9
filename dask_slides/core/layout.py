"""Layouts of the parts of a slide that a cut-off leaves, and coordinates before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dask_slides.core.arguments import as_array
from dask_slides.core.geometry import Region
from dask_slides.core.intervals import Intervals
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError

SNAP = 2.0**20
"""Points are rounded to 1/SNAP of a pixel, so that `to_source` inverts `from_source` exactly."""

Lines = tuple[slice, slice, Array, Array]
"""Rows and columns of an image, and the source coordinates of their centres."""


@dataclass(frozen=True)
class GridLayout:
    """The rows and columns of the source that are left, without gaps between them."""

    rows: Intervals
    columns: Intervals

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result, in pixels of the source."""
        return self.rows.length, self.columns.length

    def to_source(self, points: Array) -> Array:
        """Return the source coordinates of `points` (..., 2); NaN outside of the result."""
        y, x = self.rows.to_source(points[..., 0]), self.columns.to_source(points[..., 1])
        return np.stack((y, x), axis=-1)

    def from_source(self, points: Array) -> Array:
        """Return the coordinates in the result of source `points`; NaN where it was cut off."""
        y, x = self.rows.from_source(points[..., 0]), self.columns.from_source(points[..., 1])
        cut = np.isnan(y) | np.isnan(x)
        return np.where(cut[..., None], np.nan, np.stack((y, x), axis=-1))

    def lines(self, y: Array, x: Array) -> Iterator[Lines]:
        """Yield the rows and columns of pixels with the centres `y` and `x`, and their source."""
        yield slice(0, len(y)), slice(0, len(x)), self.rows.to_source(y), self.columns.to_source(x)

    def to_json(self) -> dict[str, Any]:
        """Return the layout for the attributes of a store."""
        rows, columns = (
            [list(pair) for pair in zip(axis.starts, axis.stops, strict=True)]
            for axis in (self.rows, self.columns)
        )
        return {"layout": "grid", "rows": rows, "columns": columns}


class IslandPart(NamedTuple):
    """A rectangle of an island: where it lies on the source, and where on the canvas."""

    island: int
    """Number of the island, from 1."""
    y: int
    x: int
    height: int
    width: int
    canvas_y: int
    canvas_x: int

    @property
    def source(self) -> Region:
        """The rectangle on the source."""
        return Region(self.y, self.x, self.height, self.width)

    @property
    def canvas(self) -> Region:
        """The rectangle on the canvas."""
        return Region(self.canvas_y, self.canvas_x, self.height, self.width)


PART_TYPE = np.dtype([(name, np.int64) for name in IslandPart._fields])
"""Type of a row of a table of parts."""


class _Lookup:
    """Find the rectangle that holds a point; rectangles do not overlap."""

    def __init__(self, regions: list[Region]) -> None:
        edges = np.array([(r.y, r.stop_y, r.x, r.stop_x) for r in regions], np.int64)
        self._ys, self._xs = np.unique(edges[:, :2]), np.unique(edges[:, 2:])
        # one more row and column: the points beyond the last edge
        self._numbers = np.full((len(self._ys), len(self._xs)), -1, np.int32)
        ends = np.searchsorted(self._ys, edges[:, :2]), np.searchsorted(self._xs, edges[:, 2:])
        for number, ((top, bottom), (left, right)) in enumerate(zip(*ends, strict=True)):
            self._numbers[top:bottom, left:right] = number

    def __call__(self, y: Array, x: Array) -> Array:
        """Return the number of the rectangle at each point; -1 if there is none."""
        # index -1, before the first edge, is the last row or column, which is empty
        row = np.searchsorted(self._ys, y, side="right") - 1
        column = np.searchsorted(self._xs, x, side="right") - 1
        return np.asarray(self._numbers[row, column])


@dataclass(frozen=True)
class IslandLayout:
    """Islands of tissue on a canvas, with gutters between them.

    ::

        source  ·aa···           canvas  aa·bb      each island is moved as a whole, or in
                ·aa·bb                   aa·bb      pieces; its rectangles are the `parts`
                ····bb

    A rectangle holds its upper and left edge, but not its lower and right one.
    """

    parts: tuple[IslandPart, ...]
    """Rectangles without overlap, both on the source and on the canvas."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the canvas, in pixels of the source."""
        height = max((part.canvas.stop_y for part in self.parts), default=0)
        return height, max((part.canvas.stop_x for part in self.parts), default=0)

    @cached_property
    def table(self) -> Array:
        """The parts as a structured array of int64, with the fields of `IslandPart`."""
        return np.array(list(self.parts), PART_TYPE)

    @cached_property
    def _on_canvas(self) -> _Lookup:
        return _Lookup([part.canvas for part in self.parts])

    @cached_property
    def _on_source(self) -> _Lookup:
        return _Lookup([part.source for part in self.parts])

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields: tables are made again where they are needed."""
        return {"parts": self.parts}

    def part_numbers(self, y: Array, x: Array) -> Array:
        """Return the index of the part at each point of the canvas; -1 for gutters."""
        if not self.parts:
            return np.full(np.broadcast_shapes(np.shape(y), np.shape(x)), -1)
        return self._on_canvas(y, x)

    def islands_at(self, y: Array, x: Array) -> Array:
        """Return the number of the island at each point of the canvas, int32; 0 for gutters."""
        islands = np.append(self.table["island"], 0).astype(np.int32)
        return np.asarray(islands[self.part_numbers(y, x)])

    def _moved(self, points: Array, numbers: Array, sign: int) -> Array:
        table = self.table
        shift = np.stack(
            [np.append(table[name] - table[f"canvas_{name}"], 0) for name in "yx"], axis=-1
        )
        return np.where(numbers[..., None] < 0, np.nan, points + sign * shift[numbers])

    def to_source(self, points: Array) -> Array:
        """Return the source coordinates of `points` (..., 2); NaN in gutters and outside."""
        return self._moved(points, self.part_numbers(points[..., 0], points[..., 1]), 1)

    def from_source(self, points: Array) -> Array:
        """Return the canvas coordinates of source `points`; NaN outside of the islands."""
        if not self.parts:
            return np.full(points.shape, np.nan)
        return self._moved(points, self._on_source(points[..., 0], points[..., 1]), -1)

    def lines(self, y: Array, x: Array) -> Iterator[Lines]:
        """Yield, per part, the rows and columns of pixels with the centres `y` and `x`."""
        window = Region(int(y[0]), int(x[0]), int(y[-1] - y[0]) + 2, int(x[-1] - x[0]) + 2)
        for source, canvas in self.pieces(window):
            top, bottom = np.searchsorted(y, (canvas.y, canvas.stop_y))
            left, right = np.searchsorted(x, (canvas.x, canvas.stop_x))
            rows, columns = slice(int(top), int(bottom)), slice(int(left), int(right))
            yield rows, columns, y[rows] - canvas.y + source.y, x[columns] - canvas.x + source.x

    def pieces(self, region: Region) -> list[tuple[Region, Region]]:
        """Return the parts in `region` of the canvas: on the source, and on the canvas."""
        table = self.table
        touched = (
            (table["canvas_y"] < region.stop_y)
            & (table["canvas_y"] + table["height"] > region.y)
            & (table["canvas_x"] < region.stop_x)
            & (table["canvas_x"] + table["width"] > region.x)
        )
        out = []
        for number in np.flatnonzero(touched).tolist():
            part = self.parts[number]
            canvas = part.canvas.intersect(region)
            y, x = canvas.y - part.canvas_y + part.y, canvas.x - part.canvas_x + part.x
            out.append((Region(y, x, canvas.height, canvas.width), canvas))
        return out

    def scaled(
        self, factors: tuple[float, float], size: tuple[int, int], full: tuple[int, int]
    ) -> IslandLayout | None:
        """Return the layout on a level, or None if an edge divides one of its pixels.

        `factors` is the downsample of the level, `size` its shape, and `full` that of level 0.
        """
        if not self.parts:
            return self
        numbers = np.array(self.parts, np.int64)
        out = numbers.copy()
        for axis in (0, 1):
            step = int(factors[axis])
            start, stop = numbers[:, 1 + axis], numbers[:, 1 + axis] + numbers[:, 3 + axis]
            at_end = stop == full[axis]
            edges = np.concatenate([start, numbers[:, 5 + axis], stop[~at_end]])
            if factors[axis] != step or (edges % step).any():
                return None
            stop = np.where(at_end, size[axis], stop // step)
            out[:, 1 + axis], out[:, 5 + axis] = start // step, numbers[:, 5 + axis] // step
            out[:, 3 + axis] = stop - start // step
        return IslandLayout(tuple(IslandPart(*row) for row in out.tolist() if row[3] and row[4]))

    def to_json(self) -> dict[str, Any]:
        """Return the layout for the attributes of a store."""
        return {"layout": "islands", "islands": [list(part) for part in self.parts]}


Layout: TypeAlias = GridLayout | IslandLayout


def _rounded(points: Array) -> Array:
    return np.rint(points * SNAP) / SNAP


def checked_points(yx: Any) -> Array:
    """Return points as (..., 2) float64; raise SlideArgumentError for another shape."""
    points: Array | None = as_array(yx, np.float64)
    if points is None:
        raise SlideArgumentError(
            f"points of type {type(yx).__name__} are not numbers (..., 2); give pairs (y, x)"
        )
    if points.ndim < 1 or points.shape[-1] != 2:
        raise SlideArgumentError(f"points of shape {points.shape}; give (..., 2), which is (y, x)")
    return points


@dataclass(frozen=True)
class CutoffMapping:
    """Coordinates of an image that was cut off and resized, and of its source.

    `Cutoff.mapping` returns it, and `open_mapping` reads it from a store.
    """

    layout: Layout
    image_shape: tuple[int, int]
    """Height and width of the image."""
    source_shape: tuple[int, int]
    """Height and width of the source."""

    @property
    def factors(self) -> tuple[float, float]:
        """Source pixels per image pixel, along y and x."""
        if 0 in self.image_shape:
            return 1.0, 1.0
        y, x = (a / b for a, b in zip(self.layout.shape, self.image_shape, strict=True))
        return y, x

    def to_source(self, yx: Any) -> Array:
        """Convert points (..., 2) of the image to points of the source; NaN if there are none."""
        return self.layout.to_source(_rounded(checked_points(yx) * self.factors))

    def from_source(self, yx: Any) -> Array:
        """Convert points (..., 2) of the source to points of the image; NaN if cut off."""
        return self.layout.from_source(checked_points(yx)) / self.factors

    def to_json(self) -> dict[str, Any]:
        """Return the attributes that a store keeps: see `mapping_from_json`."""
        own: dict[str, Any] = {"source_shape": list(self.source_shape)}
        return {**own, **self.layout.to_json(), "factors": list(self.factors)}


def mapping_from_json(facts: Mapping[str, Any], image_shape: tuple[int, int]) -> CutoffMapping:
    """Return the mapping that the attributes of a store describe.

    ``source_shape`` is the height and width of the source. With ``"layout": "grid"``, ``rows`` and
    ``columns`` list the intervals [start, stop) of the source that are left, in order. With
    ``"layout": "islands"``, ``islands`` has a row per rectangle: number of the island, y, x,
    height and width on the source, y and x on the canvas. ``factors`` are source pixels per image
    pixel along y and x. All but these are whole pixels of level 0 of the source.
    """
    height, width = (int(n) for n in facts["source_shape"])
    layout: Layout
    if facts.get("layout", "grid") == "islands":
        layout = IslandLayout(tuple(IslandPart(*map(int, row)) for row in facts["islands"]))
    else:
        rows, columns = (
            Intervals(tuple(int(a) for a, _ in pairs), tuple(int(b) for _, b in pairs))
            for pairs in (facts["rows"], facts["columns"])
        )
        layout = GridLayout(rows, columns)
    return CutoffMapping(layout, image_shape, (height, width))
