"""Compute the statistics of tiles at any position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.bad_tiles import present_mask
from dask_slides.core.geometry import Region
from dask_slides.core.source import Source
from dask_slides.core.types import Array
from dask_slides.graph.blocks import Block, map_blocks
from dask_slides.graph.tiles import TileBlock, plan_tile_blocks
from dask_slides.numerics.statistics import CellStats, record_length, record_of, unpacked
from dask_slides.runtime.scheduler import compute

MIN_TASKS = 8
"""Least number of tasks. It is small because neighbouring tiles share decoded tiles of the slide,
and two neighbouring tasks both decode the tiles at their common edge."""


@dataclass(frozen=True)
class TileStatsBlock:
    """Compute the statistics of tiles, one block of tiles per task."""

    tiles: TileBlock
    fields: tuple[str, ...]

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the level and the region that the tiles of `block` read."""
        return self.tiles.window(block)

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Return the statistics of the tiles of a block, (n, record)."""
        start, stop = self.tiles.starts[block_id[0] : block_id[0] + 2]
        regions = self.tiles.regions(source, slice(start, stop))
        pixels = self.tiles(source, block_id)
        records = []
        for region, tile in zip(regions, pixels, strict=True):
            seen = present_mask(region, source.holes(0, region))
            if source.masked:
                _, valid = source.read_valid(0, region)
                if valid is not None:
                    seen = valid if seen is None else seen & valid
            records.append(record_of(tile, self.fields, seen=seen))
        return np.stack(records)


def statistics_at(
    source: Source, yx: NDArray[np.int64], tile: tuple[int, int], fields: tuple[str, ...]
) -> CellStats:
    """Compute the statistics of the tiles at `yx`."""
    order = reading_order(yx)
    tiles, lengths = plan_tile_blocks(source, yx[order], tile, 0, MIN_TASKS)
    records = map_blocks(
        TileStatsBlock(tiles, fields),
        source,
        (lengths, (record_length(fields),)),
        np.dtype(float),
        "tile-statistics",
    )
    found = np.empty(records.shape)
    found[order] = compute(records, "tile statistics")
    return unpacked(found, fields)


def reading_order(yx: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order by y, then x, as neighbours share decoded tiles of the slide."""
    return np.lexsort((yx[:, 1], yx[:, 0]))
