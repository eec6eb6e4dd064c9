"""``dask-slides demo``: run every operation on sample slides."""

from __future__ import annotations

from dataclasses import replace

import click

from dask_slides.cli.demo import run_demo
from dask_slides.cli.exit_codes import interrupt_leaves
from dask_slides.cli.options import CommonOptions
from dask_slides.cli.output import print_result
from dask_slides.cli.scheduling import computing, scheduler


@click.command("demo")
@click.argument("folder", default="dask-slides-demo")
@click.option("--side", type=click.IntRange(1024), default=4096,
              help="side of the sample slides in pixels")  # fmt: skip
@computing
def command(folder: str, side: int, common: CommonOptions) -> None:
    """Make sample slides in FOLDER, run every operation on them and write the report."""
    if common.dry_run:
        print_result(common, {"dry_run": True, "folder": folder}, [f"would write to {folder}"])
        return
    quiet = common.quiet or common.as_json
    unfinished = f"{folder} is not complete; give --overwrite to start again"
    with scheduler(replace(common, quiet=True), side**2 / 1e6), interrupt_leaves(unfinished):
        facts = run_demo(folder, side, common.overwrite, (lambda _: None) if quiet else click.echo)
    lines = [
        f"blank      {facts['blank_tiles']:,} of {facts['tiles']:,} tiles",
        f"cut off    {facts['gain']:.2f} times finer than resized, at the same longest side",
        f"packed     {facts['dense_tiles']:,} tiles with tissue",
        f"report     {facts['report']}",
    ]
    print_result(common, facts, lines)
