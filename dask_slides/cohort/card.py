"""What the report of a job shows of one slide, noted while the slide is open.

A card is the file ``JOB/NAME/.slide-card.json``: facts of the slide, and those of each step by its
name. Pictures in it are JPEG in base64. So a report reads one small file for each slide.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np

from dask_slides.cohort.decision import Decision, Facts, decision_of
from dask_slides.cohort.results import replace_file
from dask_slides.cohort.step import BlankMaps, Step
from dask_slides.core.types import Array
from dask_slides.numerics.focus import grey_and_focus
from dask_slides.ops.pack import fill_of, pack_at
from dask_slides.plots import pictures
from dask_slides.plots.display import display_rgb
from dask_slides.slide import Slide

CARD = ".slide-card.json"
"""File name of a card; no step has such a name."""
PICTURE, SMALL = 416, 128
"""Longest sides of a picture in a card, and of the one for pages of many slides, in pixels. Lines
are drawn on both, as they vanish if a picture is made smaller."""
QUALITY = 75
"""Quality of the pictures, 0 to 100."""
TILES, SIDE = 8, 96
"""Tiles of a contact sheet, and the side of one in pixels."""
GROUND = 160
"""Grey value between its tiles, which differs from glass and from dark backgrounds."""
SAMPLE = 16
"""Tiles that brightness and focus are measured in."""
LEAST_TISSUE = 0.8
"""Least share of tissue in them, if there are such tiles."""
SAMPLE_PIXELS = 16 * 512 * 512
"""Pixels that may be read for a contact sheet or a sample; there are fewer tiles if they are large.
"""


def card_path(folder: str) -> str:
    """Return the path of the card in the folder of a slide."""
    return os.path.join(folder, CARD)


def read_card(folder: str) -> Facts:
    """Return the card in the folder of a slide; with no facts and no steps if there is none."""
    try:
        with open(card_path(folder), encoding="utf-8") as stream:
            card = json.load(stream)
        return {"slide": dict(card["slide"]), "steps": dict(card["steps"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"slide": {}, "steps": {}}


def note_step(
    step: Step,
    obj: Any,
    maps: BlankMaps,
    parameters: Mapping[str, Any],
    samples: bool,
) -> None:
    """Write what `step` built to the card; `samples` says whether its tiles are looked at."""
    card = read_card(maps.folder)
    card["slide"] |= _slide_facts(maps, step.draws)
    facts: Facts = {"kind": step.kind, "makes": step.makes, "parameters": dict(parameters)}
    if step.draws:
        for name, side in (("picture", PICTURE), ("small", SMALL)):
            smaller = copy(maps)
            smaller.thumbnail = pictures.reduced(maps.thumbnail, side)
            facts[name] = picture_of(step.picture(obj, smaller), side)
        others = (one.get("picture") for name, one in card["steps"].items() if name != step.name)
        if facts["picture"] in others:  # a cut-off of the tissue of the mask
            del facts["picture"], facts["small"]
    decision = decision_of(step, obj, maps)
    if decision is not None:
        facts |= decision.facts()
        if samples:
            facts |= _sampled(decision, maps.slide)
    card["steps"][step.name] = facts
    _write(maps.folder, card)


def forget_step(step: Step, folder: str) -> None:
    """Remove a step that failed from the card."""
    card = read_card(folder)
    if card["steps"].pop(step.name, None) is not None:
        _write(folder, card)


def note_thumbnail(folder: str, image: Slide) -> None:
    """Take the picture of the slide from `image`, which was made of it, if the card has none."""
    card = read_card(folder)
    if card["steps"] and "thumbnail" not in card["slide"]:
        card["slide"] |= _thumbnail(image, image.thumbnail(PICTURE))
        _write(folder, card)


def _write(folder: str, card: Facts) -> None:
    replace_file(card_path(folder), json.dumps(card).encode())


def encoded(image: Any, quality: int = QUALITY) -> str:
    """Return an image of Pillow as JPEG in base64."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def picture_of(pixels: Array, max_size: int = PICTURE) -> str:
    """Return 8-bit RGB pixels of any size as a picture of the card."""
    from PIL import Image

    return encoded(Image.fromarray(pictures.shrunk(pixels, max_size)))


def _slide_facts(maps: BlankMaps, has_picture: bool) -> Facts:
    slide = maps.slide
    facts: Facts = {
        "shape": list(slide.shape), "dtype": str(slide.dtype), "mpp": slide.mpp,
        "levels": len(slide.levels),
    }  # fmt: skip
    # the picture of a slide without a small level takes as long as a step
    if has_picture or 0 < math.prod(slide.levels[-1].shape) <= pictures.CHEAP_PIXELS:
        facts |= _thumbnail(slide, maps.thumbnail)
    return facts


def _thumbnail(slide: Slide, pixels: Array) -> Facts:
    shown = display_rgb(pixels, slide.channels, fill=slide.source.fill)
    if not shown.size:
        return {}
    return {"thumbnail": picture_of(shown), "grey": float(shown.mean())}


def _sampled(decision: Decision, slide: Slide) -> Facts:
    """Return the sheets of the tiles nearest to the threshold, brightness and focus."""
    facts: Facts = {}
    for name, kept in (("kept", True), ("dropped", False)):
        nearest = decision.nearest(kept, _most(decision.tile, TILES))
        if len(nearest):
            facts[f"nearest_{name}"] = _sheet(decision, slide, nearest)
    chosen = _sample(decision)
    if len(chosen):
        facts["brightness"], facts["focus"] = grey_and_focus(_tiles(decision, slide, chosen))
    return facts


def _most(tile: tuple[int, int], usual: int) -> int:
    return max(1, min(usual, SAMPLE_PIXELS // math.prod(tile)))


def _sheet(decision: Decision, slide: Slide, numbers: Array) -> Facts:
    """Return the picture of tiles in a row, and the range of the number that decided."""
    assert decision.deciding is not None
    tiles = _tiles(decision, slide, numbers)
    side = min(SIDE, max(decision.tile))
    sheet = pictures.contact_sheet(list(tiles), len(numbers), side, slide.channels, GROUND)
    values = decision.deciding.values[numbers]
    return {
        "picture": picture_of(sheet, max(sheet.shape)), "count": len(numbers),
        "ends": [float(values.min()), float(values.max())],
    }  # fmt: skip


def _tiles(decision: Decision, slide: Slide, numbers: Array) -> Array:
    """Read tiles (n, h, w, c)."""
    if decision.draws and decision.pack is not None:
        return decision.pack[numbers]
    corners, nothing = decision.yx[numbers], np.zeros(len(numbers))
    return pack_at(slide, decision.slide, corners, decision.tile, nothing, {}, fill_of(slide))[:]


def _sample(decision: Decision) -> Array:
    """Return the numbers of some tiles that were kept."""
    some = decision.kept & decision.whole
    measure = decision.measure
    if measure is not None and measure.includes:  # at the edges of the tissue is glass
        inside = some & (measure.values >= LEAST_TISSUE)
        some = inside if inside.any() else some
    numbers = np.flatnonzero(some)
    count = min(len(numbers), _most(decision.tile, SAMPLE))
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, count).astype(np.int64))]
