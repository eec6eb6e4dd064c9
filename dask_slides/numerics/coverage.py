"""Areas of boxes that polygons cover, with shapely (the extra ``annotations``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.polygons import Polygons, import_shapely
from dask_slides.core.types import Array
from dask_slides.numerics.box_areas import Edges, areas_in_boxes

_BOXES = 10_000
"""Boxes that are processed at a time, which bounds the memory."""
_POINTS = 100
"""Points of a polygon above which it is cut into parts: each is near fewer boxes."""
_HALVINGS = 40
"""Enough for any polygon whose points are not all at one place."""


def covered_areas(
    polygons: Polygons, labels: NDArray[np.int64], classes: int, boxes: Array
) -> NDArray[np.float64]:
    """Return the area of each box that the union of the polygons of each class covers.

    Areas of polygons add up, except those of polygons of one class that meet: these are united,
    box by box.

    Parameters
    ----------
    polygons : Polygons
        Where the rings of one cross, what an even number of them encloses is outside, as in
        `outlines_mask`.
    labels : array
        (polygons,) int64: the class of each polygon, from 0.
    classes : int
        Number of classes.
    boxes : array
        (n, 4) as y, x, height, width, in pixels of level 0.

    Returns
    -------
    array
        (n, classes) float64, in square pixels of level 0.
    """
    low = boxes[:, :2].astype(np.float64)
    high = low + boxes[:, 2:]
    areas = np.zeros((len(boxes), classes))
    if not len(polygons) or not len(boxes):
        return areas
    parts = _Parts.of(polygons, labels)
    tree = parts.shapely.STRtree(parts.shapes)
    for first in range(0, len(boxes), _BOXES):
        batch = slice(first, first + _BOXES)
        cells = parts.shapely.box(*low[batch, ::-1].T, *high[batch, ::-1].T)
        box, part = tree.query(cells)
        pairs = _Pairs(parts, part, cells[box], low[batch][box], high[batch][box])
        key = box * classes + parts.labels[part]
        areas[batch] = _areas_of_keys(pairs, key, len(cells) * classes).reshape(-1, classes)
    return areas


def _areas_of_keys(pairs: _Pairs, key: Array, keys: int) -> Array:
    """Return the area of the union of all pairs with one key, a box and a class, for each key."""
    areas, full = np.zeros(keys), np.zeros(keys, bool)
    whole = pairs.whole()
    full[key[whole]] = True
    areas[key[whole]] = np.prod(pairs.high[whole] - pairs.low[whole], axis=1)
    rest = ~full[key]
    united = rest & pairs.parts.meets[pairs.part]
    united[united] = np.bincount(key[united], minlength=keys)[key[united]] > 1
    single = rest & ~united
    areas += np.bincount(key[single], pairs.take(single).areas(), keys)
    if united.any():
        groups, index = np.unique(key[united], return_inverse=True)
        areas[groups] += pairs.take(united).united_areas(index)
    return areas


@dataclass(frozen=True)
class _Parts:
    """Valid polygons of few points, which are all of an annotated polygon or a part of it."""

    shapely: Any
    shapes: Array
    """(n,) polygons of shapely."""
    edges: Edges
    labels: NDArray[np.int64]
    """(n,): class."""
    meets: NDArray[np.bool_]
    """(n,): whether it meets a part of another polygon of its class."""
    low: Array
    """(n, 2): least y and x."""
    high: Array
    """(n, 2): greatest y and x."""

    @classmethod
    def of(cls, polygons: Polygons, labels: NDArray[np.int64]) -> _Parts:
        """Divide polygons that cross themselves, and those of many points."""
        shapely = import_shapely()
        shapes = polygons.to_shapely()
        wrong = ~shapely.is_valid(shapes)
        shapes[wrong] = _even_odd(shapely, shapes[wrong])
        shapes, owner = _cut(shapely, shapes)
        shapely.prepare(shapes)
        labels = labels[owner]
        parts = Polygons.from_shapely(shapes)
        low, high = np.split(parts.bounds, 2, axis=1)
        meets = _which_meet(shapely, shapes, labels, owner)
        return cls(shapely, shapes, Edges.of(parts), labels, meets, low, high)


def _even_odd(shapely: Any, shapes: Array) -> Array:
    """Return the faces between the rings of each of `shapes` that an odd number of them encloses.

    `shapely.make_valid` has other rules: one fills what rings enclose twice, and the other one
    does not notice edges that rings run along twice.
    """
    rings, owner = shapely.get_rings(shapes, return_index=True)
    lines = shapely.multilinestrings(rings, indices=owner)[:, None]
    faces = shapely.polygonize(shapely.union_all(lines, axis=1)[:, None], axis=1)
    faces, of_shape = shapely.get_parts(faces, return_index=True)
    points = shapely.get_coordinates(shapely.point_on_surface(faces))
    start, ring = shapely.get_coordinates(rings, return_index=True)
    is_edge = np.diff(ring, append=-1) == 0  # the last point of a ring has no edge after it
    edges = np.concatenate([start, np.roll(start, -1, axis=0)], axis=1)[is_edge]
    # a ray to the right of each face crosses an odd number of edges
    right = np.stack([shapely.bounds(shapes)[of_shape, 2], points[:, 1]], axis=1)
    rays = shapely.linestrings(np.stack([points, right], axis=1))
    ray, edge = shapely.STRtree(shapely.linestrings(edges.reshape(-1, 2, 2))).query(rays)
    same = owner[ring[is_edge]][edge] == of_shape[ray]
    ray, edge = ray[same], edge[same]
    (x, y), (from_x, from_y, to_x, to_y) = points[ray].T, edges[edge].T
    crosses = (from_y > y) != (to_y > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        crosses &= from_x + (y - from_y) * ((to_x - from_x) / (to_y - from_y)) > x
    inside = np.bincount(ray[crosses], minlength=len(faces)) % 2 == 1
    found: Array = np.full(len(shapes), shapely.MultiPolygon())
    shapely.multipolygons(faces[inside], indices=of_shape[inside], out=found)
    return found


def _cut(shapely: Any, shapes: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return polygons of up to `_POINTS` points that make up `shapes`, and the index of each."""
    owner = np.flatnonzero(~shapely.is_empty(shapes))
    shapes, index = shapely.get_parts(shapes[owner], return_index=True)
    owner = owner[index]
    for _ in range(_HALVINGS):
        large = shapely.get_num_coordinates(shapes) > _POINTS
        if not large.any():
            break
        whole = np.tile(shapes[large], 2)
        halves = shapely.intersection(whole, shapely.box(*_halves(shapely.bounds(shapes[large])).T))
        pieces, index = shapely.get_parts(halves, return_index=True)
        flat = shapely.get_dimensions(pieces) < 2  # lines and points along the cut
        shapes = np.concatenate([shapes[~large], pieces[~flat]])
        owner = np.concatenate([owner[~large], np.tile(owner[large], 2)[index[~flat]]])
    return shapes, owner


def _halves(bounds: Array) -> Array:
    """Return the first halves of boxes (n, 4) along their longer sides, then the second ones."""
    first, second = bounds.copy(), bounds.copy()
    along_y = bounds[:, 3] - bounds[:, 1] > bounds[:, 2] - bounds[:, 0]
    for axis, chosen in ((0, ~along_y), (1, along_y)):
        middle = (bounds[chosen, axis] + bounds[chosen, 2 + axis]) / 2
        first[chosen, 2 + axis] = second[chosen, axis] = middle
    return np.concatenate([first, second])


def _which_meet(shapely: Any, shapes: Array, labels: Array, owner: Array) -> NDArray[np.bool_]:
    """Return which parts meet one of the same class and of another polygon."""
    meets = np.zeros(len(shapes), bool)
    one, other = shapely.STRtree(shapes).query(shapes)
    pairs = (one < other) & (labels[one] == labels[other]) & (owner[one] != owner[other])
    one, other = one[pairs], other[pairs]
    found = shapely.intersects(shapes[one], shapes[other])
    meets[one[found]] = meets[other[found]] = True
    return meets


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a part and a box that are near each other."""

    parts: _Parts
    part: Array
    """(n,) number of the part."""
    cells: Array
    """(n,) box of shapely."""
    low: Array
    """(n, 2) y and x where the box begins."""
    high: Array
    """(n, 2) y and x where the box ends."""

    def take(self, at: Array) -> _Pairs:
        """Return some of the pairs."""
        part, cells, low, high = (x[at] for x in (self.part, self.cells, self.low, self.high))
        return _Pairs(self.parts, part, cells, low, high)

    def whole(self) -> NDArray[np.intp]:
        """Return the indices of the pairs whose part covers the whole box."""
        low, high = self.parts.low[self.part], self.parts.high[self.part]
        around = np.flatnonzero(((low <= self.low) & (high >= self.high)).all(axis=1))
        shapes = self.parts.shapes[self.part[around]]
        return np.asarray(around[self.parts.shapely.contains(shapes, self.cells[around])])

    def areas(self) -> Array:
        """Return the area of each part in its box."""
        return areas_in_boxes(self.parts.edges, self.part, self.low, self.high)

    def united_areas(self, index: Array) -> Array:
        """Return the areas of the unions of the parts of pairs with one index and one box."""
        shapely = self.parts.shapely
        order = np.argsort(index, kind="stable")
        together = shapely.geometrycollections(
            self.parts.shapes[self.part[order]], indices=index[order]
        )
        unions = shapely.union_all(together[:, None], axis=1)
        pieces, of_piece = shapely.get_parts(unions, return_index=True)
        first = order[np.flatnonzero(np.diff(index[order], prepend=-1))][of_piece]
        edges, number = Edges.of(Polygons.from_shapely(pieces)), np.arange(len(pieces))
        areas = areas_in_boxes(edges, number, self.low[first], self.high[first])
        return np.bincount(of_piece, areas, len(unions))
