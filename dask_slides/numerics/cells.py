"""Square cells of a few pixels, in which a picture is measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dask_slides.core.types import Array

Mask = NDArray[np.bool_]

APART = 16
"""Gap in cells above which needed cells are of different parts."""
STRIP = 600_000
"""Pixels to work on at a time. Fewer stay in the cache of a core, but then threads wait for the
lock of Python more than they gain."""


@dataclass(frozen=True)
class Part:
    """A rectangle of cells."""

    cells: tuple[slice, slice]
    """Its rows and columns of cells."""
    pixels: tuple[slice, slice]
    """Its rows and columns of pixels."""
    own: Cells
    """The cells of the rectangle alone."""


@dataclass(frozen=True)
class Cells:
    """Cells of `side` pixels that cover a picture; the last ones may be smaller."""

    side: int
    shape: tuple[int, int]
    """Height and width of the picture."""

    @property
    def count(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.shape[0] // self.side), -(-self.shape[1] // self.side)

    @cached_property
    def _columns(self) -> Array:
        return np.arange(0, self.shape[1], self.side)

    @cached_property
    def _widths(self) -> Array:
        return np.diff(np.append(self._columns, self.shape[1]))

    def strips(self) -> list[tuple[slice, slice]]:
        """Return parts of the rows of cells, and the rows of pixels that they cover."""
        step = max(1, STRIP // (self.shape[1] * self.side))
        count = self.count[0]
        return [
            (slice(i, min(i + step, count)), slice(i * self.side, (i + step) * self.side))
            for i in range(0, count, step)
        ]

    def parts(self, needed: Mask) -> list[Part]:
        """Return parts of the picture that cover the `needed` cells (rows, columns)."""
        parts = []
        for rows, y in self.strips():
            columns = np.flatnonzero(needed[rows].any(axis=0))
            for near in np.split(columns, np.flatnonzero(np.diff(columns) > APART) + 1):
                if len(near):
                    first, end = int(near[0]), int(near[-1]) + 1
                    x = slice(first * self.side, min(end * self.side, self.shape[1]))
                    y = slice(y.start, min(y.stop, self.shape[0]))
                    shape = y.stop - y.start, x.stop - x.start
                    parts.append(Part((rows, slice(first, end)), (y, x), Cells(self.side, shape)))
        return parts

    def means(self, values: Array) -> Array:
        """Return the means (rows, columns) float32 of `values` (height, width), or of a strip."""
        side, width = self.side, self.shape[1]
        missing = -len(values) % side
        if missing:
            values = np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
        small = values.dtype.itemsize == 1 and side <= 16
        wide = np.float64 if values.dtype.kind == "f" else np.uint16 if small else np.uint32
        # sums of views are several times faster than sums over short axes
        down = _sum([values[i::side] for i in range(side)], wide)
        whole = width // side * side
        sums = _sum([down[:, i:whole:side] for i in range(side)], wide)
        if whole < width:
            rest = down[:, whole:].sum(axis=1, keepdims=True, dtype=wide)
            sums = np.concatenate([sums, rest], axis=1)
        return np.asarray(sums.astype(np.float32) / (side * self._widths).astype(np.float32))

    def enlarged(self, values: Array, height: int | None = None) -> Array:
        """Return the values (height, width) at the pixels of cells, or of some rows of cells."""
        wide = np.repeat(values, self._widths, axis=1)
        return np.repeat(wide, self.side, axis=0)[: self.shape[0] if height is None else height]


def _sum(values: list[Array], dtype: Any) -> Array:
    total: Array = values[0].astype(dtype)
    for one in values[1:]:
        total += one
    return total


def local_means(values: Array, known: Mask, scale: int) -> Array:
    """Return the means of `values` (c, rows, columns) in `known` cells, about `scale` cells wide.

    They fade to 0 where few cells are known.
    """
    weight = known[None].astype(np.float32)
    total = _blurred(np.concatenate([weight, weight * values]), scale)
    share = np.clip(total[:1] * 8, 0, 1) / np.maximum(total[:1], 1e-6)
    return np.asarray(total[1:] * share)


def _blurred(values: Array, scale: int) -> Array:
    """Return a smooth version of `values` (c, rows, columns), from means of blocks of `scale`."""
    small = ndimage.gaussian_filter(block_means(values, scale), (0, 0.8, 0.8), mode="nearest")
    return enlarged_smoothly(small, values.shape[1:], scale)


def block_means(values: Array, scale: int) -> Array:
    """Return the means of blocks of ``scale * scale`` of `values` (c, rows, columns)."""
    for axis in (1, 2):
        size = values.shape[axis]
        starts = np.arange(0, size, scale)
        counts = np.diff(np.append(starts, size)).astype(np.float32)
        if scale == 2 and size % 2 == 0:  # many small blocks, for which reduceat is slow
            first, second = np.moveaxis(values.reshape(_split(values.shape, axis, 2)), axis + 1, 0)
            sums = first + second
        else:
            sums = np.add.reduceat(values, starts, axis=axis)
        values = sums / _along(counts, axis)
    return values


def _split(shape: tuple[int, ...], axis: int, scale: int) -> tuple[int, ...]:
    return (*shape[:axis], shape[axis] // scale, scale, *shape[axis + 1 :])


def enlarged_smoothly(values: Array, shape: tuple[int, ...], scale: int) -> Array:
    """Enlarge the means of blocks of `scale` to (c, *shape), linearly between their middles."""
    for axis in (1, 2):
        values = _interpolated(values, shape[axis - 1], scale, axis)
    return values


def _interpolated(values: Array, size: int, scale: int, axis: int) -> Array:
    """Enlarge an axis by `scale`, to `size`, linearly."""
    shape = (*values.shape[:axis], size, *values.shape[axis + 1 :])
    padding = [(int(i == axis),) * 2 for i in range(3)]
    # views along the axis are several times faster than items at indices
    padded = np.moveaxis(np.pad(values, padding, mode="edge"), axis, 0)
    enlarged = np.empty(shape, values.dtype)
    out = np.moveaxis(enlarged, axis, 0)
    for first in range(min(scale, size)):
        at = (first + 0.5) / scale - 0.5
        low = 0 if at < 0 else 1
        every = out[first::scale]
        before, after = (padded[i : i + len(every)] for i in (low, low + 1))
        np.subtract(after, before, out=every)
        every *= np.float32(at - (low - 1))
        every += before
    return enlarged


def _along(values: Array, axis: int) -> Array:
    return values.reshape([-1 if i == axis else 1 for i in range(3)])
