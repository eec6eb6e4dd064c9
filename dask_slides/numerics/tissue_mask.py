"""Masks of tissue, and the exact area of tissue in tiles of any size and position.

A mask has few pixels. Each of them covers whole pixels of level 0 of the slide, so that areas are
whole numbers: they are what you get if you enlarge the mask to level 0 and count pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.equality import EqualByFields
from dask_slides.core.grid import TileGrid
from dask_slides.core.types import Array
from dask_slides.runtime.threads import in_slices

BLANK, TISSUE, MISSING = 0, 1, 2
"""Values of the pixels of a mask. Missing: an absent or corrupt tile of the file."""
COLUMNS = 512
"""Columns of a mask to sum up at a time, which bounds the memory."""

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TissueMask(EqualByFields):
    """Where a slide shows tissue."""

    kinds: Array
    """(rows, cols) uint8: `BLANK`, `TISSUE` or `MISSING`."""
    y_edges: Integers
    """(rows + 1,) where the rows start in level 0, and the end."""
    x_edges: Integers
    """(cols + 1,) where the columns start in level 0, and the end."""
    grey: Array | None = None
    """(rows, cols) uint8, the picture in which the tissue was found; None if there is none."""

    @classmethod
    def of(cls, tissue: NDArray[np.bool_], edges: tuple[Integers, Integers]) -> TissueMask:
        """Return the mask of `tissue` (rows, cols), of which no pixel is missing."""
        return cls(np.where(tissue, np.uint8(TISSUE), np.uint8(BLANK)), *edges)

    @cached_property
    def tissue(self) -> NDArray[np.bool_]:
        """(rows, cols) bool, True = tissue."""
        return np.asarray(self.kinds == TISSUE)

    @cached_property
    def missing(self) -> NDArray[np.bool_] | None:
        """(rows, cols) bool, True = missing; None if nothing is."""
        found = self.kinds == MISSING
        return found if found.any() else None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of level 0 of the slide."""
        return int(self.y_edges[-1]), int(self.x_edges[-1])

    def with_tissue(self, tissue: NDArray[np.bool_]) -> TissueMask:
        """Return the mask with other tissue; missing pixels that are not tissue stay missing."""
        kinds = np.where(tissue, TISSUE, np.where(self.kinds == MISSING, MISSING, BLANK))
        return replace(self, kinds=kinds.astype(np.uint8))

    def combined(self, other: TissueMask, operation: np.ufunc) -> TissueMask:
        """Return `operation` of the tissue of two masks of a slide, on the edges of both.

        What is missing in one of them and not tissue in the result stays missing.
        """
        y_edges = np.union1d(self.y_edges, other.y_edges)
        x_edges = np.union1d(self.x_edges, other.x_edges)
        one, two = self.resampled(y_edges, x_edges), other.resampled(y_edges, x_edges)
        missing = (one.kinds == MISSING) | (two.kinds == MISSING)
        kinds = np.where(missing, MISSING, one.kinds).astype(np.uint8)
        return replace(one, kinds=kinds).with_tissue(operation(one.tissue, two.tissue))

    def without_small(self, pixels: float) -> TissueMask:
        """Return the mask without pieces of tissue of fewer than `pixels` of level 0."""
        from scipy import ndimage

        labels, count = ndimage.label(self.tissue, np.ones((3, 3), bool))
        keeps = self._areas_of(labels, count) >= pixels
        keeps[0] = False
        return self.with_tissue(keeps[labels])

    def without_holes(self, pixels: float) -> TissueMask:
        """Return the mask with holes in tissue of up to `pixels` of level 0 filled.

        Missing pixels stay missing.
        """
        from scipy import ndimage

        labels, count = ndimage.label(~self.tissue)
        fills = self._areas_of(labels, count) <= pixels
        fills[0] = False
        for border in (labels[:1], labels[-1:], labels[:, :1], labels[:, -1:]):
            fills[border] = False  # open to the outside, so not a hole
        return self.with_tissue(self.tissue | (fills[labels] & (self.kinds != MISSING)))

    def _areas_of(self, labels: Array, count: int) -> Array:
        heights, widths = np.diff(self.y_edges)[:, None], np.diff(self.x_edges)
        weights = np.broadcast_to(heights * widths, labels.shape)
        return np.bincount(labels.reshape(-1), weights.reshape(-1), count + 1)

    def resampled(self, y_edges: Integers, x_edges: Integers) -> TissueMask:
        """Return the mask on other edges: each new pixel takes the value at its first pixel."""
        rows = np.searchsorted(self.y_edges, y_edges[:-1], side="right") - 1
        columns = np.searchsorted(self.x_edges, x_edges[:-1], side="right") - 1
        index = np.ix_(rows, columns)
        grey = None if self.grey is None else self.grey[index]
        return TissueMask(self.kinds[index], y_edges, x_edges, grey)


def edges_of_picture(size: int, pixels: int) -> Integers:
    """Return the edges of `pixels` equal parts of `size`, in whole pixels."""
    return np.arange(pixels + 1, dtype=np.int64) * size // max(1, pixels)


def edges_of_mask(shape: tuple[int, int], pixels: tuple[int, ...]) -> tuple[Integers, Integers]:
    """Return the edges of a mask of `pixels` (rows, cols) that covers a slide of `shape`."""
    y, x = (edges_of_picture(n, m) for n, m in zip(shape, pixels, strict=True))
    return y, x


def edges_of_grid(grid: TileGrid) -> tuple[Integers, Integers]:
    """Return the edges of the cells of `grid`, whose tiles do not overlap."""
    y, x = (np.append(grid.starts(axis), grid.shape[axis]) for axis in (0, 1))
    return y, x


def grid_areas(values: Array, mask: TissueMask, rows: Integers, columns: Integers) -> Integers:
    """Sum `values` times their area over each cell of a grid.

    Parameters
    ----------
    values : ndarray
        (rows, cols) of `mask`: booleans, or integers whose sum fits 64 bits.
    rows, columns : ndarray
        (n, 2) and (m, 2), starts and ends in pixels of level 0. What lies beyond the slide counts
        as 0.

    Returns
    -------
    ndarray
        (n, m) int64, exact.
    """
    down = np.empty((len(rows), values.shape[1]), np.int64)

    def sum_columns(part: slice) -> None:
        down[:, part] = _sums(values[:, part], mask.y_edges, rows)

    in_slices(sum_columns, values.shape[1], COLUMNS)
    return np.ascontiguousarray(_sums(down.T, mask.x_edges, columns).T)


def _sums(values: Array, edges: Integers, spans: Integers) -> Integers:
    """Return the sums of the rows of `values`, times their heights, over each of `spans`."""
    from scipy.sparse import csr_array

    points = np.unique(np.clip(spans, edges[0], edges[-1]))
    if len(points) < 2 or not values.size:
        return np.zeros((len(spans), values.shape[1]), np.int64)
    # rows are divided at the points, summed between them, and summed up from the first point
    cuts = np.union1d(points, edges[(edges > points[0]) & (edges < points[-1])])
    rows = np.searchsorted(edges, cuts[:-1], side="right") - 1
    ends = np.append(np.searchsorted(cuts, points[:-1]), len(rows))
    # single precision holds the whole numbers up to 2**24
    small = values.dtype == np.bool_ and np.diff(points).max() < 2**24
    heights = np.diff(cuts).astype(np.float32 if small else np.int64)
    weights = csr_array((heights, rows, ends), shape=(len(points) - 1, len(values)))
    parts = (weights @ values.astype(heights.dtype)).astype(np.int64)
    total = np.zeros((len(points), values.shape[1]), np.int64)
    np.cumsum(parts, axis=0, out=total[1:])
    first, last = np.searchsorted(points, np.clip(spans, points[0], points[-1])).T
    return np.asarray(total[last] - total[first])


def _positions(edges: Integers, points: Array) -> tuple[Integers, Array]:
    """Return the row of the mask that holds each point, and the distance from its start."""
    points = np.clip(points, edges[0], edges[-1])
    index = np.minimum(np.searchsorted(edges, points, side="right") - 1, len(edges) - 2)
    return index, points - edges[index]


class BoxSums:
    """Sums of the values of a mask over many boxes at any position."""

    def __init__(self, values: Array, mask: TissueMask) -> None:
        self._values, self._mask = values, mask
        heights, widths = np.diff(mask.y_edges)[:, None], np.diff(mask.x_edges)
        self._total = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.int64)
        np.cumsum(values * heights * widths, axis=0, out=self._total[1:, 1:])
        np.cumsum(self._total, axis=1, out=self._total)

    def __call__(self, boxes: Array) -> Array:
        """Return the sums (n,) over `boxes` (n, 4): y, x, height, width in level 0.

        Those over boxes in whole pixels are exact integers. Other boxes have parts of pixels: sums
        of all pixels above and left are bilinear in each pixel.
        """
        y, x, height, width = boxes.T
        return (
            self._up_to(y + height, x + width)
            - self._up_to(y, x + width)
            - self._up_to(y + height, x)
            + self._up_to(y, x)
        )

    def _up_to(self, y: Array, x: Array) -> Array:
        mask, total = self._mask, self._total
        i, dy = _positions(mask.y_edges, y)
        j, dx = _positions(mask.x_edges, x)
        height, width = np.diff(mask.y_edges)[i], np.diff(mask.x_edges)[j]
        row = (total[i + 1, j] - total[i, j]) // height  # of the pixels to the left, exact
        column = (total[i, j + 1] - total[i, j]) // width
        return np.asarray(total[i, j] + dy * row + dx * column + dy * dx * self._values[i, j])
