"""Tiles at any positions of an image: the tasks that read them, and how many tasks there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.geometry import Region, bounds, even_pieces
from dask_slides.core.source import DerivedSource, Source, root_of
from dask_slides.core.tile_origins import TileOrigins
from dask_slides.core.types import Array
from dask_slides.graph.batch_read import read_each
from dask_slides.graph.blocks import Block
from dask_slides.graph.chunks import MAX_TASKS, read_unit, task_bytes
from dask_slides.graph.resized import STRIP_PIXELS
from dask_slides.readers.dask_array import ArraySource

Chosen = slice | NDArray[np.int64]

TASK_BYTES = 2**26
"""Bytes of tiles that a task reads, about."""
MIN_TASKS = 64
"""Tasks that a pack is divided into, if it has that many tiles."""
FEW_TASKS = 8
"""The same where much more is decoded than a tile has pixels: tasks should not decode the same."""
MUCH_DECODED = 4
"""Pixels decoded per pixel of a tile that are many: of strips, or of tiles of twice its side."""


@dataclass(frozen=True)
class TileBlock:
    """Reads tiles of one size, one block of them per task."""

    origins: TileOrigins
    tile: tuple[int, int]
    starts: tuple[int, ...]
    """The first tile of each block, and the number of tiles."""
    fill: float
    """Value of pixels beyond the image."""

    def regions(self, source: Source, chosen: Chosen) -> list[Region]:
        """Return the part of the image that each chosen tile covers."""
        image = Region(0, 0, *source.levels[0].shape)
        return [
            Region(int(y), int(x), *self.tile).intersect(image)
            for y, x in self.origins.yx()[chosen]
        ]

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the region of level 0 that the tiles of `block` lie in."""
        yx = self.origins.yx()[self.starts[block[0]] : self.starts[block[0] + 1]]
        (top, left), (bottom, right) = np.sort(yx, axis=0)[[0, -1]]
        height, width = bottom - top + self.tile[0], right - left + self.tile[1]
        return 0, Region(int(top), int(left), int(height), int(width))

    def __call__(self, source: Source, block: Block) -> Array:
        """Return (n, h, w, c)."""
        return self.tiles(source, self.starts[block[0]], self.starts[block[0] + 1])

    def tiles(self, source: Source, start: int, stop: int) -> Array:
        """Return tiles [start, stop), (n, h, w, c)."""
        out = np.empty((stop - start, *self.tile, source.channels), source.dtype)
        self.read(source, slice(start, stop), out)
        return out

    def read(self, source: Source, chosen: Chosen, out: Sequence[Array] | Array) -> None:
        """Read each chosen tile into its array (h, w, c); pixels beyond the image are filled."""
        regions = self.regions(source, chosen)
        for tile, region in zip(out, regions, strict=True):
            if (region.height, region.width) != self.tile:
                tile[...] = self.fill
        read_each(source, 0, regions, out, _pixels_at_once(len(regions), self.tile))


def _pixels_at_once(count: int, tile: tuple[int, int]) -> int:
    """Return how many pixels are read at a time for `count` tiles: no more than they hold."""
    return min(STRIP_PIXELS, count * tile[0] * tile[1])


def reading_bytes(source: Source, tile: tuple[int, int], count: int) -> int:
    """Return the peak bytes of reading `count` tiles, beyond themselves."""
    height, width = source.levels[0].shape
    pixels = max(tile[0] * tile[1], _pixels_at_once(count, tile))
    across = min(max(width, tile[1]), pixels // tile[0])
    return task_bytes(source, 0, Region(0, 0, min(max(height, tile[0]), pixels // across), across))


class TileReader(Protocol):
    """Reads tiles of a slide or of a store, in any process."""

    def __call__(self, start: int, stop: int) -> Array:
        """Return tiles [start, stop), (n, h, w, c)."""
        ...

    def read(self, numbers: NDArray[np.int64], out: Sequence[Array]) -> None:
        """Read the tiles of these numbers, in ascending order, each into its array (h, w, c)."""
        ...


@dataclass(frozen=True)
class SlideTileReader:
    """Reads tiles of a slide."""

    task: TileBlock
    source: Source

    def __call__(self, start: int, stop: int) -> Array:
        """Return tiles [start, stop)."""
        return self.task.tiles(self.source, start, stop)

    def read(self, numbers: NDArray[np.int64], out: Sequence[Array]) -> None:
        """Read the tiles of these numbers, each into its array."""
        self.task.read(self.source, numbers, out)


def plan_tile_blocks(
    source: Source,
    yx: NDArray[np.int64],
    tile: tuple[int, int],
    fill: float,
    tasks: int = MIN_TASKS,
) -> tuple[TileBlock, tuple[int, ...]]:
    """Return the task for tiles at `yx`, and how many tiles each of `tasks` or more blocks has."""
    nbytes = tile[0] * tile[1] * source.channels * source.dtype.itemsize
    # over a dask array a task needs the window that holds all its tiles: one tile per task
    apart = isinstance(root_of(source), ArraySource)
    count = 1 if apart else max(1, TASK_BYTES // nbytes, -(-len(yx) // MAX_TASKS))
    # and at least a few tasks, for all threads
    unit = source.levels[0].tile if not isinstance(source, DerivedSource) else read_unit(source)
    decoded = math.prod(max(1.0, u / t) for u, t in zip(unit, tile, strict=True))
    if decoded > MUCH_DECODED:  # then tasks that share a unit of storage decode it twice
        units = len(np.unique(yx // np.maximum(1, np.array(unit, np.int64)), axis=0))
        tasks = max(1, min(tasks, FEW_TASKS, units))
    count = min(count, max(1, -(-len(yx) // tasks)))
    lengths = even_pieces(len(yx), count)
    return TileBlock(TileOrigins.of(yx), tile, bounds(lengths), fill), lengths
