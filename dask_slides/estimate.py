"""What an operation would do: shapes, tasks, bytes, memory. Plain numbers, nothing is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dask_slides.blank import BlankMap
from dask_slides.geometry import Region
from dask_slides.graph import task_bytes
from dask_slides.grid import TileGrid
from dask_slides.resample import STRIP_PIXELS
from dask_slides.slide import Slide
from dask_slides.stats import cell_chunks
from dask_slides.writers.image import plan_of, write_bytes_of_task
from dask_slides.writers.tiles import tiles_a_shard


@dataclass(frozen=True)
class Estimate:
    """What is known before anything is read."""

    source_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    tasks: int
    bytes_to_write: int
    """Before compression."""
    task_bytes: int
    """Peak memory of one task; a worker holds one for each of its threads."""
    upper_bound: bool = False
    """Whether the blank map, which is not computed, can only make it less."""

    def asdict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def estimate_image(slide: Slide, source: Slide, upper_bound: bool = False) -> Estimate:
    """Return what writing `slide`, made of `source`, would do."""
    plan = plan_of(slide)
    written = plan.pixels * slide.shape[2] * slide.dtype.itemsize
    peak = write_bytes_of_task(plan, slide)
    return Estimate(source.shape, slide.shape, plan.tasks, written, peak, upper_bound)


def estimate_blank_map(found: BlankMap, source: Slide) -> Estimate:
    """Return what computing and writing a blank map would do."""
    record = found.statistics.shape[-1]
    written = found.grid.rows * found.grid.cols * (8 * record + 3)
    rows, columns = found.statistics.chunks[:2]
    cells = found.grid.span(0, rows[0], 0, columns[0])
    tile_height, tile_width = source.levels[0].tile
    strip = max(STRIP_PIXELS, tile_height * (cells.width + 2 * tile_width))
    sample = source.shape[2] * source.dtype.itemsize
    # a strip, and the copy of it that is counted; 16-bit and wider are counted as 64-bit
    peak = min(strip, cells.area) * sample * 2 * (1 if source.dtype.itemsize == 1 else 8)
    shape = (found.grid.rows, found.grid.cols)
    return Estimate(source.shape, shape, found.statistics.npartitions, written, peak)


def estimate_tiles(count: int, grid: TileGrid, image: Slide, source: Slide) -> Estimate:
    """Return what packing at most `count` tiles of `image` would do, judging included."""
    channels, tile = image.shape[2], grid.tile
    nbytes = tile[0] * tile[1] * channels * image.dtype.itemsize
    shard = tiles_a_shard(count, nbytes)
    reading = task_bytes(image.source, 0, Region(0, 0, *tile)) if count else 0
    rows, columns = cell_chunks(grid)
    return Estimate(
        source.shape,
        (count, *tile, channels),
        len(rows) * len(columns) + -(-count // shard),
        count * nbytes,
        2 * shard * nbytes + reading,
        upper_bound=True,
    )
