"""Deep Zoom images: ``NAME.dzi`` and ``NAME_files/LEVEL/COLUMN_ROW.jpg``.

The format is Microsoft's Deep Zoom, which OpenSeadragon shows and ``vips dzsave`` writes. Level 0
is a single pixel, and each level has twice the sides of the one before. A tile shows its cell of
the grid and `overlap` more pixels of each neighbour.

A task reads a block of the image with a margin and writes the tiles of several levels from it. The
levels are exact area means, as in the stores that dask_slides writes. Later stages read the sums
that the last level of the stage before left in the hidden folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.geometry import Region, bounds, even_pieces, halved
from dask_slides.core.source import Source
from dask_slides.core.types import Array
from dask_slides.errors import BlankSlideError, SlideArgumentError
from dask_slides.graph.blocks import Block, map_blocks
from dask_slides.graph.chunks import read_span, task_bytes
from dask_slides.numerics.area_means import area_levels, sum_dtype
from dask_slides.ops.cutoff import Cutoff
from dask_slides.readers.tile_cache import TILE_CACHE
from dask_slides.runtime.scheduler import check_memory, compute, memory_per_thread
from dask_slides.slide import Slide
from dask_slides.writers.exports.encoders import Encoder, encoder_for
from dask_slides.writers.exports.output import check_new, check_new_folder, staging_folder
from dask_slides.writers.pyramid import CACHE_BYTES, StoredSums
from dask_slides.writers.store.arrays import create_level, put_shards

TILE_SIZE, OVERLAP = 254, 1
"""Those of ``vips dzsave``."""
LARGEST_SIDE = 4096
"""Largest side of a block in pixels."""
SMALL_SIDE = 2048
"""The same for small images, so that there is work for a few threads."""
XML = """<?xml version="1.0" encoding="UTF-8"?>
<Image xmlns="http://schemas.microsoft.com/deepzoom/2008"
  Format="{format}" Overlap="{overlap}" TileSize="{tile}">
  <Size Height="{height}" Width="{width}"/>
</Image>
"""


@dataclass(frozen=True)
class Grid:
    """The tiles of all levels. Levels are counted from the full one: 0 is the slide."""

    shape: tuple[int, int]
    tile: int
    overlap: int

    @property
    def top(self) -> int:
        """The number of halvings to a single pixel."""
        return (max(self.shape) - 1).bit_length()

    def size(self, number: int) -> tuple[int, int]:
        """Return height and width of a level."""
        return halved(self.shape[0], number), halved(self.shape[1], number)

    def tile_region(self, number: int, row: int, column: int) -> Region:
        """Return the region of a tile with its overlap, in pixels of its level."""
        y, x = row * self.tile, column * self.tile
        side = self.tile + 2 * self.overlap
        around = Region(y - self.overlap, x - self.overlap, side, side)
        return around.intersect(Region(0, 0, *self.size(number)))


@dataclass(frozen=True)
class Stage:
    """The levels that are written from the blocks of one image."""

    base: int
    """Halvings of the image that is read."""
    levels: tuple[int, ...]
    """Levels that are written."""
    block: tuple[int, int]
    """Height and width of a block, in pixels of the image that is read."""
    last: bool
    """Whether no stage follows."""


def plan_stages(grid: Grid, depth: int, width: int = 1) -> list[Stage]:
    """Return the stages: blocks of ``tile * 2**depth`` pixels, those of the first `width` wide."""
    stages = []
    side, base, first = grid.tile << depth, 0, 0
    while max(grid.size(base)) > side:
        levels = tuple(range(first, base + depth + 1))
        stages.append(Stage(base, levels, (side, side * width), False))
        base, first, width = base + depth, base + depth + 1, 1
    levels = tuple(range(first, grid.top + 1))
    return [*stages, Stage(base, levels, grid.size(base), True)]


def _fitting_stages(slide: Slide, grid: Grid) -> list[Stage]:
    """Return the stages with the largest blocks that fit the memory of a thread."""
    side = min(LARGEST_SIDE, max(SMALL_SIDE, max(grid.shape) // 2))
    depth = max(1, (side // grid.tile).bit_length() - 1)
    span = read_span(slide.source, 0)
    while depth > 1 and min(span, grid.shape[1]) * (grid.tile << depth) > LARGEST_SIDE**2:
        depth -= 1
    while True:
        side = grid.tile << depth
        width = max(1, min(-(-span // side), -(-(LARGEST_SIDE**2) // side**2)))
        stages = plan_stages(grid, depth, width)
        needed = _task_bytes(slide, stages[0])
        available = memory_per_thread(needed)
        if depth == 1 or available is None or needed <= available:
            check_memory(needed, slide.name)
            return stages
        depth -= 1


def _task_bytes(slide: Slide, stage: Stage) -> int:
    """Return the peak bytes of a task: reading, and sums of twice the bytes of half the pixels."""
    height, width = (min(a, b) for a, b in zip(stage.block, slide.shape, strict=False))
    sums = 2 * height * width * slide.shape[2] * slide.dtype.itemsize
    return task_bytes(slide.source, 0, Region(0, 0, height, width)) + sums


@dataclass(frozen=True)
class WriteTiles:
    """Read blocks with a margin, and write the tiles of the levels of a stage."""

    folder: str
    sums: str
    """Group of the sums for later stages."""
    grid: Grid
    stage: Stage
    encode: Encoder
    dtype: np.dtype[Any]

    def blocks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the lengths of the blocks along y and x."""
        rows, columns = (
            even_pieces(size, side)
            for size, side in zip(self.grid.size(self.stage.base), self.stage.block, strict=True)
        )
        return rows, columns

    def core(self, block: Block) -> Region:
        """Return the region of `block`, (column, row), without its margin."""
        rows, columns = (bounds(lengths) for lengths in self.blocks())
        (x, right), (y, bottom) = (
            (ends[i], ends[i + 1]) for ends, i in zip((columns, rows), block[:2], strict=True)
        )
        return Region(y, x, bottom - y, right - x)

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the region that `block` reads: overlaps of its last level reach beyond it."""
        core = self.core(block)
        margin = self.grid.overlap << (self.stage.levels[-1] - self.stage.base)
        around = Region(
            core.y - margin, core.x - margin, core.height + 2 * margin, core.width + 2 * margin
        )
        return 0, around.intersect(Region(0, 0, *self.grid.size(self.stage.base)))

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Write `block_id`; return the number of tiles, (1, 1)."""
        core, (_, region) = self.core(block_id), self.window(block_id)
        with TILE_CACHE.within(CACHE_BYTES, (False, False)):  # the next task is below
            pixels = source.read(0, region)
        count = 0
        for number, image, sums in self._levels(pixels, region):
            origin = self._shrunk(region, number)
            if number in self.stage.levels:
                count += self._write_tiles(number, image, origin, self._shrunk(core, number))
            if number == self.stage.levels[-1] and not self.stage.last:
                self._write_sums(sums, origin, self._shrunk(core, number))
        return np.full((1, 1), count, np.int64)

    def _shrunk(self, region: Region, number: int) -> Region:
        """Return `region` of the image that is read on a level."""
        factor = 2 ** (number - self.stage.base)
        y, x = region.y // factor, region.x // factor
        return Region(y, x, -(-region.stop_y // factor) - y, -(-region.stop_x // factor) - x)

    def _levels(self, pixels: Array, region: Region) -> Iterator[tuple[int, Array, Array]]:
        base, last = self.stage.base, self.stage.levels[-1]
        if not base:
            yield 0, pixels, pixels
        rows, columns = (
            np.minimum(2**base, size - np.arange(start, stop, dtype=np.int64) * 2**base)
            for size, (start, stop) in zip(
                self.grid.shape, ((region.y, region.stop_y), (region.x, region.stop_x)), strict=True
            )
        )
        numbers = range(base + 1, last + 1)
        halves = area_levels(pixels, (rows, columns), self.dtype, numbers)
        for number, (image, sums) in zip(numbers, halves, strict=True):
            yield number, image, sums

    def _write_tiles(self, number: int, image: Array, origin: Region, core: Region) -> int:
        """Write the tiles of a level that start in `core`; `image` starts at `origin`."""
        tile = self.grid.tile
        rows = range(core.y // tile, -(-core.stop_y // tile))
        columns = range(core.x // tile, -(-core.stop_x // tile))
        folder = os.path.join(self.folder, str(self.grid.top - number))
        for row in rows:
            for column in columns:
                region = self.grid.tile_region(number, row, column)
                name = f"{column}_{row}.{self.encode.suffix}"
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(self.encode(image[region.slices(origin.y, origin.x)]))
        return len(rows) * len(columns)

    def _write_sums(self, sums: Array, origin: Region, core: Region) -> None:
        inside = sums[core.slices(origin.y, origin.x)].transpose(2, 0, 1)
        index = (slice(None), *core.slices())
        put_shards(self.sums, str(self.stage.levels[-1]), index, np.ascontiguousarray(inside))


def export_deepzoom(
    obj: Slide | Cutoff,
    path: str,
    *,
    overwrite: bool = False,
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
    image: str = "jpg",
    quality: int | None = None,
) -> str:
    """Write a slide or a cut-off as a Deep Zoom image.

    Parameters
    ----------
    obj : Slide or Cutoff
        8-bit grey or RGB; for PNG also 16-bit. It is read once, on the active scheduler. On a
        cluster, every worker must be able to write to the folder.
    path : str
        ``NAME.dzi``. The tiles are in ``NAME_files``, which must be new or empty.
    overwrite : bool
        Replace the file ``NAME.dzi``; tiles are never replaced.
    tile_size : int
        Side of a tile without its overlap.
    overlap : int
        Pixels of its neighbours that a tile shows on each side.
    image : {"jpg", "png"}
        Format of the tiles.
    quality : int, optional
        Quality of JPEG, 1 to 100; 90 by default. Colour is not subsampled.

    Returns
    -------
    str
        `path`.
    """
    slide = obj.image if isinstance(obj, Cutoff) else obj
    encode = encoder_for(path, image, quality, slide.dtype, slide.shape[2])
    grid = _checked_grid(path, slide, tile_size, overlap)
    target = os.path.abspath(path)
    tiles = f"{target[: -len('.dzi')]}_files"
    check_new(target, overwrite)
    check_new_folder(tiles)
    with staging_folder(target, encode.largest(_bytes_of(slide))) as staging:
        _write_levels(slide, grid, encode, staging)
        description = os.path.join(staging, "image.dzi")
        with open(description, "w", encoding="utf-8") as file:
            file.write(_description(grid, encode))
        check_new_folder(tiles)  # again, as another process may have written there meanwhile
        if os.path.isdir(tiles):
            os.rmdir(tiles)
        os.rename(os.path.join(staging, "tiles"), tiles)
        os.replace(description, target)  # last, as viewers open it first
    return path


def _checked_grid(path: str, slide: Slide, tile_size: Any, overlap: Any) -> Grid:
    if not path.endswith(".dzi") or path.endswith(f"{os.sep}.dzi"):
        raise SlideArgumentError(f"{path}: the name of a Deep Zoom image is NAME.dzi")
    whole = all(isinstance(n, int | np.integer) for n in (tile_size, overlap))
    if not (whole and 32 <= tile_size <= 2048 and 0 <= overlap <= tile_size // 2):
        raise SlideArgumentError(
            f"{path}: tile_size={tile_size!r}, overlap={overlap!r}; give a tile_size from 32 to "
            "2048, and an overlap from 0 to half of it"
        )
    if 0 in slide.shape[:2]:
        raise BlankSlideError(f"{slide.name}: every tile is blank, so there is no image to export")
    return Grid((slide.shape[0], slide.shape[1]), int(tile_size), int(overlap))


def _bytes_of(slide: Slide) -> int:
    """Return the bytes of all levels."""
    return slide.shape[0] * slide.shape[1] * slide.shape[2] * int(slide.dtype.itemsize) * 4 // 3


def _description(grid: Grid, encode: Encoder) -> str:
    height, width = grid.shape
    values = {"format": encode.suffix, "overlap": grid.overlap, "tile": grid.tile}
    return XML.format(**values, height=height, width=width)


def _write_levels(slide: Slide, grid: Grid, encode: Encoder, staging: str) -> None:
    """Write all tiles to ``tiles`` in `staging`, stage by stage."""
    import zarr

    stages = _fitting_stages(slide, grid)
    folder, sums = os.path.join(staging, "tiles"), os.path.join(staging, "sums")
    for number in range(grid.top + 1):
        os.makedirs(os.path.join(folder, str(number)))
    group = zarr.open_group(sums, mode="w-", zarr_format=3) if len(stages) > 1 else None
    for stage in stages:
        task = WriteTiles(folder, sums, grid, stage, encode, slide.dtype)
        if not stage.last:
            shape = (slide.shape[2], *grid.size(stage.levels[-1]))
            dtype = sum_dtype(slide.dtype, stage.levels[-1])
            side = (grid.tile, grid.tile)
            create_level(group, str(stage.levels[-1]), shape, side, dtype, "cyx")
        _compute_stage(slide, task)


def _compute_stage(slide: Slide, task: WriteTiles) -> None:
    number = task.stage.base
    source: Source = slide.source
    if number:
        source = StoredSums(
            path=f"{task.sums}/{number}", name=slide.name, shape=task.grid.size(number),
            channels=slide.shape[2], dtype=sum_dtype(slide.dtype, number), factor=2**number,
            missing=(),
        )  # fmt: skip
    rows, columns = ((1,) * len(lengths) for lengths in task.blocks())
    # column by column, so that consecutive tasks share a short edge, whose tiles are cached
    blocks = map_blocks(task, source, (columns, rows), np.dtype(np.int64), "export")

    def describe(block: Block) -> str:
        region = task.core(block)
        return f"{slide.name}: level {number}, y {region.y}, x {region.x}"

    compute(blocks, "export", None, describe)
