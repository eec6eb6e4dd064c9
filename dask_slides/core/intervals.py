"""The intervals of an axis that a cut-off keeps, and coordinates before and after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dask_slides.core.types import Array


@dataclass(frozen=True)
class Intervals:
    """The kept intervals of one axis, in order, in pixels of the source.

    ::

        source   0 ···[2    5)···[8   10)      starts (2, 8), stops (5, 10)
        kept           0    3     3    5       intervals follow each other without gaps
    """

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def length(self) -> int:
        """Pixels kept."""
        return sum(self.stops) - sum(self.starts)

    def scaled(self, factor: float, size: int, full: int) -> Intervals | None:
        """Return the intervals on a level, or None if a cut falls inside one of its pixels.

        `size` is the level's length, `full` that of the image.
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
        """Return the pieces of [start, stop) as (source start, kept start, length)."""
        out, kept = [], 0
        for first, last in zip(self.starts, self.stops, strict=True):
            low, high = max(start, kept), min(stop, kept + last - first)
            if low < high:
                out.append((first + low - kept, low, high - low))
            kept += last - first
        return out

    def _offsets(self) -> Array:
        lengths = np.subtract(self.stops, self.starts)
        return np.concatenate([[0], np.cumsum(lengths)])

    def to_source(self, points: Array) -> Array:
        """Return source coordinates of `points` in the kept image; NaN outside of it."""
        if not self.starts:
            return np.full(points.shape, np.nan)
        kept = self._offsets()
        run = np.clip(np.searchsorted(kept, points, side="right") - 1, 0, len(self.starts) - 1)
        inside = (points >= 0) & (points <= kept[-1])
        return np.where(inside, points - kept[run] + np.asarray(self.starts)[run], np.nan)

    def from_source(self, points: Array) -> Array:
        """Return kept coordinates of `points` in the source; NaN where it was cut off."""
        if not self.starts:
            return np.full(points.shape, np.nan)
        starts, stops = np.asarray(self.starts), np.asarray(self.stops)
        run = np.clip(np.searchsorted(starts, points, side="right") - 1, 0, len(starts) - 1)
        inside = (points >= starts[run]) & (points < stops[run])
        return np.where(inside, points - starts[run] + self._offsets()[run], np.nan)


def kept_intervals(blank: Array, starts: Array, tile: int, size: int) -> Intervals:
    """Return the intervals of grid lines along one axis that are not `blank`.

    `blank` is one bool per line, `starts` are the starts of the lines.
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
