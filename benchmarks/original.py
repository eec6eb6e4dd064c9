"""The original's way, through OpenSlide and cv2, and those who read slides like OpenSlide.

The original is one loop over tiles; here it gets the two threads of everybody, as OpenSlide
and numpy leave Python's lock while they work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.scenarios import (
    BLANK,
    CELLS,
    CROP,
    DENSE,
    DOWNSAMPLE,
    LOOP,
    PACK_TILE,
    THUMBNAIL,
    ZSTD_LEVEL,
    Array,
    Job,
    corners,
    squared,
    way,
)

ALIASED = 15.0
"""dB: INTER_CUBIC does not antialias, so the original's pixels are far from ours."""
SHARD = 85
"""Tiles a shard of a pack, as dask_slides has it for 512 px tiles: 64 MB."""


def region(slide: Any, at: Any, side: int) -> Array:
    """Return the square of level 0 whose corner is `at` (y, x)."""
    y, x = (int(n) for n in at)
    return np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))


def is_blank(pixels: Array, ratio: float) -> bool:
    """Return the verdict of the original's blank_tile_detector."""
    return bool(pixels.std() <= ratio * pixels.mean())


def blank_cells(slide: Any, job: Job, threads: ThreadPoolExecutor) -> Array:
    """Return the blank map, a region a cell."""

    def judge(at: tuple[int, int]) -> bool:
        return is_blank(region(slide, at, job.cell), BLANK)

    return squared(threads.map(judge, corners(job.size, job.cell)))


def mosaic(slide: Any, job: Job, kept: Array, threads: ThreadPoolExecutor) -> Array:
    """Shrink the cells that `kept` (rows, columns) names one by one and join them."""
    import cv2

    side = (round(job.cell / DOWNSAMPLE),) * 2

    def shrunk(at: tuple[int, int]) -> Array:
        pixels = region(slide, at, job.cell)
        return cv2.resize(pixels, side, interpolation=cv2.INTER_CUBIC)

    rows = np.flatnonzero(kept.any(axis=1))
    columns = np.flatnonzero(kept.any(axis=0))
    tiles = list(threads.map(shrunk, [(y, x) for y in rows * job.cell for x in columns * job.cell]))
    lines = [tiles[i : i + len(columns)] for i in range(0, len(tiles), len(columns))]
    return np.concatenate([np.concatenate(line, axis=1) for line in lines])


@way("resize", "original: OpenSlide + cv2", "openslide", "cv2", floor=ALIASED)
@way("resize", LOOP, "openslide", "cv2", floor=ALIASED, threads=1)
def resize_original(job: Job) -> Array:
    import openslide

    with openslide.OpenSlide(job.slide) as slide, ThreadPoolExecutor(job.threads) as threads:
        return mosaic(slide, job, np.ones((CELLS, CELLS), bool), threads)


@way("blank-map", "original: OpenSlide + numpy", "openslide")
@way("blank-map", LOOP, "openslide", threads=1)
def blank_map_original(job: Job) -> Array:
    import openslide

    with openslide.OpenSlide(job.slide) as slide, ThreadPoolExecutor(job.threads) as threads:
        return blank_cells(slide, job, threads)


@way("cutoff", "original: OpenSlide + cv2", "openslide", "cv2", floor=ALIASED)
@way("cutoff", LOOP, "openslide", "cv2", floor=ALIASED, threads=1)
def cutoff_original(job: Job) -> Array:
    import openslide

    with openslide.OpenSlide(job.slide) as slide, ThreadPoolExecutor(job.threads) as threads:
        return mosaic(slide, job, ~blank_cells(slide, job, threads), threads)


def dense_tiles(slide: Any, job: Job) -> Iterator[tuple[tuple[int, int], Array]]:
    """Yield the place and pixels of each dense tile, each read once, a row of them at a time."""

    def read(at: tuple[int, int]) -> tuple[tuple[int, int], Array] | None:
        pixels = region(slide, at, PACK_TILE)
        return None if is_blank(pixels, DENSE) else (at, pixels)

    places = corners(job.size, PACK_TILE)
    row = job.size // PACK_TILE
    with ThreadPoolExecutor(job.threads) as threads:
        for i in range(0, len(places), row):
            yield from filter(None, threads.map(read, places[i : i + row]))


@way("pack", "original: OpenSlide + numpy + zarr append", "openslide", "zarr")
@way("pack", LOOP, "openslide", "zarr", threads=1)
def pack_original(job: Job) -> str:
    import openslide
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    shape = (PACK_TILE, PACK_TILE, 3)
    group = zarr.create_group(job.out + ".zarr")
    stored = group.create_array(
        "tiles", shape=(0, *shape), chunks=(1, *shape), shards=(SHARD, *shape), dtype="uint8",
        compressors=[ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],
    )  # fmt: skip
    found: list[tuple[int, int]] = []
    waiting: list[Array] = []
    with openslide.OpenSlide(job.slide) as slide:
        for at, pixels in dense_tiles(slide, job):
            found.append(at)
            waiting.append(pixels)
            if len(waiting) == SHARD:  # whole shards: none is read back to be added to
                stored.append(np.stack(waiting))
                waiting.clear()
    if waiting:
        stored.append(np.stack(waiting))
    for name, column in zip("yx", np.array(found, np.int64).reshape(-1, 2).T, strict=True):
        group.create_array(name, data=np.ascontiguousarray(column))
    return job.out + ".zarr"


def crops_of(job: Job, open_slide: Callable[[str], Any]) -> Array:
    """Read the crops at the known places."""
    with open_slide(job.slide) as slide, ThreadPoolExecutor(job.threads) as threads:
        places = np.load(job.places).tolist()
        return np.stack(list(threads.map(lambda at: region(slide, at, CROP), places)))


@way("crops", "OpenSlide", "openslide")
@way("crops", "OpenSlide, one loop", "openslide", threads=1)
def crops_openslide(job: Job) -> Array:
    import openslide

    return crops_of(job, openslide.OpenSlide)


@way("crops", "TiffSlide", "tiffslide", "imagecodecs")
def crops_tiffslide(job: Job) -> Array:
    import tiffslide

    return crops_of(job, tiffslide.TiffSlide)


@way("thumbnail", "OpenSlide", "openslide")
def thumbnail_openslide(job: Job) -> Array:
    import openslide

    with openslide.OpenSlide(job.slide) as slide:
        return np.asarray(slide.get_thumbnail((THUMBNAIL, THUMBNAIL)))


@way("thumbnail", "TiffSlide", "tiffslide", "imagecodecs")
def thumbnail_tiffslide(job: Job) -> Array:
    import tiffslide

    with tiffslide.TiffSlide(job.slide) as slide:
        return np.asarray(slide.get_thumbnail((THUMBNAIL, THUMBNAIL)))
