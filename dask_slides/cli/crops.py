"""``dask-slides crops``: write random crops of a slide."""

from __future__ import annotations

from typing import Any

import click

from dask_slides.cli import exporting
from dask_slides.cli.options import (
    CommonOptions,
    blank_map_option,
    encoding_options,
    enlarge_option,
    given_map,
    shards_option,
    tile_scale_options,
)
from dask_slides.cli.output import (
    check_output,
    plan_of_tiles,
    print_estimate,
)
from dask_slides.cli.scheduling import computing, megapixels, scheduler
from dask_slides.cli.slide_options import SlideOptions, slide_options
from dask_slides.ops.crops import plan_crops, random_crops
from dask_slides.ops.scale import check_not_enlarged
from dask_slides.writers.estimate import estimate_tiles


@click.command("crops")
@slide_options
@click.argument("out", metavar="OUT")
@click.option("-n", "n", type=int, required=True, help="number of crops")
@click.option("--size", type=int, required=True, help="side of a crop in pixels")
@click.option("--seed", type=int, default=0, help="seed that determines the crops")
@tile_scale_options()
@enlarge_option
@blank_map_option
@shards_option
@encoding_options
@exporting.format_options
@computing
def command(
    slide: SlideOptions,
    out: str,
    enlarge: bool,
    map_file: str | None,
    shards: bool,
    encoding: dict[str, Any],
    to: str | None,
    format_options: dict[str, Any],
    common: CommonOptions,
    **options: Any,
) -> None:
    """Draw random crops of the tissue of SLIDE into OUT.tiles.zarr.

    An ending such as .parquet, or --to, writes their coordinates for another tool instead.
    """
    source = slide.open()
    exporter = exporting.tiles_format(out, to, format_options, common, shards)
    if exporter is None:
        check_output(out, common)
    names = ("n", "size", "downsample", "mpp", "magnification")
    image, grid = plan_crops(source, **{name: options[name] for name in names})
    if not enlarge:
        check_not_enlarged(source, **options)
    tissue = given_map(source, map_file, options["detector"])
    if common.dry_run:
        decides = tissue or options["detector"]
        plan = plan_of_tiles(source, image, map_file or options["detector"], options["min_tissue"])
        if exporter is not None:
            exporting.print_plan(common, exporter, options["n"], plan)
            return
        print_estimate(common, estimate_tiles(options["n"], grid, image, source, decides), plan)
        return
    with scheduler(common, megapixels(source)):
        tissue = exporting.map_for(exporter, source, tissue, options, format_options)
        crops = random_crops(source, **options, blank_map=tissue)
        path = exporting.write_tiles(crops, out, exporter, format_options, common, shards, encoding)
    exporting.print_tiles(common, path, out, exporter, crops, format_options)
