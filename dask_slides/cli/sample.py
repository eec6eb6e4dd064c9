"""``dask-slides sample``: make a sample slide."""

from __future__ import annotations

import os
from typing import Any

import click

from dask_slides.cli.exit_codes import report_errors
from dask_slides.cli.options import output_path, overwrite_option
from dask_slides.plots.pictures import bytes_text, pixels_text
from dask_slides.testing.sample_slide import CODECS, sample_slide


@click.command("sample")
@click.argument("path", callback=output_path("a TIFF", (".tif", ".tiff", ".btf", ".tf8"), ".tif"))
@click.option("--shape", type=(int, int), default=(20480, 20480), help="height and width")
@click.option("--tile-size", "tile", type=int, default=256, help="side of a tile of the file")
@click.option("--compression", type=click.Choice(list(CODECS)), default="jpeg",
              help="compression of the tiles")  # fmt: skip
@click.option("--pyramid", is_flag=True, help="add levels at 1/4, 1/16, ...")
@click.option("--mpp", type=float, default=0.25, help="micrometres per pixel")
@click.option("--seed", type=int, default=0, help="seed that determines the tissue")
@overwrite_option
@report_errors
def command(path: str, shape: tuple[int, int], **options: Any) -> None:
    """Write a realistic slide to PATH; the same options give the same bytes."""
    sample_slide(path, shape=shape, **options)
    click.echo(f"{path}: {pixels_text(shape)} px, {bytes_text(os.path.getsize(path))}")
