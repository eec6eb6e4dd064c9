"""The original functions that dask_slides replaces, with OpenSlide, numpy and cv2.

The original is one loop over tiles. It is measured in one loop and on two threads like other
methods, as OpenSlide and numpy release the GIL.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.compare import Array
from benchmarks.peers import read_square
from benchmarks.scenarios import (
    BLANK,
    CELLS,
    DENSE,
    DOWNSAMPLE,
    LOOP,
    PACK_TILE,
    ZSTD_LEVEL,
    Job,
    as_map,
    corners,
    method,
)

ALIASED = 15.0
"""Minimum PSNR in dB, which is low because INTER_CUBIC does not antialias."""
SHARD = 85
"""Tiles per shard of a pack, as in dask_slides for 512 px tiles: 64 MB."""


def is_blank(pixels: Array, ratio: float) -> bool:
    """Return whether a tile is blank, as the original blank_tile_detector does."""
    return bool(pixels.std() <= ratio * pixels.mean())


def blank_cells(slide: Any, job: Job, threads: ThreadPoolExecutor) -> Array:
    """Return the blank map; read one region per tile."""

    def judge(at: tuple[int, int]) -> bool:
        return is_blank(read_square(slide, at, job.cell), BLANK)

    return as_map(threads.map(judge, corners(job.size, job.cell)))


def mosaic(slide: Any, job: Job, cells: Array, threads: ThreadPoolExecutor) -> Array:
    """Shrink the rows and columns that contain a true cell, cell by cell, and join the results."""
    import cv2

    side = (round(job.cell / DOWNSAMPLE),) * 2

    def shrunk(at: tuple[int, int]) -> Array:
        pixels = read_square(slide, at, job.cell)
        return cv2.resize(pixels, side, interpolation=cv2.INTER_CUBIC)

    rows = np.flatnonzero(cells.any(axis=1))
    columns = np.flatnonzero(cells.any(axis=0))
    tiles = list(threads.map(shrunk, [(y, x) for y in rows * job.cell for x in columns * job.cell]))
    lines = [tiles[i : i + len(columns)] for i in range(0, len(tiles), len(columns))]
    return np.concatenate([np.concatenate(line, axis=1) for line in lines])


@method("resize", "original: OpenSlide + cv2", "openslide", "cv2", min_psnr=ALIASED)
@method("resize", LOOP, "openslide", "cv2", min_psnr=ALIASED, threads=1)
def resize_original(job: Job) -> Array:
    import openslide

    with openslide.OpenSlide(job.slide) as slide, ThreadPoolExecutor(job.threads) as threads:
        return mosaic(slide, job, np.ones((CELLS, CELLS), bool), threads)


@method("blank-map", "original: OpenSlide + numpy", "openslide")
@method("blank-map", LOOP, "openslide", threads=1)
def blank_map_original(job: Job) -> Array:
    import openslide

    with openslide.OpenSlide(job.slide) as slide, ThreadPoolExecutor(job.threads) as threads:
        return blank_cells(slide, job, threads)


@method("cutoff", "original: OpenSlide + cv2", "openslide", "cv2", min_psnr=ALIASED)
@method("cutoff", LOOP, "openslide", "cv2", min_psnr=ALIASED, threads=1)
def cutoff_original(job: Job) -> Array:
    import openslide

    with openslide.OpenSlide(job.slide) as slide, ThreadPoolExecutor(job.threads) as threads:
        return mosaic(slide, job, ~blank_cells(slide, job, threads), threads)


def dense_tiles(slide: Any, job: Job) -> Iterator[tuple[tuple[int, int], Array]]:
    """Yield the corner and the pixels of each dense tile, row by row."""

    def read(at: tuple[int, int]) -> tuple[tuple[int, int], Array] | None:
        pixels = read_square(slide, at, PACK_TILE)
        return None if is_blank(pixels, DENSE) else (at, pixels)

    starts = corners(job.size, PACK_TILE)
    row = job.size // PACK_TILE
    with ThreadPoolExecutor(job.threads) as threads:
        for i in range(0, len(starts), row):
            yield from filter(None, threads.map(read, starts[i : i + row]))


@method("pack", "original: OpenSlide + numpy + zarr append", "openslide", "zarr")
@method("pack", LOOP, "openslide", "zarr", threads=1)
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
            if len(waiting) == SHARD:  # append whole shards, so that no shard is rewritten
                stored.append(np.stack(waiting))
                waiting.clear()
    if waiting:
        stored.append(np.stack(waiting))
    for name, column in zip("yx", np.array(found, np.int64).reshape(-1, 2).T, strict=True):
        group.create_array(name, data=np.ascontiguousarray(column))
    return job.out + ".zarr"
