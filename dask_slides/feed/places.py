"""Where crops of one slide may lie, in few bytes, and the draw of a place among them."""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.types import Array
from dask_slides.numerics.tissue_mask import TissueMask, edges_of_mask
from dask_slides.runtime.fork_safety import fork_safe_lock

BLOCK = 32
"""Side of a block of pixels of a mask. A draw chooses a block, and then a pixel of it."""
MOST_PIXELS = 2**20
"""Most pixels of a mask that are looked at together."""
UNPACKED_BYTES = 2**28
"""Bytes of masks and their like that a process keeps unpacked. A mask has one bit per pixel: one
of a slide of 100,000 px takes about 2 MB."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """An array in few bytes, for pickles."""

    data: bytes
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: Array) -> Packed:
        """Compress `array`."""
        array = np.ascontiguousarray(array)
        return cls(zlib.compress(array.tobytes(), 1), array.dtype.str, array.shape)

    def array(self) -> Array:
        """Return the array, read-only."""
        return _UNPACKED.get(self)


class _UnpackedArrays:
    """Arrays that were unpacked last, up to some bytes. Threads may share it."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._arrays: OrderedDict[Packed, Array] = OrderedDict()
        self._lock = fork_safe_lock()

    def get(self, packed: Packed) -> Array:
        with self._lock:
            array = self._arrays.get(packed)
            if array is not None:
                self._arrays.move_to_end(packed)
                return array
        array = np.frombuffer(zlib.decompress(packed.data), packed.dtype).reshape(packed.shape)
        with self._lock:
            if packed not in self._arrays:
                self._arrays[packed] = array
                self._bytes += array.nbytes
            while self._bytes > self._limit and len(self._arrays) > 1:
                self._bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array


_UNPACKED = _UnpackedArrays(UNPACKED_BYTES)


@dataclass(frozen=True)
class Bits:
    """A mask (rows, cols), one bit per pixel."""

    bits: Packed
    """(rows, bytes) uint8."""
    columns: int

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Bits:
        """Pack `mask`."""
        return cls(Packed.of(np.packbits(mask, axis=1)), mask.shape[1])

    def boxes(self, rows: Integers, first: Integers, columns: int) -> Array:
        """Return boxes (n, h, columns) of `rows` (n, h), uint8 of 0 and 1.

        Their columns begin at `first` (n,). It and `columns` are multiples of 8.
        """
        bits = self.bits.array()
        at = np.minimum(first[:, None] // 8 + np.arange(columns // 8), bits.shape[1] - 1)
        return np.unpackbits(bits[rows[:, :, None], at[:, None, :]], axis=2)


@dataclass(frozen=True)
class Edges:
    """The edges of the pixels of a mask along both axes, in pixels of level 0."""

    y: Packed
    x: Packed

    @classmethod
    def of(cls, mask: TissueMask) -> Edges:
        """Pack the edges of `mask`."""
        return cls(Packed.of(mask.y_edges), Packed.of(mask.x_edges))


@dataclass(frozen=True)
class CropPlaces:
    """Places of the crops of one slide, at the scale at which they are read."""

    shape: tuple[int, int]
    """Height and width of the image."""
    factors: tuple[float, float]
    """Pixels of level 0 per pixel of the image."""
    size: tuple[int, int]
    """Height and width of a crop in pixels of the image."""
    min_tissue: float
    edges: Edges
    tissue: Bits
    missing: Bits | None
    centres: Bits
    """Where centres of crops may lie."""
    blocks: Packed
    """(blocks,) int64: the blocks with a centre, along a curve on which neighbours are near."""
    summed: Packed
    """(blocks,) float64: weights of the blocks, summed up."""
    weights: Packed | None
    """(h, w) float64 of the user, which cover the slide."""
    holes: Packed
    """(n, 4) absent tiles: top, left, bottom, right in pixels of the image."""

    @classmethod
    def of(
        cls,
        mask: TissueMask,
        centres: NDArray[np.bool_],
        *,
        shape: tuple[int, int],
        size: tuple[int, int],
        min_tissue: float,
        weights: NDArray[np.float64] | None = None,
        holes: Sequence[tuple[int, int, int, int]] = (),
    ) -> CropPlaces:
        """Return the places of crops with their centre in `centres`, a mask on that of tissue."""
        areas = np.multiply.outer(np.diff(mask.y_edges), np.diff(mask.x_edges)) * centres
        if weights is not None:
            at = np.ix_(*_rows_of(weights.shape, mask.y_edges, mask.x_edges))
            if (weighted := areas * weights[at]).any():
                # on average 1, so that their unit has no effect on the area
                weights = weights * (areas[weighted > 0].sum() / weighted.sum())
            areas = areas * weights[at]
        blocks, sums = _blocks(areas)
        factors = mask.shape[0] / shape[0], mask.shape[1] / shape[1]
        missing = None if mask.missing is None else Bits.of(mask.missing)
        return cls(
            shape, factors, size, min_tissue, Edges.of(mask), Bits.of(mask.tissue), missing,
            Bits.of(areas > 0), Packed.of(blocks), Packed.of(np.cumsum(sums)),
            None if weights is None else Packed.of(weights),
            Packed.of(np.array(holes, np.int64).reshape(-1, 4)),
        )  # fmt: skip

    @property
    def weight(self) -> float:
        """The area of the centres in pixels of level 0, without those of weight 0."""
        summed = self.summed.array()
        return float(summed[-1]) if len(summed) else 0.0

    @property
    def crop_area(self) -> float:
        """The area of a crop in pixels of level 0."""
        return math.prod(self.size) * math.prod(self.factors)

    def centres_of(self, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the centres (n, 2) of crops in pixels of level 0.

        `drawn` (3, n) in [0, 1) are the places along the curve, and within a pixel along y and x.
        """
        each = MOST_PIXELS // BLOCK**2
        parts = range(0, drawn.shape[1], each)
        return np.concatenate([self._centres_of(drawn[:, n : n + each]) for n in parts])

    def _centres_of(self, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        summed = self.summed.array()
        along = drawn[0] * summed[-1]
        index = np.minimum(summed.searchsorted(along, side="right"), len(summed) - 1)
        along = along - np.where(index, summed[index - 1], 0)
        index, which = np.unique(index, return_inverse=True)
        y_edges, x_edges = self.edges.y.array(), self.edges.x.array()
        across = -(-(len(x_edges) - 1) // BLOCK)
        top, left = (BLOCK * one for one in np.divmod(self.blocks.array()[index], across))
        (y, y_cuts), (x, x_cuts) = _pixels(y_edges, top, BLOCK), _pixels(x_edges, left, BLOCK)
        areas = np.diff(y_cuts)[:, :, None] * np.diff(x_cuts)[:, None, :]
        areas = areas * self.centres.boxes(y, left, BLOCK)
        if self.weights is not None:
            weights = self.weights.array()
            of_y, of_x = _rows_of(weights.shape, y_edges, x_edges)
            areas = areas * weights[of_y[y][:, :, None], of_x[x][:, None, :]]
        sums = areas.reshape(len(index), -1).cumsum(axis=1)[which]
        # the sum of a block may differ in its last bits from that of all blocks
        along = np.minimum(along, sums[:, -1] * (1 - 2**-50))
        i, j = np.divmod(np.count_nonzero(sums <= along[:, None], axis=1), BLOCK)
        i, j = i + top[which], j + left[which]
        inside = _between(y_edges, i, drawn[1]), _between(x_edges, j, drawn[2])
        return np.stack(inside, axis=1)

    def corners(self, centres: NDArray[np.float64]) -> Integers:
        """Return the top left (n, 2) of crops around `centres`, moved into the image if needed."""
        size = np.array(self.size)
        corners = (centres / self.factors).astype(np.int64) - size // 2
        return np.asarray(np.clip(corners, 0, np.array(self.shape) - size), np.int64)

    def on_level0(self, points: Integers) -> Integers:
        """Return points (n, 2) of the image in pixels of level 0."""
        return np.asarray(np.rint(points * self.factors), np.int64)

    def tissue_fractions(self, corners: Integers) -> NDArray[np.float64]:
        """Return the share of each crop that is tissue; NaN if pixels of it are missing."""
        low, high = self.on_level0(corners), self.on_level0(corners + self.size)
        y, heights = _overlaps(self.edges.y.array(), low[:, 0], high[:, 0])
        x, widths = _overlaps(self.edges.x.array(), low[:, 1], high[:, 1])
        tissue, missing = np.empty(len(corners), np.int64), self._in_holes(corners)
        columns = widths.shape[1]
        each = max(1, MOST_PIXELS // (y.shape[1] * columns))
        for some in (slice(n, n + each) for n in range(0, len(corners), each)):
            inside = self.tissue.boxes(y[some], x[some, 0], columns)
            tissue[some] = ((inside * widths[some, None]).sum(axis=2) * heights[some]).sum(axis=1)
            if self.missing is not None:
                touched = (heights[some, :, None] > 0) & (widths[some, None] > 0)
                lost = self.missing.boxes(y[some], x[some, 0], columns) * touched
                missing[some] |= lost.any(axis=(1, 2))
        return np.where(missing, np.nan, tissue / (heights.sum(axis=1) * widths.sum(axis=1)))

    def _in_holes(self, corners: Integers) -> NDArray[np.bool_]:
        """Return whether each crop touches an absent tile."""
        inside = np.zeros(len(corners), bool)
        holes = self.holes.array()
        if len(holes):
            for i, corner in enumerate(corners):
                touched = (corner < holes[:, 2:]) & (corner + self.size > holes[:, :2])
                inside[i] = touched.all(axis=1).any()
        return inside


def _between(edges: Integers, index: Integers, within: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points between two edges, which are whole numbers; never the second edge."""
    low, high = edges[index], edges[index + 1]
    last = np.nextafter(high.astype(np.float64), low)
    return np.asarray(np.minimum(low + within * (high - low), last))


def _pixels(edges: Integers, first: Integers, count: int) -> tuple[Integers, Integers]:
    """Return `count` pixels from each `first` on, (n, count), and their edges (n, count + 1).

    Those beyond the last pixel are that one, with both edges at its end.
    """
    at = np.minimum(first[:, None] + np.arange(count + 1), len(edges) - 1)
    return np.minimum(at[:, :-1], len(edges) - 2), edges[at]


def _overlaps(edges: Integers, low: Integers, high: Integers) -> tuple[Integers, Integers]:
    """Return the pixels that each [low, high) touches, (n, m), and how long it is in each.

    m and the first ones are multiples of 8, so that there are others, in which the length is 0.
    """
    first = edges.searchsorted(low, side="right") - 1 & -8
    count = int((edges.searchsorted(high, side="left") - first).max()) + 7 & -8
    pixels, cuts = _pixels(edges, first, count)
    cuts = np.asarray(np.clip(cuts, low[:, None], high[:, None]), np.int64)
    return pixels, np.diff(cuts)


def _rows_of(
    pixels: tuple[int, ...], y_edges: Integers, x_edges: Integers
) -> tuple[Integers, Integers]:
    """Return the row and the column of a map of `pixels` for each row and column of a mask."""
    of_map = edges_of_mask((int(y_edges[-1]), int(x_edges[-1])), pixels)
    y, x = (
        np.searchsorted(one, edges[:-1], side="right") - 1
        for one, edges in zip(of_map, (y_edges, x_edges), strict=True)
    )
    return y, x


def _blocks(areas: Array) -> tuple[Integers, NDArray[np.float64]]:
    """Return the blocks with an area above 0 in Z-order, and their areas."""
    rows, columns = (np.arange(0, n, BLOCK) for n in areas.shape)
    sums = np.add.reduceat(np.add.reduceat(areas, rows, axis=0), columns, axis=1)
    sums = sums.reshape(-1).astype(np.float64)
    chosen = np.flatnonzero(sums)
    row, column = np.divmod(chosen, len(columns))
    order = np.argsort(_spread(row) << 1 | _spread(column), kind="stable")
    return chosen[order], sums[chosen[order]]


def _spread(numbers: Any) -> Integers:
    """Return numbers with a 0 between any two bits, for a Z-order."""
    out = np.zeros(np.shape(numbers), np.int64)
    for bit in range(31):
        out |= ((numbers >> bit) & 1) << (2 * bit)
    return out
