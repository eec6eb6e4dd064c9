"""What each task of a write does: read a block, make the levels of its pyramid, put them away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.bad_tiles import MissingRegion, missing_within
from dask_slides.core.geometry import Region, bounds, even_pieces
from dask_slides.core.source import (
    Level,
    Source,
    fill_holes,
)
from dask_slides.core.types import Array
from dask_slides.graph.blocks import Block, ReadBlock, map_blocks
from dask_slides.graph.chunks import read_span
from dask_slides.numerics.area_means import area_levels
from dask_slides.readers.tile_cache import LIMIT, TILE_CACHE
from dask_slides.writers.image_plan import ImagePlan, Stage
from dask_slides.writers.labels import TissueLabel
from dask_slides.writers.store.arrays import open_array, put_shards
from dask_slides.writers.store.manifest import Record, pixels_of_task, record_task

KEPT_IN_WRITES = 2**23
"""Bytes of tiles that a write keeps for the next task: those of the one beside it, not a whole
row of them, so that wider slides take no more memory."""
LABEL = "labels/tissue"
"""Group of the tissue label."""
SUMS = ".sums"
"""Group of the sums that a later stage goes on from; gone when the store is published. Hidden, so
that one written late, by a task that nobody waits for any more, is no part of a store."""


@dataclass(frozen=True)
class LevelSource(Source):
    """The sums of a level of a store that is being written."""

    path: str
    name: str
    shape: tuple[int, int]
    channels: int
    dtype: np.dtype[Any]
    factor: int
    """Pixels of level 0 along a side of one of these."""
    known: tuple[MissingRegion, ...]
    """Holes of level 0."""
    shown: Any
    """What their pixels show."""
    has_marks: bool
    """Whether pixels may be without a value: an own channel says which."""

    @property
    def fill(self) -> Any:
        """What pixels of holes show."""
        return self.shown

    @property
    def masked(self) -> bool:
        """Whether pixels may be without a value."""
        return self.has_marks

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level."""
        return (Level(self.shape, (1.0, 1.0), (256, 256)),)

    def read(self, level: int, region: Region) -> Array:
        """Read `region` back."""
        return self.read_valid(level, region)[0]

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read the same, and which of the sums are of pixels that all have a value."""
        rows, columns = region.slices()
        stored = np.asarray(open_array(self.path)[:, rows, columns]).transpose(1, 2, 0)
        sums, marks = stored[..., : self.channels], stored[..., self.channels :]
        return sums, ~marks[..., 0].astype(bool) if self.masked and marks.any() else None

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the pixels of `region` that are sums of a part of a hole."""
        return missing_within(self.known, region, self.factor)


def with_marks(sums: Array, gaps: Array | None) -> Array:
    """Return `sums` (h, w, c) with one channel more: 1 where a pixel was without a value."""
    out = np.zeros((*sums.shape[:2], sums.shape[2] + 1), sums.dtype)
    out[..., :-1] = sums
    if gaps is not None:
        out[..., -1] = gaps
    return out


def halved_marks(marks: Array) -> Array:
    """Return marks (h, w) of half the size: set where any of the four was."""
    height, width = (n + n % 2 for n in marks.shape)
    even = np.zeros((height, width), bool)
    even[: marks.shape[0], : marks.shape[1]] = marks
    return np.asarray(even.reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3)))


@dataclass(frozen=True)
class WriteBlock:
    """Reads a block and writes it as whole shards of the levels of a stage."""

    path: str
    stage: Stage
    blocks: ReadBlock
    """What is read, block by block."""
    label: TissueLabel | None
    full: tuple[int, int]
    """Height and width of level 0."""
    dtype: np.dtype[Any]
    """Of the image; what a later stage reads are sums."""
    last: bool
    """Whether no stage goes on from the sums of this one."""
    masked: bool
    """Whether pixels may be without a value."""

    def window(self, block: Block) -> tuple[int, Region]:
        """Return what `block`, a column and a row, reads."""
        column, row = block[:2]
        return self.blocks.window((row, column))

    def _covered(self, axis: int, start: int, stop: int) -> Array:
        """Return how many pixels of level 0 each pixel of what is read stands for."""
        size = 2 ** (self.stage.levels[0] - self.stage.first)
        first = np.arange(start, stop, dtype=np.int64) * size
        return np.asarray(np.minimum(size, self.full[axis] - first))

    def place(self, block: Block) -> str:
        """Return in words what `block` writes."""
        _, region = self.window(block)
        shift = self.stage.first
        height, width = (-(-n // 2**shift) for n in (region.height, region.width))
        return (
            f"level {self.stage.levels[0]}, y {region.y >> shift}, x {region.x >> shift}, "
            f"{height} x {width} px"
        )

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Write `block_id`, if a run before this one did not; return the pixels written, (1, 1)."""
        column, row = block_id[:2]
        task = f"{self.stage.levels[0]}-{row}-{column}"
        done = pixels_of_task(self.path, task)
        if done is None:
            done = self._write(source, block_id, task)
        return np.full((1, 1), done, np.int64)

    def _write(self, source: Source, block: Block, task: str) -> int:
        _, region = self.window(block)
        step = self.stage.side * self.stage.wide
        written, records, holes = 0, list[Record](), list[MissingRegion]()
        for left in range(region.x, region.stop_x, step):
            width = min(step, region.stop_x - left)
            part = Region(region.y, left, region.height, width)
            sides = left > region.x, left + width < region.stop_x  # the next task is below or above
            # what is fetched again costs more than what is decoded again
            with TILE_CACHE.within(LIMIT if read_span(source, 0) else KEPT_IN_WRITES, sides):
                done, of_files, found = self._write_part(source, part)
            written += done
            records += of_files
            holes += found
        record_task(self.path, task, written, records, () if self.stage.first else holes)
        return written

    def _write_part(
        self, source: Source, region: Region
    ) -> tuple[int, list[Record], tuple[MissingRegion, ...]]:
        """Write what is read at once; return the pixels written, the files, the holes."""
        sums, valid = source.read_valid(0, region)
        gaps = None if valid is None else ~valid
        image = sums
        if gaps is not None:  # no sum holds a number that stands for none
            image, sums = sums, np.where(gaps[..., None], sums.dtype.type(0), sums)
        holes = source.holes(0, region)
        covered = (
            self._covered(0, region.y, region.stop_y),
            self._covered(1, region.x, region.stop_x),
        )
        before = self.stage.levels[0] - self.stage.first  # the level that is read
        made = area_levels(sums, covered, self.dtype, range(before + 1, self.stage.levels[-1] + 1))
        written = 0
        records = []
        for number in self.stage.levels:
            if number > before:
                image, sums = next(made)
                gaps = None if gaps is None else halved_marks(gaps)
            shift = number - before
            place = Region(region.y >> shift, region.x >> shift, *image.shape[:2])
            own = missing_within(holes, place, 2**shift)
            fill_holes(source, own, place, image)  # no mean is half of the fill
            if gaps is not None:
                np.copyto(image, source.fill, where=gaps[..., None])
            records += _put(self.path, str(number), place, image, own)
            if self.label is not None:
                label = self.label.pixels(number, place)
                records += put_shards(self.path, f"{LABEL}/{number}", place.slices(), label)
            written += place.area
        if not self.last:
            if self.masked:
                sums = with_marks(sums, gaps)
            records += _put(self.path, f"{SUMS}/{number}", place, sums)
        return written, records, holes


def _put(
    store: str, name: str, place: Region, image: Array, holes: tuple[MissingRegion, ...] = ()
) -> list[Record]:
    rows, columns = place.slices()
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
    return put_shards(store, name, (slice(None), rows, columns), pixels, holes)


def stage_task(
    plan: ImagePlan,
    stage: Stage,
    source: Source,
    path: str,
    label: TissueLabel | None,
    dtype: np.dtype[Any],
) -> WriteBlock:
    """Return what each task of a stage does."""
    height, width = source.levels[0].shape
    rows, columns = even_pieces(height, stage.side), even_pieces(width, stage.across)
    reading = ReadBlock(0, bounds(rows), bounds(columns))
    last = stage == plan.stages[-1]
    full = plan.levels[0].shape
    return WriteBlock(path, stage, reading, label, full, dtype, last, source.masked)


def stage_array(task: WriteBlock, source: Source) -> da.Array:
    """Return the graph of a stage: one task a block, each returns the pixels it wrote.

    Column by column, which is the order they are done in: the next block is above or below, so
    the tiles that both need, a task's width of them and not a slide's, are still kept.
    """
    rows, columns = ((1,) * (len(ends) - 1) for ends in (task.blocks.rows, task.blocks.columns))
    return map_blocks(task, source, (columns, rows), np.dtype(np.int64), "write")
