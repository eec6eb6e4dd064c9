"""The positions of tiles, compressed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TileOrigins:
    """Top left corners (y, x) of tiles, compressed: a grid of 40,000 takes a few kilobytes.

    Every task gets the whole list, so it has to be small.
    """

    count: int
    packed: bytes

    @classmethod
    def of(cls, yx: NDArray[np.int64]) -> TileOrigins:
        """Compress positions (n, 2)."""
        steps = np.diff(yx, axis=0, prepend=np.zeros((1, 2), np.int64))
        # by column and by byte of the numbers: the steps of a grid repeat
        planes = np.ascontiguousarray(steps.T).astype("<i8").view(np.uint8).reshape(-1, 8).T
        return cls(len(yx), zlib.compress(planes.tobytes(), 6))

    def yx(self) -> NDArray[np.int64]:
        """Return the positions (n, 2), int64, not to be written to."""
        return _unpacked(self)


@lru_cache(maxsize=4)  # not a field, so that the value stays small; tiles may be read one by one
def _unpacked(origins: TileOrigins) -> NDArray[np.int64]:
    planes = np.frombuffer(zlib.decompress(origins.packed), np.uint8).reshape(8, -1)
    steps = np.ascontiguousarray(planes.T).view("<i8").reshape(2, origins.count).T
    yx = np.cumsum(steps, axis=0, dtype=np.int64)
    yx.flags.writeable = False
    return yx
