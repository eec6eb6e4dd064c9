"""``dask-slides pack``: write the dense tiles of a slide."""

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
    pack_options,
    shards_option,
)
from dask_slides.cli.output import (
    check_output,
    plan_of_tiles,
    print_estimate,
)
from dask_slides.cli.scheduling import computing, megapixels, scheduler
from dask_slides.cli.slide_options import SlideOptions, slide_options
from dask_slides.ops.geojson import read_geojson
from dask_slides.ops.pack import pack_tiles, plan_pack
from dask_slides.ops.scale import check_not_enlarged
from dask_slides.writers.estimate import estimate_tiles


@click.command("pack")
@slide_options
@click.argument("out", metavar="OUT")
@pack_options()
@enlarge_option
@blank_map_option
@shards_option
@encoding_options
@click.option("--labels", metavar="FILE.geojson", show_default="none",
              help="polygons of classes; the class of each tile is stored")  # fmt: skip
@exporting.format_options
@computing
def command(
    slide: SlideOptions,
    out: str,
    enlarge: bool,
    map_file: str | None,
    labels: str | None,
    shards: bool,
    encoding: dict[str, Any],
    to: str | None,
    format_options: dict[str, Any],
    common: CommonOptions,
    **options: Any,
) -> None:
    """Pack the tiles of SLIDE that show tissue into OUT.tiles.zarr.

    An ending such as .parquet, .csv or .geojson, or --to, such as --to trident for the folder of a
    job, writes their coordinates for another tool instead, and no pixels.
    """
    source = slide.open()
    exporter = exporting.tiles_format(out, to, format_options, common, shards)
    if exporter is None:
        check_output(out, common)
    names = ("tile_size", "stride", "downsample", "mpp", "edge", "magnification", "align")
    image, grid = plan_pack(source, **{name: options[name] for name in names})
    if not enlarge:
        check_not_enlarged(source, **options)
    tissue = given_map(source, map_file, options["detector"])
    if labels is not None:
        options["labels"] = read_geojson(labels, slide_shape=source.shape)
        if not options["labels"].classes:
            click.echo(f"dask-slides: note: {labels}: has no polygons, so no classes", err=True)
    if common.dry_run:
        count = grid.rows * grid.cols
        count = min(count, options["top_k"] or count)
        decides = tissue or options["detector"]
        plan = plan_of_tiles(source, image, map_file or options["detector"], options["min_tissue"])
        if exporter is not None:
            exporting.print_plan(common, exporter, count, plan)
            return
        codec = encoding.get("codec")
        print_estimate(common, estimate_tiles(count, grid, image, source, decides, codec), plan)
        return
    with scheduler(common, megapixels(source)):
        tissue = exporting.map_for(exporter, source, tissue, options, format_options)
        pack = pack_tiles(source, **options, blank_map=tissue)
        path = exporting.write_tiles(pack, out, exporter, format_options, common, shards, encoding)
    exporting.print_tiles(common, path, out, exporter, pack, format_options)
