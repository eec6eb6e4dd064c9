"""Polygons with holes, in pixels of level 0: one as an outline, many in arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.equality import EqualByFields
from dask_slides.core.types import Array


@dataclass(frozen=True, eq=False, repr=False)
class Outline:
    """A polygon with holes. Rings are not closed: the first point is not repeated at the end.

    ``shapely.geometry.shape(outline)`` gives the polygon of shapely, with x before y.
    """

    exterior: Array
    """Points (n, 2) as (y, x), int64 or float64, in pixels of level 0."""
    holes: tuple[Array, ...] = ()
    """A ring for each hole, like `exterior`."""

    @property
    def rings(self) -> tuple[Array, ...]:
        """The exterior, then the holes."""
        return (self.exterior, *self.holes)

    @property
    def area(self) -> float:
        """Area in pixels of level 0, without the holes."""
        return abs(ring_area(self.exterior)) - sum(abs(ring_area(hole)) for hole in self.holes)

    @property
    def __geo_interface__(self) -> dict[str, Any]:
        """The GeoJSON geometry: closed rings of [x, y], oriented as RFC 7946, 3.1.6 says.

        Exteriors are counterclockwise where y points up, so they run clockwise on the screen.
        """
        rings = [oriented(ring, hole=at > 0) for at, ring in enumerate(self.rings)]
        closed = [np.concatenate([ring, ring[:1]])[:, ::-1].tolist() for ring in rings]
        return {"type": "Polygon", "coordinates": closed}

    def __eq__(self, other: object) -> bool:
        """Return whether `other` is an outline of the same points in the same order."""
        if not isinstance(other, Outline):
            return NotImplemented
        same = len(self.holes) == len(other.holes)
        return same and all(map(np.array_equal, self.rings, other.rings))

    def __repr__(self) -> str:
        return f"Outline<{len(self.exterior)} points, {len(self.holes)} holes, area={self.area:g}>"


def ring_area(ring: Array) -> float:
    """Return the signed area of a ring; positive if it runs clockwise on the screen."""
    y, x = (ring - ring[:1]).T  # small numbers lose no digits
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def oriented(ring: Array, hole: bool) -> Array:
    """Return the ring in the order of RFC 7946: clockwise on the screen, a hole the other way."""
    return ring[::-1] if (ring_area(ring) < 0) != hole else ring


@dataclass(frozen=True, eq=False, repr=False)
class Polygons(EqualByFields):
    """Many polygons with holes in three arrays; a sequence of `Outline`.

    A million small polygons take some hundred megabytes, and are processed without a loop.
    """

    points: Array
    """Points (n, 2) of all rings as (y, x), in pixels of level 0."""
    ring_starts: NDArray[np.int64]
    """(rings + 1): first point of each ring, and the number of points."""
    polygon_starts: NDArray[np.int64]
    """(polygons + 1): first ring, the exterior, of each polygon, and the number of rings."""

    @classmethod
    def of(cls, outlines: Iterable[Outline]) -> Polygons:
        """Collect outlines; return `outlines` itself if it is of this class."""
        if isinstance(outlines, Polygons):
            return outlines
        outlines = list(outlines)
        rings = [ring for outline in outlines for ring in outline.rings]
        points = np.concatenate(rings) if rings else np.zeros((0, 2))
        counts = [1 + len(outline.holes) for outline in outlines]
        return cls(points, starts_of([len(ring) for ring in rings]), starts_of(counts))

    @classmethod
    def from_shapely(cls, shapes: Array) -> Polygons:
        """Return polygons of shapely, which have x before y."""
        shapely = import_shapely()
        if not len(shapes):
            return cls.of(())
        _, points, (rings, polygons) = shapely.to_ragged_array(shapes)
        open_rings = np.ones(len(points), bool)
        open_rings[rings[1:] - 1] = False  # the last point of a ring repeats the first one
        starts = rings - np.arange(len(rings))
        return cls(points[open_rings, 1::-1], starts.astype(np.int64), polygons.astype(np.int64))

    @property
    def point_starts(self) -> NDArray[np.int64]:
        """(polygons + 1): first point of each polygon, and the number of points."""
        return self.ring_starts[self.polygon_starts]

    @property
    def bounds(self) -> NDArray[np.float64]:
        """(polygons, 4): least y, least x, greatest y and greatest x of each polygon."""
        if not len(self):
            return np.zeros((0, 4))
        first = self.point_starts[:-1]
        ends = [extreme.reduceat(self.points, first) for extreme in (np.minimum, np.maximum)]
        return np.concatenate(ends, axis=1).astype(np.float64)

    def next_points(self) -> Array:
        """Return for each point the one that follows in its ring, (n, 2)."""
        following = np.arange(1, len(self.points) + 1)
        following[self.ring_starts[1:] - 1] = self.ring_starts[:-1]
        return self.points[following]

    def select(self, keep: NDArray[np.bool_]) -> Polygons:
        """Return the polygons where `keep` is True."""
        rings = np.repeat(keep, np.diff(self.polygon_starts))
        points = np.repeat(rings, np.diff(self.ring_starts))
        lengths, counts = np.diff(self.ring_starts)[rings], np.diff(self.polygon_starts)[keep]
        return Polygons(self.points[points], starts_of(lengths), starts_of(counts))

    def to_shapely(self) -> Array:
        """Return an array of polygons of shapely (the extra ``annotations``), x before y."""
        shapely = import_shapely()
        of_points = np.repeat(np.arange(len(self.ring_starts) - 1), np.diff(self.ring_starts))
        of_rings = np.repeat(np.arange(len(self)), np.diff(self.polygon_starts))
        if not len(self):
            return np.zeros(0, object)
        rings = shapely.linearrings(self.points[:, ::-1].astype(float), indices=of_points)
        polygons: Array = shapely.polygons(rings, indices=of_rings)
        return polygons

    def __len__(self) -> int:
        return len(self.polygon_starts) - 1

    def __getitem__(self, at: int) -> Outline:
        """Return polygon `at`."""
        at = range(len(self))[at]  # raises IndexError, counts from the end
        first, stop = self.polygon_starts[at : at + 2].tolist()
        ends = self.ring_starts[first : stop + 1].tolist()
        rings = [self.points[a:b] for a, b in pairwise(ends)]
        return Outline(rings[0], tuple(rings[1:]))

    def __iter__(self) -> Iterator[Outline]:
        return (self[at] for at in range(len(self)))

    def __repr__(self) -> str:
        return f"Polygons<{len(self):,} polygons, {len(self.points):,} points>"


def starts_of(lengths: Any) -> NDArray[np.int64]:
    """Return the sums of `lengths` before each one, and their total."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def import_shapely() -> Any:
    """Return the module shapely; raise ImportError with the name of the extra without it."""
    try:
        import shapely
    except ImportError as error:
        raise ImportError(
            "polygons need shapely; pip install 'dask-slides[annotations]'"
        ) from error
    return shapely
