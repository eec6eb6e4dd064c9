"""Outlines of masks, and masks of outlines.

Pixel (i, j) of a mask covers rows ``y_edges[i]`` to ``y_edges[i + 1]`` and columns ``x_edges[j]``
to ``x_edges[j + 1]`` of level 0. The edges are integers, or any rising numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.polygons import Outline, Polygons
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError

_CROSSINGS = 4_000_000
"""Crossings of polygons and rows that are held at a time; each takes some 50 bytes."""


def mask_outlines(mask: Array, y_edges: Array, x_edges: Array) -> tuple[Outline, ...]:
    """Return the exact outlines of the True pixels, one per 4-connected piece.

    Rings are valid for OGC and shapely: where a piece meets itself at a corner of a pixel, two of
    its rings touch, and no ring touches itself. There are no points between collinear ones.

    Parameters
    ----------
    mask : array
        (rows, cols) bool.
    y_edges, x_edges : array
        (rows + 1) and (cols + 1): where the pixels begin and end in level 0.

    Returns
    -------
    tuple of Outline
        Points have the dtype of the edges. Pieces are sorted by their first pixel. Exteriors run
        clockwise on the screen from their first corner, holes the other way.

    Raises
    ------
    SlideArgumentError
        The mask is not a 2-D array of bool, or the edges do not fit it.
    """
    mask, y_edges, x_edges = np.asarray(mask), np.asarray(y_edges), np.asarray(x_edges)
    _check_mask(mask, y_edges, x_edges)
    pieces = _labelled(mask)
    rows, cols, along_y = _corners(pieces)
    order, ends = _rings(along_y)
    points = np.stack([y_edges[rows[order]], x_edges[cols[order]]], axis=1)
    first = order[ends[:-1]]  # the top left corner of each ring, where it turns to the right
    below, above = pieces[rows[first] + 1, cols[first] + 1], pieces[rows[first], cols[first] + 1]
    return _assembled(points, ends, below, above)


def _check_mask(mask: Array, y_edges: Array, x_edges: Array) -> None:
    if mask.ndim != 2 or mask.dtype != bool:
        raise SlideArgumentError(
            f"a mask is a 2-D array of bool, not {mask.ndim}-D of {mask.dtype}; use mask > 0"
        )
    _check_edges(y_edges, x_edges)
    if mask.shape != (len(y_edges) - 1, len(x_edges) - 1):
        raise SlideArgumentError(
            f"a mask of {mask.shape} has {mask.shape[0] + 1} edges along y and {mask.shape[1] + 1} "
            f"along x, not {len(y_edges)} and {len(x_edges)}"
        )


def _check_edges(*edges: Array) -> None:
    if any(one.ndim != 1 or not len(one) or (np.diff(one) <= 0).any() for one in edges):
        raise SlideArgumentError("edges of pixels must rise from each one to the next")


def _labelled(mask: Array) -> Array:
    """Return the number of the 4-connected piece of each pixel, 0 outside, with a border of 0."""
    from scipy import ndimage

    return np.asarray(ndimage.label(np.pad(mask, 1))[0])


_TURNS = np.array([0, 1, 1, 0, 1, 0, 2, 1, 1, 2, 0, 1, 0, 1, 1, 0], np.int8)
"""Corners at a point whose pixels around it are True: top left 1, top right 2, then 4 and 8."""
_FALLING = 1 + 8
"""Top left and bottom right are True."""


def _corners(pieces: Array) -> tuple[Array, Array, Array]:
    """Return row and column of the corners of all rings, and the next one along y of each.

    Corners are sorted by row and column, so that 2k and 2k + 1 are joined along x. A ring turns
    at a point if 1 or 3 of the 4 pixels around it are True. If 2 diagonal ones are::

        A .      two rings turn there. If A and B are of one piece, one ring turns around each
        . B      blank pixel, or it would touch itself; otherwise one around A and one around B.
    """
    inside = (pieces > 0).view(np.uint8)
    pairs = inside[:, :-1] + 2 * inside[:, 1:]
    around = (pairs[:-1] + 4 * pairs[1:]).reshape(-1)
    turns = _TURNS[around]
    at = np.flatnonzero(turns)
    rows, cols = np.divmod(at, pieces.shape[1] - 1)
    falling = around[at] == _FALLING
    left = pieces[rows + 1 - falling, cols]  # of two pixels, the one on the left
    right = pieces[rows + falling, cols + 1]
    # of two corners, the first one is joined to the left; and upwards?
    first_is_up = falling == (left != right)
    point = np.repeat(np.arange(len(at)), turns[at])
    second = np.diff(point, prepend=-1) == 0
    down = (turns[at] == 2)[point] & (second == first_is_up[point])
    rows, cols = rows[point], cols[point]
    return rows, cols, _joined_pairs((cols * len(pieces) + rows) * 2 + down)


def _joined_pairs(keys: Array) -> Array:
    """Return for each item the other one of its pair, if items are paired in the order of keys."""
    order = np.argsort(keys)
    other = np.empty_like(order)
    other[order] = order.reshape(-1, 2)[:, ::-1].reshape(-1)
    return other


def _rings(along_y: Array) -> tuple[Array, Array]:
    """Return the corners ring by ring, and where the rings begin in them.

    A ring begins at its first corner and turns to the right, where corner 2k + 1 follows 2k.
    """
    following = along_y.tolist()  # a list is read faster than an array, one by one
    left_ends: list[int] = []
    starts = []
    seen = bytearray(len(following) // 2)
    for first in range(0, len(following), 2):
        if seen[first >> 1]:
            continue
        starts.append(len(left_ends))
        corner = first
        while not seen[corner >> 1]:
            seen[corner >> 1] = 1
            left_ends.append(corner)
            corner = following[corner ^ 1]
    left = np.array(left_ends, np.int64)
    order = np.stack([left, left ^ 1], axis=1).reshape(-1)
    return order, 2 * np.array([*starts, len(left_ends)], np.int64)


def _assembled(points: Array, ends: Array, below: Array, above: Array) -> tuple[Outline, ...]:
    """Return the outlines of rings; the first edge of an exterior has the piece below it."""
    rings = np.split(points, ends[1:-1])
    exterior = below > 0
    holes: dict[int, list[Array]] = {}
    for at in np.flatnonzero(~exterior).tolist():
        ring = rings[at]
        holes.setdefault(int(above[at]), []).append(np.concatenate([ring[:1], ring[:0:-1]]))
    return tuple(
        Outline(rings[at], tuple(holes.get(int(below[at]), ())))
        for at in np.flatnonzero(exterior).tolist()
    )


def outlines_mask(
    outlines: Iterable[Outline] | Polygons, y_edges: Array, x_edges: Array
) -> NDArray[np.bool_]:
    """Return the mask of the pixels whose centres lie in one of the outlines and not in its holes.

    A centre on the upper or left side of an outline is inside, one on the lower or right side is
    not. The rings of one outline may cross: what an even number of them encloses is outside.

    Parameters
    ----------
    outlines : Polygons or sequence of Outline
        In pixels of level 0; they may overlap and reach beyond the mask.
    y_edges, x_edges : array
        (rows + 1) and (cols + 1): where the pixels begin and end in level 0.

    Returns
    -------
    array
        (rows, cols) bool.

    Raises
    ------
    SlideArgumentError
        The edges do not rise.
    """
    y_edges, x_edges = np.asarray(y_edges), np.asarray(x_edges)
    _check_edges(y_edges, x_edges)
    y, x = (edges[:-1] + np.diff(edges) / 2 for edges in (y_edges, x_edges))
    # +1 where an outline begins in a row and -1 where it ends
    steps = np.zeros(len(y) * (len(x) + 1), np.int32)
    for keys in _crossings(Polygons.of(outlines), y, x):
        keys.sort()
        cells = keys % len(steps)
        np.add.at(steps, cells[::2], 1)
        np.add.at(steps, cells[1::2], -1)
    inside = np.cumsum(steps.reshape(len(y), len(x) + 1)[:, :-1], axis=1, dtype=np.int32)
    return np.asarray(inside > 0)


def _crossings(polygons: Polygons, y: Array, x: Array) -> Iterator[NDArray[np.int64]]:
    """Yield where polygons cross the rows of centres, each as one number, some polygons at a time.

    The number is (polygon * rows + row) * (cols + 1) + column, the first column right of it.
    Closed rings cross a row an even number of times, so that sorted numbers are pairs.
    """
    a, b = polygons.points, polygons.next_points()
    low, high = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
    first = np.searchsorted(y, low)
    counts = np.searchsorted(y, high) - first
    owner = np.repeat(np.arange(len(polygons)), np.diff(polygons.point_starts))
    for start, stop in _batches(counts, polygons.point_starts):
        edge = np.repeat(np.arange(start, stop), counts[start:stop])
        before = np.cumsum(counts[start:stop]) - counts[start:stop]
        row = np.arange(len(edge)) - np.repeat(before - first[start:stop], counts[start:stop])
        from_y, from_x, to_y, to_x = a[edge, 0], a[edge, 1], b[edge, 0], b[edge, 1]
        across = from_x + (y[row] - from_y) * ((to_x - from_x) / (to_y - from_y))
        column = np.searchsorted(x, across)
        yield (owner[edge] * len(y) + row) * (len(x) + 1) + column


def _batches(counts: Array, starts: Array) -> Iterator[tuple[int, int]]:
    """Yield ranges of edges of whole polygons with about `_CROSSINGS` crossings each."""
    totals = np.concatenate([[0], np.cumsum(counts)])[starts]
    at = 0
    while at < len(starts) - 1:
        stop = int(np.searchsorted(totals, totals[at] + _CROSSINGS, side="right")) - 1
        stop = max(at + 1, stop)
        yield int(starts[at]), int(starts[stop])
        at = stop
