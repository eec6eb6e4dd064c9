"""Estimates of operations: shapes, tasks, bytes and memory. Nothing is read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from dask_slides.core.grid import TileGrid
from dask_slides.graph.stored_level import stored_level
from dask_slides.graph.tiles import reading_bytes
from dask_slides.numerics.detectors import Detector
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR, MaskDetector
from dask_slides.ops.blank_map import BlankMap, blank_map, map_of_grid
from dask_slides.slide import Slide
from dask_slides.writers.blank_maps import bytes_of_map
from dask_slides.writers.images import bytes_of_image, plan_that_fits, task_bytes_of_image
from dask_slides.writers.pack_chunks import COPY, not_copied
from dask_slides.writers.packs import shards_that_fit, task_bytes_of_pack
from dask_slides.writers.source_copy import SourceCodec, estimate_source
from dask_slides.writers.source_plan import stored_bytes


@dataclass(frozen=True)
class Estimate:
    """Shapes, tasks, bytes and memory of an operation."""

    source_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    tasks: int
    bytes_to_write: int
    """Before compression; for copies of compressed tiles the bytes of these."""
    task_bytes: int
    """Peak memory of one task in bytes; a worker runs one task per thread."""
    upper_bound: bool = False
    """Whether the values are upper bounds, because no blank map is computed."""
    copies: bool = False
    """Whether compressed tiles are copied."""

    def asdict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def estimate_image(
    slide: Slide, source: Slide, upper_bound: bool = False, sharded: bool = True
) -> Estimate:
    """Return the estimate of writing `slide`, which is derived from `source`."""
    plan = plan_that_fits(slide, sharded)
    written = bytes_of_image(plan, slide)
    peak = task_bytes_of_image(plan, slide)
    return Estimate(source.shape, slide.shape, plan.tasks, written, peak, upper_bound)


def estimate_copy(
    slide: Slide, source: Slide, codec: SourceCodec, upper_bound: bool = False
) -> Estimate:
    """Return the estimate of writing `slide` with its own compressed tiles."""
    tasks, written, peak = estimate_source(slide, codec)
    return Estimate(source.shape, slide.shape, tasks, written, peak, upper_bound, True)


def estimate_blank_map(found: BlankMap, source: Slide) -> Estimate:
    """Return the estimate of computing and writing a blank map."""
    shape = (found.grid.rows, found.grid.cols)
    tasks = _tasks(found)
    return Estimate(source.shape, shape, tasks, bytes_of_map(found), found.task_bytes)


def estimate_tiles(
    count: int,
    grid: TileGrid,
    image: Slide,
    source: Slide,
    tissue: BlankMap | Detector = DEFAULT_DETECTOR,
    codec: str | None = None,
) -> Estimate:
    """Return the estimate of finding and packing at most `count` tiles of `image`.

    `tissue` is the detector or the blank map of `source` that decides.
    """
    channels, tile = image.shape[2], grid.tile
    nbytes = tile[0] * tile[1] * channels * image.dtype.itemsize

    def reading(tiles: int) -> int:
        return reading_bytes(image.source, tile, tiles) if count else 0

    shard = shards_that_fit(count, nbytes, reading)
    if isinstance(tissue, MaskDetector):
        tissue = blank_map(source, detector=tissue)
    elif not isinstance(tissue, BlankMap):
        tissue = map_of_grid(image, grid, tissue)
    return Estimate(
        source.shape,
        (count, *tile, channels),
        _tasks(tissue) + -(-count // shard),
        min(count * nbytes, _copied_bytes(image, grid)) if codec == COPY else count * nbytes,
        max(tissue.task_bytes, task_bytes_of_pack(shard, nbytes, reading)),
        upper_bound=True,
        copies=codec == COPY,
    )


def _copied_bytes(image: Slide, grid: TileGrid) -> int:
    """Return the bytes of all compressed tiles of `image`, as often as tiles of `grid` overlap."""
    source, level = stored_level(image.source)
    if source.encoding(level) is None:
        raise not_copied(image.name)
    overlap = math.prod(-(-side // step) for side, step in zip(grid.tile, grid.stride, strict=True))
    return overlap * stored_bytes(source, level)


def _tasks(found: BlankMap) -> int:
    """Return the tasks of `BlankMap.compute`."""
    if found.computed:
        return 0
    return len((found.blank if found.found is None else found.found).__dask_graph__())
