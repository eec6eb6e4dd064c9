"""The command line: parse, call, print.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 done with named bad tiles or failed slides, 130
interrupted, 143 terminated.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import click

from dask_slides.cli.demo import run_demo
from dask_slides.cli.doctor import examine
from dask_slides.cli.exit_codes import end_named, failing_softly
from dask_slides.cli.info import shown_statuses, slide_facts, store_facts
from dask_slides.cli.options import (
    Shared,
    cell_options,
    check_out,
    chosen_detector,
    detector_options,
    megapixels,
    output_argument,
    pack_options,
    running,
    scale_of,
    scale_options,
    shared_options,
    tell_estimate,
)
from dask_slides.cli.run import run
from dask_slides.cli.slide_options import Given, slide_options
from dask_slides.core.bad_tiles import BadTile
from dask_slides.core.version import __version__
from dask_slides.ops.blank_map import blank_map
from dask_slides.ops.check import check_slide
from dask_slides.ops.crops import plan_crops, random_crops
from dask_slides.ops.cutoff import cutoff_resize
from dask_slides.ops.pack import TilePack, pack_tiles, plan_pack
from dask_slides.ops.resize import resize as resized
from dask_slides.ops.sharing import reduction, sharing
from dask_slides.plots.pictures import bytes_text, pixels_text
from dask_slides.slide import Slide
from dask_slides.testing.sample_slide import sample_slide
from dask_slides.writers.estimate import estimate_blank_map, estimate_image, estimate_tiles
from dask_slides.writers.store.local_transaction import verify
from dask_slides.writers.write import write


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dask-slides")
def main() -> None:
    """Map, resize, cut, pack and crop images too large to load."""


@main.command()
@slide_options
@click.option("--check", is_flag=True, help="decode every tile and name the bad ones; exit 3")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@failing_softly
def info(slide: Given, check: bool, as_json: bool) -> None:
    """Tell what SLIDE is, a file or a store; no pixel is read without --check."""
    facts, lines = store_facts(slide.path)
    if facts.get("kind") != "pack":
        this = slide.open()
        shape_facts, shape_lines = slide_facts(this)
        facts, lines = shape_facts | facts, shape_lines + lines
    bad_tiles: tuple[BadTile, ...] = ()
    if check:
        found = check_slide(slide.open())
        bad_tiles = found.bad_tiles
        facts |= {"tiles": found.statuses, "bad_tiles": [asdict(tile) for tile in bad_tiles]}
        lines.append(f"tiles    {shown_statuses(found.statuses)}")
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for line in lines:
            click.echo(line)
    end_named(bad_tiles)


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
@click.option("--shape", type=(int, int), default=(20480, 20480), show_default=True,
              help="height and width")  # fmt: skip
@click.option("--tile-size", "tile", type=int, default=256, show_default=True,
              help="side of a tile of the file")  # fmt: skip
@click.option("--compression", default="jpeg", show_default=True,
              help="jpeg, jpeg2000, lzw, deflate, zstd, webp or none")  # fmt: skip
@click.option("--pyramid", is_flag=True, help="with levels at 1/4, 1/16, ...")
@click.option("--mpp", type=float, default=0.25, show_default=True, help="micrometres per pixel")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--overwrite", is_flag=True)
@failing_softly
def sample(path: str, shape: tuple[int, int], **options: Any) -> None:
    """Make a realistic slide at PATH: the same bytes for the same options."""
    sample_slide(path, shape=shape, **options)
    click.echo(f"{path}: {pixels_text(shape)} px, {bytes_text(os.path.getsize(path))}")


@main.command()
@click.argument("folder", default="dask-slides-demo")
@click.option("--side", type=click.IntRange(1024), default=8192, show_default=True,
              help="side of the sample slide in pixels")  # fmt: skip
@shared_options
def demo(folder: str, side: int, shared: Shared) -> None:
    """Make a slide and run everything on it, with pictures, in FOLDER."""
    if shared.dry_run:
        shared.finish({"dry_run": True, "folder": folder}, [f"would fill {folder}"])
        return
    loud = not (shared.quiet or shared.as_json)
    with running(replace(shared, quiet=True), side**2 / 1e6):
        facts = run_demo(folder, side, shared.overwrite, click.echo if loud else lambda _: None)
    lines = [
        f"blank      {facts['blank_tiles']:,} of {facts['tiles']:,} tiles",
        f"cut-off    {facts['gain']:.2f} times finer than resized, at the same longest side",
        f"dense      {facts['dense_tiles']:,} tiles",
        f"pictures (index.html shows them) and Zarr stores are in {facts['folder']}",
    ]
    shared.finish(facts, lines)


@main.command()
@slide_options
@output_argument
@scale_options
@shared_options
def resize(slide: Given, out: str, ome_zarr: str, shared: Shared, **options: Any) -> None:
    """Resize SLIDE as a whole and write it to OUT.ome.zarr."""
    source = slide.open()
    result = resized(source, **scale_of(options))
    check_out(out, shared)
    if shared.dry_run:
        tell_estimate(shared, estimate_image(result, source))
        return
    with running(shared, megapixels(source)):
        path = write(
            result, out, overwrite=shared.overwrite, resume=shared.resume, ome_zarr=ome_zarr
        )
    facts = {"shape": list(result.shape), "mpp": result.mpp}
    shared.finish_store(path, facts, f"{out}: {pixels_text(result.shape)} px")


@main.command()
@slide_options
@output_argument
@cell_options()
@click.option("--ome-zarr", "ome_zarr", default="0.5", show_default=True)
@shared_options
def mask(
    slide: Given,
    out: str,
    tile_size: int | None,
    detector: str,
    ratio: float,
    ome_zarr: str,
    shared: Shared,
) -> None:
    """Find the blank tiles of SLIDE and write the map to OUT.ome.zarr."""
    source = slide.open()
    found = blank_map(source, tile_size=tile_size, detector=chosen_detector(detector, ratio))
    check_out(out, shared)
    if shared.dry_run:
        tell_estimate(shared, estimate_blank_map(found, source))
        return
    with running(shared, megapixels(source)):
        found = found.compute()
        path = write(
            found, out, overwrite=shared.overwrite, resume=shared.resume, ome_zarr=ome_zarr
        )
    blank, unknown = int(found.blank.sum()), int(found.unknown.sum())
    facts = {"tiles": list(found.shape), "blank": blank, "unknown": unknown}
    line = f"{out}: {blank:,} of {found.blank.size:,} tiles are blank"
    if unknown:
        line += f", {unknown:,} unknown, as tiles of the file there are absent or corrupt"
    shared.finish_store(path, facts, line)


@main.command()
@slide_options
@output_argument
@scale_options
@cell_options()
@shared_options
def cutoff(
    slide: Given,
    out: str,
    tile_size: int | None,
    detector: str,
    ratio: float,
    ome_zarr: str,
    shared: Shared,
    **options: Any,
) -> None:
    """Cut blank rows and columns of SLIDE off, resize the rest, write OUT.ome.zarr."""
    source = slide.open()
    scale = scale_of(options)
    largest = resized(source, **scale)
    found = blank_map(source, tile_size=tile_size, detector=chosen_detector(detector, ratio))
    check_out(out, shared)
    if shared.dry_run:
        tell_estimate(shared, estimate_image(largest, source, upper_bound=True))
        return
    folder = os.path.dirname(os.path.abspath(out))  # none of this machine if OUT is an address
    once = sharing(source, folder, (1, reduction(source, largest)))
    with running(shared, megapixels(source)), once:
        cut = cutoff_resize(source, **scale, blank_map=found)
        path = write(cut, out, overwrite=shared.overwrite, resume=shared.resume, ome_zarr=ome_zarr)
    shape = cut.image.shape
    facts = {"shape": list(shape), "mpp": cut.image.mpp, "gain": cut.gain}
    line = f"{out}: {pixels_text(shape)} px, {cut.gain:.2f} times finer at the same longest side"
    shared.finish_store(path, facts, line)


@main.command()
@slide_options
@output_argument
@pack_options()
@shared_options
def pack(
    slide: Given,
    out: str,
    detector: str,
    ratio: float,
    shared: Shared,
    **options: Any,
) -> None:
    """Pack the dense tiles of SLIDE into OUT.tiles.zarr."""
    source = slide.open()
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
    slide: Given,
    out: str,
    detector: str,
    ratio: float,
    shared: Shared,
    **options: Any,
) -> None:
    """Draw random crops from the dense areas of SLIDE into OUT.tiles.zarr."""
    source = slide.open()
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
    whole = f"{found.files:,} files, {bytes_text(found.nbytes)}"
    click.echo(f"{store}: {whole}, all as written; shards: {shown_statuses(found.statuses)}")


main.add_command(run)


def _write_tiles(
    make: Callable[..., TilePack], source: Slide, out: str, shared: Shared, options: dict[str, Any]
) -> None:
    with running(shared, megapixels(source)):
        tiles = make(source, **options)
        path = write(tiles, out, overwrite=shared.overwrite, resume=shared.resume)
    facts: dict[str, Any] = {"shape": list(tiles.tiles.shape)}
    line = f"{out}: {pixels_text(tiles.tiles.shape)}"
    if skipped := tiles.attributes.get("skipped"):
        facts["skipped"] = skipped
        line += f"; {skipped:,} skipped, as tiles of the slide there are absent or corrupt"
    shared.finish_store(path, facts, line)


if __name__ == "__main__":
    main()
