"""What `dask-slides info` tells: of a slide from its tags, of a store from its attributes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dask_slides.cli.options import printable
from dask_slides.core.channels import plain_channels
from dask_slides.plots.pictures import bytes_text, pixels_text
from dask_slides.slide import Slide
from dask_slides.writers.estimate import estimate_image
from dask_slides.writers.store.attributes import bad_tiles_in, read_own_attributes
from dask_slides.writers.store.verify import statuses_of

_MOST_IMAGES = 50
"""Images that are listed as lines."""


def shown_statuses(statuses: Mapping[str, int]) -> str:
    """Return counts by status as text."""
    told = (f"{n:,} {printable(status)}" for status, n in sorted(statuses.items()) if n)
    return ", ".join(told) or "none"


def slide_facts(slide: Slide) -> tuple[dict[str, Any], list[str]]:
    """Return what a slide is, for JSON and as lines."""
    peak = estimate_image(slide, slide).task_bytes
    facts = {
        "path": slide.path,
        "shape": list(slide.shape),
        "dtype": str(slide.dtype),
        "mpp": slide.mpp,
        "levels": [
            {"shape": list(lv.shape), "downsample": list(lv.downsample), "tile": list(lv.tile)}
            for lv in slide.levels
        ],
        "task_bytes": peak,
        "images": list(slide.images),
        "channels": [asdict(channel) for channel in slide.channels],
        "properties": dict(slide.properties),
    }
    lines = [
        f"{printable(slide.name)}: {pixels_text(slide.shape)} {slide.dtype}",
        f"mpp      {'not known' if slide.mpp is None else f'{slide.mpp:.4g} µm'}",
    ]
    for number, level in enumerate(slide.levels):
        tile = pixels_text(level.tile)
        lines.append(
            f"level {number}  {pixels_text(level.shape)}, 1/{level.downsample[0]:g}, tiles {tile}"
        )
    lines.append(f"memory   {bytes_text(peak)} a thread to write it whole")
    for number, name in enumerate(slide.images[:_MOST_IMAGES]):
        lines.append(f"image {number}  {printable(name)}")
    if len(slide.images) > _MOST_IMAGES:
        lines.append(f"and {len(slide.images) - _MOST_IMAGES:,} more images; --json lists all")
    names = [channel.name for channel in slide.channels]
    plain = [plain_channels(len(names), stacked) for stacked in (False, True)]
    if all(names != [channel.name for channel in one] for one in plain):
        lines.append(f"channels {', '.join(map(printable, names))}")
    lines += [f"{key}: {printable(value)}" for key, value in slide.properties.items()]
    return facts, lines


def store_facts(path: str) -> tuple[dict[str, Any], list[str]]:
    """Return what a store of dask_slides says of itself; nothing of anything else."""
    mark = read_own_attributes(path) if os.path.isdir(path) else None
    if mark is None:
        return {}, []
    statuses, bad_tiles = statuses_of(path, mark), bad_tiles_in(path)
    named = [asdict(tile) for tile in bad_tiles]
    kind = printable(str(mark.get("kind")))
    facts = {"kind": kind, "shards": statuses, "bad_tiles_of_source": named}
    lines = [f"store    {kind}, shards: {shown_statuses(statuses)}"]
    return facts, lines + [f"source   {printable(str(tile))}" for tile in bad_tiles]
