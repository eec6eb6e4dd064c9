"""Slides, cut-offs and blank maps to OME-Zarr: a pyramid in one pass, shard by whole shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from dask_slides._version import __version__
from dask_slides.blank import BlankMap
from dask_slides.cluster import Progress, check_memory, compute
from dask_slides.cutoff import Cutoff
from dask_slides.errors import BlankSlideError
from dask_slides.geometry import Region, bounds, even_pieces
from dask_slides.graph import Block, ReadBlock, input_ratio, map_blocks, read_span, task_bytes
from dask_slides.kernels import area_levels, sum_dtype
from dask_slides.readers.kept import KEPT, LIMIT
from dask_slides.readers.protocol import Level, Source
from dask_slides.runs import Runs
from dask_slides.slide import Slide
from dask_slides.writers import metadata
from dask_slides.writers.arrays import check_version, create_level, get, put_shards, shards_of
from dask_slides.writers.claimed import Claimed
from dask_slides.writers.label import TissueLabel, tissue_label
from dask_slides.writers.mark import Target, marked
from dask_slides.writers.mask import write_grid
from dask_slides.writers.plan import ImagePlan, Stage, plan_image
from dask_slides.writers.records import Record, keep, kept, place_of
from dask_slides.writers.store import Partial, facts_of, new_store

Array = NDArray[Any]


KEPT_IN_WRITES = 2**23
"""Bytes of tiles that a write keeps for the next task: those of the one beside it, not a whole
row of them, so that wider slides take no more memory."""
LABEL = "labels/tissue"
"""Group of the tissue label."""
SUMS = ".sums"
"""Group of the sums that a later stage goes on from; gone when the store is published. Hidden, so
that one written late, by a task that nobody waits for any more, is no part of a store."""


@dataclass(frozen=True)
class LevelSource:
    """The sums of a level of a store that is being written."""

    path: str
    name: str
    shape: tuple[int, int]
    channels: int
    dtype: np.dtype[Any]

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level."""
        return (Level(self.shape, (1.0, 1.0), (256, 256)),)

    def read(self, level: int, region: Region) -> Array:
        """Read `region` back."""
        rows, columns = region.slices()
        return np.asarray(get(self.path, (slice(None), rows, columns))).transpose(1, 2, 0)


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

    def window(self, block: Block) -> tuple[int, Region]:
        """Return what `block` reads."""
        return self.blocks.window(block)

    def _covered(self, axis: int, start: int, stop: int) -> Array:
        """Return how many pixels of level 0 each pixel of what is read stands for."""
        size = 2 ** (self.stage.levels[0] - self.stage.first)
        first = np.arange(start, stop, dtype=np.int64) * size
        return np.asarray(np.minimum(size, self.full[axis] - first))

    def __call__(self, source: Source, block: Block) -> Array:
        """Write `block`, if a run before this one did not; return the pixels written, (1, 1)."""
        task = "-".join(str(n) for n in (self.stage.levels[0], *block[:2]))
        done = kept(self.path, task)
        if done is None:
            done = self._write(source, block, task)
        return np.full((1, 1), done, np.int64)

    def _write(self, source: Source, block: Block, task: str) -> int:
        _, region = self.window(block)
        # what is fetched again costs more than what is decoded again
        with KEPT.within(LIMIT if read_span(source, 0) else KEPT_IN_WRITES):
            sums = source.read(0, region)
        covered = (
            self._covered(0, region.y, region.stop_y),
            self._covered(1, region.x, region.stop_x),
        )
        before = self.stage.levels[0] - self.stage.first  # the level that is read
        made = area_levels(sums, covered, self.dtype, range(before + 1, self.stage.levels[-1] + 1))
        written = 0
        records = []
        for number in self.stage.levels:
            image = sums
            if number > before:
                image, sums = next(made)
            shift = number - before
            place = Region(region.y >> shift, region.x >> shift, *image.shape[:2])
            records += _put(self.path, str(number), place, image)
            if self.label is not None:
                label = self.label.pixels(number, place)
                records += put_shards(self.path, f"{LABEL}/{number}", place.slices(), label)
            written += place.area
        if not self.last:
            records += _put(self.path, f"{SUMS}/{number}", place, sums)
        keep(self.path, task, written, records)
        return written


def _put(store: str, name: str, place: Region, image: Array) -> list[Record]:
    rows, columns = place.slices()
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
    return put_shards(store, name, (slice(None), rows, columns), pixels)


def check_fit(plan: ImagePlan) -> None:
    """Raise unless every task writes whole shards: else two tasks would write one."""
    for stage in plan.stages:
        for at, number in enumerate(stage.levels):
            level, side = plan.levels[number], stage.side >> (stage.first + at)
            alone = side >= max(level.shape)
            if level.shard % level.chunk or (not alone and side % level.shard):
                raise AssertionError(f"blocks of {side} px do not fit shards of {level}")


def plan_of(slide: Slide) -> ImagePlan:
    """Return how `slide` is written."""
    source = slide.source
    return plan_image(slide.shape[:2], max(input_ratio(source)), read_span(source, 0))


def write_bytes_of_task(plan: ImagePlan, slide: Slide) -> int:
    """Return the peak bytes of a task of the first stage: reading, pyramid, encoding."""
    height, width, channels = slide.shape
    side = plan.stages[0].side
    block = Region(0, 0, min(side, height), min(side * plan.stages[0].wide, width))
    pixels = block.area * channels * slide.dtype.itemsize
    # sums of twice the width on a quarter of the pixels, a half of it between the axes;
    # then the channels apart, and the encoded shard
    pyramid, planes, encoded = pixels, pixels, pixels
    return task_bytes(slide.source, 0, block) + max(pyramid, planes + encoded)


def write_image(
    slide: Slide,
    target: Target,
    version: str,
    progress: Progress | None,
    label: TissueLabel | None,
    blank_map: BlankMap | None,
    facts: dict[str, Any],
) -> str:
    """Write `slide` as OME-Zarr, with the tissue label and the raw grid if there are any."""
    check_version(version)
    height, width, channels = slide.shape
    if not height * width:
        raise BlankSlideError(
            f"{slide.name}: every cell is blank, so no image is left to write; "
            "use a smaller ratio, or write the blank map"
        )
    plan = plan_of(slide)
    check_fit(plan)
    check_memory(write_bytes_of_task(plan, slide), slide.name)
    key = facts_of(slide.source, "source") | facts_of(plan, "plan") | facts_of(label, "label")
    key |= {"kind": "image", "dask_slides": __version__, "ome_zarr": version, "mpp": slide.mpp_yx}
    key |= {"channels": channels, "dtype": str(slide.dtype)}
    with new_store(target, key | {name: repr(value) for name, value in facts.items()}) as partial:
        if not partial.resumed:
            _create(partial, plan, slide, version, label, blank_map)
        store = partial.path
        _run_stages(plan, slide, store, label, progress)
        if len(plan.stages) > 1:
            place_of(store).remove_folder(SUMS)
        names = [str(number) for number in range(len(plan.levels))]
        if label is not None:
            names += [f"{LABEL}/{name}" for name in names]
        shards = {name: shards_of(store, name) for name in names}
        scales = metadata.multiscales(slide.name, "cyx", slide.mpp_yx, len(plan.levels))
        parts = {"multiscales": scales, "omero": metadata.omero(channels, slide.dtype)}
        attributes = metadata.attributes(version, parts) | marked(**facts)
        partial.finish("0", shards, attributes)
    return target.place


def _create(
    partial: Partial | Claimed,
    plan: ImagePlan,
    slide: Slide,
    version: str,
    label: TissueLabel | None,
    blank_map: BlankMap | None,
) -> None:
    group = partial.create(2 if version == "0.4" else 3)
    for number, level in enumerate(plan.levels):
        shape = (slide.shape[2], *level.shape)
        create_level(group, str(number), shape, (level.chunk, level.shard), slide.dtype, "cyx")
    if len(plan.stages) > 1:
        _create_sums(group, plan, slide)
    if label is not None:
        _create_labels(group, plan, slide, version)
    if blank_map is not None:
        write_grid(group, blank_map)
    partial.ready()


def _create_sums(group: Any, plan: ImagePlan, slide: Slide) -> None:
    sums = group.create_group(SUMS)
    for stage in plan.stages[:-1]:
        number = stage.levels[-1]
        level = plan.levels[number]
        shape = (slide.shape[2], *level.shape)
        dtype = sum_dtype(slide.dtype, number)
        create_level(sums, str(number), shape, (level.chunk, level.shard), dtype, "cyx")


def _create_labels(group: Any, plan: ImagePlan, slide: Slide, version: str) -> None:
    labels = group.create_group("labels")
    labels.attrs.update(metadata.attributes(version, {"labels": ["tissue"]}))
    tissue = labels.create_group("tissue")
    for number, level in enumerate(plan.levels):
        create_level(tissue, str(number), level.shape, (level.chunk, level.shard), "uint8", "yx")
    scales = metadata.multiscales("tissue", "yx", slide.mpp_yx, len(plan.levels))
    parts = {"multiscales": scales, "image-label": metadata.image_label()}
    tissue.attrs.update(metadata.attributes(version, parts))


def stage_array(
    plan: ImagePlan,
    stage: Stage,
    source: Source,
    path: str,
    label: TissueLabel | None,
    dtype: np.dtype[Any],
) -> da.Array:
    """Return the graph of a stage: one task a block, each returns the pixels it wrote."""
    shape = source.levels[0].shape
    rows = even_pieces(shape[0], stage.side)
    columns = even_pieces(shape[1], stage.side * stage.wide)
    reading = ReadBlock(0, bounds(rows), bounds(columns))
    last = stage == plan.stages[-1]
    task = WriteBlock(path, stage, reading, label, plan.levels[0].shape, dtype, last)
    chunks = ((1,) * len(rows), (1,) * len(columns))
    return map_blocks(task, source, chunks, np.dtype(np.int64), "write")


def _run_stages(
    plan: ImagePlan, slide: Slide, path: str, label: TissueLabel | None, progress: Progress | None
) -> None:
    done = 0
    for stage in plan.stages:
        source: Source = slide.source
        if stage.first:
            number = stage.levels[0] - 1
            source = LevelSource(
                f"{path}/{SUMS}/{number}",
                slide.name,
                plan.levels[number].shape,
                slide.shape[2],
                sum_dtype(slide.dtype, number),
            )
        blocks = stage_array(plan, stage, source, path, label, slide.dtype)
        report = None if progress is None else _later(progress, done, plan.tasks)
        written = compute(blocks, "write", report)
        expected = sum(plan.levels[n].shape[0] * plan.levels[n].shape[1] for n in stage.levels)
        if int(written.sum()) != expected:
            raise AssertionError(f"{written.sum()} pixels were written of {expected}")
        done += blocks.npartitions


def _later(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def write_cutoff(cut: Cutoff, target: Target, version: str, progress: Progress | None) -> str:
    """Write the cut image, its tissue label, the raw grid and the way back to the source."""
    facts = {
        "kind": "cutoff",
        "source": cut.image.name,
        "source_shape": list(cut.source_shape),
        "rows": [list(run) for run in zip(cut.rows.starts, cut.rows.stops, strict=True)],
        "columns": [list(run) for run in zip(cut.columns.starts, cut.columns.stops, strict=True)],
        "factors": list(cut.factors),
    }
    label = tissue_label(cut.blank_map, cut.rows, cut.columns, cut.factors)
    return write_image(cut.image, target, version, progress, label, cut.blank_map, facts)


def write_slide(
    slide: Slide,
    target: Target,
    version: str,
    progress: Progress | None,
    blank_map: BlankMap | None,
) -> str:
    """Write a slide; with a blank map of its source, the tissue label too."""
    facts = {"kind": "image", "source": slide.name}
    label = None
    if blank_map is not None:
        blank_map = blank_map.compute()
        rows, columns = (Runs((0,), (n,)) for n in blank_map.grid.shape)
        height, width = slide.shape[:2]
        factors = (rows.length / height, columns.length / width)
        label = tissue_label(blank_map, rows, columns, factors)
    return write_image(slide, target, version, progress, label, blank_map, facts)
