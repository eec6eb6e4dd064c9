"""Find the bad tiles of a slide, with one task per block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dask_slides.core.bad_tiles import BadTile, sorted_bad_tiles
from dask_slides.core.geometry import Region, bounds, rectangles
from dask_slides.core.grid import TileGrid
from dask_slides.core.source import Source, iter_pieces
from dask_slides.core.types import Array
from dask_slides.graph.blocks import Block, BlockTask, ReadBlock, map_blocks
from dask_slides.graph.chunks import default_chunks, even_chunks
from dask_slides.graph.resized import STRIP_PIXELS
from dask_slides.runtime.scheduler import compute


@dataclass(frozen=True)
class CheckBlock:
    """Find the bad tiles of blocks of one level."""

    blocks: ReadBlock
    decodes: bool
    """Whether to decode tiles that were not decoded before."""

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the level and region of `block`."""
        return self.blocks.window(block)

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Return an array (1, 1) whose item is a tuple of the bad tiles of the block."""
        level, region = self.window(block_id)
        if self.decodes:
            for _ in iter_pieces(source, level, region, STRIP_PIXELS):
                pass
        return _bad_tiles_in(source, level, [region])


@dataclass(frozen=True)
class CellsBlock:
    """Find the bad tiles in the incomplete cells of a grid."""

    grid: TileGrid
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    """The cells at which blocks start, and the end."""
    complete: bytes
    """One bit per cell of the grid: 1 if no pixel is missing."""

    def window(self, block: Block) -> tuple[int, Region]:
        """Return level 0 and the region that the cells of `block` cover."""
        i, j = block[:2]
        corners = (self.rows[i], self.rows[i + 1], self.columns[j], self.columns[j + 1])
        return 0, self.grid.span(*corners)

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Return an array (1, 1) whose item is a tuple of the bad tiles of the block."""
        count = self.grid.rows * self.grid.cols
        bits = np.unpackbits(np.frombuffer(self.complete, np.uint8), count=count)
        row, column = self.rows[block_id[0]], self.columns[block_id[1]]
        own = bits.reshape(self.grid.rows, self.grid.cols)[
            row : self.rows[block_id[0] + 1], column : self.columns[block_id[1] + 1]
        ]
        regions = []
        gaps = any(s > t for s, t in zip(self.grid.stride, self.grid.tile, strict=True))
        for cells in rectangles(own == 0):
            # with gaps between cells, check them one by one, without the tiles in the gaps
            rows, columns = (cells.height, cells.width) if gaps else (1, 1)
            for i in np.array_split(np.arange(cells.y, cells.stop_y), rows):
                for j in np.array_split(np.arange(cells.x, cells.stop_x), columns):
                    part = (row + i[0], row + i[-1] + 1, column + j[0], column + j[-1] + 1)
                    regions.append(self.grid.span(*(int(n) for n in part)))
        return _bad_tiles_in(source, 0, regions)


def _bad_tiles_in(source: Source, level: int, regions: list[Region]) -> Array:
    tiles = {hole.tile for region in regions for hole in source.holes(level, region)}
    item = np.empty((1, 1), object)
    item[0, 0] = tuple(tiles)
    return item


def _compute(task: BlockTask, source: Source, counts: tuple[int, int], label: str) -> set[BadTile]:
    chunks = tuple((1,) * count for count in counts)
    blocks = compute(map_blocks(task, source, chunks, np.dtype(object), "bad-tiles"), label)
    return {tile for found in blocks.flat for tile in found}


def bad_tiles_of_level(source: Source, level: int, decodes: bool = False) -> tuple[BadTile, ...]:
    """Find the bad tiles of `level` of `source`. With `decodes`, decode all tiles first."""
    shape = source.levels[level].shape
    if 0 in shape or source.on_bad_tile is None:
        return ()
    rows, columns = even_chunks(shape, default_chunks(source, level))
    task = CheckBlock(ReadBlock(level, bounds(rows), bounds(columns)), decodes)
    return sorted_bad_tiles(_compute(task, source, (len(rows), len(columns)), "check tiles"))


def bad_tiles_of_cells(
    source: Source, grid: TileGrid, chunks: tuple[tuple[int, ...], ...], complete: Array
) -> tuple[BadTile, ...]:
    """Find the bad tiles in the cells of `grid` that are not `complete`.

    `chunks` has the numbers of cells per task, along y and x.
    """
    if complete.all() or source.on_bad_tile is None:
        return ()
    bits = np.packbits(complete.reshape(-1)).tobytes()
    task = CellsBlock(grid, bounds(chunks[0]), bounds(chunks[1]), bits)
    counts = (len(chunks[0]), len(chunks[1]))
    return sorted_bad_tiles(_compute(task, source, counts, "find bad tiles"))
