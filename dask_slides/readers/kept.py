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
        self._bytes = 0
        self._lock = lock_of_one_process()
        self._thread = threading.local()

    @contextmanager
    def within(self, limit: int) -> Iterator[None]:
        """Keep no more than `limit` bytes in this thread: where memory must not grow."""
        self._thread.limit = limit
        try:
            yield
        finally:
            self._thread.limit = self._limit

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
            del self._tiles[key]
            self._bytes -= tile.nbytes
        return tile

    def keep(self, key: Hashable, tile: Array, uses: int) -> None:
        """Keep a copy of `tile` for `uses` more regions."""
        copy = _copied(tile)
        with self._lock:
            if key in self._tiles:  # another thread decoded it meanwhile, and expected this one
                self._taken(key)
                return
            self._tiles[key] = copy, uses
            self._bytes += tile.nbytes
            while self._bytes > getattr(self._thread, "limit", self._limit):
                _, (dropped, _) = self._tiles.popitem(last=False)
                self._bytes -= dropped.nbytes

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0


def _copied(tile: Array) -> Array:
    copy = POOL.array(tile.shape, tile.dtype)
    copy[...] = tile
    return copy


KEPT = Kept()
"""Of this process."""
