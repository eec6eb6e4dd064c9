"""Our own ways: what a user of dask_slides would write, with the defaults."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from benchmarks.scenarios import (
    BLANK,
    DENSE,
    DOWNSAMPLE,
    OURS,
    PACK_TILE,
    THUMBNAIL,
    Array,
    Job,
    way,
)

HERE = ("dask_slides", "dask.array", "tifffile", "zarr", "imagecodecs", "PIL.Image", "cloudpickle")


@way("open", OURS, *HERE)
def open_ours(job: Job) -> Any:
    import dask_slides as ds

    return ds.resize(job.slide, downsample=DOWNSAMPLE).data


@way("resize", OURS, *HERE)
def resize_ours(job: Job) -> Array:
    import dask_slides as ds

    return np.asarray(ds.resize(job.slide, downsample=DOWNSAMPLE).data.compute())


@way("resize-zarr", OURS, *HERE)
def resize_zarr_ours(job: Job) -> str:
    import dask_slides as ds

    return ds.write(ds.resize(job.slide, downsample=DOWNSAMPLE), job.out + ".ome.zarr")


@way("blank-map", OURS, *HERE)
def blank_map_ours(job: Job) -> Array:
    import dask_slides as ds

    return np.asarray(ds.blank_map(job.slide, job.cell, ds.Contrast(BLANK)).compute().blank)


@way("cutoff", OURS, *HERE)
def cutoff_ours(job: Job) -> Array:
    import dask_slides as ds

    cut = ds.cutoff_resize(
        job.slide, downsample=DOWNSAMPLE, tile_size=job.cell, detector=ds.Contrast(BLANK)
    )
    return np.asarray(cut.image.data.compute())


@way("pack", OURS, *HERE)
def pack_ours(job: Job) -> str:
    import dask_slides as ds

    pack = ds.pack_tiles(job.slide, PACK_TILE, detector=ds.Contrast(DENSE))
    return ds.write(pack, job.out + ".tiles.zarr")


@way("crops", OURS, *HERE)
def crops_ours(job: Job) -> Array:
    with open(job.pack, "rb") as file:
        pack = pickle.load(file)
    return np.asarray(pack.tiles.compute())


@way("thumbnail", OURS, *HERE)
def thumbnail_ours(job: Job) -> Array:
    import dask_slides as ds

    return ds.open_slide(job.slide).thumbnail(THUMBNAIL)
