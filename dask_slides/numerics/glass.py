"""The glass of a bright-field picture: its colour, also where it changes, and its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dask_slides.core.types import Array
from dask_slides.runtime.threads import in_threads

Mask = NDArray[np.bool_]

PURE_WHITE = 253.5
"""Areas that a scanner skipped are brighter: they say nothing about the glass."""
STRIP = 50_000
"""Pixels to work on at a time, so that they stay in the cache of a core."""


@dataclass(frozen=True)
class Cells:
    """Square cells of `side` pixels that cover a picture; those at its end may be smaller."""

    side: int
    shape: tuple[int, int]
    """Height and width of the picture."""

    @property
    def count(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.shape[0] // self.side), -(-self.shape[1] // self.side)

    @property
    def columns(self) -> Array:
        """(columns,) first column of pixels of the cells."""
        return np.arange(0, self.shape[1], self.side)

    @property
    def widths(self) -> Array:
        """(columns,) pixels across the cells."""
        return np.diff(np.append(self.columns, self.shape[1]))

    def strips(self) -> list[tuple[slice, slice]]:
        """Return rows of cells, and the rows of pixels that they cover."""
        step = max(1, STRIP // max(1, self.shape[1] * self.side))
        starts = range(0, self.count[0], step)
        return [
            (slice(i, min(i + step, self.count[0])), slice(i * self.side, (i + step) * self.side))
            for i in starts
        ]

    def means(self, values: Array, dtype: Any = np.uint32) -> Array:
        """Return the means (rows, columns, ...) of `values` (height, width, ...) of a strip."""
        missing = -len(values) % self.side
        if missing:
            values = np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
        down = values.reshape(-1, self.side, *values.shape[1:]).sum(axis=1, dtype=dtype)
        sums = np.add.reduceat(down.astype(np.float32), self.columns, axis=1)
        areas = (self.side * self.widths).astype(np.float32)
        return np.asarray(sums / areas.reshape(-1, *[1] * (sums.ndim - 2)))

    def enlarged(self, values: Array, rows: slice = slice(None)) -> Array:
        """Return the values of cells (rows, columns) at their pixels."""
        wide = np.repeat(values, self.widths, axis=1)
        return np.repeat(wide, self.side, axis=0)[: self.shape[0]]


@dataclass(frozen=True)
class Glass:
    """The background of a bright-field picture, in cells."""

    cells: Cells
    colour: Array
    """(3,) usual red, green and blue."""
    level: Array
    """(rows, columns, 3) the colour of the glass at each cell, also where tissue covers it."""
    texture: Array
    """(rows, columns) standard deviation around each cell, 1 = more than glass has."""
    detail: Array
    """(rows, columns) the same of each cell alone."""
    density: Array
    """(rows, columns, 3) optical density of each cell."""
    known: Mask
    """(rows, columns) cells that are glass beyond doubt."""


def measure_glass(pixels: Array, valid: Mask | None, side: int) -> Glass:
    """Measure the glass from the smooth, bright cells of an RGB picture of 8 bits."""
    cells = Cells(side, (pixels.shape[0], pixels.shape[1]))
    mean, own = _statistics(pixels, cells)
    spread = ndimage.uniform_filter(own, 3)
    seen = np.ones(spread.shape, bool)
    if valid is not None:
        seen = cells.means(valid) == 1
    grey = mean.mean(axis=2)
    bright = seen & (grey > 100)
    if not bright.any():
        bright = seen if seen.any() else np.ones_like(seen)
    usual = float(np.quantile(spread[bright], 0.2))
    smooth = bright & (spread <= max(0.4, 1.5 * usual))
    colour = _mode_of_glass(mean, grey, smooth if smooth.any() else bright)
    near = smooth & (np.abs(mean - colour).max(axis=2) < 60)
    near &= np.ptp(mean - colour, axis=2) < 20
    if near.any():
        usual = float(np.quantile(spread[near], 0.5))
    limit = max(0.35, 1.3 * usual + 0.25)
    texture, detail = spread / limit, own / limit
    near &= grey < PURE_WHITE
    level, known = _spread_out(mean, near & (texture < 0.9), colour)
    density = -np.log(np.maximum(mean, 1) / level)
    return Glass(cells, colour, level, texture, detail, density, known)


def _statistics(pixels: Array, cells: Cells) -> tuple[Array, Array]:
    """Return the mean of each cell (rows, columns, 3), and the deviation of its grey values.

    The deviation is without that of an even slope of the light over the cell. Detail is stronger in
    grey than in one colour, and the noise of the colours partly cancels.
    """
    mean = np.empty((*cells.count, 3), np.float32)
    squares = np.empty(cells.count, np.float32)
    strips = cells.strips()

    def call(numbers: Array) -> None:
        for number in numbers:
            rows, part = strips[number]
            strip = pixels[part]
            mean[rows] = cells.means(strip)
            grey = strip[..., 0].astype(np.uint32)
            grey += strip[..., 1]
            grey += strip[..., 2]
            squares[rows] = cells.means(grey * grey)

    in_threads(call, np.arange(len(strips)))
    grey = mean.mean(axis=2)
    variance = squares / 9 - grey * grey
    for axis in (0, 1):
        variance -= _slope(grey, axis) ** 2 * ((cells.side**2 - 1) / (12 * cells.side**2))
    return mean, np.sqrt(np.maximum(variance, 0))


def _slope(values: Array, axis: int) -> Array:
    """Return the smaller of the steps to both neighbours along `axis`, 0 if they differ in sign."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (1, 1)
    steps = np.diff(np.pad(values, padding, mode="edge"), axis=axis)
    before, after = (steps[:-1], steps[1:]) if axis == 0 else (steps[:, :-1], steps[:, 1:])
    least = np.minimum(np.abs(before), np.abs(after))
    return np.where(before * after > 0, least, 0)


def _mode_of_glass(mean: Array, grey: Array, smooth: Mask) -> Array:
    """Return the brightest frequent colour that is not the pure white of skipped areas."""
    candidates = smooth & (grey < PURE_WHITE)
    if candidates.sum() < 0.002 * candidates.size:
        candidates = smooth
    counts = np.bincount(grey[candidates].astype(int), minlength=256).astype(float)
    counts = ndimage.gaussian_filter1d(counts, 2)
    peaks = np.flatnonzero(
        (counts >= ndimage.maximum_filter1d(counts, 7)) & (counts > 0.05 * counts.max())
    )
    peaks = peaks[peaks > peaks.max() - 30]
    best = peaks[np.argmax(counts[peaks])]
    near = candidates & (np.abs(grey - best) < 6)
    return np.asarray(np.median(mean[near if near.any() else candidates], axis=0))


def _spread_out(values: Array, known: Mask, usual: Array) -> tuple[Array, Mask]:
    """Smooth `values` where they are `known`, and continue them over the rest."""
    out = np.empty_like(values)
    out[:] = usual
    for scale, limit in ((64, 1.0), (16, 0.08), (8, 0.05), (4, 0.03)):
        off = np.abs(np.log(np.maximum(values, 1) / out))
        known = known & (np.ptp(off, axis=2) < limit) & (off.mean(axis=2) < 3 * limit)
        out += smooth_difference(values - out, known, scale)
    return out, known


def smooth_difference(difference: Array, known: Mask, scale: int) -> Array:
    """Return the mean of `difference` (rows, columns, c) in the `known` cells within `scale`.

    It fades to 0 where there are few of them.
    """
    weight = known[..., None].astype(np.float32)
    total = _blurred(np.concatenate([weight, weight * difference], axis=2), scale)
    weight = total[..., :1]
    return np.asarray(np.clip(weight * 8, 0, 1) * total[..., 1:] / np.maximum(weight, 1e-6))


def _blurred(values: Array, scale: int) -> Array:
    """Return a smooth version of `values` (rows, columns, c), from means of blocks of `scale`."""
    small = values
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], scale)
        counts = np.diff(np.append(starts, values.shape[axis])).astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(3)]
        small = np.add.reduceat(small, starts, axis=axis) / counts.reshape(shape)
    small = ndimage.gaussian_filter(small, (0.8, 0.8, 0), mode="nearest")
    for axis in (0, 1):
        small = _interpolated(small, values.shape[axis], scale, axis)
    return small


def _interpolated(values: Array, size: int, scale: int, axis: int) -> Array:
    """Enlarge an axis by `scale`, to `size`, linearly."""
    at = np.clip((np.arange(size) + 0.5) / scale - 0.5, 0, values.shape[axis] - 1)
    first = np.minimum(at.astype(int), max(0, values.shape[axis] - 2))
    share = (at - first).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
    low = values.take(first, axis)
    high = values.take(np.minimum(first + 1, values.shape[axis] - 1), axis)
    return np.asarray(low + share * (high - low))
