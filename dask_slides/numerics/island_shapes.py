"""Islands of tissue on a lattice, and their division into pieces that waste less space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

EIGHT = np.ones((3, 3), bool)
"""Neighbours that connect two cells: above, below, beside and diagonal."""
FILLED = 0.03
"""Blank cells that an island encloses are kept if they are at most this share of its cells."""
MAX_ISLANDS = 256
"""With more islands, neighbours are joined: placing thousands of specks takes minutes."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Cells of a lattice that are moved together: an island, or a piece of one."""

    island: int
    """Number of the island, from 1."""
    y: int
    x: int
    """First row and column on the lattice of the slide."""
    mask: Mask
    """The cells of the shape, (rows, cols); none of the outer rows and columns is empty."""

    @property
    def waste(self) -> int:
        """Cells of the bounding box that are not in the shape."""
        return self.mask.size - int(np.count_nonzero(self.mask))


def island_shapes(cells: Mask, near: int = 0) -> list[Shape]:
    """Return the 8-connected islands of `cells` (rows, cols), numbered from 1 by row and column.

    Cells with at most twice `near` others between them are connected too.
    """
    reach = cells
    if near:
        reach = ndimage.binary_dilation(cells, EIGHT, iterations=near)
    labels, count = ndimage.label(reach, EIGHT)
    while count > MAX_ISLANDS:
        reach = ndimage.binary_dilation(reach, EIGHT)
        labels, count = ndimage.label(reach, EIGHT)
    labels = np.where(cells, labels, 0)
    return [
        Shape(number, rows.start, columns.start, labels[rows, columns] == number)
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1)
    ]


def with_small_holes(cells: Mask) -> Mask:
    """Return `cells` with the small holes of its islands, and with what lies in these."""
    out = cells.copy()
    labels, _ = ndimage.label(cells, EIGHT)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        out[box] |= _filled(labels[box] == number)
    return out


def _filled(mask: Mask) -> Mask:
    """Return `mask` without its holes, unless they are large."""
    filled: Mask = ndimage.binary_fill_holes(mask)
    return filled if filled.sum() <= (1 + FILLED) * mask.sum() else mask


def cut(shape: Shape) -> list[Shape]:
    """Cut a shape along a row or column so that the bounding boxes of both sides are smallest.

    A side that is not connected becomes several pieces.
    """
    axis, at = min(
        ((axis, *_best_cut(shape.mask if axis == 0 else shape.mask.T)) for axis in (0, 1)),
        key=lambda found: found[1],
    )[::2]
    before, after = np.split(shape.mask, [at], axis=axis)
    after_y, after_x = (shape.y + at, shape.x) if axis == 0 else (shape.y, shape.x + at)
    return [
        Shape(shape.island, top + piece.y, left + piece.x, piece.mask)
        for part, top, left in ((before, shape.y, shape.x), (after, after_y, after_x))
        for piece in _connected(part)
    ]


def bands(shape: Shape, height: int) -> list[Shape]:
    """Cut a shape into bands of `height` rows; the last one may be lower."""
    return [
        Shape(shape.island, shape.y + top + piece.y, shape.x + piece.x, piece.mask)
        for top in range(0, len(shape.mask), height)
        for piece in _connected(shape.mask[top : top + height])
    ]


def _connected(mask: Mask) -> list[Shape]:
    labels, _ = ndimage.label(mask, EIGHT)
    return [
        Shape(0, rows.start, columns.start, labels[rows, columns] == number)
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1)
    ]


def _best_cut(mask: Mask) -> tuple[int, int]:
    """Return the total area of the two bounding boxes, and the row before which to cut."""
    rows, columns = mask.shape
    if rows < 2:
        return 2 * mask.size + 1, 0  # more than any cut
    any_cell = mask.any(axis=1)
    first = np.where(any_cell, mask.argmax(axis=1), columns)
    last = np.where(any_cell, columns - mask[:, ::-1].argmax(axis=1), 0)
    above = np.maximum.accumulate(last)[:-1] - np.minimum.accumulate(first)[:-1]
    below = np.maximum.accumulate(last[::-1])[::-1] - np.minimum.accumulate(first[::-1])[::-1]
    at = np.arange(1, rows)
    areas = at * above + (rows - at) * below[1:]
    best = int(areas.argmin())
    return int(areas[best]), best + 1
