"""Tiles at any places of an image: the task that reads them, and what reads some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.geometry import Region, bounds, even_pieces
from dask_slides.core.source import DerivedSource, Source, replace_root, root_of, root_spans
from dask_slides.core.tile_origins import TileOrigins
from dask_slides.core.types import Array
from dask_slides.graph.batch_read import read_each
from dask_slides.graph.blocks import Block
from dask_slides.graph.chunks import MAX_TASKS, read_unit, task_bytes
from dask_slides.graph.resized import STRIP_PIXELS
from dask_slides.readers.dask_array import ArraySource

Chosen = slice | NDArray[np.int64]

TASK_BYTES = 2**26
"""Bytes of tiles that one task aims at."""
MIN_TASKS = 64
"""Tasks that a pack is shared out to if it has the tiles."""
FEW_TASKS = 8
"""The same where much more is decoded than a tile holds, so that tasks should share nothing."""
MUCH = 4
"""Pixels decoded for one of a tile: from strips, or units of storage more than twice its side."""


@dataclass(frozen=True)
class TileBlock:
    """Tiles of one size at `places` of an image, a block of them a task."""

    places: TileOrigins
    tile: tuple[int, int]
    starts: tuple[int, ...]
    """Tiles at which blocks begin, and the end."""
    fill: float

    def regions(self, source: Source, chosen: Chosen) -> list[Region]:
        """Return what of the image the chosen tiles lie over."""
        image = Region(0, 0, *source.levels[0].shape)
        return [
            Region(int(y), int(x), *self.tile).intersect(image) for y, x in self.places.yx()[chosen]
        ]

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the region of level 0 that the tiles of `block` lie in."""
        yx = self.places.yx()[self.starts[block[0]] : self.starts[block[0] + 1]]
        (top, left), (bottom, right) = np.sort(yx, axis=0)[[0, -1]]
        height, width = bottom - top + self.tile[0], right - left + self.tile[1]
        return 0, Region(int(top), int(left), int(height), int(width))

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Return (n, h, w, c)."""
        return self.tiles(source, self.starts[block_id[0]], self.starts[block_id[0] + 1])

    def tiles(self, source: Source, start: int, stop: int) -> Array:
        """Return tiles [start, stop), (n, h, w, c)."""
        out = np.empty((stop - start, *self.tile, source.channels), source.dtype)
        self.read(source, slice(start, stop), out)
        return out

    def read(self, source: Source, chosen: Chosen, out: Sequence[Array] | Array) -> None:
        """Read each chosen tile into its array (h, w, c); what lies beyond the image is filled."""
        regions = self.regions(source, chosen)
        for tile, region in zip(out, regions, strict=True):
            if (region.height, region.width) != self.tile:
                tile[...] = self.fill
        read_each(source, 0, regions, out, _together(len(regions), self.tile))


def _together(count: int, tile: tuple[int, int]) -> int:
    """Return how many pixels are read at a time for `count` tiles: no more than they have."""
    return min(STRIP_PIXELS, count * tile[0] * tile[1])


def reading_bytes(source: Source, tile: tuple[int, int], count: int) -> int:
    """Return the peak bytes of reading `count` tiles, beyond themselves."""
    height, width = source.levels[0].shape
    pixels = max(tile[0] * tile[1], _together(count, tile))
    across = min(max(width, tile[1]), pixels // tile[0])
    read = Region(0, 0, min(max(height, tile[0]), pixels // across), across)
    return task_bytes(source, 0, read, Region(0, 0, *tile))


class TileReader(Protocol):
    """What reads tiles in a worker: from the slide, or from a store."""

    def __call__(self, start: int, stop: int) -> Array:
        """Return tiles [start, stop), (n, h, w, c)."""
        ...

    def read(self, numbers: NDArray[np.int64], out: Sequence[Array]) -> None:
        """Read the tiles of these numbers, which rise, each into its array (h, w, c)."""
        ...


@dataclass(frozen=True)
class SlideTileReader:
    """Reads tiles from a slide."""

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
    """Return the task for tiles at `yx`, and how many of them each of `tasks` or more takes."""
    nbytes = tile[0] * tile[1] * source.channels * source.dtype.itemsize
    if isinstance(root_of(source), ArraySource):
        lengths = _lengths_over_array(source, yx, tile, max(1, TASK_BYTES // nbytes))
        return TileBlock(TileOrigins.of(yx), tile, bounds(lengths), fill), lengths
    count = max(1, TASK_BYTES // nbytes, -(-len(yx) // MAX_TASKS))
    # and at least a few tasks, so that there is something to share out
    unit = source.levels[0].tile if not isinstance(source, DerivedSource) else read_unit(source)
    decoded = math.prod(max(1.0, u / t) for u, t in zip(unit, tile, strict=True))
    if decoded > MUCH:  # tasks of neighbours decode the same, and those of one unit nothing else
        units = len(np.unique(yx // np.maximum(1, np.array(unit, np.int64)), axis=0))
        tasks = max(1, min(tasks, FEW_TASKS, units))
    count = min(count, max(1, -(-len(yx) // tasks)))
    lengths = even_pieces(len(yx), count)
    return TileBlock(TileOrigins.of(yx), tile, bounds(lengths), fill), lengths


def _lengths_over_array(
    source: Source, yx: NDArray[np.int64], tile: tuple[int, int], most: int
) -> tuple[int, ...]:
    """Return how many tiles each task takes: at most `most`, which touch the same blocks."""
    root = root_of(source)
    assert isinstance(root, ArraySource)
    blocks = root.without_blocks()
    source = replace_root(source, blocks)
    lengths: list[int] = []
    last: list[tuple[int, int]] = []
    for y, x in yx.tolist():
        touched = blocks.touched(*root_spans(source, 0, Region(y, x, *tile)))
        if lengths and touched == last and lengths[-1] < most:
            lengths[-1] += 1
        else:
            lengths.append(1)
        last = touched
    return tuple(lengths)
