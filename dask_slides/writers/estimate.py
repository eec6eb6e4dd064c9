"""Estimate an operation before anything is read: shapes, tasks, bytes, memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dask_slides.core.grid import TileGrid
from dask_slides.graph.chunks import read_unit
from dask_slides.graph.statistics import cell_chunks, stats_bytes_of_task
from dask_slides.graph.tiles import reading_bytes
from dask_slides.ops.blank_map import BlankMap
from dask_slides.runtime.scheduler import memory_per_thread
from dask_slides.slide import Slide
from dask_slides.writers.blank_maps import bytes_of_map
from dask_slides.writers.images import bytes_of_image, plan_that_fits, write_bytes_of_task
from dask_slides.writers.packs import pack_bytes_of_task, tiles_a_shard, tiles_that_fit


@dataclass(frozen=True)
class Estimate:
    """An estimate of one operation."""

    source_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    tasks: int
    bytes_to_write: int
    """Before compression."""
    task_bytes: int
    """Peak memory of one task; a worker holds one for each of its threads."""
    upper_bound: bool = False
    """Whether the blank map, which is not computed, can only reduce the numbers."""

    def asdict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def estimate_image(slide: Slide, source: Slide, upper_bound: bool = False) -> Estimate:
    """Return the estimate of writing `slide`, which is derived from `source`."""
    usual = write_bytes_of_task(plan_that_fits(slide, None), slide)
    plan = plan_that_fits(slide, memory_per_thread(usual))
    written = bytes_of_image(plan, slide)
    peak = write_bytes_of_task(plan, slide)
    return Estimate(source.shape, slide.shape, plan.tasks, written, peak, upper_bound)


def estimate_blank_map(found: BlankMap, source: Slide) -> Estimate:
    """Return the estimate of computing and writing a blank map."""
    shape = (found.grid.rows, found.grid.cols)
    tasks = found.statistics.npartitions
    return Estimate(source.shape, shape, tasks, bytes_of_map(found), found.task_bytes)


def estimate_tiles(count: int, grid: TileGrid, image: Slide, source: Slide) -> Estimate:
    """Return the estimate of packing at most `count` tiles of `image`, with their statistics."""
    channels, tile = image.shape[2], grid.tile
    nbytes = tile[0] * tile[1] * channels * image.dtype.itemsize

    def reading(tiles: int) -> int:
        return reading_bytes(image.source, tile, tiles) if count else 0

    usual = pack_bytes_of_task(tiles_a_shard(count, nbytes), nbytes, reading)
    shard = tiles_that_fit(count, nbytes, reading, memory_per_thread(usual))
    statistics = stats_bytes_of_task(grid, image.source)
    rows, columns = cell_chunks(grid, read_unit(image.source))
    return Estimate(
        source.shape,
        (count, *tile, channels),
        len(rows) * len(columns) + -(-count // shard),
        count * nbytes,
        max(statistics, pack_bytes_of_task(shard, nbytes, reading)),
        upper_bound=True,
    )
