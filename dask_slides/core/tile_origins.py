"""Where tiles lie: a list of positions, small to send."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TileOrigins:
    """Top left corners (y, x) of tiles, packed: a grid of 40,000 takes a few kilobytes.

    Every task gets the whole list with its graph, so it has to be small.
    """

    count: int
    packed: bytes

    @classmethod
    def of(cls, yx: NDArray[np.int64]) -> TileOrigins:
        """Pack positions (n, 2)."""
        steps = np.diff(yx, axis=0, prepend=np.zeros((1, 2), np.int64))
        # column by column, and each byte of the numbers apart: steps of a grid repeat
        planes = np.ascontiguousarray(steps.T).astype("<i8").view(np.uint8).reshape(-1, 8).T
        return cls(len(yx), zlib.compress(planes.tobytes(), 6))

    def yx(self) -> NDArray[np.int64]:
        """Return the positions (n, 2), int64, not to be written to."""
        return _unpacked(self)


@lru_cache(maxsize=4)  # beside the value, which stays small to send: tiles are read one by one too
def _unpacked(places: TileOrigins) -> NDArray[np.int64]:
    planes = np.frombuffer(zlib.decompress(places.packed), np.uint8).reshape(8, -1)
    steps = np.ascontiguousarray(planes.T).view("<i8").reshape(2, places.count).T
    yx = np.cumsum(steps, axis=0, dtype=np.int64)
    yx.flags.writeable = False
    return yx
