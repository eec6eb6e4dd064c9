"""``dask-slides export``: write a slide, a pack or a blank map in the format of another tool."""

from __future__ import annotations

from typing import Any

import click

from dask_slides.cli.exporting import (
    checked_format,
    content_text,
    print_export,
    takes,
    write_export,
)
from dask_slides.cli.exporting import format_options as options_of_format
from dask_slides.cli.options import CommonOptions
from dask_slides.cli.output import print_result
from dask_slides.cli.scheduling import computing, megapixels, scheduler
from dask_slides.cli.slide_options import SlideOptions, slide_options
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.pack import TilePack
from dask_slides.slide import Slide
from dask_slides.writers.blank_map_reader import open_blank_map
from dask_slides.writers.pack_reader import open_pack
from dask_slides.writers.store.attributes import read_own_attributes


@click.command("export")
@slide_options
@click.argument("out", metavar="OUT")
@options_of_format
@computing
def command(
    slide: SlideOptions,
    out: str,
    to: str | None,
    format_options: dict[str, Any],
    common: CommonOptions,
) -> None:
    """Write SLIDE, a file or a store of dask-slides, to OUT in the format of another tool.

    The name of OUT chooses the format, or --to. Coordinates of a store of tiles are written without
    reading its pixels.
    """
    obj = _opened(slide, out, to)
    exporter = checked_format(out, to, type(obj).__name__, format_options, common)
    if common.dry_run:
        facts = {"to": exporter.name, "of": type(obj).__name__, "dry_run": True}
        content = content_text(exporter, obj, format_options)
        print_result(common, facts, [f"would write {content} to {out}"])
        return
    with scheduler(common, megapixels(obj) if isinstance(obj, Slide) else 0.0):
        path = write_export(obj, out, exporter, format_options, common)
    print_export(common, path, out, exporter, obj, format_options)


def _opened(slide: SlideOptions, out: str, to: str | None) -> Slide | TilePack | BlankMap:
    """Return what SLIDE is. A stored blank map is an image too, for formats of images."""
    kind = (read_own_attributes(slide.path) or {}).get("kind")
    if kind == "pack":
        return open_pack(slide.path)
    if kind == "blank map" and not takes(out, to, "Slide"):
        return open_blank_map(slide.path)
    return slide.open()
