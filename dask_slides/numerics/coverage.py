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
_POINTS = 500
"""Points of a polygon above which it is cut into parts before it is compared with many boxes."""


def covered_areas(
    polygons: Polygons, labels: NDArray[np.int64], classes: int, boxes: Array
) -> NDArray[np.float64]:
    """Return the area of each box that the union of the polygons of each class covers.

    Areas of polygons add up, except those of polygons of one class that meet: these are united,
    box by box.

    Parameters
    ----------
    polygons : Polygons
        Those that cross themselves are repaired by ``shapely.make_valid``.
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
    scene = _scene(polygons)
    meets, tree = scene.which_meet(labels), scene.shapely.STRtree(scene.shapes)
    for first in range(0, len(boxes), _BOXES):
        part = slice(first, first + _BOXES)
        cells = scene.shapely.box(*low[part, ::-1].T, *high[part, ::-1].T)
        box, polygon = tree.query(cells)
        pairs = _Pairs(scene, cells[box], low[part][box], high[part][box], polygon)
        key = box * classes + labels[polygon]
        of_keys = _areas_of_keys(pairs, key, meets[polygon], len(cells) * classes)
        areas[part] = of_keys.reshape(-1, classes)
    return areas


def _areas_of_keys(pairs: _Pairs, key: Array, meets: Array, keys: int) -> Array:
    """Return the area of the union of all pairs with one key, a box and a class, for each key."""
    areas, full = np.zeros(keys), np.zeros(keys, bool)
    whole = pairs.whole()
    full[key[whole]] = True
    areas[key[whole]] = np.prod(pairs.high[whole] - pairs.low[whole], axis=1)
    rest = ~full[key] & pairs.overlap()
    united = rest & meets
    united[united] = np.bincount(key[united], minlength=keys)[key[united]] > 1
    single = rest & ~united
    areas += np.bincount(key[single], pairs.take(single).areas(), keys)
    if united.any():
        groups, index = np.unique(key[united], return_inverse=True)
        areas[groups] += pairs.take(united).united_areas(index)
    return areas


@dataclass(frozen=True)
class _Scene:
    """All polygons, and what is known of them before the boxes are."""

    shapely: Any
    shapes: Array
    """(n,) polygons of shapely, valid."""
    edges: Edges
    complex: NDArray[np.bool_]
    """(n,): shapely cuts the polygon, because it has many points or was repaired."""
    low: Array
    """(n, 2): least y and x."""
    high: Array
    """(n, 2): greatest y and x."""

    def which_meet(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which polygons meet another one of their class."""
        meets = np.zeros(len(self.shapes), bool)
        one, other = self.shapely.STRtree(self.shapes).query(self.shapes)
        pairs = (one < other) & (labels[one] == labels[other])
        one, other = one[pairs], other[pairs]
        found = self.shapely.intersects(self.shapes[one], self.shapes[other])
        meets[one[found]] = meets[other[found]] = True
        return meets


def _scene(polygons: Polygons) -> _Scene:
    shapely = import_shapely()
    shapes = polygons.to_shapely()
    wrong = ~shapely.is_valid(shapes)
    shapes[wrong] = shapely.make_valid(shapes[wrong], method="structure", keep_collapsed=False)
    shapely.prepare(shapes)
    large = np.diff(polygons.point_starts) > _POINTS
    bounds = polygons.bounds
    return _Scene(shapely, shapes, Edges.of(polygons), large | wrong, bounds[:, :2], bounds[:, 2:])


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a box and a polygon that are near each other."""

    scene: _Scene
    cells: Array
    """(n,) box of shapely."""
    low: Array
    """(n, 2) y and x where the box begins."""
    high: Array
    """(n, 2) y and x where the box ends."""
    polygon: Array
    """(n,) number of the polygon."""

    def take(self, at: Array) -> _Pairs:
        """Return some of the pairs."""
        cells, low, high, polygon = (x[at] for x in (self.cells, self.low, self.high, self.polygon))
        return _Pairs(self.scene, cells, low, high, polygon)

    def overlap(self) -> NDArray[np.bool_]:
        """Return where the rectangle around the polygon has a part in the box."""
        low, high = self.scene.low[self.polygon], self.scene.high[self.polygon]
        return np.asarray(((low < self.high) & (high > self.low)).all(axis=1))

    def whole(self) -> NDArray[np.intp]:
        """Return the indices of the pairs whose polygon covers the whole box."""
        low, high = self.scene.low[self.polygon], self.scene.high[self.polygon]
        around = np.flatnonzero(((low <= self.low) & (high >= self.high)).all(axis=1))
        shapes = self.scene.shapes[self.polygon[around]]
        return np.asarray(around[self.scene.shapely.contains(shapes, self.cells[around])])

    def areas(self) -> Array:
        """Return the area of each polygon in its box."""
        areas, hard = np.zeros(len(self.polygon)), self.scene.complex[self.polygon]
        areas[hard] = self.scene.shapely.area(self.take(hard).pieces())
        easy = self.take(~hard)
        areas[~hard] = areas_in_boxes(self.scene.edges, easy.polygon, easy.low, easy.high)
        return areas

    def united_areas(self, index: Array) -> Array:
        """Return the areas of the unions of the polygons of pairs with one index and one box."""
        shapely = self.scene.shapely
        shapes = self.scene.shapes[self.polygon]
        hard = self.scene.complex[self.polygon]
        shapes[hard] = self.take(hard).pieces()  # its other parts need not be united
        order = np.argsort(index, kind="stable")
        together = shapely.geometrycollections(shapes[order], indices=index[order])
        unions = shapely.union_all(together[:, None], axis=1)
        cells = self.cells[order][np.flatnonzero(np.diff(index[order], prepend=-1))]
        return np.asarray(shapely.area(shapely.intersection(unions, cells)))

    def pieces(self) -> Array:
        """Return the intersections, as polygons of shapely."""
        pieces = np.empty(len(self.polygon), object)
        for one in np.unique(self.polygon):
            pairs = self.polygon == one
            pieces[pairs] = self.take(pairs)._halved(self.scene.shapes[one])
        return pieces

    def _halved(self, shape: Any) -> Array:
        """Return the intersections of the boxes with `shape`, from ever smaller parts of it."""
        shapely = self.scene.shapely
        if len(self.cells) <= 2 or shapely.get_num_coordinates(shape) <= _POINTS:
            return np.asarray(shapely.intersection(shape, self.cells))
        axis = int(np.argmax(np.ptp(self.low, axis=0)))
        pieces = np.empty(len(self.cells), object)
        for at in np.array_split(np.argsort(self.low[:, axis], kind="stable"), 2):
            half = self.take(at)
            (y, x), (stop_y, stop_x) = half.low.min(axis=0), half.high.max(axis=0)
            part = shapely.intersection(shape, shapely.box(x, y, stop_x, stop_y))
            pieces[at] = half._halved(part)
        return pieces
