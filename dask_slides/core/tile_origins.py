"""The positions of tiles, compressed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TileOrigins:
    """Top left corners (y, x) of tiles, compressed.

    Every task gets all of them, so they must be small: a grid of 40,000 takes a few kilobytes.
    """

    count: int
    packed: bytes

    @classmethod
    def of(cls, yx: NDArray[np.int64]) -> TileOrigins:
        """Compress positions (n, 2)."""
        steps = np.diff(yx, axis=0, prepend=np.zeros((1, 2), np.int64))
        # sorted by column and by byte: the steps of a grid repeat, so this compresses well
        planes = np.ascontiguousarray(steps.T).astype("<i8").view(np.uint8).reshape(-1, 8).T
        return cls(len(yx), zlib.compress(planes.tobytes(), 6))

    def yx(self) -> NDArray[np.int64]:
        """Return the positions (n, 2), int64, read-only."""
        return _unpacked(self)


@lru_cache(maxsize=4)  # tiles may be read one by one; a field would be pickled
def _unpacked(origins: TileOrigins) -> NDArray[np.int64]:
    planes = np.frombuffer(zlib.decompress(origins.packed), np.uint8).reshape(8, -1)
    steps = np.ascontiguousarray(planes.T).view("<i8").reshape(2, origins.count).T
    yx = np.cumsum(steps, axis=0, dtype=np.int64)
    yx.flags.writeable = False
    return yx
