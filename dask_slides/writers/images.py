"""Slides, cut-offs and blank maps to OME-Zarr: a pyramid in one pass, shard by whole shard."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import bad_tiles_to_json, missing_to_json
from dask_slides.core.geometry import Region
from dask_slides.core.intervals import Intervals
from dask_slides.core.source import Source, placement_of, root_of
from dask_slides.core.version import __version__
from dask_slides.errors import BlankSlideError
from dask_slides.graph.blocks import Block
from dask_slides.graph.chunks import input_ratio, read_side, read_span, task_bytes
from dask_slides.numerics.area_means import sum_dtype
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.cutoff import Cutoff
from dask_slides.readers.tile_status import text_of
from dask_slides.runtime.scheduler import Progress, check_memory, compute, memory_per_thread
from dask_slides.slide import Slide
from dask_slides.writers import ome_metadata
from dask_slides.writers.blank_maps import write_grid
from dask_slides.writers.image_plan import SMALLEST_SHARD, ImagePlan, plan_image
from dask_slides.writers.labels import TissueLabel, tissue_label
from dask_slides.writers.pyramid import (
    LABEL,
    SUMS,
    LevelSource,
    WriteBlock,
    stage_array,
    stage_task,
)
from dask_slides.writers.store.arrays import check_version, create_level, shards_of
from dask_slides.writers.store.attributes import own_attributes
from dask_slides.writers.store.manifest import Journal
from dask_slides.writers.store.transaction import Target, Transaction, facts_of, transaction


def check_fit(plan: ImagePlan) -> None:
    """Raise unless every task writes whole shards: else two tasks would write one."""
    for stage in plan.stages:
        for at, number in enumerate(stage.levels):
            level, side = plan.levels[number], stage.side >> (stage.first + at)
            alone = side >= max(level.shape)
            if level.shard % level.chunk or (not alone and side % level.shard):
                raise AssertionError(f"blocks of {side} px do not fit shards of {level}")


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


def bytes_of_image(plan: ImagePlan, slide: Slide) -> int:
    """Return the bytes of all levels before compression."""
    return plan.pixels * slide.shape[2] * slide.dtype.itemsize


def plan_that_fits(slide: Slide, available: int | None) -> ImagePlan:
    """Return the plan of the largest shards, up to the usual ones, that fit `available` bytes.

    If none does, that of the smallest. Only where memory is short do the shards of a store
    depend on it, and its pixels never do.
    """
    shape, ratio = slide.shape[:2], max(input_ratio(slide.source))
    span, aim = read_span(slide.source, 0), read_side(slide.source)
    plan = plan_image(shape, ratio, span=span, aim=aim)
    while available is not None and write_bytes_of_task(plan, slide) > available:
        side = plan.stages[0].side // 2
        if side < SMALLEST_SHARD:
            break
        plan = plan_image(shape, ratio, side, span, aim)
    return plan


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
            f"{slide.name}: every tile is blank, so no image is left to write; "
            "use a smaller ratio, or write the blank map"
        )
    usual = write_bytes_of_task(plan_that_fits(slide, None), slide)
    plan = plan_that_fits(slide, memory_per_thread(usual))
    check_fit(plan)
    check_memory(write_bytes_of_task(plan, slide), slide.name)
    key = facts_of(slide.source, "source") | facts_of(plan, "plan") | facts_of(label, "label")
    key |= {"kind": "image", "dask_slides": __version__, "ome_zarr": version, "mpp": slide.mpp_yx}
    key |= {"channels": channels, "dtype": str(slide.dtype)}
    key |= {name: repr(value) for name, value in facts.items()}
    with transaction(target, key, bytes_of_image(plan, slide)) as unfinished:
        _create(unfinished, plan, slide, version, label, blank_map)
        store = unfinished.path
        _run_stages(plan, slide, unfinished.journal, label, progress)
        if len(plan.stages) > 1:
            unfinished.location.remove_folder(SUMS)
        names = [str(number) for number in range(len(plan.levels))]
        if label is not None:
            names += [f"{LABEL}/{name}" for name in names]
        shards = {name: shards_of(store, name) for name in names}
        place = placement_of(slide.source)
        count = len(plan.levels)
        scales = ome_metadata.multiscales(slide.name, "cyx", place, slide.mpp_yx, count)
        parts = {"multiscales": scales, "omero": ome_metadata.omero(slide.channels, slide.dtype)}
        attributes = ome_metadata.attributes(version, parts) | own_attributes(
            **facts, **_damage(unfinished.journal, blank_map), **_nodata(slide.source)
        )
        unfinished.finish("0", shards, attributes)
    return target.absolute


def _damage(journal: Journal, blank_map: BlankMap | None) -> dict[str, Any]:
    """Return what the mark of a store says of bad tiles: nothing where there are none."""
    holes, tiles = journal.holes()
    if blank_map is not None:
        tiles += blank_map.bad_tiles
    if not tiles:
        return {}
    return {"bad_tiles": bad_tiles_to_json(tiles), "holes": missing_to_json(holes)}


def _nodata(source: Source) -> dict[str, str]:
    """Return what the mark says of pixels without a value: as text, which holds any number."""
    root = root_of(source)
    nodata = getattr(root, "nodata", None)
    if nodata is None:
        return {}
    shown = np.asarray(nodata, source.dtype)
    return {"nodata": text_of(nodata)} if np.array_equal(root.fill, shown, equal_nan=True) else {}


def _create(
    unfinished: Transaction,
    plan: ImagePlan,
    slide: Slide,
    version: str,
    label: TissueLabel | None,
    blank_map: BlankMap | None,
) -> None:
    group = unfinished.create(2 if version == "0.4" else 3)
    for number, level in enumerate(plan.levels):
        shape = (slide.shape[2], *level.shape)
        create_level(group, str(number), shape, (level.chunk, level.shard), slide.dtype, "cyx")
    if len(plan.stages) > 1:
        _create_sums(group, plan, slide)
    if label is not None:
        _create_labels(group, plan, slide, version, label)
    if blank_map is not None:
        write_grid(group, blank_map)
    unfinished.ready()


def _create_sums(group: Any, plan: ImagePlan, slide: Slide) -> None:
    sums = group.create_group(SUMS)
    for stage in plan.stages[:-1]:
        number = stage.levels[-1]
        level = plan.levels[number]
        shape = (slide.shape[2] + slide.source.masked, *level.shape)
        dtype = sum_dtype(slide.dtype, number)
        create_level(sums, str(number), shape, (level.chunk, level.shard), dtype, "cyx")


def _create_labels(
    group: Any, plan: ImagePlan, slide: Slide, version: str, label: TissueLabel
) -> None:
    labels = group.create_group("labels")
    labels.attrs.update(ome_metadata.attributes(version, {"labels": ["tissue"]}))
    tissue = labels.create_group("tissue")
    for number, level in enumerate(plan.levels):
        create_level(tissue, str(number), level.shape, (level.chunk, level.shard), "uint8", "yx")
    place = placement_of(slide.source)
    scales = ome_metadata.multiscales("tissue", "yx", place, slide.mpp_yx, len(plan.levels))
    parts = {"multiscales": scales, "image-label": ome_metadata.image_label(label.has_unknown)}
    tissue.attrs.update(ome_metadata.attributes(version, parts))


def _run_stages(
    plan: ImagePlan,
    slide: Slide,
    journal: Journal,
    label: TissueLabel | None,
    progress: Progress | None,
) -> None:
    done, path = 0, journal.location.path
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
                2**number,
                journal.holes()[0],
                slide.source.fill,
                slide.source.masked,
            )
        task = stage_task(plan, stage, source, path, label, slide.dtype)
        blocks = stage_array(task, source)
        report = None if progress is None else _later(progress, done, plan.tasks)
        written = compute(blocks, "write", report, partial(_place, slide.name, task))
        expected = sum(plan.levels[n].shape[0] * plan.levels[n].shape[1] for n in stage.levels)
        if int(written.sum()) != expected:
            raise AssertionError(f"{written.sum()} pixels were written of {expected}")
        done += blocks.npartitions


def _place(name: str, task: WriteBlock, block: Block) -> str:
    return f"{name}: {task.place(block)}"


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
        rows, columns = (Intervals((0,), (n,)) for n in blank_map.grid.shape)
        height, width = slide.shape[:2]
        factors = (rows.length / height, columns.length / width)
        label = tissue_label(blank_map, rows, columns, factors)
    return write_image(slide, target, version, progress, label, blank_map, facts)
