"""The main job on a slide made here, with pictures: what `dask-slides demo` runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides import display
from dask_slides.blank import blank_map
from dask_slides.crops import random_crops
from dask_slides.cutoff import cutoff_resize
from dask_slides.detectors import Contrast
from dask_slides.errors import OutputExistsError
from dask_slides.pack import pack_tiles
from dask_slides.resize import resize
from dask_slides.sample import sample_slide
from dask_slides.slide import open_slide
from dask_slides.writers.write import write

Array = NDArray[Any]

PICTURE = 900
"""Longest side of a picture in pixels."""
TILE = 256


def run_demo(folder: str, size: int, overwrite: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Make a slide of `size` x `size` pixels in `folder`, run everything on it, draw it.

    Returns what was found, as plain values.
    """
    folder = os.path.abspath(folder)
    if os.path.isdir(folder) and os.listdir(folder) and not overwrite:
        raise OutputExistsError(f"{folder}: is not empty; choose another folder or --overwrite")
    os.makedirs(folder, exist_ok=True)

    def path(name: str) -> str:
        return os.path.join(folder, name)

    say(f"a sample slide of {size:,} x {size:,} px")
    sample_slide(path("sample.tif"), (size, size), overwrite=overwrite)
    slide = open_slide(path("sample.tif"))
    small = resize(slide, max_size=PICTURE).data.compute()
    shown = [picture(path("thumbnail.png"), small)]

    say("its blank map")
    # cells of an eightieth of a side: small slides show the shape of the tissue too
    cells = blank_map(slide, -(-size // 80)).compute()
    write(cells, path("blank.ome.zarr"), overwrite)
    grid = display.grid_picture(np.asarray(cells.blank), small)
    shown.append(picture(path("blank-map.png"), grid))

    say("resized to 1/8")
    resized = resize(slide, downsample=8)
    write(resized, path("resized.ome.zarr"), overwrite, blank_map=cells)
    picture(path("resized.png"), resize(resized, max_size=PICTURE).data.compute())

    say("cut off: blank rows and columns dropped, the rest at the same size")
    cut = cutoff_resize(slide, max_size=size // 8, blank_map=cells)
    write(cut, path("cutoff.ome.zarr"), overwrite)
    kept = resize(cut.image, max_size=PICTURE).data.compute()
    shown.append(picture(path("cutoff.png"), kept))

    say("a pack of its dense tiles, and random crops")
    pack = pack_tiles(slide, TILE, detector=Contrast(0.35))
    write(pack, path("dense.tiles.zarr"), overwrite)
    shown.append(picture(path("pack.png"), pack.contact_sheet(48, columns=6, side=96)))
    picture(path("overview.png"), display.side_by_side(shown, 360))
    crops = random_crops(slide, 48, TILE, seed=1)
    write(crops, path("crops.tiles.zarr"), overwrite)
    picture(path("crops.png"), crops.contact_sheet(48, columns=8, side=96))
    return {
        "folder": folder,
        "slide": list(slide.shape),
        "blank_cells": int(np.asarray(cells.blank).sum()),
        "cells": cells.grid.rows * cells.grid.cols,
        "resized": list(resized.shape),
        "cutoff": list(cut.image.shape),
        "gain": round(cut.gain, 3),
        "dense_tiles": len(pack),
        "crops": len(crops),
    }


def picture(path: str, pixels: Array) -> Array:
    """Write `pixels` (y, x, c) as a PNG; return what it shows."""
    shown = display.rgb(pixels)
    with open(path, "wb") as file:
        file.write(display.png(shown))
    return shown
