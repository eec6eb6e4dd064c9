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
from typing import Any

from numpy.typing import NDArray

from dask_slides.forks import lock_of_one_process
from dask_slides.memory import POOL

Array = NDArray[Any]

LIMIT = 2**26
"""Bytes that one process keeps at the most: two rows of tiles of 100,000 px at 1/4 are 20 MB."""


class Kept:
    """Tiles by key, the least recently used dropped beyond the limit. Threads share it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._tiles: OrderedDict[Hashable, tuple[Array, int]] = OrderedDict()
        self._late: OrderedDict[Hashable, None] = OrderedDict()
        self._bytes = 0
        self._lock = lock_of_one_process()
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

    def keep(self, key: Hashable, tile: Array, uses: int, late: bool = False) -> None:
        """Keep a copy of `tile` for `uses` more regions; those that come `late` have no claim."""
        copy = _copied(tile)
        with self._lock:
            if key in self._tiles:  # another thread decoded it meanwhile, and expected this one
                self._taken(key)
                return
            self._tiles[key] = copy, uses
            self._bytes += tile.nbytes
            if late:
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


KEPT = Kept()
"""Of this process."""
