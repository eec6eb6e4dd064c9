"""Slides, cut-offs and blank maps to OME-Zarr: a pyramid in one pass, shard by whole shard."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from dask_slides.blank import BlankMap
from dask_slides.cluster import Progress, compute
from dask_slides.cutoff import Cutoff, Runs
from dask_slides.errors import BlankSlideError, SlideArgumentError
from dask_slides.geometry import Region, bounds, even_pieces
from dask_slides.graph import Block, input_ratio, map_blocks
from dask_slides.kernels import area_levels
from dask_slides.readers.protocol import Level, Source
from dask_slides.slide import Slide
from dask_slides.writers import metadata
from dask_slides.writers.plan import ImagePlan, Stage, plan_image
from dask_slides.writers.store import marked, new_store

Array = NDArray[Any]

VERSIONS = ("0.5", "0.4")
"""OME-Zarr versions written: 0.5 is Zarr v3 with shards, 0.4 is Zarr v2 without."""
ZSTD_LEVEL = 3


@dataclass(frozen=True)
class TissueLabel:
    """Which pixels of an image lie in a cell that is not blank."""

    rows: Runs
    columns: Runs
    factors: tuple[float, float]
    """Source pixels for one of the image, along y and x."""
    tile: tuple[int, int]
    shape: tuple[int, int]
    """Rows and columns of cells."""
    blank: bytes
    """The blank map, a bit a cell."""

    def pixels(self, level: int, region: Region) -> Array:
        """Return the label of `region` of `level`, (h, w) uint8: 1 is tissue."""
        count = self.shape[0] * self.shape[1]
        bits = np.unpackbits(np.frombuffer(self.blank, np.uint8), count=count)
        tissue = (1 - bits).astype(np.uint8).reshape(self.shape)
        rows = self._cells(0, region.y, region.stop_y, level)
        columns = self._cells(1, region.x, region.stop_x, level)
        result: Array = tissue[np.ix_(rows, columns)]
        return result

    def _cells(self, axis: int, start: int, stop: int, level: int) -> Array:
        runs = (self.rows, self.columns)[axis]
        centre = (np.arange(start, stop) + 0.5) * 2**level * self.factors[axis]
        # the centre of a partial last pixel of a level may lie beyond the image
        source = runs.to_source(np.minimum(centre, np.nextafter(runs.length, 0)))
        return np.minimum(source.astype(np.int64) // self.tile[axis], self.shape[axis] - 1)


def tissue_label(
    blank_map: BlankMap, rows: Runs, columns: Runs, factors: tuple[float, float]
) -> TissueLabel:
    """Return the label that `blank_map` makes of an image with these kept runs."""
    bits = np.packbits(np.asarray(blank_map.blank).reshape(-1)).tobytes()
    return TissueLabel(rows, columns, factors, blank_map.grid.tile, blank_map.shape, bits)


@dataclass(frozen=True)
class LevelSource:
    """A level of a store that is being written."""

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
        return np.asarray(_array(self.path)[:, rows, columns]).transpose(1, 2, 0)


@lru_cache(maxsize=64)
def _array(path: str) -> Any:
    import zarr

    return zarr.open_array(path, mode="r+")


@dataclass(frozen=True)
class WriteBlock:
    """Reads a block and writes it as whole shards of the levels of a stage."""

    path: str
    stage: Stage
    sides: tuple[tuple[int, ...], tuple[int, ...]]
    """Where blocks begin along y and x, and the end."""
    label: TissueLabel | None

    def window(self, block: Block) -> tuple[int, Region]:
        """Return what `block` reads."""
        (top, bottom), (left, right) = (
            self.sides[axis][block[axis] : block[axis] + 2] for axis in (0, 1)
        )
        return 0, Region(top, left, bottom - top, right - left)

    def __call__(self, source: Source, block: Block) -> Array:
        """Write `block`; return the pixels written, (1, 1)."""
        _, region = self.window(block)
        pixels = source.read(0, region)
        halvings = self.stage.first + len(self.stage.levels) - 1
        images = [pixels, *area_levels(pixels, halvings)][self.stage.first :]
        written = 0
        for number, image in zip(self.stage.levels, images, strict=True):
            shift = self.stage.first + number - self.stage.levels[0]
            place = Region(region.y >> shift, region.x >> shift, *image.shape[:2])
            rows, columns = place.slices()
            array = _array(f"{self.path}/{number}")
            array[:, rows, columns] = np.ascontiguousarray(image.transpose(2, 0, 1))
            if self.label is not None:
                label = _array(f"{self.path}/labels/tissue/{number}")
                label[rows, columns] = self.label.pixels(number, place)
            written += place.area
        return np.full((1, 1), written, np.int64)


def create_level(
    group: Any, name: str, shape: tuple[int, ...], side: tuple[int, int], dtype: Any, dims: str
) -> None:
    """Create an array whose last axes are y, x; `side` is (chunk, shard)."""
    chunk, shard = side
    leading = shape[:-2]
    v2 = group.metadata.zarr_format == 2
    sharded = shard > chunk and not v2
    options: dict[str, Any] = {}
    if v2:
        from numcodecs import Zstd

        options["compressors"] = Zstd(ZSTD_LEVEL)
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    else:
        from zarr.codecs import Crc32cCodec, ZstdCodec

        # zstd alone does not notice a flipped bit
        options["compressors"] = [ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()]
        options["dimension_names"] = list(dims)
        options["shards"] = (*leading, shard, shard) if sharded else None
    group.create_array(
        name,
        shape=shape,
        chunks=(*leading, chunk, chunk),
        dtype=dtype,
        fill_value=0,
        # a shard that is all fill is written too: what is absent was not done
        config={"write_empty_chunks": True},
        **options,
    )


def check_fit(plan: ImagePlan) -> None:
    """Raise unless every task writes whole shards: else two tasks would write one."""
    for stage in plan.stages:
        for at, number in enumerate(stage.levels):
            level, side = plan.levels[number], stage.side >> (stage.first + at)
            alone = side >= max(level.shape)
            if level.shard % level.chunk or (not alone and side % level.shard):
                raise AssertionError(f"blocks of {side} px do not fit shards of {level}")


def write_image(
    slide: Slide,
    path: Any,
    overwrite: bool,
    version: str,
    progress: Progress | None,
    label: TissueLabel | None,
    blank_map: BlankMap | None,
    facts: dict[str, Any],
) -> str:
    """Write `slide` as OME-Zarr, with the tissue label and the raw grid if there are any."""
    import zarr

    check_version(version)
    height, width, channels = slide.shape
    if not height * width:
        raise BlankSlideError(
            f"{slide.name}: every cell is blank, so no image is left to write; "
            "use a smaller ratio, or write the blank map"
        )
    plan = plan_image((height, width), max(input_ratio(slide.source)))
    check_fit(plan)
    with new_store(path, overwrite) as hidden:
        group = zarr.create_group(hidden, zarr_format=2 if version == "0.4" else 3)
        for number, level in enumerate(plan.levels):
            side = (level.chunk, level.shard)
            create_level(group, str(number), (channels, *level.shape), side, slide.dtype, "cyx")
        if label is not None:
            _create_labels(group, plan, slide, version)
        if blank_map is not None:
            write_grid(group, blank_map)
        _run_stages(plan, slide, hidden, label, progress)
        # last, so that a store without attributes is one that was not finished
        scales = metadata.multiscales(slide.name, "cyx", slide.mpp_yx, len(plan.levels))
        parts = {"multiscales": scales, "omero": metadata.omero(channels, slide.dtype)}
        group.attrs.update(metadata.attributes(version, parts) | marked(**facts))
    result: str = os.path.abspath(os.fspath(path))
    return result


def check_version(version: str) -> None:
    """Raise SlideArgumentError unless `version` is one that is written."""
    if version not in VERSIONS:
        raise SlideArgumentError(f"ome_zarr={version!r} is not written; use '0.5' or '0.4'")


def _create_labels(group: Any, plan: ImagePlan, slide: Slide, version: str) -> None:
    labels = group.create_group("labels")
    labels.attrs.update(metadata.attributes(version, {"labels": ["tissue"]}))
    tissue = labels.create_group("tissue")
    for number, level in enumerate(plan.levels):
        create_level(tissue, str(number), level.shape, (level.chunk, level.shard), "uint8", "yx")
    scales = metadata.multiscales("tissue", "yx", slide.mpp_yx, len(plan.levels))
    parts = {"multiscales": scales, "image-label": metadata.image_label()}
    tissue.attrs.update(metadata.attributes(version, parts))


def write_grid(group: Any, blank_map: BlankMap) -> None:
    """Write the raw grid beside the image: the blank map and the statistics of its cells."""
    raw = group.create_group("blank_map")
    v3 = group.metadata.zarr_format == 3
    for name, values, dims in (
        ("blank", np.asarray(blank_map.blank), ["row", "col"]),
        ("statistics", np.asarray(blank_map.statistics), ["row", "col", "field"]),
    ):
        chunks = tuple(max(1, n) for n in values.shape)
        named = {"dimension_names": dims} if v3 else {}
        array = raw.create_array(
            name, shape=values.shape, chunks=chunks, dtype=values.dtype, **named
        )
        array[...] = values
    raw.attrs.update(
        {
            "tile_size": list(blank_map.grid.tile),
            "source_shape": list(blank_map.grid.shape),
            "detector": repr(blank_map.detector),
            "statistics": ["count", "sum", "sum of squares", *blank_map.fields],
        }
    )


def stage_array(
    plan: ImagePlan, stage: Stage, source: Source, path: str, label: TissueLabel | None
) -> da.Array:
    """Return the graph of a stage: one task a block, each returns the pixels it wrote."""
    shape = source.levels[0].shape
    rows, columns = (even_pieces(n, stage.side) for n in shape)
    task = WriteBlock(path, stage, (bounds(rows), bounds(columns)), label)
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
                f"{path}/{number}",
                slide.name,
                plan.levels[number].shape,
                slide.shape[2],
                slide.dtype,
            )
        blocks = stage_array(plan, stage, source, path, label)
        report = None
        if progress is not None:
            report = _later(progress, done, plan.tasks)
        written = compute(blocks, report)
        expected = sum(plan.levels[n].shape[0] * plan.levels[n].shape[1] for n in stage.levels)
        if int(written.sum()) != expected:
            raise AssertionError(f"{written.sum()} pixels were written of {expected}")
        done += blocks.npartitions


def _later(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def write_cutoff(
    cut: Cutoff, path: Any, overwrite: bool, version: str, progress: Progress | None
) -> str:
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
    return write_image(cut.image, path, overwrite, version, progress, label, cut.blank_map, facts)


def write_slide(
    slide: Slide,
    path: Any,
    overwrite: bool,
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
    return write_image(slide, path, overwrite, version, progress, label, blank_map, facts)


def write_blank_map(blank_map: BlankMap, path: Any, overwrite: bool, version: str) -> str:
    """Write a blank map as an image of one pixel a cell: 255 tissue, 0 blank."""
    import zarr

    check_version(version)
    with new_store(path, overwrite) as hidden:
        blank_map = blank_map.compute()
        tissue = ~np.asarray(blank_map.blank)
        group = zarr.create_group(hidden, zarr_format=2 if version == "0.4" else 3)
        side = max(256, *tissue.shape)
        create_level(group, "0", (1, *tissue.shape), (side, side), "uint8", "cyx")
        _array(f"{hidden}/0")[0] = tissue.astype(np.uint8) * 255
        labels = group.create_group("labels")
        labels.attrs.update(metadata.attributes(version, {"labels": ["tissue"]}))
        label = labels.create_group("tissue")
        create_level(label, "0", tissue.shape, (side, side), "uint8", "yx")
        _array(f"{hidden}/labels/tissue/0")[...] = tissue.astype(np.uint8)
        write_grid(group, blank_map)
        pixel = None
        if blank_map.mpp_yx is not None:
            tile = blank_map.grid.tile
            pixel = (blank_map.mpp_yx[0] * tile[0], blank_map.mpp_yx[1] * tile[1])
        name = blank_map.name
        scales = metadata.multiscales("tissue", "yx", pixel, 1)
        parts: dict[str, Any] = {"multiscales": scales, "image-label": metadata.image_label()}
        label.attrs.update(metadata.attributes(version, parts))
        parts = {
            "multiscales": metadata.multiscales(name, "cyx", pixel, 1),
            "omero": metadata.omero(1, np.dtype(np.uint8)),
        }
        group.attrs.update(metadata.attributes(version, parts) | marked("blank map", source=name))
    result: str = os.path.abspath(os.fspath(path))
    return result
