"""``dask-slides demo``: run every operation on a sample slide and draw the results."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click
import numpy as np

from dask_slides.cli.options import CommonOptions
from dask_slides.cli.output import print_result
from dask_slides.cli.scheduling import computing, scheduler
from dask_slides.core.types import Array
from dask_slides.errors import OutputExistsError
from dask_slides.numerics.detectors import Contrast
from dask_slides.ops.blank_map import blank_map
from dask_slides.ops.crops import random_crops
from dask_slides.ops.cutoff import cutoff_resize
from dask_slides.ops.pack import pack_tiles
from dask_slides.ops.resize import resize
from dask_slides.plots import pictures
from dask_slides.plots.html_page import page
from dask_slides.slide import open_slide
from dask_slides.testing.sample_slide import sample_slide
from dask_slides.writers.write import write

PICTURE = 900
"""Longest side of a picture file in pixels."""
PAGE = 640
"""Longest side of a picture on the page in pixels."""
TILE = 256


@click.command("demo")
@click.argument("folder", default="dask-slides-demo")
@click.option("--side", type=click.IntRange(1024), default=8192,
              help="side of the sample slide in pixels")  # fmt: skip
@computing
def command(folder: str, side: int, common: CommonOptions) -> None:
    """Make a sample slide in FOLDER, run every operation on it and draw the results."""
    if common.dry_run:
        print_result(common, {"dry_run": True, "folder": folder}, [f"would write to {folder}"])
        return
    quiet = common.quiet or common.as_json
    with scheduler(replace(common, quiet=True), side**2 / 1e6):
        facts = run_demo(folder, side, common.overwrite, (lambda _: None) if quiet else click.echo)
    lines = [
        f"blank      {facts['blank_tiles']:,} of {facts['tiles']:,} tiles",
        f"cut-off    {facts['gain']:.2f} times finer than resized, at the same longest side",
        f"dense      {facts['dense_tiles']:,} tiles",
        f"pictures (index.html shows them) and Zarr stores are in {facts['folder']}",
    ]
    print_result(common, facts, lines)


def run_demo(folder: str, size: int, overwrite: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Make a slide of `size` x `size` pixels in `folder` and run every operation on it.

    Call `say` with a line of text before each step. Return the figures as plain values.
    """
    folder = os.path.abspath(folder)
    if os.path.isdir(folder) and os.listdir(folder) and not overwrite:
        raise OutputExistsError(
            f"{folder}: is not empty; choose another folder or pass --overwrite"
        )
    os.makedirs(folder, exist_ok=True)
    shown: dict[str, Array] = {}

    def store(obj: Any, name: str, **options: Any) -> None:
        write(obj, os.path.join(folder, name), overwrite=overwrite, **options)

    def picture(name: str, pixels: Array) -> None:
        shown[name] = pictures.rgb(pixels)
        _write(os.path.join(folder, f"{name}.png"), pictures.png(shown[name]))

    say(f"sample slide of {size:,} x {size:,} px")
    slide = open_slide(
        sample_slide(os.path.join(folder, "sample.tif"), shape=(size, size), overwrite=overwrite)
    )
    small = resize(slide, max_size=PICTURE).data.compute()
    picture("thumbnail", small)

    say("blank map")
    # 80 tiles along a side show the shape of the tissue on small slides too
    cells = blank_map(slide, tile_size=-(-size // 80)).compute()
    store(cells, "blank.ome.zarr")
    picture("blank-map", pictures.grid_picture(np.asarray(cells.blank), small))

    say("resized to 1/8")
    resized = resize(slide, downsample=8)
    store(resized, "resized.ome.zarr", blank_map=cells)
    picture("resized", resize(resized, max_size=PICTURE).data.compute())

    say("cut off: blank rows and columns removed")
    cut = cutoff_resize(slide, max_size=size // 8, blank_map=cells)
    store(cut, "cutoff.ome.zarr")
    picture("cutoff", resize(cut.image, max_size=PICTURE).data.compute())

    say("pack of dense tiles, and random crops")
    pack = pack_tiles(slide, tile_size=TILE, detector=Contrast(0.35))
    store(pack, "dense.tiles.zarr")
    picture("pack", pack.contact_sheet(48, columns=6, side=96))
    crops = random_crops(slide, n=48, size=TILE, seed=1)
    store(crops, "crops.tiles.zarr")
    picture("crops", crops.contact_sheet(48, columns=8, side=96))
    row = [shown[name] for name in ("thumbnail", "blank-map", "cutoff", "pack")]
    _write(os.path.join(folder, "overview.png"), pictures.png(pictures.side_by_side(row, 360)))

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
    captions = {
        "thumbnail": f"The slide: {pictures.pixels_text(slide.shape[:2])} px (sample.tif)",
        "blank-map": f"The blank map: {found['blank_tiles']:,} of {found['tiles']:,} tiles are "
        "blank and shaded (blank.ome.zarr)",
        "resized": f"Resized to 1/8: {pictures.pixels_text(resized.shape[:2])} px "
        "(resized.ome.zarr)",
        "cutoff": f"Cut off: without blank rows and columns, the tissue is {found['gain']:.2f} "
        "times finer at the same longest side (cutoff.ome.zarr)",
        "pack": f"Dense tiles, as they are packed for training: {len(pack):,} of {TILE} x {TILE} "
        "px (dense.tiles.zarr)",
        "crops": f"Random crops of tissue: {len(crops):,} of {TILE} x {TILE} px (crops.tiles.zarr)",
    }
    drawn = [
        (caption, pictures.png(pictures.shrunk(shown[name], PAGE)))
        for name, caption in captions.items()
    ]
    _write(
        os.path.join(folder, "index.html"),
        page("dask_slides on a sample slide", {}, drawn).encode(),
    )
    return found


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
