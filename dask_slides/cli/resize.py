"""``dask-slides resize``: write a resized slide."""

from __future__ import annotations

from typing import Any

import click

from dask_slides.cli.options import (
    CommonOptions,
    enlarge_option,
    image_argument,
    ome_zarr_option,
    scale_options,
    shards_option,
)
from dask_slides.cli.output import (
    check_output,
    estimate_of_image,
    plan_of_image,
    print_estimate,
    print_store,
    write_image,
)
from dask_slides.cli.scheduling import computing, megapixels, scheduler
from dask_slides.cli.slide_options import SlideOptions, slide_options
from dask_slides.ops.resize import resize
from dask_slides.ops.scale import check_not_enlarged, resize_arguments
from dask_slides.plots.pictures import pixels_text


@click.command("resize")
@slide_options
@image_argument()
@scale_options
@enlarge_option
@ome_zarr_option
@shards_option
@computing
def command(
    slide: SlideOptions,
    out: str,
    scale: dict[str, Any],
    enlarge: bool,
    ome_zarr: str,
    tiff: dict[str, Any],
    shards: bool,
    common: CommonOptions,
) -> None:
    """Resize the whole SLIDE and write it to OUT.ome.zarr or OUT.ome.tif."""
    source = slide.open()
    result = resize(source, **resize_arguments(source, **scale))
    if not enlarge:
        check_not_enlarged(source, **scale)
    check_output(out, common)
    if common.dry_run:
        plan = plan_of_image(source, result)
        estimate = estimate_of_image(result, source, ome_zarr, tiff, shards, False)
        print_estimate(common, estimate, plan)
        return
    with scheduler(common, megapixels(source)):
        path = write_image(result, out, common, ome_zarr, tiff, shards)
    facts = {"shape": list(result.shape), "mpp": result.mpp}
    print_store(common, path, facts, f"{out}: {pixels_text(result.shape)} px")
