"""dask_slides, called as in its README, with the defaults."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.compare import Array
from benchmarks.scenarios import (
    BLANK,
    DENSE,
    DOWNSAMPLE,
    ONE_THREAD,
    OURS,
    PACK_TILE,
    RESIZES,
    THUMBNAIL,
    Job,
    method,
)

IMPORTS = (
    "dask_slides",
    "dask.array",
    "distributed",  # dask looks for a client in it
    "tifffile",
    "zarr",
    "imagecodecs",
    "simplejpeg",
    "PIL.Image",
    "cloudpickle",
)


def ours(*scenarios: str) -> Callable[[Callable[[Job], Any]], Callable[[Job], Any]]:
    """Register a function on two threads and on one thread."""

    def register(run: Callable[[Job], Any]) -> Callable[[Job], Any]:
        for scenario in scenarios:
            method(scenario, OURS, *IMPORTS)(run)
            if scenario != "open":
                method(scenario, ONE_THREAD, *IMPORTS, threads=1)(run)
        return run

    return register


@ours("open")
def open_slide(job: Job) -> Any:
    import dask_slides as ds

    return ds.resize(job.slide, downsample=DOWNSAMPLE).data


@ours(*RESIZES)
def resize(job: Job) -> Array:
    import dask_slides as ds

    return np.asarray(ds.resize(job.slide, downsample=DOWNSAMPLE).data.compute())


@ours("resize-zarr")
def resize_to_zarr(job: Job) -> str:
    import dask_slides as ds

    return ds.write(ds.resize(job.slide, downsample=DOWNSAMPLE), job.out + ".ome.zarr")


@ours("blank-map")
def blank_map(job: Job) -> Array:
    import dask_slides as ds

    detector = ds.Contrast(BLANK)
    return np.asarray(
        ds.blank_map(job.slide, tile_size=job.cell, detector=detector).compute().blank
    )


@ours("cutoff")
def cutoff(job: Job) -> Array:
    import dask_slides as ds

    cut = ds.cutoff_resize(
        job.slide, downsample=DOWNSAMPLE, tile_size=job.cell, detector=ds.Contrast(BLANK)
    )
    return np.asarray(cut.image.data.compute())


@ours("pack")
def pack(job: Job) -> str:
    import dask_slides as ds

    detector = ds.Contrast(DENSE)
    tiles = ds.pack_tiles(job.slide, tile_size=PACK_TILE, downsample=1, detector=detector)
    return ds.write(tiles, job.out + ".tiles.zarr")


@ours("crops")
def crops(job: Job) -> Array:
    with open(job.pack, "rb") as file:
        tiles = pickle.load(file)
    return np.asarray(tiles[:])


@ours("thumbnail")
def thumbnail(job: Job) -> Array:
    import dask_slides as ds

    return ds.open_slide(job.slide).thumbnail(THUMBNAIL)
