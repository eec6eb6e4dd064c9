"""Write a slide as OME-Zarr whose chunks are the slide's own compressed tiles.

Nothing of a copied level is decoded: tasks read the streams of the tiles, check their headers and
ends, and join them to shards. A tile that is absent, corrupt and masked, or dropped as blank is no
chunk, and reads as the fill.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.bad_tiles import (
    BLANK,
    CORRUPT,
    OK,
    bad_tile_from_json,
    bad_tiles_to_json,
    status_of_region,
)
from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.core.geometry import Region, bounds
from dask_slides.core.grid import TileGrid
from dask_slides.core.source import Source
from dask_slides.core.types import Array
from dask_slides.core.version import __version__
from dask_slides.errors import SlideArgumentError, reason_of
from dask_slides.graph.blocks import Block, ReadBlock, map_blocks
from dask_slides.graph.stored_level import LevelSource, ReducedLevelSource
from dask_slides.ops.blank_map import BlankMap, blank_map
from dask_slides.ops.cutoff import Cutoff
from dask_slides.ops.georeference import georeference
from dask_slides.readers.codecs.chunk_decoders import decoded_chunk
from dask_slides.readers.tile_status import decode_error
from dask_slides.runtime.scheduler import Progress, check_memory, compute, part_of, reported
from dask_slides.slide import Slide
from dask_slides.writers import ome_metadata
from dask_slides.writers.blank_maps import write_grid
from dask_slides.writers.encoded_chunks import PutEncoded, made_encoding
from dask_slides.writers.image_plan import SMALLEST_LEVEL, LevelPlan
from dask_slides.writers.images import (
    ImageJob,
    channels_with_windows,
    check_not_empty,
    compute_stages,
    create_sums,
    damage_facts,
    nodata_facts,
    plan_that_fits,
    task_bytes_of_image,
)
from dask_slides.writers.labels import label_of_slide, tissue_label, write_small_label
from dask_slides.writers.pyramid import SUMS
from dask_slides.writers.source_plan import CopiedLevel, SourcePlan, plan_source, stored_bytes
from dask_slides.writers.store.attributes import own_attributes
from dask_slides.writers.store.manifest import (
    Journal,
    pixels_of_task,
    record_task,
    write_file,
)
from dask_slides.writers.store.shards import shard_of
from dask_slides.writers.store.transaction import Target, Transaction, facts_of, transaction

QUALITY = 80
"""Quality of JPEG of the levels that a slide lacks."""


LEVEL_STEP = 4
"""Largest ratio of two levels: that of the levels of most scanners."""
LEVEL_STEPS = (2, 4, 8)


@dataclass(frozen=True)
class SourceCodec:
    """How a slide is written with its own compressed tiles."""

    quality: int = QUALITY
    """Quality of JPEG of the levels that the slide lacks."""
    drop_blank: bool = False
    """Whether tiles that are blank in the blank map are left out."""
    verify_pixels: float = 0.0
    """Share of the copied tiles that are decoded from the slide and from the copy."""
    level_step: int | None = LEVEL_STEP
    """Largest ratio of two levels; missing levels are made, or none if it is None."""

    def __post_init__(self) -> None:
        """Refuse a quality that JPEG does not have, what is not a share, and other steps."""
        step = self.level_step
        if step is not None and not (isinstance(step, int) and step in LEVEL_STEPS):
            raise SlideArgumentError(f"level_step={self.level_step!r}; give 2, 4, 8 or None")
        share = self.verify_pixels
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise SlideArgumentError(f"verify_pixels={share!r}; give a share from 0 to 1")
        if not isinstance(self.quality, int) or not 1 <= self.quality <= 100:
            raise SlideArgumentError(f"quality={self.quality!r}; give a whole number from 1 to 100")


@dataclass(frozen=True)
class CopyTiles:
    """Copy the tiles of a shard of one level."""

    path: str
    level: CopiedLevel
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    """Where shards start in pixels, and the end."""
    dropped: bytes
    """One bit per tile, row by row: whether it is left out. Empty if none is."""
    verify_pixels: float
    """Share of the tiles whose pixels are compared with those of the slide."""

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the level of the slide and the region of `block`."""
        return ReadBlock(self.level.number, self.rows, self.columns).window(block)

    def describe(self, block: Block) -> str:
        """Describe the part of the image that `block` copies."""
        number, region = self.window(block)
        return f"level {number}, y {region.y}, x {region.x}, {region.height} x {region.width} px"

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Copy the tiles of `block_id` unless an earlier run did; return its pixels, (1, 1)."""
        row, column = block_id[:2]
        task = f"{task_prefix(self.level)}{row}-{column}"
        pixels = pixels_of_task(self.path, task)
        if pixels is None:
            number, region = self.window((row, column))
            chunks = self._chunks(source, row, column)
            data = shard_of(chunks)
            holes = source.known_holes(number, region)
            status = OK if any(chunk is not None for chunk in chunks) else BLANK
            status = status_of_region(holes, region) or status
            file = f"{self.level.name}/c/0/{row}/{column}"
            record = write_file(self.path, file, data, status)
            pixels = region.area
            record_task(self.path, task, pixels, [record], holes)
        return np.full((1, 1), pixels, np.int64)

    def _chunks(self, source: Source, row: int, column: int) -> list[bytes | None]:
        """Return the streams of the tiles of a shard, row by row; None where there is none."""
        count, (down, across) = self.level.tiles_per_shard, self.level.tiles
        rows = range(row * count, min((row + 1) * count, down))
        columns = range(column * count, min((column + 1) * count, across))
        numbers = [r * across + c for r in rows for c in columns]
        kept = [number for number in numbers if not self._drops(number)]
        found = dict(source.streams(self.level.number, kept))
        chunks: list[bytes | None] = [None] * count**2
        for number, stream in found.items():
            if stream is not None and _is_sampled(number, self.verify_pixels):
                stream = self._verified(source, number, stream)
            r, c = divmod(number, across)
            chunks[(r - row * count) * count + c - column * count] = stream
        return chunks

    def _verified(self, source: Source, number: int, stream: bytes) -> bytes | None:
        """Return the stream of a tile; raise TileDecodeError unless it has the slide's pixels.

        Return None if the tile is corrupt in the slide and corrupt tiles are masked.
        """
        level, (height, width) = self.level, self.level.encoding.tile
        row, column = divmod(number, level.tiles[1])
        tile = Region(row * height, column * width, height, width)
        region = tile.intersect(Region(0, 0, *level.shape))
        # raises if the slide itself is damaged, or finds the hole
        expected = source.read(level.number, region)
        if status_of_region(source.known_holes(level.number, region), region) == CORRUPT:
            return None
        try:
            pixels = decoded_chunk(level.encoding, stream, source.dtype)
            nan = source.dtype.kind == "f"
            if np.array_equal(pixels[: region.height, : region.width], expected, equal_nan=nan):
                return stream
            failure = ValueError("the copy decodes to other pixels")
        except Exception as error:
            failure = ValueError(f"the copy cannot be decoded: {reason_of(error)}")
        raise decode_error(source.name, level.number, region, failure)

    def _drops(self, number: int) -> bool:
        return bool(self.dropped) and bool(self.dropped[number >> 3] >> (7 - (number & 7)) & 1)


def _is_sampled(number: int, share: float) -> bool:
    """Return whether a tile is one of the `share` that is compared; they are spread evenly."""
    return int((number + 1) * share) > int(number * share)


def task_prefix(level: CopiedLevel) -> str:
    """Return the start of the names of the tasks that copy `level`."""
    return f"copy-{level.name}-"


def write_source(
    slide: Slide,
    target: Target,
    codec: SourceCodec,
    blanks: BlankMap | None,
    progress: Progress | None,
    *,
    cut: Cutoff | None = None,
) -> str:
    """Write `slide` with its own compressed tiles; return the path.

    The blank map, and a small tissue label, are stored if `blanks` are given or tiles are left out.
    With `cut`, a cut-off whose image is `slide`, its map and the way back to its source are stored.
    The attributes say which arrays are copies of which level of the slide ("copied"), and with
    which quality the others were encoded ("made").
    """
    check_not_empty(slide)
    plan = plan_source(slide.source, codec.level_step)
    label, dropped = None, {}
    if cut is not None:
        blanks = cut.blank_map
        label = tissue_label(blanks, cut.layout, cut.factors)
    elif blanks is not None or codec.drop_blank:
        blanks = _checked_map(slide, plan, blanks)
        label = label_of_slide(slide, blanks)
        dropped = _dropped(plan, blanks) if codec.drop_blank else {}
    job = _made_job(slide, plan, codec) if plan.made else None
    key = facts_of(slide.source, "source") | facts_of(plan, "plan") | facts_of(codec, "codec")
    key |= {"kind": "image", "dask_slides": __version__, "mpp": slide.mpp_yx}
    key |= facts_of(label, "label")
    key |= {f"dropped.{name}": tiles.hex() for name, tiles in dropped.items()}
    with transaction(target, key, bytes_of_copy(slide, plan)) as unfinished:
        group = _create(unfinished, slide, plan, job)
        if blanks is not None and label is not None:
            write_grid(group, blanks)
            write_small_label(group, label, slide)
        unfinished.ready()
        total = sum(len(one.shards[0]) * len(one.shards[1]) for one in plan.copied)
        done, tasks = 0, total + (job.plan.tasks if job else 0)
        progress = progress or reported("write")
        for level in plan.copied:
            done += _copy(
                slide,
                level,
                unfinished,
                dropped,
                codec.verify_pixels,
                part_of(progress, done, tasks),
            )
        if job is not None:
            made = Journal(unfinished.location, _is_made)
            compute_stages(job, made, part_of(progress, done, tasks))
            unfinished.location.remove_folder(SUMS)
        attributes = _attributes(slide, plan, codec, dropped, unfinished, cut)
        unfinished.finish("0", _shards(plan, job), attributes)
    return target.absolute


def bytes_of_copy(slide: Slide, plan: SourcePlan) -> int:
    """Return about how many bytes the levels of `plan` take, compressed.

    Made levels are taken to have as many bytes per pixel as the one that they are made of.
    """
    source, base = slide.source, plan.base
    rate = stored_bytes(source, base.number) / math.prod(base.shape)
    made = sum(math.prod(one.shape) for one in plan.made)
    return sum(stored_bytes(source, one.number) for one in plan.copied) + round(rate * made)


def estimate_source(slide: Slide, codec: SourceCodec) -> tuple[int, int, int]:
    """Return the number of tasks of a copy, its bytes, and the peak memory of a task."""
    plan = plan_source(slide.source, codec.level_step)
    job = _made_job(slide, plan, codec) if plan.made else None
    tasks = sum(len(one.shards[0]) * len(one.shards[1]) for one in plan.copied)
    peaks = [_task_bytes(slide, one) for one in plan.copied]
    if job is not None:
        tasks += job.plan.tasks
        peaks.append(task_bytes_of_image(job.plan, job.slide))
    return tasks, bytes_of_copy(slide, plan), max(peaks)


def _task_bytes(slide: Slide, level: CopiedLevel) -> int:
    """Return the bytes of a task of copying: the streams of a shard as read, and made whole."""
    tiles = level.tiles_per_shard**2 / max(1, math.prod(level.tiles))
    return 2 * round(stored_bytes(slide.source, level.number) * min(1.0, tiles))


def _is_made(task: str) -> bool:
    return not task.startswith("copy-")


def _copy(
    slide: Slide,
    level: CopiedLevel,
    unfinished: Transaction,
    dropped: Mapping[str, bytes],
    verify_pixels: float,
    progress: Progress | None,
) -> int:
    """Copy the tiles of a level; return the number of tasks."""
    rows, columns = level.shards
    task = CopyTiles(
        unfinished.path,
        level,
        bounds(rows),
        bounds(columns),
        dropped.get(level.name, b""),
        verify_pixels,
    )
    ones = ((1,) * len(rows), (1,) * len(columns))
    blocks: da.Array = map_blocks(task, slide.source, ones, np.dtype(np.int64), "copy")
    describe = partial(_describe, slide.name, task)
    written = compute(blocks, "write", progress, describe)
    if int(written.sum()) != level.shape[0] * level.shape[1]:
        raise AssertionError(f"{written.sum()} pixels of level {level.number} were copied")
    return int(blocks.npartitions)


def _describe(name: str, task: CopyTiles, block: Block) -> str:
    return f"{name}: {task.describe(block)}"


def _made_job(slide: Slide, plan: SourcePlan, codec: SourceCodec) -> ImageJob:
    """Return the job that makes the missing levels from the pixels of one that is copied."""
    number, source = plan.base.number, slide.source
    # level 0 may be decoded as small as the first level that is made
    most = min(2**one.halvings for one in plan.made)
    factor = max((one for one in source.reductions(number) if one <= most), default=1)
    start: Source = LevelSource(source, number)
    if factor > 1:
        start = ReducedLevelSource(source, number, factor)
    image = replace(slide, source=start)
    pyramid = plan_that_fits(image)
    check_memory(task_bytes_of_image(pyramid, image), slide.name)
    by_halvings = {one.halvings: one.name for one in plan.made}
    first = factor.bit_length() - 1
    names = tuple(by_halvings.get(first + n) for n in range(len(pyramid.levels)))
    encoding = made_encoding(plan.base.encoding, slide.source, 1)
    quality = codec.quality if encoding.lossy else None
    put = PutEncoded(names, pyramid.levels, quality)
    return ImageJob(image, "0.5", True, pyramid, None, None, {}, put)


def _made_plans(job: ImageJob | None) -> Iterator[tuple[str, LevelPlan]]:
    """Yield the name and the plan of each level that is made."""
    if job is not None:
        assert isinstance(job.put, PutEncoded)
        for name, level in zip(job.put.names, job.plan.levels, strict=True):
            if name is not None:
                yield name, level


def _create(
    unfinished: Transaction,
    slide: Slide,
    plan: SourcePlan,
    job: ImageJob | None,
) -> Any:
    """Create the arrays of the image; return their group."""
    group = unfinished.create(3)
    made = dict(_made_plans(job))
    for level in plan.levels:
        if isinstance(level, CopiedLevel):
            encoding, shard = level.encoding, level.shard
        else:
            side = made[level.name].chunk
            encoding = made_encoding(plan.base.encoding, slide.source, side)
            shard = (made[level.name].shard,) * 2
        create_encoded(group, level.name, slide, level.shape, encoding, shard)
    if job is not None and len(job.plan.stages) > 1:
        create_sums(group, job)
    return group


def create_encoded(
    group: Any,
    name: str,
    slide: Slide,
    shape: tuple[int, int],
    encoding: TileEncoding,
    shard: tuple[int, int],
) -> None:
    """Create an array (c, y, x) whose chunks are tiles of `encoding`."""
    from dask_slides.readers.codecs.zarr_codecs import register

    register()
    channels = slide.shape[2]
    order = (1, 2, 0) if encoding.interleaved else (0, 1, 2)
    group.create_array(
        name,
        shape=(channels, *shape),
        chunks=(channels, *encoding.tile),
        shards=(channels, *shard),
        dtype=slide.dtype,
        fill_value=slide.source.fill,
        dimension_names=["c", "y", "x"],
        **encoding.options(order),
    )


def _shards(plan: SourcePlan, job: ImageJob | None) -> dict[str, int]:
    """Return the number of shards of each array."""
    found = {one.name: len(one.shards[0]) * len(one.shards[1]) for one in plan.copied}
    for name, level in _made_plans(job):
        rows, columns = (-(-n // level.shard) for n in level.shape)
        found[name] = rows * columns
    return found


def _attributes(
    slide: Slide,
    plan: SourcePlan,
    codec: SourceCodec,
    dropped: Mapping[str, bytes],
    unfinished: Transaction,
    cut: Cutoff | None,
) -> dict[str, Any]:
    """Return the attributes of the group: OME metadata, and those of dask_slides."""
    downsamples = [one.downsample for one in plan.levels]
    placement = ome_metadata.placement_on_slide(slide.source)
    smallest = plan.levels[-1]
    is_small = max(smallest.shape) <= SMALLEST_LEVEL * max(LEVEL_STEPS)
    level = f"{unfinished.path}/{smallest.name}" if is_small else None
    channels = channels_with_windows(slide, level)
    parts: dict[str, Any] = {
        "multiscales": ome_metadata.multiscales(
            slide.name, "cyx", placement, slide.mpp_yx, downsamples
        ),
        "omero": ome_metadata.omero(channels, slide.dtype),
    }
    level0 = task_prefix(plan.copied[0])
    facts: dict[str, Any] = {"source": slide.name}
    copied = Journal(unfinished.location, lambda name: name.startswith(level0))
    facts |= damage_facts(copied, None if cut is None else cut.blank_map)
    facts |= _found_later(unfinished.journal, facts)
    facts |= nodata_facts(slide.source)
    facts["copied"] = {
        one.name: {"level": one.number, "codec": one.encoding.name} for one in plan.copied
    }
    if plan.made:
        encoding = made_encoding(plan.base.encoding, slide.source, 1)
        how = {"codec": encoding.name} | ({"quality": codec.quality} if encoding.lossy else {})
        facts["made"] = {one.name: how for one in plan.made}
    if dropped:
        facts["dropped_blank"] = {
            name: int(np.unpackbits(np.frombuffer(tiles, np.uint8)).sum())
            for name, tiles in dropped.items()
        }
    reference = georeference(slide)
    if reference is not None:
        facts["geotiff"] = reference.to_json()
    if cut is not None:
        facts |= cut.mapping.to_json()
    kind = "image" if cut is None else "cutoff"
    return ome_metadata.attributes("0.5", parts) | own_attributes(kind, **facts)


def _found_later(journal: Journal, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bad tiles with those that only decoding showed: in other levels, or in the pixels.

    Their chunks are copied as they are, and cannot be decoded either.
    """
    tiles = [tile for tile in journal.holes()[1] if tile.status == CORRUPT]
    if not tiles:
        return {}
    tiles += (bad_tile_from_json(row) for row in facts.get("bad_tiles", ()))
    return {"bad_tiles": bad_tiles_to_json(tiles), "holes": facts.get("holes", [])}


def _checked_map(slide: Slide, plan: SourcePlan, blanks: BlankMap | None) -> BlankMap:
    """Return the blank map, computed; by default no pixel of its blank tiles is tissue."""
    if blanks is None:
        blanks = blank_map(slide, tile_size=plan.base.encoding.tile, min_tissue=0)
    blanks = blanks.compute()
    if blanks.grid.shape != slide.shape[:2]:
        raise SlideArgumentError(
            f"{slide.name}: blank_map is of another slide; make it of this one"
        )
    return blanks


def _dropped(plan: SourcePlan, blanks: BlankMap) -> dict[str, bytes]:
    """Return, by array, which tiles lie wholly in blank tiles of the map: one bit per tile."""
    kept = np.zeros((blanks.grid.rows + 1, blanks.grid.cols + 1), np.int64)
    kept[1:, 1:] = (~np.asarray(blanks.blank)).cumsum(0).cumsum(1)
    found = {}
    for level in plan.copied:
        (top, bottom), (left, right) = (_cells_of(level, blanks.grid, axis) for axis in (0, 1))
        count = (
            kept[np.ix_(bottom, right)] - kept[np.ix_(top, right)]
            - kept[np.ix_(bottom, left)] + kept[np.ix_(top, left)]
        )  # fmt: skip
        found[level.name] = np.packbits(count == 0).tobytes()
    return found


def _cells_of(level: CopiedLevel, grid: TileGrid, axis: int) -> tuple[Array, Array]:
    """Return the first cell of the grid that each tile of `level` touches, and the one past."""
    tile, scale = level.encoding.tile[axis], level.downsample[axis]
    starts = np.arange(level.tiles[axis]) * tile * scale
    stops = np.minimum(starts + tile * scale, grid.shape[axis])
    cells = grid.starts(axis)
    first = np.searchsorted(cells + grid.tile[axis], starts, side="right")
    return first, np.searchsorted(cells, stops, side="left")
