"""Our own ways: what a user of dask_slides would write, with the defaults."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.scenarios import (
    BLANK,
    DENSE,
    DOWNSAMPLE,
    ONE_THREAD,
    OURS,
    PACK_TILE,
    RESIZES,
    THUMBNAIL,
    Array,
    Job,
    way,
)

HERE = (
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
    """Register a way of ours, and the same on one thread."""

    def register(run: Callable[[Job], Any]) -> Callable[[Job], Any]:
        for scenario in scenarios:
            way(scenario, OURS, *HERE)(run)
            if scenario != "open":
                way(scenario, ONE_THREAD, *HERE, threads=1)(run)
        return run

    return register


@ours("open")
def open_ours(job: Job) -> Any:
    import dask_slides as ds

    return ds.resize(job.slide, downsample=DOWNSAMPLE).data


@ours(*RESIZES)
def resize_ours(job: Job) -> Array:
    import dask_slides as ds

    return np.asarray(ds.resize(job.slide, downsample=DOWNSAMPLE).data.compute())


@ours("resize-zarr")
def resize_zarr_ours(job: Job) -> str:
    import dask_slides as ds

    return ds.write(ds.resize(job.slide, downsample=DOWNSAMPLE), job.out + ".ome.zarr")


@ours("blank-map")
def blank_map_ours(job: Job) -> Array:
    import dask_slides as ds

    return np.asarray(
        ds.blank_map(job.slide, tile_size=job.cell, detector=ds.Contrast(BLANK)).compute().blank
    )


@ours("cutoff")
def cutoff_ours(job: Job) -> Array:
    import dask_slides as ds

    cut = ds.cutoff_resize(
        job.slide, downsample=DOWNSAMPLE, tile_size=job.cell, detector=ds.Contrast(BLANK)
    )
    return np.asarray(cut.image.data.compute())


@ours("pack")
def pack_ours(job: Job) -> str:
    import dask_slides as ds

    pack = ds.pack_tiles(job.slide, tile_size=PACK_TILE, detector=ds.Contrast(DENSE))
    return ds.write(pack, job.out + ".tiles.zarr")


@ours("crops")
def crops_ours(job: Job) -> Array:
    with open(job.pack, "rb") as file:
        pack = pickle.load(file)
    return np.asarray(pack[:])


@ours("thumbnail")
def thumbnail_ours(job: Job) -> Array:
    import dask_slides as ds

    return ds.open_slide(job.slide).thumbnail(THUMBNAIL)
