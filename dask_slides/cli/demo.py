"""Run every operation on a sample slide and draw the results, for `dask-slides demo`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.errors import OutputExistsError
from dask_slides.ops.blank_map import blank_map
from dask_slides.ops.crops import random_crops
from dask_slides.ops.cutoff import cutoff_resize
from dask_slides.ops.overlays import picture_on_slide
from dask_slides.ops.pack import pack_tiles
from dask_slides.ops.resize import resize
from dask_slides.plots import pictures
from dask_slides.plots.display import display_rgb
from dask_slides.plots.html_page import page
from dask_slides.slide import open_slide
from dask_slides.testing.sample_slide import sample_slide
from dask_slides.writers.write import write

PICTURE = 900
"""Longest side of a picture file in pixels."""
PAGE = 640
"""Longest side of a picture on the page in pixels."""
TILE = 256
SEED = 38
"""Seed of the sample slide: its islands of tissue leave rows and columns of glass."""
USUAL_MPP, SIDE_UM = 0.25, 2048.0
"""Micrometres per pixel of large sample slides, and the side of small ones in micrometres."""
CELL_UM = 16.0
"""Side of a tile of the blank map in micrometres; small tiles follow the edges of the tissue."""
CAPTIONS = {
    "thumbnail": "The slide",
    "blank-map": "The tissue mask: blank areas are veiled",
    "resized": "Resized to 1/8",
    "cutoff": "Cut off: without blank rows and columns, the tissue is larger",
    "tiles": "The tiles with at least half of their area tissue, as they are packed",
    "pack": "Some of these tiles",
    "crops": "Random crops of tissue",
}
"""Caption of each picture, in the order of the page."""


def run_demo(folder: str, size: int, overwrite: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Make a slide of `size` x `size` pixels in `folder` and run every operation on it.

    Call `say` with a line of text before each step. Return the figures of the page as plain values.
    """
    folder = os.path.abspath(folder)
    if os.path.isdir(folder) and os.listdir(folder) and not overwrite:
        raise OutputExistsError(
            f"{folder}: is not empty; choose another folder or pass --overwrite"
        )
    os.makedirs(folder, exist_ok=True)

    shown: dict[str, Array] = {}

    def path(name: str) -> str:
        return os.path.join(folder, name)

    def picture(name: str, pixels: Array) -> None:
        shown[name] = display_rgb(pixels)
        _write(path(f"{name}.png"), pictures.png(shown[name]))

    say(f"sample slide of {size:,} x {size:,} px")
    mpp = max(USUAL_MPP, SIDE_UM / size)  # islands of small slides are not too small for tissue
    sample_slide(path("sample.tif"), shape=(size, size), seed=SEED, mpp=mpp, overwrite=overwrite)
    slide = open_slide(path("sample.tif"))
    small = resize(slide, max_size=PICTURE).data.compute()
    picture("thumbnail", small)

    say("blank map")
    cells = blank_map(slide, tile_size=round(CELL_UM / mpp)).compute()
    write(cells, path("blank.ome.zarr"), overwrite=overwrite)
    picture("blank-map", picture_on_slide(slide, mask=cells.mask, max_size=PICTURE))

    say("resized to 1/8")
    resized = resize(slide, downsample=8)
    write(resized, path("resized.ome.zarr"), overwrite=overwrite, blank_map=cells)
    picture("resized", resize(resized, max_size=PICTURE).data.compute())

    say("cut off: blank rows and columns removed")
    cut = cutoff_resize(slide, max_size=size // 8, blank_map=cells)
    write(cut, path("cutoff.ome.zarr"), overwrite=overwrite)
    picture("cutoff", resize(cut.image, max_size=PICTURE).data.compute())

    say("pack of tiles with tissue, and random crops")
    pack = pack_tiles(slide, tile_size=TILE, blank_map=cells)
    write(pack, path("dense.tiles.zarr"), overwrite=overwrite)
    picture("tiles", picture_on_slide(slide, boxes=pack.boxes, max_size=PICTURE))
    picture("pack", pack.contact_sheet(48, columns=8, side=96))
    crops = random_crops(slide, n=48, size=TILE, seed=1, blank_map=cells)
    write(crops, path("crops.tiles.zarr"), overwrite=overwrite)
    picture("crops", crops.contact_sheet(48, columns=8, side=96))
    row = [shown[name] for name in ("thumbnail", "blank-map", "cutoff", "tiles")]
    _write(path("overview.png"), pictures.png(pictures.side_by_side(row, 360)))

    found = {
        "folder": folder,
        "slide": list(slide.shape),
        "blank_tiles": int(np.asarray(cells.blank).sum()),
        "tiles": cells.grid.rows * cells.grid.cols,
        "resized": list(resized.shape),
        "cutoff": list(cut.image.shape),
        "gain": round(cut.gain, 3),
        "dense_tiles": len(pack),
        "crops": len(crops),
    }
    _write(path("index.html"), _page(found, shown).encode())
    return found


def _page(found: dict[str, Any], shown: dict[str, Array]) -> str:
    """Return the HTML page with the figures in `found` and the pictures in `shown`."""
    facts = {
        "slide": f"{pictures.pixels_text(found['slide'][:2])} px (sample.tif)",
        "blank tiles": f"{found['blank_tiles']:,} of {found['tiles']:,} (blank.ome.zarr)",
        "resized": f"{pictures.pixels_text(found['resized'][:2])} px (resized.ome.zarr)",
        "cut off": f"{found['gain']:.2f} times finer at the same longest side (cutoff.ome.zarr)",
        "tiles": f"{found['dense_tiles']:,} of {TILE} x {TILE} px (dense.tiles.zarr)",
        "crops": f"{found['crops']:,} of {TILE} x {TILE} px (crops.tiles.zarr)",
    }
    shown_pictures = [
        (caption, pictures.png(pictures.shrunk(shown[name], PAGE)))
        for name, caption in CAPTIONS.items()
    ]
    return page("dask_slides on a sample slide", facts, shown_pictures)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
