"""Write slides and cut-offs as OME-Zarr: a pyramid in one pass, whole shards per task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import bad_tiles_to_json, missing_to_json
from dask_slides.core.channels import Channel
from dask_slides.core.geometry import Region
from dask_slides.core.source import Source, root_of
from dask_slides.core.version import __version__
from dask_slides.errors import BlankSlideError
from dask_slides.graph.blocks import Block
from dask_slides.graph.chunks import input_ratio, read_side, read_span, task_bytes
from dask_slides.numerics.area_means import sum_dtype
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.cutoff import Cutoff
from dask_slides.ops.georeference import georeference
from dask_slides.plots.display import shows_all_values, windows_of
from dask_slides.readers.tile_status import text_of
from dask_slides.runtime.scheduler import (
    Progress,
    check_memory,
    compute,
    memory_per_thread,
    part_of,
    reported,
)
from dask_slides.slide import Slide
from dask_slides.writers import ome_metadata
from dask_slides.writers.blank_maps import write_grid
from dask_slides.writers.image_plan import SMALLEST_SHARD, ImagePlan, Stage, plan_image
from dask_slides.writers.labels import (
    TissueLabel,
    create_label_group,
    label_of_slide,
    tissue_label,
)
from dask_slides.writers.pyramid import (
    LABEL,
    SUMS,
    PutPixels,
    StoredSums,
    WriteBlock,
    put_shards_of,
    stage_array,
    stage_task,
)
from dask_slides.writers.store.arrays import create_level, open_array, shards_of
from dask_slides.writers.store.attributes import own_attributes
from dask_slides.writers.store.manifest import Journal
from dask_slides.writers.store.transaction import Target, Transaction, facts_of, transaction

SMALL_LEVEL = 512
"""Longest side of the level in which the windows of channels are measured."""


@dataclass(frozen=True)
class ImageJob:
    """An image to write, with its plan, tissue label, blank map and attributes."""

    slide: Slide
    version: str
    """Version of OME-Zarr."""
    sharded: bool
    """Whether files hold several chunks; OME-Zarr 0.4 has no shards."""
    plan: ImagePlan
    label: TissueLabel | None
    """The tissue label, if there is one."""
    blank_map: BlankMap | None
    """The blank map that is stored beside the image."""
    facts: Mapping[str, Any]
    """Attributes of dask_slides: the kind and the source of the store."""
    put: PutPixels = put_shards_of
    """Writes the pixels of the levels."""

    def key(self) -> dict[str, Any]:
        """Return the facts that must be equal to resume an unfinished store."""
        slide = self.slide
        key = facts_of(slide.source, "source") | facts_of(self.plan, "plan")
        key |= facts_of(self.label, "label") | {"kind": "image", "dask_slides": __version__}
        key |= {"ome_zarr": self.version, "sharded": self.sharded, "mpp": slide.mpp_yx}
        key |= {"channels": slide.shape[2], "dtype": str(slide.dtype)}
        return key | {name: repr(value) for name, value in self.facts.items()}


def task_bytes_of_image(plan: ImagePlan, slide: Slide) -> int:
    """Return the peak bytes of a task of the first stage: reading, pyramid, encoding."""
    height, width, channels = slide.shape
    side = plan.stages[0].side
    block = Region(0, 0, min(side, height), min(side * plan.stages[0].blocks_per_read, width))
    pixels = block.area * channels * slide.dtype.itemsize
    # pyramid: sums take twice the bytes per sample; those along one axis are half as many as the
    # pixels, those along both a quarter; encoding: a copy with separate channels, and the shard
    pyramid, planes, encoded = pixels, pixels, pixels
    return task_bytes(slide.source, 0, block) + max(pyramid, planes + encoded)


def bytes_of_image(plan: ImagePlan, slide: Slide) -> int:
    """Return the bytes of all levels before compression."""
    return plan.pixels * slide.shape[2] * slide.dtype.itemsize


def plan_that_fits(slide: Slide, sharded: bool = True, chunk: int | None = None) -> ImagePlan:
    """Return the plan with the largest shards whose tasks fit into the memory of a thread.

    If none fit, the shards are the smallest. Memory changes the shards only if it is short, and
    never the pixels. Without shards this holds for the blocks that a task writes. `chunk` is the
    side of a chunk; None chooses it.
    """
    shape, ratio = slide.shape[:2], max(input_ratio(slide.source))
    span, aim = read_span(slide.source, 0), read_side(slide.source)
    plan = plan_image(shape, ratio, span=span, aim=aim, sharded=sharded, chunk=chunk)
    available = memory_per_thread(task_bytes_of_image(plan, slide))
    while available is not None and task_bytes_of_image(plan, slide) > available:
        side = plan.stages[0].side // 2
        if side < max(SMALLEST_SHARD, 2 * (chunk or 0)):
            break
        plan = plan_image(shape, ratio, side, span, aim, sharded, chunk)
    return plan


def write_slide(
    slide: Slide,
    target: Target,
    version: str,
    sharded: bool,
    blank_map: BlankMap | None,
    progress: Progress | None,
) -> str:
    """Write a slide, and its tissue label if a blank map of its source is given."""
    facts = {"kind": "image", "source": slide.name}
    label = None
    if blank_map is not None:
        blank_map = blank_map.compute()
        label = label_of_slide(slide, blank_map)
    job = image_job(slide, version, sharded, label, blank_map, facts)
    return _write_store(job, target, progress)


def write_cutoff(
    cut: Cutoff, target: Target, version: str, sharded: bool, progress: Progress | None
) -> str:
    """Write a cut-off: image, tissue label, blank map, and the way back to its source.

    The attributes have the kind "cutoff", and the facts that `mapping_from_json` describes.
    """
    facts = {"kind": "cutoff", "source": cut.image.name, **cut.mapping.to_json()}
    label = tissue_label(cut.blank_map, cut.layout, cut.factors)
    job = image_job(cut.image, version, sharded, label, cut.blank_map, facts)
    return _write_store(job, target, progress)


def check_not_empty(slide: Slide) -> None:
    """Raise BlankSlideError if there is no image to write."""
    if 0 in slide.shape[:2]:
        raise BlankSlideError(
            f"{slide.name}: every tile is blank, so there is no image to write; "
            "use another detector, or write the blank map"
        )


def image_job(
    slide: Slide,
    version: str,
    sharded: bool,
    label: TissueLabel | None,
    blank_map: BlankMap | None,
    facts: Mapping[str, Any],
    chunk: int | None = None,
) -> ImageJob:
    """Return the job with its plan; raise if there is no image or no memory for a task."""
    check_not_empty(slide)
    plan = plan_that_fits(slide, sharded and version != "0.4", chunk)
    check_memory(task_bytes_of_image(plan, slide), slide.name)
    return ImageJob(slide, version, sharded, plan, label, blank_map, facts)


def _write_store(job: ImageJob, target: Target, progress: Progress | None) -> str:
    """Write the store, all of it or nothing; return its path."""
    plan, slide = job.plan, job.slide
    with transaction(target, job.key(), bytes_of_image(plan, slide)) as unfinished:
        _create(unfinished, job)
        store = unfinished.path
        compute_stages(job, unfinished.journal, progress)
        if len(plan.stages) > 1:
            unfinished.location.remove_folder(SUMS)
        names = [str(number) for number in range(len(plan.levels))]
        if job.label is not None:
            names += [f"{LABEL}/{name}" for name in names]
        shards = {name: shards_of(store, name) for name in names}
        unfinished.finish("0", shards, _attributes(job, unfinished.journal))
    return target.absolute


def _attributes(job: ImageJob, journal: Journal) -> dict[str, Any]:
    """Return the attributes of the group: OME metadata, and those of dask_slides."""
    parts: dict[str, Any] = {
        "multiscales": _multiscales(job, job.slide.name, "cyx"),
        "omero": ome_metadata.omero(_channels(job, journal.location.path), job.slide.dtype),
    }
    facts = facts_of_image(job, journal)
    return ome_metadata.attributes(job.version, parts) | own_attributes(**facts)


def _channels(job: ImageJob, store: str) -> tuple[Channel, ...]:
    sizes = [level.shape for level in job.plan.levels]
    number = next((n for n, size in enumerate(sizes) if max(size) <= SMALL_LEVEL), len(sizes) - 1)
    return channels_with_windows(job.slide, f"{store}/{number}")


def channels_with_windows(slide: Slide, level: str | None) -> tuple[Channel, ...]:
    """Return the channels with windows, which follow from the array `level` if they are not known.

    Viewers show a channel of 16 bits without a window black. The array, or without one a thumbnail
    of the slide, is read only if needed.
    """
    if shows_all_values(slide.dtype, slide.channels):
        return tuple(slide.channels)
    if level is None:
        pixels = slide.thumbnail(SMALL_LEVEL)
    else:
        pixels = np.asarray(open_array(level)[...]).transpose(1, 2, 0)
    return windows_of(pixels, slide.channels, fill=slide.source.fill)


def facts_of_image(job: ImageJob, journal: Journal) -> dict[str, Any]:
    """Return what the attributes of dask_slides say about a written image."""
    facts = {**job.facts, **damage_facts(journal, job.blank_map), **nodata_facts(job.slide.source)}
    reference = georeference(job.slide)
    if reference is not None:
        facts["geotiff"] = reference.to_json()
    return facts


def _multiscales(job: ImageJob, name: str, axes: str) -> list[dict[str, Any]]:
    slide, levels = job.slide, ome_metadata.halvings(len(job.plan.levels))
    placement = ome_metadata.placement_on_slide(slide.source)
    return ome_metadata.multiscales(name, axes, placement, slide.mpp_yx, levels)


def damage_facts(journal: Journal, blank_map: BlankMap | None) -> dict[str, Any]:
    """Return the bad tiles and the regions that show the fill for them; empty without any."""
    missing, tiles = journal.holes()
    if blank_map is not None:
        tiles += blank_map.bad_tiles
    if not tiles:
        return {}
    return {"bad_tiles": bad_tiles_to_json(tiles), "holes": missing_to_json(missing)}


def nodata_facts(source: Source) -> dict[str, str]:
    """Return the nodata value as text, as JSON cannot hold every number; empty without one."""
    root = root_of(source)
    nodata = getattr(root, "nodata", None)
    if nodata is None:
        return {}
    value = np.asarray(nodata, source.dtype)
    return {"nodata": text_of(nodata)} if np.array_equal(root.fill, value, equal_nan=True) else {}


def _create(unfinished: Transaction, job: ImageJob) -> None:
    """Create all arrays."""
    group = unfinished.create(2 if job.version == "0.4" else 3)
    slide = job.slide
    for number, level in enumerate(job.plan.levels):
        shape = (slide.shape[2], *level.shape)
        side = level.chunk, level.shard
        create_level(group, str(number), shape, side, slide.dtype, "cyx", not job.sharded)
    if len(job.plan.stages) > 1:
        create_sums(group, job)
    if job.label is not None:
        _create_label(group, job, job.label)
    if job.blank_map is not None:
        write_grid(group, job.blank_map)
    unfinished.ready()


def create_sums(group: Any, job: ImageJob) -> None:
    """Create the arrays of the sums that each stage leaves for the next one."""
    sums = group.create_group(SUMS)
    slide = job.slide
    for stage in job.plan.stages[:-1]:
        number = stage.levels[-1]
        level = job.plan.levels[number]
        shape = (slide.shape[2] + slide.source.masked, *level.shape)
        dtype = sum_dtype(slide.dtype, number)
        create_level(sums, str(number), shape, (level.chunk, level.shard), dtype, "cyx")


def _create_label(group: Any, job: ImageJob, label: TissueLabel) -> None:
    tissue = create_label_group(group, job.version)
    for number, level in enumerate(job.plan.levels):
        side = level.chunk, level.shard
        create_level(tissue, str(number), level.shape, side, "uint8", "yx", not job.sharded)
    parts: dict[str, Any] = {
        "multiscales": _multiscales(job, "tissue", "yx"),
        "image-label": ome_metadata.image_label(label.has_unknown),
    }
    tissue.attrs.update(ome_metadata.attributes(job.version, parts))


def compute_stages(job: ImageJob, journal: Journal, progress: Progress | None) -> None:
    """Compute the stages one after another; each reads the sums of the previous one."""
    done, plan = 0, job.plan
    progress = progress or reported("write")
    for stage in plan.stages:
        source = _stage_source(job, stage, journal)
        store, dtype = journal.location.path, job.slide.dtype
        task = stage_task(plan, stage, source, store, job.label, dtype, job.put)
        blocks = stage_array(task, source)
        report = part_of(progress, done, plan.tasks)
        written = compute(blocks, "write", report, partial(_describe, job.slide.name, task))
        expected = sum(plan.levels[n].shape[0] * plan.levels[n].shape[1] for n in stage.levels)
        if int(written.sum()) != expected:
            raise AssertionError(f"{written.sum()} of {expected} pixels were written")
        done += blocks.npartitions


def _stage_source(job: ImageJob, stage: Stage, journal: Journal) -> Source:
    """Return the source that a stage reads: the slide, or the sums of the previous stage."""
    slide = job.slide
    if not stage.halvings:
        return slide.source
    number = stage.levels[0] - 1
    return StoredSums(
        path=f"{journal.location.path}/{SUMS}/{number}",
        name=slide.name,
        shape=job.plan.levels[number].shape,
        channels=slide.shape[2],
        dtype=sum_dtype(slide.dtype, number),
        factor=2**number,
        missing=journal.holes()[0],
        fill=slide.source.fill,
        masked=slide.source.masked,
    )


def _describe(name: str, task: WriteBlock, block: Block) -> str:
    return f"{name}: {task.describe(block)}"
