"""Reduced tiles that a later step will ask for, in a file, so that each is decoded once for all.

A blank map looks at every tile in full, a resize and a cut-off read the same tiles reduced. They
are too many to be kept in memory, and at 1/4 a sixteenth of the image on a disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping

import numpy as np

from dask_slides.core.types import Array

ROOM = 2
"""Times its size that must be free before such a file is begun: outputs need room too."""


class SharedTiles:
    """Tiles of one page at some reductions. Threads share it; other processes have none of it.

    The file has no name, so that the system removes it whatever ends the process.
    """

    def __init__(self, folder: str, sizes: Mapping[int, int], count: int) -> None:
        """Begin a file in `folder` for `count` tiles of at most so many bytes by reduction."""
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        # with the last reader: one may be in the middle of a tile when the sharing ends
        self._close = weakref.finalize(self, self._file.close)
        self._there = {factor: bytearray(count) for factor in sizes}
        self._sizes = dict(sizes)
        ends = np.cumsum([0, *(size * count for size in sizes.values())]).tolist()
        self._starts = dict(zip(sizes, ends, strict=False))

    @property
    def factors(self) -> tuple[int, ...]:
        """The reductions that are shared; none any more once the disk is full."""
        return tuple(self._there)

    def lacks(self, number: int, factor: int) -> bool:
        """Return whether a tile is wanted here and was not put yet."""
        there = self._there.get(factor)
        return there is not None and not there[number]

    def put(self, number: int, factor: int, tile: Array) -> None:
        """Keep `tile` (h, w, s), bytes; a disk that does not take it ends the sharing."""
        there = self._there.get(factor)
        if there is None:
            return
        data = np.ascontiguousarray(tile).data
        try:
            done = os.pwrite(self._file.fileno(), data, self._place(number, factor)) == data.nbytes
        except OSError:  # what is not kept is decoded again
            done = False
        if done:
            there[number] = 1
        else:
            self._there = {}

    def take(self, number: int, factor: int, shape: tuple[int, ...]) -> Array | None:
        """Return a tile of `shape`, read only; None if it was not put, or cannot be read back."""
        there = self._there.get(factor)
        if there is None or not there[number]:
            return None
        size = int(np.prod(shape))
        try:
            data = os.pread(self._file.fileno(), size, self._place(number, factor))
        except OSError:
            return None
        return np.frombuffer(data, np.uint8).reshape(shape) if len(data) == size else None

    def _place(self, number: int, factor: int) -> int:
        return int(self._starts[factor] + number * self._sizes[factor])


def shared_tiles(folder: str, sizes: Mapping[int, int], count: int) -> SharedTiles | None:
    """Return a new file in `folder`; None where there is no room for it, or nothing to share."""
    if not sizes or not hasattr(os, "pwrite"):
        return None
    try:
        if shutil.disk_usage(folder).free < ROOM * count * sum(sizes.values()):
            return None
        return SharedTiles(folder, sizes, count)
    except OSError:
        return None
