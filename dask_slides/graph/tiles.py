"""Read tiles at any positions of an image, in blocks."""

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

Selection = slice | NDArray[np.int64]

TASK_BYTES = 2**26
"""Bytes of tiles per task to aim at."""
MIN_TASKS = 64
"""Minimum number of tasks of a pack, if it has as many tiles."""
FEW_TASKS = 8
"""The same if a read decodes much more than a tile, which neighbouring tasks would repeat."""
LARGE_READ = 4
"""Decoded pixels per pixel of a tile that count as much more: tiles in the file of more than twice
the side, or strips."""


@dataclass(frozen=True)
class TileBlock:
    """Read blocks of tiles of one size at `origins` of an image."""

    origins: TileOrigins
    tile: tuple[int, int]
    starts: tuple[int, ...]
    """The tiles at which blocks start, and the end."""
    fill: float
    """Value of pixels beyond the image."""

    def regions(self, source: Source, selection: Selection) -> list[Region]:
        """Return the regions of the selected tiles, cut at the edges of the image."""
        image = Region(0, 0, *source.levels[0].shape)
        return [
            Region(int(y), int(x), *self.tile).intersect(image)
            for y, x in self.origins.yx()[selection]
        ]

    def window(self, block: Block) -> tuple[int, Region]:
        """Return level 0 and the smallest region that holds the tiles of `block`."""
        yx = self.origins.yx()[self.starts[block[0]] : self.starts[block[0] + 1]]
        (top, left), (bottom, right) = np.sort(yx, axis=0)[[0, -1]]
        height, width = bottom - top + self.tile[0], right - left + self.tile[1]
        return 0, Region(int(top), int(left), int(height), int(width))

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Return the tiles of the block, (n, h, w, c)."""
        return self.tiles(source, self.starts[block_id[0]], self.starts[block_id[0] + 1])

    def tiles(self, source: Source, start: int, stop: int) -> Array:
        """Return tiles [start, stop), (n, h, w, c)."""
        out = np.empty((stop - start, *self.tile, source.channels), source.dtype)
        self.read(source, slice(start, stop), out)
        return out

    def read(self, source: Source, selection: Selection, out: Sequence[Array] | Array) -> None:
        """Read each selected tile into its array (h, w, c), with the fill beyond the image."""
        regions = self.regions(source, selection)
        for tile, region in zip(out, regions, strict=True):
            if (region.height, region.width) != self.tile:
                tile[...] = self.fill
        read_each(source, 0, regions, out, _max_pixels(len(regions), self.tile))


def _max_pixels(count: int, tile: tuple[int, int]) -> int:
    """Return how many pixels to read at a time for `count` tiles, at most all of them."""
    return min(STRIP_PIXELS, count * tile[0] * tile[1])


def reading_bytes(source: Source, tile: tuple[int, int], count: int) -> int:
    """Return the peak bytes of reading `count` tiles, without the tiles themselves."""
    height, width = source.levels[0].shape
    pixels = max(tile[0] * tile[1], _max_pixels(count, tile))
    across = min(max(width, tile[1]), pixels // tile[0])
    read = Region(0, 0, min(max(height, tile[0]), pixels // across), across)
    return task_bytes(source, 0, read, Region(0, 0, *tile))


class TileReader(Protocol):
    """Read tiles in a worker, from a slide or from a store."""

    def __call__(self, start: int, stop: int) -> Array:
        """Return tiles [start, stop), (n, h, w, c)."""
        ...

    def read(self, numbers: NDArray[np.int64], out: Sequence[Array]) -> None:
        """Read the tiles with these ascending `numbers`, each into its array (h, w, c)."""
        ...


@dataclass(frozen=True)
class SlideTileReader:
    """Read tiles of a slide."""

    task: TileBlock
    source: Source

    def __call__(self, start: int, stop: int) -> Array:
        """Return tiles [start, stop)."""
        return self.task.tiles(self.source, start, stop)

    def read(self, numbers: NDArray[np.int64], out: Sequence[Array]) -> None:
        """Read the tiles with these `numbers`, each into its array."""
        self.task.read(self.source, numbers, out)


def plan_tile_blocks(
    source: Source,
    yx: NDArray[np.int64],
    tile: tuple[int, int],
    fill: float,
    tasks: int = MIN_TASKS,
) -> tuple[TileBlock, tuple[int, ...]]:
    """Return the task for tiles at `yx`, and the number of tiles per block.

    There are at least `tasks` blocks if there are as many tiles.
    """
    nbytes = tile[0] * tile[1] * source.channels * source.dtype.itemsize
    if isinstance(root_of(source), ArraySource):
        lengths = _lengths_over_array(source, yx, tile, max(1, TASK_BYTES // nbytes))
        return TileBlock(TileOrigins.of(yx), tile, bounds(lengths), fill), lengths
    count = max(1, TASK_BYTES // nbytes, -(-len(yx) // MAX_TASKS))
    unit = source.levels[0].tile if not isinstance(source, DerivedSource) else read_unit(source)
    decoded = math.prod(max(1.0, u / t) for u, t in zip(unit, tile, strict=True))
    if decoded > LARGE_READ:  # neighbouring tasks would decode the same pixels
        reads = len(np.unique(yx // np.maximum(1, np.array(unit, np.int64)), axis=0))
        tasks = max(1, min(tasks, FEW_TASKS, reads))
    count = min(count, max(1, -(-len(yx) // tasks)))
    lengths = even_pieces(len(yx), count)
    return TileBlock(TileOrigins.of(yx), tile, bounds(lengths), fill), lengths


def _lengths_over_array(
    source: Source, yx: NDArray[np.int64], tile: tuple[int, int], most: int
) -> tuple[int, ...]:
    """Return the number of tiles per task: at most `most`, which touch the same blocks."""
    root = root_of(source)
    assert isinstance(root, ArraySource)
    blocks = root.without_blocks()
    source = replace_root(source, blocks)
    lengths: list[int] = []
    last: list[tuple[int, int]] = []
    for y, x in yx.tolist():
        touched = blocks.touched(root_spans(source, 0, Region(y, x, *tile)))
        if lengths and touched == last and lengths[-1] < most:
            lengths[-1] += 1
        else:
            lengths.append(1)
        last = touched
    return tuple(lengths)
