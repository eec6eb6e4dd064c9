"""``dask-slides cutoff``: write a slide without its blank parts."""

from __future__ import annotations

import os
from typing import Any

import click

from dask_slides.cli.options import (
    CommonOptions,
    blank_map_option,
    blank_map_options,
    enlarge_option,
    given_map,
    image_argument,
    layout_option,
    ome_zarr_option,
    scale_options,
    shards_option,
)
from dask_slides.cli.output import (
    check_output,
    estimate_of_image,
    plan_of_tiles,
    print_estimate,
    print_store,
    write_image,
)
from dask_slides.cli.scheduling import computing, megapixels, scheduler
from dask_slides.cli.slide_options import SlideOptions, slide_options
from dask_slides.cohort.steps import map_reductions
from dask_slides.numerics.detectors import Detector
from dask_slides.ops.blank_map import blank_map
from dask_slides.ops.cutoff import CUT_PX, CUT_UM, cells_to_cut, cutoff_resize
from dask_slides.ops.resize import level0_reduction, resize
from dask_slides.ops.scale import check_not_enlarged, resize_arguments
from dask_slides.plots.pictures import pixels_text
from dask_slides.readers.tiff.reduced_tile_cache import cached_reduced_tiles


@click.command("cutoff")
@slide_options
@image_argument()
@scale_options
@ome_zarr_option
@shards_option
@blank_map_options(micrometres=CUT_UM, pixels=CUT_PX)
@blank_map_option
@layout_option
@enlarge_option
@computing
def command(
    slide: SlideOptions,
    out: str,
    tile_size: int | None,
    min_tissue: float,
    map_file: str | None,
    enlarge: bool,
    scale: dict[str, Any],
    detector: Detector,
    layout: str,
    ome_zarr: str,
    tiff: dict[str, Any],
    shards: bool,
    common: CommonOptions,
) -> None:
    """Cut the blank parts off SLIDE, resize the rest, write it to OUT.ome.zarr or OUT.ome.tif."""
    source = slide.open()
    arguments = resize_arguments(source, **scale)
    largest = resize(source, **arguments)
    if not enlarge:
        check_not_enlarged(source, **scale)
    found = given_map(source, map_file, detector, tile_size)
    if found is None:
        tile_size = cells_to_cut(source, tile_size, detector, layout)
        found = blank_map(source, tile_size=tile_size, detector=detector)
    found = found.with_min_tissue(min_tissue)
    check_output(out, common)
    if common.dry_run:
        plan = plan_of_tiles(source, largest, map_file or detector, min_tissue)
        estimate = estimate_of_image(largest, source, ome_zarr, tiff, shards, True)
        print_estimate(common, estimate, plan)
        return
    folder = os.path.dirname(os.path.abspath(out))  # does not exist if OUT is an address
    reads = () if map_file else map_reductions(source, detector)
    cached = cached_reduced_tiles(source.source, folder, (*reads, level0_reduction(largest)))
    with scheduler(common, megapixels(source)), cached:
        cut = cutoff_resize(source, **arguments, blank_map=found, layout=layout)
        path = write_image(cut, out, common, ome_zarr, tiff, shards)
    shape = cut.image.shape
    facts = {"shape": list(shape), "mpp": cut.image.mpp, "gain": cut.gain}
    gain = f"{cut.gain:.2f} times the resolution of the whole slide at the same longest side"
    line = f"{out}: {pixels_text(shape)} px, {gain}"
    print_store(common, path, facts, line)
