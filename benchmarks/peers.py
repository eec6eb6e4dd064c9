"""The peers, each as those who know it would do the same work, on the same two threads.

OpenSlide, and the original that read through it, are in `original`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.scenarios import (
    BLANK,
    DOWNSAMPLE,
    RESIZES,
    THREADS,
    THUMBNAIL,
    ZSTD_LEVEL,
    Array,
    Job,
    corners,
    squared,
    way,
)

BLOCK = 2560
"""Of plain dask: whole tiles, and a multiple of 10, as `coarsen` needs it."""

DASK = ("dask.array", "distributed", "tifffile", "zarr", "imagecodecs", "cloudpickle")


# libvips: its own threads, VIPS_CONCURRENCY


def each_resize(name: str, *needs: str) -> Callable[[Callable[[Job], Any]], Callable[[Job], Any]]:
    """Register a way of every scenario that shrinks a slide to memory."""

    def register(run: Callable[[Job], Any]) -> Callable[[Job], Any]:
        for scenario in RESIZES:
            if scenario != "resize-jpeg2000":  # libvips takes the colours of these for others
                way(scenario, name, *needs)(run)
        return run

    return register


@each_resize("libvips resize", "pyvips", "numpy")
def resize_vips(job: Job) -> Array:
    import pyvips

    image = pyvips.Image.new_from_file(job.slide, access="sequential")
    return np.asarray(image.resize(1 / DOWNSAMPLE, kernel="lanczos3").numpy())


@way("resize", "libvips thumbnail", "pyvips", "numpy")
def resize_vips_thumbnail(job: Job) -> Array:
    import pyvips

    return np.asarray(pyvips.Image.thumbnail(job.slide, job.size // DOWNSAMPLE).numpy())


@way("thumbnail", "libvips thumbnail", "pyvips", "numpy")
def thumbnail_vips(job: Job) -> Array:
    import pyvips

    return np.asarray(pyvips.Image.thumbnail(job.slide, THUMBNAIL).numpy())


# tifffile, the whole slide in memory


@way("resize", "tifffile + Pillow, whole", "tifffile", "imagecodecs", "PIL.Image", whole=True)
def resize_whole(job: Job) -> Array:
    import tifffile
    from PIL import Image

    image = Image.fromarray(tifffile.imread(job.slide, maxworkers=job.threads))
    size = (image.width // DOWNSAMPLE, image.height // DOWNSAMPLE)
    # the same gap as ours and as libvips has it: a box mean first, Lanczos for the last 2x
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))


@way("blank-map", "tifffile + numpy, whole", "tifffile", "imagecodecs", whole=True)
def blank_map_whole(job: Job) -> Array:
    import tifffile

    pixels = tifffile.imread(job.slide, maxworkers=job.threads)

    def is_blank(at: tuple[int, int]) -> bool:
        cell = pixels[at[0] : at[0] + job.cell, at[1] : at[1] + job.cell]
        return bool(cell.std() <= BLANK * cell.mean())

    with ThreadPoolExecutor(job.threads) as threads:
        return squared(threads.map(is_blank, corners(job.size, job.cell)))


# plain dask


def read_block(path: str, block_id: Any) -> Array:
    """Open the file in the task, as tifffile's store cannot be sent to a worker."""
    import tifffile
    import zarr

    y, x = block_id[0] * BLOCK, block_id[1] * BLOCK
    with tifffile.TiffFile(path) as tiff:
        stored = zarr.open_array(tiff.pages[0].aszarr(maxworkers=THREADS), mode="r")
        return np.asarray(stored[y : y + BLOCK, x : x + BLOCK])


def coarse(pixels: Any) -> Any:
    """Return the graph of the means of squares, as bytes."""
    import dask.array as da

    means = da.coarsen(np.mean, pixels, {0: DOWNSAMPLE, 1: DOWNSAMPLE})
    return da.rint(means).astype(np.uint8)


def coarse_slide(job: Job) -> Any:
    """Return the slide shrunk, one task chain a block."""
    import dask.array as da

    sides = (BLOCK,) * (job.size // BLOCK)
    pixels = da.map_blocks(
        partial(read_block, job.slide), chunks=(sides, sides, (3,)), dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
    )  # fmt: skip
    return coarse(pixels)


@way("open", "plain dask (from_zarr)", *DASK)
def open_dask(job: Job) -> Any:
    import dask.array as da
    import tifffile
    import zarr

    stored = zarr.open_array(tifffile.TiffFile(job.slide).pages[0].aszarr(), mode="r")
    return coarse(da.from_zarr(stored, chunks=(BLOCK, BLOCK, 3)))


@way("resize", "plain dask, mean", *DASK)
def resize_dask(job: Job) -> Array:
    return np.asarray(coarse_slide(job).compute())


@way("resize-zarr", "plain dask, mean", *DASK)
def resize_zarr_dask(job: Job) -> str:
    import dask.array as da
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    image = coarse_slide(job)
    stored = zarr.create_array(
        job.out + ".zarr", shape=image.shape, chunks=image.chunksize, dtype=image.dtype,
        compressors=[ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],
    )  # fmt: skip
    da.store(image, stored, lock=False)
    return job.out + ".zarr"


# What decoding alone costs: no reading of a tag, no copy, no sum


def decode_all(job: Job, decoder: Callable[[Any], Callable[[bytes, int], Any]]) -> None:
    """Decode every tile; `decoder` makes what does it of the page, one for each thread."""
    import tifffile

    with tifffile.TiffFile(job.slide) as tiff:
        page = tiff.pages[0]
        spans = list(enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)))
        file = os.open(job.slide, os.O_RDONLY)

        def part(number: int) -> None:
            decode = decoder(page)
            for tile, (offset, count) in spans[number :: job.threads]:
                decode(os.pread(file, count, offset), tile)

        try:
            with ThreadPoolExecutor(job.threads) as threads:
                list(threads.map(part, range(job.threads)))
        finally:
            os.close(file)


def turbo(factor: int, page: Any) -> Callable[[bytes, int], Any]:
    """Decode JPEG at 1 / `factor`, into the same array again: the fastest there is here."""
    import simplejpeg

    height, width = page.tilelength // factor, page.tilewidth // factor
    into = np.empty((height, width, 3), np.uint8)
    size = {"min_height": height, "min_width": width, "min_factor": 1, "buffer": into}
    return lambda data, tile: simplejpeg.decode_jpeg(data, **size)


def tifffiles(page: Any) -> Callable[[bytes, int], Any]:
    """Decode as tifffile does, with imagecodecs."""
    return lambda data, tile: page.decode(data, tile, _fullsize=True)


@way("resize", "limit: bare decode at 1/4", "tifffile", "simplejpeg", limit=True)
@way("resize", "bare decode at 1/4, 1 thread", "tifffile", "simplejpeg", threads=1)
@way("resize-256", "limit: bare decode at 1/4", "tifffile", "simplejpeg", limit=True)
def bare_quarter(job: Job) -> None:
    decode_all(job, partial(turbo, 4))


@way("resize", "bare decode at full size", "tifffile", "simplejpeg")
@way("blank-map", "limit: bare decode", "tifffile", "simplejpeg", limit=True)
@way("blank-map", "bare decode, 1 thread", "tifffile", "simplejpeg", threads=1)
def bare_full(job: Job) -> None:
    decode_all(job, partial(turbo, 1))


@way("resize-lzw", "limit: bare decode", "tifffile", "imagecodecs", limit=True)
@way("resize-lzw", "bare decode, 1 thread", "tifffile", "imagecodecs", threads=1)
@way("resize-deflate", "limit: bare decode", "tifffile", "imagecodecs", limit=True)
@way("resize-deflate", "bare decode, 1 thread", "tifffile", "imagecodecs", threads=1)
@way("resize-jpeg2000", "limit: bare decode", "tifffile", "imagecodecs", limit=True)
@way("resize-jpeg2000", "bare decode, 1 thread", "tifffile", "imagecodecs", threads=1)
def bare_tifffile(job: Job) -> None:
    decode_all(job, tifffiles)
