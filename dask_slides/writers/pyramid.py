"""Tasks that write an image: read a block, compute the levels of its pyramid, write them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import dask.array as da
import numpy as np

from dask_slides.core.bad_tiles import MissingRegion, missing_within
from dask_slides.core.geometry import Region, bounds, even_pieces
from dask_slides.core.source import Level, Source, fill_holes
from dask_slides.core.types import Array
from dask_slides.graph.blocks import Block, ReadBlock, map_blocks
from dask_slides.graph.chunks import read_span
from dask_slides.numerics.area_means import area_levels
from dask_slides.readers.tile_cache import LIMIT, TILE_CACHE
from dask_slides.writers.image_plan import ImagePlan, Stage
from dask_slides.writers.labels import TissueLabel
from dask_slides.writers.store.arrays import put_shards, read_region
from dask_slides.writers.store.manifest import Record, pixels_of_task, record_task

CACHE_BYTES = 2**23
"""Bytes of decoded tiles that a task leaves in the cache for the next task: enough for the tiles at
their common edge. It does not depend on the width of the slide."""
LABEL = "labels/tissue"
"""Group of the tissue label."""
SUMS = ".sums"
"""Group of the sums that the next stage reads; removed before the store is published. Its name is
hidden, so that files which a task writes too late are not part of the store."""


@dataclass(frozen=True)
class StoredSums(Source):
    """The sums of pixels that a stage wrote for the next stage."""

    path: str
    name: str
    shape: tuple[int, int]
    channels: int
    dtype: np.dtype[Any]
    factor: int
    """Pixels of level 0 per pixel, along a side."""
    missing: tuple[MissingRegion, ...]
    """Regions of level 0 without data."""
    fill: Any = None
    """Value of pixels without data."""
    masked: bool = False
    """Whether the last channel is a mask of pixels without a value."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """A single level."""
        return (Level(self.shape, (1.0, 1.0), (256, 256)),)

    def read(self, level: int, region: Region) -> Array:
        """Return the sums of `region`."""
        return self.read_valid(level, region)[0]

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Return the sums of `region`, and a mask of those whose pixels all have a value."""
        stored = read_region(self.path, region).transpose(1, 2, 0)
        sums, mask = stored[..., : self.channels], stored[..., self.channels :]
        return sums, ~mask[..., 0].astype(bool) if self.masked and mask.any() else None

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` that contain missing pixels of level 0."""
        return missing_within(self.missing, region, self.factor)


def append_mask(sums: Array, invalid: Array | None) -> Array:
    """Return `sums` (h, w, c) with one more channel: 1 where a pixel has no value."""
    out = np.zeros((*sums.shape[:2], sums.shape[2] + 1), sums.dtype)
    out[..., :-1] = sums
    if invalid is not None:
        out[..., -1] = invalid
    return out


def halve_mask(mask: Array) -> Array:
    """Return a mask (h, w) of half the size: True where any of four pixels is True."""
    height, width = (n + n % 2 for n in mask.shape)
    even = np.zeros((height, width), bool)
    even[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(even.reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3)))


class PutPixels(Protocol):
    """Writes pixels of a level to files. It is frozen, and small because every worker gets it."""

    def __call__(
        self,
        store: str,
        name: str,
        region: Region,
        image: Array,
        missing: tuple[MissingRegion, ...] = (),
    ) -> list[Record]:
        """Write `image`, the pixels (h, w, c) of `region` of the level `name` of `store`."""
        ...


def shards_in(region: Region, image: Array, side: int) -> Iterator[tuple[int, int, Array]]:
    """Yield row, column and pixels of each shard of `side` pixels in `image`, which is `region`."""
    for top in range(0, region.height, side):
        for left in range(0, region.width, side):
            row, column = (region.y + top) // side, (region.x + left) // side
            yield row, column, image[top : top + side, left : left + side]


def whole_tile(tile: Array, side: int) -> Array:
    """Return `tile` (h, w, c) with `side` pixels along y and x.

    Beyond the edge of the image it repeats the last pixels, as JPEG blurs other edges.
    """
    rest = [(0, side - n) for n in tile.shape[:2]]
    return np.pad(tile, [*rest, (0, 0)], mode="edge") if np.any(rest) else tile


def put_shards_of(
    store: str,
    name: str,
    region: Region,
    image: Array,
    missing: tuple[MissingRegion, ...] = (),
) -> list[Record]:
    """Write `image` as whole shards of a Zarr array (c, y, x)."""
    rows, columns = region.slices()
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
    return put_shards(store, name, (slice(None), rows, columns), pixels, missing)


@dataclass
class Written:
    """Pixels, files and missing regions that a task has written so far."""

    pixels: int = 0
    files: list[Record] = field(default_factory=list)
    missing: list[MissingRegion] = field(default_factory=list)
    """Regions without data, in pixels of the level that is read."""


@dataclass(frozen=True)
class WriteBlock:
    """Read a block and write it as whole shards of the levels of a stage."""

    path: str
    stage: Stage
    blocks: ReadBlock
    """The blocks that are read."""
    label: TissueLabel | None
    full: tuple[int, int]
    """Height and width of level 0."""
    dtype: np.dtype[Any]
    """Dtype of the image; later stages read sums."""
    last: bool
    """Whether this is the last stage, which writes no sums."""
    put: PutPixels = put_shards_of
    """Writes the pixels of the levels."""

    @property
    def level_read(self) -> int:
        """The level of the pyramid that is read."""
        return self.stage.levels[0] - self.stage.halvings

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the level and the region that `block`, (column, row), reads."""
        column, row = block[:2]
        return self.blocks.window((row, column))

    def describe(self, block: Block) -> str:
        """Describe the part of the image that `block` writes."""
        _, region = self.window(block)
        shift = self.stage.halvings
        height, width = (-(-n // 2**shift) for n in (region.height, region.width))
        return (
            f"level {self.stage.levels[0]}, y {region.y >> shift}, x {region.x >> shift}, "
            f"{height} x {width} px"
        )

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Write `block_id` unless an earlier run did; return the pixels written, (1, 1)."""
        column, row = block_id[:2]
        task = f"{self.stage.levels[0]}-{row}-{column}"
        pixels = pixels_of_task(self.path, task)
        if pixels is not None:
            return np.full((1, 1), pixels, np.int64)
        written = Written()
        # for a remote file, a larger cache costs less than another request
        nbytes = LIMIT if read_span(source, 0) else CACHE_BYTES
        for part, sides in self._parts(block_id):
            with TILE_CACHE.within(nbytes, sides):
                self._write_levels(source, part, written)
        missing = () if self.stage.halvings else written.missing
        record_task(self.path, task, written.pixels, written.files, missing)
        return np.full((1, 1), written.pixels, np.int64)

    def _parts(self, block: Block) -> Iterator[tuple[Region, tuple[bool, bool]]]:
        """Yield the regions to read one after another, and on which sides others follow."""
        _, region = self.window(block)
        step = self.stage.side * self.stage.blocks_per_read
        for left in range(region.x, region.stop_x, step):
            width = min(step, region.stop_x - left)
            sides = left > region.x, left + width < region.stop_x  # the next task is below or above
            yield Region(region.y, left, region.height, width), sides

    def _write_levels(self, source: Source, region: Region, written: Written) -> None:
        """Read `region`, write every level of it, and the sums for the next stage."""
        levels = self._levels(*source.read_valid(0, region), region)
        missing = source.holes(0, region)  # after the read, which finds corrupt tiles
        for number, image, sums, invalid in levels:
            shift = number - self.level_read
            target = Region(region.y >> shift, region.x >> shift, *image.shape[:2])
            inside = missing_within(missing, target, 2**shift)
            fill_holes(source, inside, target, image)  # otherwise it shows means of data and fill
            if invalid is not None:
                np.copyto(image, source.fill, where=invalid[..., None])
            written.files += self.put(self.path, str(number), target, image, inside)
            if self.label is not None:
                label = self.label.pixels(number, target)
                written.files += put_shards(self.path, f"{LABEL}/{number}", target.slices(), label)
            written.pixels += target.area
            if number == self.stage.levels[-1] and not self.last:
                sums = append_mask(sums, invalid) if source.masked else sums
                written.files += put_shards_of(self.path, f"{SUMS}/{number}", target, sums)
        written.missing += missing

    def _levels(
        self, sums: Array, valid: Array | None, region: Region
    ) -> Iterator[tuple[int, Array, Array, Array | None]]:
        """Yield number, pixels, sums and mask of invalid pixels of each level of the stage."""
        invalid = None if valid is None else ~valid
        image = sums
        if invalid is not None:  # sums must not contain nodata values
            sums = np.where(invalid[..., None], sums.dtype.type(0), sums)
        covered = (
            self._pixels_covered(0, region.y, region.stop_y),
            self._pixels_covered(1, region.x, region.stop_x),
        )
        if self.level_read in self.stage.levels:
            yield self.level_read, image, sums, invalid
        numbers = range(self.level_read + 1, self.stage.levels[-1] + 1)
        halved = area_levels(sums, covered, self.dtype, numbers)
        del image, sums
        for number, (image, sums) in zip(numbers, halved, strict=True):
            invalid = None if invalid is None else halve_mask(invalid)
            yield number, image, sums, invalid

    def _pixels_covered(self, axis: int, start: int, stop: int) -> Array:
        """Return how many pixels of level 0 each row or column of the level read covers."""
        size = 2**self.level_read
        first = np.arange(start, stop, dtype=np.int64) * size
        return np.asarray(np.minimum(size, self.full[axis] - first))


def stage_task(
    plan: ImagePlan,
    stage: Stage,
    source: Source,
    path: str,
    label: TissueLabel | None,
    dtype: np.dtype[Any],
    put: PutPixels = put_shards_of,
) -> WriteBlock:
    """Return the function that the tasks of a stage call."""
    height, width = source.levels[0].shape
    rows, columns = even_pieces(height, stage.side), even_pieces(width, stage.task_width)
    blocks = ReadBlock(0, bounds(rows), bounds(columns))
    last = stage == plan.stages[-1]
    full = plan.levels[0].shape
    return WriteBlock(path, stage, blocks, label, full, dtype, last, put)


def stage_array(task: WriteBlock, source: Source) -> da.Array:
    """Return the graph of a stage: one task per block, which returns the pixels it wrote.

    Tasks run column by column, so consecutive tasks are neighbours along y. The tiles that both
    need are one row as wide as a task, not as wide as the slide: they fit into the cache.
    """
    rows, columns = ((1,) * (len(ends) - 1) for ends in (task.blocks.rows, task.blocks.columns))
    return map_blocks(task, source, (columns, rows), np.dtype(np.int64), "write")
