"""Areas of polygons in boxes, for many pairs of them at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.polygons import Polygons
from dask_slides.core.types import Array


@dataclass(frozen=True)
class Edges:
    """The edges of polygons, in the order of their points."""

    start: Array
    """(edges, 2) as (y, x)."""
    end: Array
    """(edges, 2) as (y, x)."""
    signs: Array
    """(edges,) 1 or -1: the areas below the edges, with these signs, add up to the polygon's."""
    first: NDArray[np.int64]
    """(polygons + 1): first edge of each polygon, and the number of edges."""

    @classmethod
    def of(cls, polygons: Polygons) -> Edges:
        """Return the edges of polygons whose rings do not cross themselves or each other."""
        start, end = polygons.points.astype(np.float64), polygons.next_points().astype(np.float64)
        below = (end[:, 1] - start[:, 1]) * (start[:, 0] + end[:, 0])
        rings = polygons.ring_starts
        signs = np.sign(np.add.reduceat(below, rings[:-1])) if len(below) else below
        holes = np.ones(len(signs), bool)
        holes[polygons.polygon_starts[:-1]] = False
        signs = np.repeat(np.where(holes, -signs, signs), np.diff(rings))
        return cls(start, end, signs, polygons.point_starts)


def areas_in_boxes(edges: Edges, polygon: Array, low: Array, high: Array) -> Array:
    """Return the areas of the intersections of polygons with one box each.

    A line along y has a length in the polygon and the box that is the sum of y over the edges it
    crosses, with alternating signs and y limited to the box. The area is its integral along x.

    Parameters
    ----------
    edges : Edges
        Of all polygons.
    polygon : array
        (n,) int64: the polygon of each pair.
    low, high : array
        (n, 2) float64: y and x where the box of each pair begins and ends.

    Returns
    -------
    array
        (n,) float64.
    """
    counts = np.diff(edges.first)[polygon]
    pair = np.repeat(np.arange(len(polygon)), counts)
    edge = np.arange(len(pair)) - np.repeat(
        np.cumsum(counts) - counts - edges.first[polygon], counts
    )
    left, right = low[pair, 1], high[pair, 1]
    begins = np.clip(edges.start[edge, 1], left, right)
    ends = np.clip(edges.end[edge, 1], left, right)
    kept = np.flatnonzero(begins != ends)  # the others are beside the box, or run along y
    pair, edge, begins, ends = pair[kept], edge[kept], begins[kept], ends[kept]
    (y, x), (step_y, step_x) = edges.start[edge].T, (edges.end[edge] - edges.start[edge]).T
    y = y - low[pair, 0]
    mean = _limited_mean(
        y + step_y * ((begins - x) / step_x),
        y + step_y * ((ends - x) / step_x),
        high[pair, 0] - low[pair, 0],
    )
    return np.bincount(pair, (ends - begins) * mean * edges.signs[edge], len(polygon))


def _limited_mean(one: Array, other: Array, limit: Array) -> Array:
    """Return the mean of numbers from `one` to `other`, each limited to 0 to `limit`."""
    low, high = np.minimum(one, other), np.maximum(one, other)
    inner_low, inner_high = np.clip(low, 0, limit), np.clip(high, 0, limit)
    above = np.maximum(high - np.maximum(low, limit), 0)
    sums = (inner_high - inner_low) * (inner_low + inner_high) / 2 + above * limit
    length = high - low
    return np.where(length > 0, sums / np.where(length > 0, length, 1), inner_low)
