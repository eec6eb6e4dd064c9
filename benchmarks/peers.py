"""Other tools on two threads, each used as an experienced user would use it for the same work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.compare import Array
from benchmarks.scenarios import (
    BLANK,
    CROP,
    DOWNSAMPLE,
    RESIZES,
    THREADS,
    THUMBNAIL,
    ZSTD_LEVEL,
    Job,
    as_map,
    corners,
    method,
)

BLOCK = 2560
"""Side of the blocks of plain dask: whole tiles, and a multiple of 10 for `coarsen`."""

DASK = ("dask.array", "distributed", "tifffile", "zarr", "imagecodecs", "cloudpickle")


# libvips, with its own threads


def each_resize(name: str, *imports: str) -> Callable[[Callable[[Job], Any]], Callable[[Job], Any]]:
    """Register a method for every scenario that resizes a slide to memory."""

    def register(run: Callable[[Job], Any]) -> Callable[[Job], Any]:
        for scenario in RESIZES:
            if scenario != "resize-jpeg2000":  # libvips reads its colours wrongly
                method(scenario, name, *imports)(run)
        return run

    return register


@each_resize("libvips resize", "pyvips", "numpy")
def resize_vips(job: Job) -> Array:
    import pyvips

    image = pyvips.Image.new_from_file(job.slide, access="sequential")
    return np.asarray(image.resize(1 / DOWNSAMPLE, kernel="lanczos3").numpy())


@method("resize", "libvips thumbnail", "pyvips", "numpy")
def resize_vips_thumbnail(job: Job) -> Array:
    import pyvips

    return np.asarray(pyvips.Image.thumbnail(job.slide, job.size // DOWNSAMPLE).numpy())


@method("thumbnail", "libvips thumbnail", "pyvips", "numpy")
def thumbnail_vips(job: Job) -> Array:
    import pyvips

    return np.asarray(pyvips.Image.thumbnail(job.slide, THUMBNAIL).numpy())


# tifffile, the whole slide in memory


@method(
    "resize", "tifffile + Pillow, whole", "tifffile", "imagecodecs", "PIL.Image", in_memory=True
)
def resize_whole(job: Job) -> Array:
    import tifffile
    from PIL import Image

    image = Image.fromarray(tifffile.imread(job.slide, maxworkers=job.threads))
    size = (image.width // DOWNSAMPLE, image.height // DOWNSAMPLE)
    # like dask_slides and libvips: box means first, then Lanczos for the last factor of 2
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))


@method("blank-map", "tifffile + numpy, whole", "tifffile", "imagecodecs", in_memory=True)
def blank_map_whole(job: Job) -> Array:
    import tifffile

    pixels = tifffile.imread(job.slide, maxworkers=job.threads)

    def is_blank(at: tuple[int, int]) -> bool:
        cell = pixels[at[0] : at[0] + job.cell, at[1] : at[1] + job.cell]
        return bool(cell.std() <= BLANK * cell.mean())

    with ThreadPoolExecutor(job.threads) as threads:
        return as_map(threads.map(is_blank, corners(job.size, job.cell)))


# plain dask


def read_block(path: str, block_id: Any) -> Array:
    """Read a block; open the file in the task, as a tifffile store cannot be pickled."""
    import tifffile
    import zarr

    y, x = block_id[0] * BLOCK, block_id[1] * BLOCK
    with tifffile.TiffFile(path) as tiff:
        stored = zarr.open_array(tiff.pages[0].aszarr(maxworkers=THREADS), mode="r")
        return np.asarray(stored[y : y + BLOCK, x : x + BLOCK])


def coarse(pixels: Any) -> Any:
    """Return lazy means of squares of pixels as uint8."""
    import dask.array as da

    means = da.coarsen(np.mean, pixels, {0: DOWNSAMPLE, 1: DOWNSAMPLE})
    return da.rint(means).astype(np.uint8)


def coarse_slide(job: Job) -> Any:
    """Return the shrunk slide, one chain of tasks per block."""
    import dask.array as da

    sides = (BLOCK,) * (job.size // BLOCK)
    pixels = da.map_blocks(
        partial(read_block, job.slide), chunks=(sides, sides, (3,)), dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
    )  # fmt: skip
    return coarse(pixels)


@method("open", "plain dask (from_zarr)", *DASK)
def open_dask(job: Job) -> Any:
    import dask.array as da
    import tifffile
    import zarr

    stored = zarr.open_array(tifffile.TiffFile(job.slide).pages[0].aszarr(), mode="r")
    return coarse(da.from_zarr(stored, chunks=(BLOCK, BLOCK, 3)))


@method("resize", "plain dask, mean", *DASK)
def resize_dask(job: Job) -> Array:
    return np.asarray(coarse_slide(job).compute())


@method("resize-zarr", "plain dask, mean", *DASK)
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


# OpenSlide and TiffSlide


def read_square(slide: Any, at: Any, side: int) -> Array:
    """Return the square of level 0 whose top left corner is `at` (y, x)."""
    y, x = (int(n) for n in at)
    return np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))


def crops_of(job: Job, open_slide: Callable[[str], Any]) -> Array:
    """Read the crops at the known corners."""
    with open_slide(job.slide) as slide, ThreadPoolExecutor(job.threads) as threads:
        found = threads.map(lambda at: read_square(slide, at, CROP), np.load(job.crops))
        return np.stack(list(found))


@method("crops", "OpenSlide", "openslide")
@method("crops", "OpenSlide, one loop", "openslide", threads=1)
def crops_openslide(job: Job) -> Array:
    import openslide

    return crops_of(job, openslide.OpenSlide)


@method("crops", "TiffSlide", "tiffslide", "imagecodecs")
def crops_tiffslide(job: Job) -> Array:
    import tiffslide

    return crops_of(job, tiffslide.TiffSlide)


@method("thumbnail", "OpenSlide", "openslide")
def thumbnail_openslide(job: Job) -> Array:
    import openslide

    with openslide.OpenSlide(job.slide) as slide:
        return np.asarray(slide.get_thumbnail((THUMBNAIL, THUMBNAIL)))


@method("thumbnail", "TiffSlide", "tiffslide", "imagecodecs")
def thumbnail_tiffslide(job: Job) -> Array:
    import tiffslide

    with tiffslide.TiffSlide(job.slide) as slide:
        return np.asarray(slide.get_thumbnail((THUMBNAIL, THUMBNAIL)))
