"""Options, checks and messages of the commands that export to formats of other tools."""

from __future__ import annotations

import json
from typing import Any

import click

from dask_slides.cli.exit_codes import exit_for_bad_tiles
from dask_slides.cli.options import IMAGE, TILES, CommonOptions, add_options, stem_of
from dask_slides.cli.output import plan_lines, print_pack, print_result, write_output
from dask_slides.core.arguments import local_path
from dask_slides.core.bad_tiles import bad_tile_from_json, bad_tiles_to_json
from dask_slides.errors import SlideArgumentError
from dask_slides.numerics.mask_detectors import MaskDetector
from dask_slides.ops.blank_map import BlankMap, blank_map
from dask_slides.ops.pack import TilePack
from dask_slides.plots.pictures import pixels_text
from dask_slides.runtime.write_permission import check_parent
from dask_slides.slide import Slide
from dask_slides.writers.export import export
from dask_slides.writers.exports.ome_tiff import bad_tiles_in_tiff
from dask_slides.writers.exports.output import check_new
from dask_slides.writers.exports.registry import EXPORTS, Exporter, exporter_for, exporters


def parse_options(_context: Any, _option: Any, given: tuple[str, ...]) -> dict[str, Any]:
    """Return options of a format by name, from texts such as pixels=true."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise click.BadParameter(f"{text!r}: give a name, = and a value, as in pixels=true")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


format_options = add_options(
    click.option("--to", metavar="FORMAT", show_default="by the name of OUT",
                 help=f"{', '.join(one.name for one in EXPORTS)}, or a format of another package"),
    click.option("-o", "--option", "format_options", metavar="NAME=VALUE", multiple=True,
                 callback=parse_options, help="option of the format, such as pixels=true of clam"),
)  # fmt: skip
"""The format of an export and its options: the arguments `to` and `format_options`."""


def takes(out: str, to: str | None, kind: str) -> bool:
    """Return whether the format of `out` takes an object of `kind`."""
    try:
        exporter_for(out, to, kind)
    except SlideArgumentError:
        return False
    return True


def checked_format(
    out: str, to: str | None, kind: str, options: dict[str, Any], common: CommonOptions
) -> Exporter:
    """Return the format of `out` for an object of `kind`; raise if it cannot be written."""
    exporter = exporter_for(out, to, kind)
    local_path(out, "an export")
    exporter.check_options(out, options)
    if common.resume and "resume" not in exporter.options():
        raise SlideArgumentError(f"{out}: --resume is not for {exporter.name}; leave it out")
    if exporter.suffixes:
        check_new(out, common.overwrite)
    check_parent(out)
    return exporter


def tiles_format(
    out: str, to: str | None, options: dict[str, Any], common: CommonOptions, shards: bool = True
) -> Exporter | None:
    """Return the format that tiles are exported to; None for a Zarr store."""
    if not shards and (to is not None or not out.lower().rstrip("/").endswith(".zarr")):
        raise SlideArgumentError(f"{out}: --no-shards is for Zarr stores; leave it out")
    if to is not None:
        return checked_format(out, to, "TilePack", options, common)
    usual = stem_of(out.rstrip("/")) + TILES
    if out.lower().rstrip("/").endswith(IMAGE):
        raise SlideArgumentError(f"{out!r} is the name of an image, not of tiles; use {usual!r}")
    if out.lower().rstrip("/").endswith(".zarr"):
        if options:
            raise SlideArgumentError(f"{out}: --option is for exports; leave it out for Zarr")
        return None
    fitting = [one for one in exporters().values() if "TilePack" in one.kinds]
    if not any(one.suffix_of(out) for one in fitting):
        endings = ", ".join(one.suffixes[0] for one in fitting if one.suffixes)
        folders = ", ".join(one.name for one in fitting if not one.suffixes)
        raise SlideArgumentError(
            f"{out!r} is not the name of a Zarr store; use {usual!r}, an ending for an "
            f"export ({endings}), or a folder with --to ({folders})"
        )
    return checked_format(out, None, "TilePack", options, common)


def write_export(
    obj: Any, out: str, exporter: Exporter, options: dict[str, Any], common: CommonOptions
) -> str:
    """Export `obj`; return the path."""
    if common.resume:
        options = options | {"resume": True}
    return export(obj, out, to=exporter.name, overwrite=common.overwrite, **options)


def map_for(
    exporter: Exporter | None,
    source: Slide,
    tissue: BlankMap | None,
    options: dict[str, Any],
    export_options: dict[str, Any],
) -> BlankMap | None:
    """Return the blank map that decides about tiles, and add it to the options of a format with it.

    The map takes the place of the detector in `options`; detectors of statistics make none.
    """
    if exporter is None or "blank_map" not in exporter.options():
        return tissue
    if tissue is None and isinstance(options["detector"], MaskDetector):
        tissue = blank_map(source, detector=options.pop("detector")).compute()
    export_options["blank_map"] = tissue
    return tissue


def write_tiles(
    pack: TilePack,
    out: str,
    exporter: Exporter | None,
    options: dict[str, Any],
    common: CommonOptions,
    shards: bool = True,
    encoding: dict[str, Any] | None = None,
) -> str:
    """Write tiles as Zarr, or export them; return the path."""
    if exporter is None:
        return write_output(pack, out, common, shards=shards, **encoding or {})
    if encoding:
        raise SlideArgumentError(f"{out}: --codec and --quality are for Zarr; use --option")
    return write_export(pack, out, exporter, options, common)


def print_tiles(
    common: CommonOptions,
    path: str,
    out: str,
    exporter: Exporter | None,
    pack: TilePack,
    options: dict[str, Any],
) -> None:
    """Describe the tiles that were written."""
    if exporter is None:
        print_pack(common, path, out, pack)
    else:
        print_export(common, path, out, exporter, pack, options)


def print_plan(common: CommonOptions, exporter: Exporter, count: int, plan: dict[str, Any]) -> None:
    """Print the plan of an export of at most `count` tiles, for --dry-run."""
    facts = plan | {"dry_run": True, "to": exporter.name, "tiles": count}
    lines = plan_lines(plan)
    print_result(
        common, facts, [*lines, f"output   at most {_tiles_text(count)} as {exporter.description}"]
    )


def _tiles_text(count: int) -> str:
    return f"{count:,} {'tile' if count == 1 else 'tiles'}"


def content_text(exporter: Exporter, obj: Any, options: dict[str, Any]) -> str:
    """Return what an export holds and its format, such as "34 tiles as a CSV table"."""
    if isinstance(obj, TilePack):
        content = [_tiles_text(len(obj))]
    elif isinstance(obj, BlankMap):
        content = ["tissue"]
    else:
        content = [f"image of {pixels_text(obj.shape[:2])} px"]
    more = {"blank_map": "tissue", "pack": "tiles"}
    content += [word for name, word in more.items() if options.get(name) is not None]
    return f"{' and '.join(content)} as {exporter.description}"


def print_export(
    common: CommonOptions,
    path: str,
    out: str,
    exporter: Exporter,
    obj: Any,
    options: dict[str, Any],
) -> None:
    """Describe what was written; print corrupt tiles of the slide and exit with 3 for any."""
    facts: dict[str, Any] = {"path": path, "to": exporter.name}
    rows = []
    if isinstance(obj, TilePack):
        facts["tiles"] = len(obj)
        rows = obj.attributes.get("bad_tiles", [])
    elif exporter.name == "ome-tiff":
        rows = bad_tiles_to_json(bad_tiles_in_tiff(path))
    if rows:
        facts["bad_tiles"] = rows
    print_result(common, facts, [f"{out}: {content_text(exporter, obj, options)}"])
    exit_for_bad_tiles(tuple(bad_tile_from_json(row) for row in rows))
