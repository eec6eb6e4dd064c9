"""The command line: parse, call, print.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 done with named bad tiles or failed slides.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import click

from dask_slides._version import __version__
from dask_slides.blank import blank_map
from dask_slides.cli_options import (
    Shared,
    check_out,
    chosen_detector,
    detector_options,
    failing_softly,
    megapixels,
    opened,
    output_argument,
    printable,
    px,
    running,
    scale_of,
    scale_options,
    shared_options,
    slide_options,
    tell_estimate,
)
from dask_slides.crops import plan_crops, random_crops
from dask_slides.cutoff import cutoff_resize
from dask_slides.demo import run_demo
from dask_slides.display import bytes_text
from dask_slides.doctor import examine
from dask_slides.estimate import estimate_blank_map, estimate_image, estimate_tiles
from dask_slides.pack import TilePack, pack_tiles, plan_pack
from dask_slides.resize import resize as resized
from dask_slides.sample import sample_slide
from dask_slides.slide import Slide
from dask_slides.writers.store import verify
from dask_slides.writers.write import write


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dask-slides")
def main() -> None:
    """Map, resize, cut, pack and crop images too large to load."""


@main.command()
@slide_options
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@failing_softly
def info(slide: str, slide_mpp: float | None, as_json: bool) -> None:
    """Tell what SLIDE is; no pixel is read."""
    this = opened(slide, slide_mpp)
    estimate = estimate_image(this, this)
    facts = {
        "path": this.path,
        "shape": list(this.shape),
        "dtype": str(this.dtype),
        "mpp": this.mpp,
        "levels": [
            {"shape": list(lv.shape), "downsample": list(lv.downsample), "tile": list(lv.tile)}
            for lv in this.levels
        ],
        "task_bytes": estimate.task_bytes,
        "properties": dict(this.properties),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"{this.name}: {px(this.shape)} {this.dtype}")
    click.echo(f"mpp      {'not known' if this.mpp is None else f'{this.mpp:.4g} µm'}")
    for number, level in enumerate(this.levels):
        tile = px(level.tile)
        click.echo(f"level {number}  {px(level.shape)}, 1/{level.downsample[0]:g}, tiles {tile}")
    click.echo(f"memory   {bytes_text(estimate.task_bytes)} a thread to write it whole")
    for key, value in this.properties.items():
        click.echo(f"{key}: {printable(value)}")


@main.command()
@click.option("--scheduler", help="also try this scheduler: tcp://HOST:PORT")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@failing_softly
def doctor(scheduler: str | None, as_json: bool) -> None:
    """Check what is installed and works here, and say what to install."""
    findings = examine(scheduler)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            sign = "ok" if finding.good else ("MISSING" if finding.needed else "--")
            cure = "" if finding.good else f"   {finding.cure}"
            click.echo(f"{sign:8}{finding.what:20}{finding.found}{cure}")
    if any(finding.needed and not finding.good for finding in findings):
        sys.exit(1)


@main.command()
@click.argument("path")
@click.option("--size", type=(int, int), default=(20480, 20480), show_default=True,
              help="height and width")  # fmt: skip
@click.option("--tile", type=int, default=256, show_default=True, help="side of a tile")
@click.option("--compression", default="jpeg", show_default=True,
              help="jpeg, jpeg2000, lzw, deflate, zstd, webp or none")  # fmt: skip
@click.option("--pyramid", is_flag=True, help="with levels at 1/4, 1/16, ...")
@click.option("--mpp", type=float, default=0.25, show_default=True, help="micrometres per pixel")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--overwrite", is_flag=True)
@failing_softly
def sample(path: str, size: tuple[int, int], **options: Any) -> None:
    """Make a realistic slide at PATH: the same bytes for the same options."""
    sample_slide(path, size, **options)
    click.echo(f"{path}: {px(size)} px, {bytes_text(os.path.getsize(path))}")


@main.command()
@click.argument("folder", default="dask-slides-demo")
@click.option("--size", type=click.IntRange(1024), default=8192, show_default=True,
              help="side of the sample slide")  # fmt: skip
@shared_options
def demo(folder: str, size: int, shared: Shared) -> None:
    """Make a slide and run everything on it, with pictures, in FOLDER."""
    if shared.dry_run:
        shared.finish({"dry_run": True, "folder": folder}, [f"would fill {folder}"])
        return
    loud = not (shared.quiet or shared.as_json)
    with running(replace(shared, quiet=True), size**2 / 1e6):
        facts = run_demo(folder, size, shared.overwrite, click.echo if loud else lambda _: None)
    lines = [
        f"blank      {facts['blank_cells']:,} of {facts['cells']:,} cells",
        f"cut-off    {facts['gain']:.2f} times finer than resized, at the same longest side",
        f"dense      {facts['dense_tiles']:,} tiles",
        f"pictures and Zarr stores are in {facts['folder']}",
    ]
    shared.finish(facts, lines)


@main.command()
@slide_options
@output_argument
@scale_options
@shared_options
def resize(
    slide: str, out: str, slide_mpp: float | None, ome_zarr: str, shared: Shared, **options: Any
) -> None:
    """Resize SLIDE as a whole and write it to OUT.ome.zarr."""
    source = opened(slide, slide_mpp)
    result = resized(source, **scale_of(options))
    check_out(out, shared)
    if shared.dry_run:
        tell_estimate(shared, estimate_image(result, source))
        return
    with running(shared, megapixels(source)):
        path = write(result, out, shared.overwrite, resume=shared.resume, ome_zarr=ome_zarr)
    facts = {"path": path, "shape": list(result.shape), "mpp": result.mpp}
    shared.finish(facts, [f"{out}: {px(result.shape)} px"])


@main.command()
@slide_options
@output_argument
@click.option("--tile-size", type=int, help="side of a cell in pixels")
@detector_options(0.05)
@click.option("--ome-zarr", "ome_zarr", default="0.5", show_default=True)
@shared_options
def mask(
    slide: str,
    out: str,
    slide_mpp: float | None,
    tile_size: int | None,
    detector: str,
    ratio: float,
    ome_zarr: str,
    shared: Shared,
) -> None:
    """Find the blank cells of SLIDE and write the map to OUT.ome.zarr."""
    source = opened(slide, slide_mpp)
    found = blank_map(source, tile_size, chosen_detector(detector, ratio))
    check_out(out, shared)
    if shared.dry_run:
        tell_estimate(shared, estimate_blank_map(found, source))
        return
    with running(shared, megapixels(source)):
        found = found.compute()
        path = write(found, out, shared.overwrite, resume=shared.resume, ome_zarr=ome_zarr)
    blank = int(found.blank.sum())
    facts = {"path": path, "cells": list(found.shape), "blank": blank}
    shared.finish(facts, [f"{out}: {blank:,} of {found.blank.size:,} cells are blank"])


@main.command()
@slide_options
@output_argument
@scale_options
@click.option("--tile-size", type=int, help="side of a cell in pixels")
@detector_options(0.05)
@shared_options
def cutoff(
    slide: str,
    out: str,
    slide_mpp: float | None,
    tile_size: int | None,
    detector: str,
    ratio: float,
    ome_zarr: str,
    shared: Shared,
    **options: Any,
) -> None:
    """Cut blank rows and columns of SLIDE off, resize the rest, write OUT.ome.zarr."""
    source = opened(slide, slide_mpp)
    scale = scale_of(options)
    largest = resized(source, **scale)
    found = blank_map(source, tile_size, chosen_detector(detector, ratio))
    check_out(out, shared)
    if shared.dry_run:
        tell_estimate(shared, estimate_image(largest, source, upper_bound=True))
        return
    with running(shared, megapixels(source)):
        cut = cutoff_resize(source, **scale, blank_map=found)
        path = write(cut, out, shared.overwrite, resume=shared.resume, ome_zarr=ome_zarr)
    shape = cut.image.shape
    facts = {"path": path, "shape": list(shape), "mpp": cut.image.mpp, "gain": cut.gain}
    line = f"{out}: {px(shape)} px, {cut.gain:.2f} times finer at the same longest side"
    shared.finish(facts, [line])


@main.command()
@slide_options
@output_argument
@click.option("--tile-size", type=int, help="side of a tile in pixels of the pack")
@click.option("--stride", type=int, help="distance between tiles")
@click.option("--downsample", type=float, help="how many times smaller")
@click.option("--mpp", type=float, help="micrometres per pixel wanted")
@click.option("--edge", default="drop", show_default=True, help="drop, pad or shift")
@click.option("--top-k", type=int, help="only the k tiles of the highest score")
@detector_options(0.35)
@shared_options
def pack(
    slide: str,
    out: str,
    slide_mpp: float | None,
    detector: str,
    ratio: float,
    shared: Shared,
    **options: Any,
) -> None:
    """Pack the dense tiles of SLIDE into OUT.tiles.zarr."""
    source = opened(slide, slide_mpp)
    options["detector"] = chosen_detector(detector, ratio)
    check_out(out, shared)
    if shared.dry_run:
        names = ("tile_size", "stride", "downsample", "mpp", "edge")
        image, grid = plan_pack(source, **{name: options[name] for name in names})
        count = min(grid.rows * grid.cols, options["top_k"] or grid.rows * grid.cols)
        tell_estimate(shared, estimate_tiles(count, grid, image, source))
        return
    _write_tiles(pack_tiles, source, out, shared, options)


@main.command()
@slide_options
@output_argument
@click.option("-n", "n", type=int, required=True, help="how many crops")
@click.option("--size", type=int, required=True, help="side of a crop in pixels of the result")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--downsample", type=float, help="how many times smaller")
@click.option("--mpp", type=float, help="micrometres per pixel wanted")
@detector_options(0.35)
@shared_options
def crops(
    slide: str,
    out: str,
    slide_mpp: float | None,
    detector: str,
    ratio: float,
    shared: Shared,
    **options: Any,
) -> None:
    """Draw random crops from the dense areas of SLIDE into OUT.tiles.zarr."""
    source = opened(slide, slide_mpp)
    options["detector"] = chosen_detector(detector, ratio)
    check_out(out, shared)
    if shared.dry_run:
        names = ("n", "size", "downsample", "mpp")
        image, grid = plan_crops(source, **{name: options[name] for name in names})
        tell_estimate(shared, estimate_tiles(options["n"], grid, image, source))
        return
    _write_tiles(random_crops, source, out, shared, options)


@main.command("verify")
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@failing_softly
def verify_store(store: str, as_json: bool) -> None:
    """Prove that STORE is complete and unchanged; every byte is read."""
    found = verify(store)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    shards = ", ".join(f"{count:,} {status}" for status, count in sorted(found.statuses.items()))
    whole = f"{found.files:,} files, {bytes_text(found.nbytes)}"
    click.echo(f"{store}: {whole}, all as written; shards: {shards or 'none'}")


def _write_tiles(
    make: Callable[..., TilePack], source: Slide, out: str, shared: Shared, options: dict[str, Any]
) -> None:
    with running(shared, megapixels(source)):
        tiles = make(source, **options)
        path = write(tiles, out, shared.overwrite, resume=shared.resume)
    facts = {"path": path, "shape": list(tiles.tiles.shape)}
    shared.finish(facts, [f"{out}: {px(tiles.tiles.shape)}"])


if __name__ == "__main__":
    main()
