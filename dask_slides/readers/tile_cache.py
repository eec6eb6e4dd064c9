"""Cache decoded tiles that a neighbouring region or another crop will read again.

A task of a resize reads a margin around its block, and tiles are decoded whole: without this cache
blocks of 8 x 8 tiles decode 10 x 10. Only tiles near an edge that cuts a tile are cached, each
until all regions that meet there have read it. Reduced tiles take 1/4 to 1/64 of the bytes of full
ones, so the limit holds many of them. Tiles that a small crop cuts are cached at full size, until
others were used more recently: crops of one place come one after another.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple

from dask_slides.core.geometry import Region, reduced_size
from dask_slides.core.types import Array
from dask_slides.runtime.buffer_pool import POOL
from dask_slides.runtime.fork_safety import fork_safe_lock

LIMIT = 2**26
"""Bytes of the cache of one process: two rows of tiles of 100,000 px at 1/4 are 20 MB."""


class Reuse(NamedTuple):
    """The number of times that a tile is expected to be read again."""

    times: int
    """Number of further regions that need it."""
    late: bool = False
    """Whether none of these regions is read soon; such tiles are dropped first."""


NO_REUSE = Reuse(0)
ANY_REUSE = Reuse(sys.maxsize)
"""A tile that stays until the limit is reached and it is the least recently used."""


@dataclass(frozen=True)
class SharedTiles:
    """The rows and columns of tiles of a region that neighbouring regions need too."""

    rows: frozenset[int] = frozenset()
    columns: frozenset[int] = frozenset()
    late: frozenset[int] = frozenset()
    """The shared columns whose neighbouring region is not read soon."""
    by_crops: bool = False
    """Whether crops share them, any number of times."""

    @classmethod
    def of(
        cls,
        region: Region,
        size: tuple[int, int],
        tile: tuple[int, int],
        factor: int,
        soon: tuple[bool, bool],
    ) -> SharedTiles:
        """Find the shared tiles of `region` on a page of `size` and `tile`, reduced by `factor`.

        `soon` says whether the regions on the left and on the right are read soon.
        """
        above, below = _shared(region.y, region.stop_y, size[0], tile[0], factor)
        left, right = _shared(region.x, region.stop_x, size[1], tile[1], factor)
        early = compress((left, right), soon)
        return cls(above | below, left | right, (left | right).difference(*early))

    @classmethod
    def of_crop(cls, region: Region, tile: tuple[int, int]) -> SharedTiles:
        """Find the tiles that `region` cuts; none if it has more than two tiles along an axis."""
        if region.height > 2 * tile[0] or region.width > 2 * tile[1]:
            return cls()
        rows, columns = (
            frozenset(at // side for at in (start, stop) if at % side)
            for start, stop, side in zip(
                (region.y, region.x), (region.stop_y, region.stop_x), tile, strict=True
            )
        )
        return cls(rows, columns, by_crops=True)

    def reuse(self, row: int, column: int) -> Reuse:
        """Return how often a tile is expected to be read again."""
        if self.by_crops:
            return ANY_REUSE if row in self.rows or column in self.columns else NO_REUSE
        count = 2 ** ((row in self.rows) + (column in self.columns)) - 1
        return Reuse(count, late=column in self.late and row not in self.rows)


def _shared(
    start: int, stop: int, size: int, tile: int, factor: int
) -> tuple[frozenset[int], frozenset[int]]:
    """Return which tiles of [start, stop) the regions before and after it on the axis need too.

    Both regions need a tile that their common edge cuts. Where they are read with a margin and
    meet between two tiles, they need the tile before the cut one too.
    """
    side = tile // factor
    tiles = range(start // side, -(-stop // side))
    before = tiles[:2] if start % side else ()
    after = tiles[-2:] if stop % side and stop != reduced_size(size, factor) else ()
    return frozenset(before), frozenset(after)


class TileCache:
    """Tiles by key. Beyond the limit the least recently used is dropped. Threads may share it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._tiles: OrderedDict[Hashable, tuple[Array, int]] = OrderedDict()
        self._late: OrderedDict[Hashable, None] = OrderedDict()
        self._bytes = 0
        self._lock = fork_safe_lock()
        self._thread = threading.local()

    @contextmanager
    def within(self, limit: int, sides: tuple[bool, bool] = (True, True)) -> Iterator[None]:
        """Use another `limit` in this thread, where memory must not grow.

        `sides` says whether the regions on the left and on the right are read soon. Tiles that
        are needed only by a region that is not read soon are dropped first.
        """
        self._thread.limit, self._thread.sides = limit, sides
        try:
            yield
        finally:
            del self._thread.limit, self._thread.sides

    @property
    def sides(self) -> tuple[bool, bool]:
        """Whether this thread reads the regions on the left and on the right soon."""
        sides: tuple[bool, bool] = getattr(self._thread, "sides", (True, True))
        return sides

    @property
    def nbytes(self) -> int:
        """Bytes of the cached tiles."""
        return self._bytes

    def take(self, key: Hashable) -> Array | None:
        """Return a tile or None. Drop the tile once it was taken as often as expected."""
        with self._lock:
            return self._take(key)

    def _take(self, key: Hashable) -> Array | None:
        tile, count = self._tiles.get(key, (None, 0))
        if tile is not None and count > 1:
            self._tiles[key] = tile, count - 1
            self._tiles.move_to_end(key)
        elif tile is not None:
            self._drop(key)
        return tile

    def _drop(self, key: Hashable) -> None:
        tile, _ = self._tiles.pop(key)
        self._late.pop(key, None)
        self._bytes -= tile.nbytes

    def put(self, key: Hashable, tile: Array, reuse: Reuse, own: bool = False) -> None:
        """Cache a copy of `tile` until it was taken as often as expected.

        It is not copied if nothing else writes to it, as `own` says.
        """
        if not own:
            copy = POOL.array(tile.shape, tile.dtype)
            copy[...] = tile
            tile = copy
        with self._lock:
            if key in self._tiles:  # another thread cached it; this thread is one of its readers
                self._take(key)
                return
            self._tiles[key] = tile, reuse.times
            self._bytes += tile.nbytes
            if reuse.late:
                self._late[key] = None
            while self._bytes > getattr(self._thread, "limit", self._limit):
                self._drop(next(iter(self._late or self._tiles)))

    def clear(self) -> None:
        """Drop all tiles."""
        with self._lock:
            self._tiles.clear()
            self._late.clear()
            self._bytes = 0


TILE_CACHE = TileCache()
"""The cache of this process."""
