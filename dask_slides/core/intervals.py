"""Intervals of an axis that a cut-off leaves, and coordinates before and after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dask_slides.core.types import Array


@dataclass(frozen=True)
class Intervals:
    """The intervals of one axis that remain after a cut-off, in order, in source pixels.

    ::

        source   0 ···[2    5)···[8   10)      starts (2, 8), stops (5, 10)
        result         0    3     3    5       intervals follow each other without gaps
    """

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def length(self) -> int:
        """Pixels of the result."""
        return sum(self.stops) - sum(self.starts)

    def scaled(self, factor: float, size: int, full: int) -> Intervals | None:
        """Return the intervals on a level, or None if a cut divides one of its pixels.

        `factor` is the downsample of the level, `size` its length, and `full` that of level 0.
        """
        if factor != int(factor):
            return None
        step = int(factor)
        edges = []
        for edge in self.starts + self.stops:
            if edge % step and edge != full:
                return None
            edges.append(size if edge == full else edge // step)
        return Intervals(tuple(edges[: len(self.starts)]), tuple(edges[len(self.starts) :]))

    def pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return the pieces of [start, stop) as (source start, result start, length)."""
        out, at = [], 0
        for first, last in zip(self.starts, self.stops, strict=True):
            low, high = max(start, at), min(stop, at + last - first)
            if low < high:
                out.append((first + low - at, low, high - low))
            at += last - first
        return out

    def _offsets(self) -> Array:
        """Return where the intervals start in the result, and its end."""
        lengths = np.subtract(self.stops, self.starts)
        return np.concatenate([[0], np.cumsum(lengths)])

    def to_source(self, points: Array) -> Array:
        """Return the source coordinates of `points` in the result; NaN outside of it."""
        if not self.starts:
            return np.full(points.shape, np.nan)
        starts, offsets = np.asarray(self.starts), self._offsets()
        index = np.clip(np.searchsorted(offsets, points, side="right") - 1, 0, len(starts) - 1)
        inside = (points >= 0) & (points <= offsets[-1])
        return np.where(inside, points - offsets[index] + starts[index], np.nan)

    def from_source(self, points: Array) -> Array:
        """Return the coordinates in the result of source `points`; NaN where it was cut off."""
        if not self.starts:
            return np.full(points.shape, np.nan)
        starts, stops = np.asarray(self.starts), np.asarray(self.stops)
        index = np.clip(np.searchsorted(starts, points, side="right") - 1, 0, len(starts) - 1)
        inside = (points >= starts[index]) & (points < stops[index])
        return np.where(inside, points - starts[index] + self._offsets()[index], np.nan)


def kept_intervals(blank: Array, starts: Array, tile: int, size: int) -> Intervals:
    """Return the intervals that the rows or columns of a grid cover which are not `blank`.

    `blank` has one boolean per row or column, and `starts` says where each starts.
    """
    firsts: list[int] = []
    lasts: list[int] = []
    for start, dropped in zip(starts.tolist(), blank.tolist(), strict=True):
        if dropped:
            continue
        stop = min(start + tile, size)
        if lasts and lasts[-1] == start:
            lasts[-1] = stop
        else:
            firsts.append(start)
            lasts.append(stop)
    return Intervals(tuple(firsts), tuple(lasts))
