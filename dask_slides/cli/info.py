"""``dask-slides info``: describe a slide or a store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from dask_slides.cli.exit_codes import exit_for_bad_tiles, report_errors
from dask_slides.cli.options import json_option
from dask_slides.cli.output import printable
from dask_slides.cli.slide_options import SlideOptions, slide_options
from dask_slides.core.bad_tiles import BadTile
from dask_slides.core.channels import plain_channels
from dask_slides.ops.check import check_slide
from dask_slides.plots.pictures import bytes_text, pixels_text
from dask_slides.slide import Slide
from dask_slides.writers.blank_map_reader import open_blank_map
from dask_slides.writers.estimate import estimate_image
from dask_slides.writers.pack_reader import open_pack
from dask_slides.writers.store.attributes import bad_tiles_in, may_be_store, read_own_attributes
from dask_slides.writers.store.verify import statuses_of

SMALLEST_POWER = 0.01
"""Smallest magnification that is shown; pixels of satellites have no use for one."""
MAX_IMAGES = 50
"""Maximum number of images to print; --json lists all of them."""

PACK_FACTS = ("source", "read_from", "stride", "min_tissue", "seed", "detector")
"""Attributes of a pack that are shown."""


@click.command("info")
@slide_options
@click.option("--check", is_flag=True, help="decode every tile, print the bad ones and exit with 3")
@json_option
@report_errors
def command(slide: SlideOptions, check: bool, as_json: bool) -> None:
    """Describe SLIDE, a file or a store; read no pixels without --check."""
    facts, lines = store_facts(slide.path)
    if facts.get("kind") not in KINDS:
        slide_facts, slide_lines = facts_of_slide(slide.open())
        facts, lines = slide_facts | facts, slide_lines + lines
    bad_tiles: tuple[BadTile, ...] = ()
    if check:
        found = check_slide(slide.open())
        bad_tiles = found.bad_tiles
        facts |= {"tiles": found.statuses, "bad_tiles": [asdict(tile) for tile in bad_tiles]}
        lines.append(f"tiles    {status_text(found.statuses)}")
    for line in [json.dumps(facts)] if as_json else lines:
        click.echo(line)
    exit_for_bad_tiles(bad_tiles)


def status_text(statuses: Mapping[str, int]) -> str:
    """Return counts by status as text."""
    counts = (f"{n:,} {printable(status)}" for status, n in sorted(statuses.items()) if n)
    return ", ".join(counts) or "none"


def _mpp_text(mpp: float | None) -> str:
    return "not known" if mpp is None else f"{mpp:.4g} µm"


def facts_of_slide(slide: Slide) -> tuple[dict[str, Any], list[str]]:
    """Return the facts about a slide as values for JSON and as lines of text."""
    peak = estimate_image(slide, slide).task_bytes
    power = slide.magnification
    facts = {
        "path": slide.path,
        "shape": list(slide.shape),
        "dtype": str(slide.dtype),
        "mpp": slide.mpp,
        "magnification": slide.magnification,
        "levels": [asdict(level) for level in slide.levels],
        "task_bytes": peak,
        "images": list(slide.images),
        "channels": [asdict(channel) for channel in slide.channels],
        "properties": dict(slide.properties),
    }
    lines = [
        f"{printable(slide.name)}: {pixels_text(slide.shape)} {slide.dtype}",
        f"mpp      {_mpp_text(slide.mpp)}"
        f"{f', as at {power:.3g}x' if power is not None and power >= SMALLEST_POWER else ''}",
    ]
    for number, level in enumerate(slide.levels):
        tile = pixels_text(level.tile)
        lines.append(
            f"level {number}  {pixels_text(level.shape)}, 1/{level.downsample[0]:g}, tiles {tile}"
        )
    lines.append(f"memory   {bytes_text(peak)} per thread to write it whole")
    for number, name in enumerate(slide.images[:MAX_IMAGES]):
        lines.append(f"image {number}  {printable(name)}")
    if len(slide.images) > MAX_IMAGES:
        lines.append(f"and {len(slide.images) - MAX_IMAGES:,} more images; --json lists all")
    names = [channel.name for channel in slide.channels]
    plain = [plain_channels(len(names), stacked) for stacked in (False, True)]
    if all(names != [channel.name for channel in one] for one in plain):
        lines.append(f"channels {', '.join(map(printable, names))}")
    lines += [f"{key}: {printable(value)}" for key, value in slide.properties.items()]
    return facts, lines


def facts_of_pack(path: str) -> tuple[dict[str, Any], list[str]]:
    """Return the facts about a pack as values for JSON and as lines of text."""
    pack = open_pack(path)
    given = pack.attributes
    encoding = given.get("encoding", {"codec": "zstd"})
    facts = {"shape": list(pack.tiles.shape), "mpp": pack.mpp, "encoding": encoding}
    level = encoding.get("copied_from_level")
    how = f" of quality {encoding['quality']}" if "quality" in encoding else ""
    lines = [
        f"tiles    {len(pack):,} of {pixels_text(pack.tiles.shape[1:])} {pack.tiles.dtype}",
        f"mpp      {_mpp_text(pack.mpp)}",
        f"encoded  tiles: {encoding['codec']}{how}"
        if level is None
        else f"copied   tiles: {encoding['codec']} tiles of level {level} as they are",
    ]
    lines += [
        f"{name}: {printable(str(given[name]))}"
        for name in PACK_FACTS
        if given.get(name) is not None
    ]
    return facts | {name: given.get(name) for name in PACK_FACTS}, lines


def facts_of_blank_map(path: str) -> tuple[dict[str, Any], list[str]]:
    """Return the facts about a blank map as values for JSON and as lines of text."""
    found = open_blank_map(path)
    blank, unknown = int(found.blank.sum()), int(found.unknown.sum())
    share, detector = found.tissue_share, str(found.detector)
    facts = {
        "slide": found.name,
        "slide_shape": list(found.grid.shape),
        "mpp": found.slide.mpp,
        "tile_size": list(found.grid.tile),
        "tiles": list(found.shape),
        "blank": blank,
        "unknown": unknown,
        "tissue_share": share,
        "detector": detector,
        "min_tissue": None if found.areas is None else found.min_tissue,
    }
    lines = [
        f"slide    {printable(found.name)}: {pixels_text(found.grid.shape)}",
        f"mpp      {_mpp_text(found.slide.mpp)}",
        f"tiles    {pixels_text(found.shape)} of {pixels_text(found.grid.tile)}: {blank:,} blank"
        f"{f', {unknown:,} unknown' if unknown else ''}",
        f"tissue   {share:.1%} of the area",
        f"detector: {printable(detector)}",
    ]
    if found.areas is not None:
        lines.append(f"min_tissue: {found.min_tissue:g}")
    return facts, lines


KINDS = {"pack": facts_of_pack, "blank map": facts_of_blank_map}
"""What describes a kind of stores; other kinds are described as slides."""


def store_facts(path: str) -> tuple[dict[str, Any], list[str]]:
    """Return the facts that a dask_slides store records; nothing for other paths."""
    attributes = read_own_attributes(path) if may_be_store(path) else None
    if attributes is None:
        return {}, []
    statuses, bad_tiles = statuses_of(path, attributes), bad_tiles_in(path)
    kind = printable(str(attributes.get("kind")))
    named = [asdict(tile) for tile in bad_tiles]
    facts = {"kind": kind, "shards": statuses, "bad_tiles_of_source": named}
    shards = f", shards: {status_text(statuses)}" if statuses else ""
    lines = [f"store    {kind}{shards}"]
    for name, one in attributes.get("copied", {}).items():
        lines.append(f"copied   {name}: {one['codec']} tiles of level {one['level']} as they are")
    for name, one in attributes.get("made", {}).items():
        quality = f" of quality {one['quality']}" if "quality" in one else ""
        lines.append(f"encoded  {name}: {one['codec']}{quality}")
    facts |= {name: attributes[name] for name in ("copied", "made") if name in attributes}
    if kind in KINDS:
        own_facts, own_lines = KINDS[kind](path)
        facts, lines = facts | own_facts, lines + own_lines
    return facts, lines + [f"source   {printable(str(tile))}" for tile in bad_tiles]
