"""Run the steps of a job on sample slides, and write its report, for `dask-slides demo`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import dask_slides as ds
from dask_slides.cli.run import log_on_stderr
from dask_slides.cohort.process_list import read_rows
from dask_slides.core.arguments import local_path
from dask_slides.errors import OutputExistsError
from dask_slides.runtime.write_permission import permission_errors

SIDE_UM = 2048.0
"""Side of the slides in micrometres, whatever their pixels, so that islands are not too small."""
SEEDS = (38, 1, 2, 3)
"""Seeds of the slides. The islands of the first leave rows and columns of glass."""
MAIN = "sample"
"""Name of the first slide, the one that is described."""
CROPS = 48
TILES = 16
"""Packed tiles and crops that fit along a side of a slide."""
CELL_UM = 16.0
"""Side of a tile of the blank map in micrometres; small tiles follow the edges of the tissue."""
DAMAGED_BYTES = 2_000


def run_demo(folder: str, size: int, overwrite: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Make slides of `size` x `size` pixels in `folder`, and run every operation on them.

    Some of them show what the report does: one is blurred, one damaged, and one is no slide. Call
    `say` with a line of text before each part. Return figures as plain values.
    """
    folder = local_path(folder, "the demo")
    if os.path.isdir(folder) and os.listdir(folder):
        if not overwrite:
            raise OutputExistsError(
                f"{folder}: is not empty; choose another folder or pass --overwrite"
            )
        for name in ("slides", "job"):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
    slides, job = (os.path.join(folder, name) for name in ("slides", "job"))
    with permission_errors(folder):
        os.makedirs(slides)

    say(f"{len(SEEDS) + 3} sample slides of {size:,} x {size:,} px")
    mpp = SIDE_UM / size
    _make_slides(slides, size, mpp)
    say("blank maps, resized and cut images, packs of tiles, random crops")
    steps = {
        "mask": {"tile_size": round(CELL_UM / mpp)},
        "resize": {"downsample": 8},
        "cutoff": {"max_size": size // 8, "tile_size": round(CELL_UM / mpp)},
        "pack": {"tile_size": size // TILES, "downsample": 1},
        "crops": {"n": CROPS, "size": size // TILES, "downsample": 1},
    }
    with log_on_stderr(quiet=True):
        result = ds.run_cohort(slides, job=job, steps=steps, on_bad_tile="mask")
    row = read_rows(job)[MAIN]
    return {
        "folder": folder,
        "report": result.report,
        "slides": result.slides,
        "failed": result.failed,
        "blank_tiles": int(row["mask_blank"]),
        "tiles": int(row["mask_tiles"]),
        "cutoff": [int(row["cutoff_height"]), int(row["cutoff_width"])],
        "gain": float(row["cutoff_gain"]),
        "dense_tiles": int(row["pack_tiles"]),
        "crops": int(row["crops_tiles"]),
    }


def _make_slides(folder: str, size: int, mpp: float) -> None:
    """Write slides of different seeds, and three with a fault."""
    names = [MAIN, *(f"sample-{number}" for number in range(2, len(SEEDS) + 1))]
    paths = [os.path.join(folder, f"{name}.tif") for name in names]
    for path, seed in zip(paths, SEEDS, strict=True):
        ds.sample_slide(path, shape=(size, size), seed=seed, mpp=mpp)
    blurred = ds.resize(ds.resize(paths[1], downsample=4), shape=(size, size))
    ds.export(blurred, os.path.join(folder, "blurred.ome.tif"))
    damaged = shutil.copy(paths[2], os.path.join(folder, "damaged.tif"))
    with open(damaged, "r+b") as file:
        file.seek(os.path.getsize(damaged) // 2)
        file.write(bytes(DAMAGED_BYTES))
    with open(os.path.join(folder, "no-slide.tif"), "w", encoding="ascii") as file:
        file.write("This is not a TIFF.\n")
