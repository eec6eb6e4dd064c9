"""Tiles that a neighbour will ask for: each is decoded once, not once a task.

A task of a resize reads a margin around its region, and a tile is decoded whole or not at
all: without this, blocks of 8 x 8 tiles decode 10 x 10. Only tiles near an edge that cuts a
tile are kept, each for as many regions as meet there, and all of a process within one limit.
Reduced ones are 1/4 to 1/64 of the bytes, so that many of them stay.
"""

from __future__ import annotations

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
"""Bytes that one process keeps at the most: two rows of tiles of 100,000 px at 1/4 are 20 MB."""


class Claim(NamedTuple):
    """What further regions are expected to ask for a tile."""

    uses: int
    """How many of them."""
    late: bool = False
    """Whether none of them comes soon: it is dropped before others."""


NOBODY = Claim(0)


@dataclass(frozen=True)
class Around:
    """Which tiles of a region the regions around it need too, by rows and columns of tiles."""

    rows: frozenset[int] = frozenset()
    columns: frozenset[int] = frozenset()
    late: frozenset[int] = frozenset()
    """Of the columns, those of regions that do not come soon."""

    @classmethod
    def of(
        cls,
        region: Region,
        size: tuple[int, int],
        tile: tuple[int, int],
        factor: int,
        soon: tuple[bool, bool],
    ) -> Around:
        """Return it for a `region` of a page of this `size` and `tile` that is reduced by `factor`.

        `soon` says whether the regions on the left and right come soon.
        """
        above, below = _shared(region.y, region.stop_y, size[0], tile[0], factor)
        left, right = _shared(region.x, region.stop_x, size[1], tile[1], factor)
        early = compress((left, right), soon)
        return cls(above | below, left | right, (left | right).difference(*early))

    def claim(self, row: int, column: int) -> Claim:
        """Return the claim of those regions on a tile."""
        uses = 2 ** ((row in self.rows) + (column in self.columns)) - 1
        return Claim(uses, late=column in self.late and row not in self.rows)


def _shared(
    start: int, stop: int, size: int, tile: int, factor: int
) -> tuple[frozenset[int], frozenset[int]]:
    """Return which tiles in [start, stop) of an axis the regions before and after need too.

    Where an edge cuts a tile, both regions need that one; where two blocks meet between tiles
    and each is read with a margin, they need the one before it too.
    """
    side = tile // factor
    tiles = range(start // side, -(-stop // side))
    before = tiles[:2] if start % side else ()
    after = tiles[-2:] if stop % side and stop != reduced_size(size, factor) else ()
    return frozenset(before), frozenset(after)


class TileCache:
    """Tiles by key, the least recently used dropped beyond the limit. Threads share it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._tiles: OrderedDict[Hashable, tuple[Array, int]] = OrderedDict()
        self._late: OrderedDict[Hashable, None] = OrderedDict()
        self._bytes = 0
        self._lock = fork_safe_lock()
        self._thread = threading.local()

    @contextmanager
    def within(self, limit: int, sides: tuple[bool, bool] = (True, True)) -> Iterator[None]:
        """Keep no more than `limit` bytes in this thread: where memory must not grow.

        `sides` tells of the regions on the left and right whether they come soon. What only one
        will need that does not is dropped first.
        """
        self._thread.limit, self._thread.sides = limit, sides
        try:
            yield
        finally:
            del self._thread.limit, self._thread.sides

    @property
    def sides(self) -> tuple[bool, bool]:
        """Whether the regions on the left and right come soon in this thread."""
        sides: tuple[bool, bool] = getattr(self._thread, "sides", (True, True))
        return sides

    @property
    def nbytes(self) -> int:
        """Bytes of the tiles that are kept."""
        return self._bytes

    def take(self, key: Hashable) -> Array | None:
        """Return a tile, or None; it is dropped when all who were expected have taken it."""
        with self._lock:
            return self._taken(key)

    def _taken(self, key: Hashable) -> Array | None:
        tile, uses = self._tiles.get(key, (None, 0))
        if tile is not None and uses > 1:
            self._tiles[key] = tile, uses - 1
            self._tiles.move_to_end(key)
        elif tile is not None:
            self._forget(key)
        return tile

    def _forget(self, key: Hashable) -> None:
        tile, _ = self._tiles.pop(key)
        self._late.pop(key, None)
        self._bytes -= tile.nbytes

    def keep(self, key: Hashable, tile: Array, claim: Claim) -> None:
        """Keep a copy of `tile` for the regions that have a `claim` on it."""
        copy = _copied(tile)
        with self._lock:
            if key in self._tiles:  # another thread decoded it meanwhile, and expected this one
                self._taken(key)
                return
            self._tiles[key] = copy, claim.uses
            self._bytes += tile.nbytes
            if claim.late:
                self._late[key] = None
            while self._bytes > getattr(self._thread, "limit", self._limit):
                self._forget(next(iter(self._late or self._tiles)))

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._tiles.clear()
            self._late.clear()
            self._bytes = 0


def _copied(tile: Array) -> Array:
    copy = POOL.array(tile.shape, tile.dtype)
    copy[...] = tile
    return copy


TILE_CACHE = TileCache()
"""Of this process."""
