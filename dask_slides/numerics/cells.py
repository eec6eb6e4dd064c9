"""Square cells of a few pixels, in which a picture is measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dask_slides.core.types import Array

Mask = NDArray[np.bool_]

STRIP = 50_000
"""Pixels to work on at a time, so that they stay in the cache of a core."""


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

    def means(self, values: Array) -> Array:
        """Return the means (rows, columns) float32 of `values` (height, width), or of a strip."""
        missing = -len(values) % self.side
        if missing:
            values = np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
        wide = np.float64 if values.dtype.kind == "f" else np.uint32
        down = values.reshape(-1, self.side, values.shape[1]).sum(axis=1, dtype=wide)
        sums = np.add.reduceat(down.astype(np.float32), self._columns, axis=1)
        return np.asarray(sums / (self.side * self._widths).astype(np.float32))

    def enlarged(self, values: Array, height: int | None = None) -> Array:
        """Return the values (height, width) at the pixels of cells, or of some rows of cells."""
        wide = np.repeat(values, self._widths, axis=1)
        return np.repeat(wide, self.side, axis=0)[: self.shape[0] if height is None else height]


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
        starts = np.arange(0, values.shape[axis], scale)
        counts = np.diff(np.append(starts, values.shape[axis])).astype(np.float32)
        values = np.add.reduceat(values, starts, axis=axis) / _along(counts, axis)
    return values


def enlarged_smoothly(values: Array, shape: tuple[int, ...], scale: int) -> Array:
    """Enlarge the means of blocks of `scale` to (c, *shape), linearly between their middles."""
    for axis in (1, 2):
        values = _interpolated(values, shape[axis - 1], scale, axis)
    return values


def _interpolated(values: Array, size: int, scale: int, axis: int) -> Array:
    """Enlarge an axis by `scale`, to `size`, linearly."""
    last = values.shape[axis] - 1
    at = np.clip((np.arange(size) + 0.5) / scale - 0.5, 0, last)
    low = at.astype(int)
    share = _along((at - low).astype(np.float32), axis)
    first, second = values.take(low, axis), values.take(np.minimum(low + 1, last), axis)
    return np.asarray(first + share * (second - first))


def _along(values: Array, axis: int) -> Array:
    return values.reshape([-1 if i == axis else 1 for i in range(3)])
