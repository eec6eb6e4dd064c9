"""Grids of tiles over an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.arguments import as_pair, as_whole
from dask_slides.core.geometry import Region
from dask_slides.errors import SlideArgumentError

Edge = Literal["drop", "pad", "shift"]
EDGES = ("drop", "pad", "shift")


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one size, `stride` apart, over an image.

    ::

        edge="pad"     |----|----|--··|    the last tile extends beyond the image
        edge="drop"    |----|----|         the rest of the image has no tile
        edge="shift"   |----|--|=|----|    the last tile is moved back to fit
    """

    shape: tuple[int, int]
    """Height and width of the image."""
    tile: tuple[int, int]
    """Height and width of a tile."""
    stride: tuple[int, int]
    """Distance between the starts of tiles, along y and x."""
    edge: Edge = "pad"

    @property
    def rows(self) -> int:
        """Tiles along y."""
        return self._count(0)

    @property
    def cols(self) -> int:
        """Tiles along x."""
        return self._count(1)

    def _count(self, axis: int) -> int:
        if not self.shape[axis]:
            return 0
        over = self.shape[axis] - self.tile[axis]
        if self.edge == "drop":
            return 0 if over < 0 else 1 + over // self.stride[axis]
        return 1 + -(-max(0, over) // self.stride[axis])

    def starts(self, axis: int) -> NDArray[np.int64]:
        """Return the starts of the tiles along `axis`."""
        starts = np.arange(self._count(axis), dtype=np.int64) * self.stride[axis]
        if self.edge == "shift" and len(starts):
            starts[-1] = max(0, self.shape[axis] - self.tile[axis])
        return starts

    def start(self, axis: int, index: int) -> int:
        """Return the start of tile `index` along `axis`."""
        if self.edge == "shift" and index == self._count(axis) - 1:
            return max(0, self.shape[axis] - self.tile[axis])
        return index * self.stride[axis]

    def region(self, row: int, col: int) -> Region:
        """Return the part of tile (row, col) that lies in the image."""
        return self.span(row, row + 1, col, col + 1)

    def span(self, row: int, row_stop: int, col: int, col_stop: int) -> Region:
        """Return the smallest region that holds tiles [row, row_stop) x [col, col_stop)."""
        top, left = self.start(0, row), self.start(1, col)
        bottom = min(self.shape[0], self.start(0, row_stop - 1) + self.tile[0])
        right = min(self.shape[1], self.start(1, col_stop - 1) + self.tile[1])
        return Region(top, left, bottom - top, right - left)


def tile_pair(tile_size: Any, argument: str = "tile_size") -> tuple[int, int]:
    """Return `tile_size`, a number or (height, width), as a pair of integers above 0."""
    pair = as_pair(tile_size)
    sides = [side for side in map(as_whole, pair) if side is not None and side > 0]
    if not len(sides) == len(pair) == 2:
        raise SlideArgumentError(
            f"{argument}={tile_size!r} is not a size; give whole pixels above 0, or (height, width)"
        )
    return sides[0], sides[1]
