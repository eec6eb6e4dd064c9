"""Where crops of one slide may lie, in few bytes, and the draw of a place among them."""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.types import Array
from dask_slides.numerics.tissue_mask import TissueMask, edges_of_mask
from dask_slides.runtime.fork_safety import fork_safe_lock

BLOCK = 32
"""Side of a block of pixels of a mask. A draw chooses a block, and then a pixel of it."""
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

    def part(self, top: int, bottom: int, left: int, right: int) -> Array:
        """Return rows [top, bottom) and columns [left, right), uint8 of 0 and 1."""
        first = left // 8
        some = self.bits.array()[top:bottom, first : -(-right // 8)]
        return np.unpackbits(some, axis=1)[:, left - 8 * first : right - 8 * first]


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
    holes: tuple[tuple[int, int, int, int], ...] = field(default=(), repr=False)
    """Absent tiles: top, left, bottom, right in pixels of the image."""

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
            areas = areas * weights[np.ix_(*_rows_of(weights.shape, mask.y_edges, mask.x_edges))]
        blocks, sums = _blocks(areas)
        factors = mask.shape[0] / shape[0], mask.shape[1] / shape[1]
        missing = None if mask.missing is None else Bits.of(mask.missing)
        return cls(
            shape, factors, size, min_tissue, Edges.of(mask), Bits.of(mask.tissue), missing,
            Bits.of(areas > 0), Packed.of(blocks), Packed.of(np.cumsum(sums)),
            None if weights is None else Packed.of(weights), tuple(holes),
        )  # fmt: skip

    @property
    def weight(self) -> float:
        """The area of the centres in pixels of level 0, times their weights."""
        summed = self.summed.array()
        return float(summed[-1]) if len(summed) else 0.0

    @property
    def crop_area(self) -> float:
        """The area of a crop in pixels of level 0."""
        return math.prod(self.size) * math.prod(self.factors)

    def centre(self, at: float, within_y: float, within_x: float) -> tuple[float, float]:
        """Return the centre of a crop in pixels of level 0; `at` counts along all places."""
        summed = self.summed.array()
        at = at * float(summed[-1])
        index = min(int(summed.searchsorted(at, side="right")), len(summed) - 1)
        at -= float(summed[index - 1]) if index else 0.0
        y_edges, x_edges = self.edges.y.array(), self.edges.x.array()
        rows, columns = len(y_edges) - 1, len(x_edges) - 1
        row, column = divmod(int(self.blocks.array()[index]), -(-columns // BLOCK))
        top, left = row * BLOCK, column * BLOCK
        bottom, right = min(top + BLOCK, rows), min(left + BLOCK, columns)
        heights = y_edges[top + 1 : bottom + 1] - y_edges[top:bottom]
        widths = x_edges[left + 1 : right + 1] - x_edges[left:right]
        areas = np.multiply.outer(heights, widths) * self.centres.part(top, bottom, left, right)
        if self.weights is not None:
            weights = self.weights.array()
            y, x = _rows_of(weights.shape, y_edges, x_edges)
            areas = areas * weights[np.ix_(y[top:bottom], x[left:right])]
        sums = areas.reshape(-1).cumsum()
        # the sum of a block may differ in its last bits from that of all blocks
        pixel = int(sums.searchsorted(min(at, float(sums[-1]) * (1 - 2**-50)), side="right"))
        i, j = divmod(pixel, right - left)
        return _between(y_edges, top + i, within_y), _between(x_edges, left + j, within_x)

    def corner(self, centre: tuple[float, float]) -> tuple[int, int]:
        """Return the top left of the crop around `centre`, moved into the image if needed."""
        y, x = (
            min(max(0, int(c / f) - side // 2), whole - side)
            for c, f, side, whole in zip(centre, self.factors, self.size, self.shape, strict=True)
        )
        return y, x

    def tissue_fraction(self, y: int, x: int) -> float | None:
        """Return the share of a crop that is tissue; None if pixels of it are missing."""
        for top, left, bottom, right in self.holes:
            if y < bottom and y + self.size[0] > top and x < right and x + self.size[1] > left:
                return None
        (low, high), (left, right) = (
            (round(at * f), round((at + side) * f))
            for at, side, f in zip((y, x), self.size, self.factors, strict=True)
        )
        top, heights = _overlaps(self.edges.y.array(), low, high)
        first, widths = _overlaps(self.edges.x.array(), left, right)
        box = (top, top + len(heights), first, first + len(widths))
        if self.missing is not None and self.missing.part(*box).any():
            return None
        tissue = heights @ self.tissue.part(*box).astype(np.int64) @ widths
        return float(tissue) / float(heights.sum() * widths.sum())


def _between(edges: Integers, index: int, within: float) -> float:
    """Return a point between two edges, which are whole numbers; never the second edge."""
    low, high = int(edges[index]), int(edges[index + 1])
    return min(low + within * (high - low), math.nextafter(high, low))


def _overlaps(edges: Integers, low: int, high: int) -> tuple[int, Integers]:
    """Return the first pixel that [low, high) touches, and how long it is in each it touches."""
    first = int(edges.searchsorted(low, side="right")) - 1
    last = int(edges.searchsorted(high, side="left"))
    cut = edges[first : last + 1].copy()  # only the first and the last edge lie outside
    cut[0], cut[-1] = low, min(high, cut[-1])
    return first, cut[1:] - cut[:-1]


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
