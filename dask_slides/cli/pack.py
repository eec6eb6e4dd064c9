"""``dask-slides pack``: write the dense tiles of a slide."""

from __future__ import annotations

from typing import Any

import click

from dask_slides.cli.options import CommonOptions, output_argument, pack_options
from dask_slides.cli.output import check_output, print_estimate, print_pack, write_output
from dask_slides.cli.scheduling import computing, megapixels, scheduler
from dask_slides.cli.slide_options import SlideOptions, slide_options
from dask_slides.ops.pack import pack_tiles, plan_pack
from dask_slides.writers.estimate import estimate_tiles


@click.command("pack")
@slide_options
@output_argument(".tiles.zarr")
@pack_options()
@computing
def command(slide: SlideOptions, out: str, common: CommonOptions, **options: Any) -> None:
    """Pack the tiles of SLIDE that show tissue into OUT.tiles.zarr."""
    source = slide.open()
    check_output(out, common)
    if common.dry_run:
        names = ("tile_size", "stride", "downsample", "mpp", "edge", "magnification")
        image, grid = plan_pack(source, **{name: options[name] for name in names})
        count = grid.rows * grid.cols
        count = min(count, options["top_k"] or count)
        print_estimate(common, estimate_tiles(count, grid, image, source, options["detector"]))
        return
    with scheduler(common, megapixels(source)):
        pack = pack_tiles(source, **options)
        path = write_output(pack, out, common)
    print_pack(common, path, out, pack)
