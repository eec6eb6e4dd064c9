"""``dask-slides mask``: write the blank map of a slide."""

from __future__ import annotations

import click

from dask_slides.cli.options import (
    CommonOptions,
    blank_map_options,
    ome_zarr_option,
    output_argument,
)
from dask_slides.cli.output import check_output, print_estimate, print_store, write_output
from dask_slides.cli.scheduling import computing, megapixels, scheduler
from dask_slides.cli.slide_options import SlideOptions, slide_options
from dask_slides.numerics.detectors import Detector
from dask_slides.ops.blank_map import blank_map
from dask_slides.writers.estimate import estimate_blank_map


@click.command("mask")
@slide_options
@output_argument(".ome.zarr")
@blank_map_options()
@ome_zarr_option
@computing
def command(
    slide: SlideOptions,
    out: str,
    tile_size: int | None,
    detector: Detector,
    ome_zarr: str,
    common: CommonOptions,
) -> None:
    """Find the blank tiles of SLIDE and write the map to OUT.ome.zarr."""
    source = slide.open()
    found = blank_map(source, tile_size=tile_size, detector=detector)
    check_output(out, common)
    if common.dry_run:
        print_estimate(common, estimate_blank_map(found, source))
        return
    with scheduler(common, megapixels(source)):
        found = found.compute()
        path = write_output(found, out, common, ome_zarr=ome_zarr)
    blank, unknown = int(found.blank.sum()), int(found.unknown.sum())
    facts = {"tiles": list(found.shape), "blank": blank, "unknown": unknown}
    line = f"{out}: {blank:,} of {found.blank.size:,} tiles are blank"
    if unknown:
        line += f", {unknown:,} unknown: absent or corrupt in the file"
    print_store(common, path, facts, line)
