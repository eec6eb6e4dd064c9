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
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.cohort.file_steps import Export
from dask_slides.cohort.results import replace_file
from dask_slides.cohort.steps import BlankMaps, Pack, Step
from dask_slides.core.bad_tiles import ABSENT, CORRUPT, BadTile, bad_tile_from_json
from dask_slides.core.grid import TileGrid
from dask_slides.core.types import Array
from dask_slides.graph.tissue import areas_of_cells
from dask_slides.numerics.focus import grey_and_focus
from dask_slides.numerics.mask_detectors import MaskDetector
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.chosen_tiles import level0_spans
from dask_slides.ops.cutoff import Cutoff
from dask_slides.ops.pack import TilePack, fill_of, pack_at
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
SAMPLE = 16
"""Tiles that brightness and focus are measured in."""
LEAST_TISSUE = 0.8
"""Least share of tissue in them, if there are such tiles."""
SAMPLE_PIXELS = 16 * 512 * 512
"""Pixels that may be read for a contact sheet or a sample; there are fewer tiles if they are large.
"""
BINS = 20
LISTED = 8
"""Bad tiles that a card names; it counts all."""

Facts = dict[str, Any]


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
    picture: Array | None,
    samples: bool,
) -> None:
    """Write what `step` built to the card; `samples` says whether its tiles are looked at.

    `picture` is the one that the step drew, if it did.
    """
    card = read_card(maps.folder)
    card["slide"] |= _slide_facts(maps, picture is not None)
    facts: Facts = {"kind": step.kind, "makes": step.makes, "parameters": dict(parameters)}
    if picture is not None:
        facts["picture"] = picture_of(picture)
        small = copy(maps)
        small.thumbnail = pictures.reduced(maps.thumbnail, SMALL)
        facts["small"] = picture_of(step.picture(obj, small), SMALL)
        others = (one.get("picture") for name, one in card["steps"].items() if name != step.name)
        if facts["picture"] in others:  # a cut-off of the tissue of the mask
            del facts["picture"], facts["small"]
    judged = _judged(step, obj, maps)
    if judged is not None:
        facts |= judged.facts()
        if samples:
            facts |= _sampled(judged, maps.slide)
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


@dataclass(frozen=True)
class _Judged:
    """The tiles that a step kept, those that it dropped, and what decided."""

    slide: Slide
    """The slide at the scale of the tiles."""
    tile: tuple[int, int]
    found: BlankMap | None
    """The tissue in which the tiles lie; None for a detector of statistics of tiles."""
    yx: Array
    """(n, 2) top left of the tiles, in pixels of `slide`."""
    kept: Array
    """(n,) bool."""
    values: Array | None
    """(n,) share of each tile that is tissue; None if no share decided."""
    whole: Array
    """(n,) bool: no pixel of the tile is missing."""
    threshold: float | None
    """The least share of a tile that is kept."""
    pack: TilePack | None
    bad_tiles: tuple[BadTile, ...]
    draws: bool = False
    """Whether tiles were drawn at random, so that none was dropped."""
    top_k: int | None = None

    def facts(self) -> Facts:
        """Return the counts and histograms."""
        kept = int(self.kept.sum())
        bad = sorted(self.bad_tiles, key=lambda tile: tile.status != CORRUPT)
        facts: Facts = {
            "kept": kept, "dropped": None if self.draws else len(self.kept) - kept,
            "tissue": None if self.found is None else self.found.tissue_share,
            "threshold": self.threshold, "top_k": self.top_k,
            "corrupt": sum(one.status == CORRUPT for one in bad),
            "absent": sum(one.status == ABSENT for one in bad),
            "bad_tiles": [str(one) for one in bad[:LISTED]],
        }  # fmt: skip
        if self.values is not None:
            full = self.values >= 1
            some = (self.values > 0) & ~full
            ends = (0.0, 1.0)
            facts["shares"] = {
                "ends": ends,
                "kept": _counts(self.values[some & self.kept], ends),
                "dropped": _counts(self.values[some & ~self.kept], ends),
                "empty": int((self.values <= 0).sum()), "full": int(full.sum()),
            }  # fmt: skip
        if self.pack is not None:
            facts["skipped"] = int(self.pack.attributes.get("skipped", 0))
            score = self.pack.score[np.isfinite(self.pack.score)]
            if len(score):
                ends = (float(score.min()), float(score.max()))
                facts["scores"] = {"ends": ends, "kept": _counts(score, ends)}
        return facts


def _counts(values: Array, ends: tuple[float, float]) -> list[int]:
    return [int(count) for count in np.histogram(values, BINS, ends)[0]]


def _judged(step: Step, obj: Any, maps: BlankMaps) -> _Judged | None:
    """Return what the step decided about tiles; None for other steps."""
    base = step.of if isinstance(step, Export) else step
    if isinstance(obj, Cutoff):
        obj = obj.blank_map
    if isinstance(obj, BlankMap):
        return _judged_by_map(obj)
    if isinstance(obj, TilePack):
        bad = tuple(bad_tile_from_json(row) for row in obj.attributes.get("bad_tiles", ()))
        return _judged_pack(base, obj, maps, bad)
    return None


def _judged_by_map(found: BlankMap) -> _Judged | None:
    if not found.blank.size:
        return None
    values, threshold, whole = None, None, ~np.asarray(found.unknown)
    if found.areas is not None:
        values, threshold = np.asarray(found.tissue_fraction).reshape(-1), found.min_tissue
        whole = found.areas[..., 1] == 0
    return _Judged(
        found.slide, found.grid.tile, found, _corners(found.grid), ~found.blank.reshape(-1),
        values, whole.reshape(-1), threshold, None, found.bad_tiles,
    )  # fmt: skip


def _corners(grid: TileGrid) -> Array:
    rows, columns = np.meshgrid(grid.starts(0), grid.starts(1), indexing="ij")
    return np.stack((rows.reshape(-1), columns.reshape(-1)), axis=1)


def _judged_pack(
    step: Any, pack: TilePack, maps: BlankMaps, bad: tuple[BadTile, ...]
) -> _Judged | None:
    image, grid = step.plan(maps.slide)
    found, threshold = None, None
    if isinstance(step.detector, MaskDetector):
        found, threshold = maps.compute(None, step.detector), step.min_tissue
    if not isinstance(step, Pack):
        yx = np.stack((pack.y, pack.x), axis=1)
        values = None if found is None else pack.tissue_fraction
        every = np.ones(len(pack), bool)
        return _Judged(
            image, grid.tile, found, yx, every, values, every, threshold, pack, bad, draws=True
        )
    rows, columns = (level0_spans(grid, maps.slide, axis) for axis in (0, 1))
    corners = np.stack(
        [one.reshape(-1) for one in np.meshgrid(rows[:, 0], columns[:, 0], indexing="ij")], axis=1
    )
    packed = set(zip(pack.y.tolist(), pack.x.tolist(), strict=True))
    kept = np.array([tuple(one) in packed for one in corners.tolist()], bool)
    values, whole = None, np.ones(len(kept), bool)
    if found is not None:
        tissue, missing, area = np.moveaxis(areas_of_cells(found.mask, rows, columns), -1, 0)
        values = (tissue / np.maximum(area, 1)).reshape(-1)
        whole = (missing == 0).reshape(-1)
    return _Judged(
        image, grid.tile, found, _corners(grid), kept, values, whole, threshold, pack, bad,
        top_k=step.top_k,
    )  # fmt: skip


def _sampled(judged: _Judged, slide: Slide) -> Facts:
    """Return the sheets of the tiles nearest to the threshold, brightness and focus."""
    facts: Facts = {}
    for name, where in (("kept", judged.kept), ("dropped", ~judged.kept)):
        nearest = _nearest(judged, where)
        if len(nearest):
            facts[f"sheet_{name}"] = _sheet(judged, slide, nearest)
    chosen = _sample(judged)
    if len(chosen):
        facts["brightness"], facts["focus"] = grey_and_focus(_tiles(judged, slide, chosen))
    return facts


def _most(tile: tuple[int, int], usual: int) -> int:
    return max(1, min(usual, SAMPLE_PIXELS // math.prod(tile)))


def _nearest(judged: _Judged, where: Array) -> Array:
    """Return the numbers of the tiles `where` whose share is nearest to the threshold."""
    if judged.values is None or judged.threshold is None:
        return np.empty(0, np.int64)
    numbers = np.flatnonzero(where & judged.whole & (judged.values > 0))
    order = np.argsort(np.abs(judged.values[numbers] - judged.threshold), kind="stable")
    chosen = numbers[order[: _most(judged.tile, TILES)]]
    return chosen[np.argsort(judged.values[chosen], kind="stable")]


def _sheet(judged: _Judged, slide: Slide, numbers: Array) -> Facts:
    """Return the picture of tiles in a row, and the range of their shares."""
    assert judged.values is not None
    tiles = _tiles(judged, slide, numbers)
    sheet = pictures.contact_sheet(list(tiles), len(numbers), SIDE, slide.channels)
    shares = judged.values[numbers]
    return {
        "picture": picture_of(sheet, max(sheet.shape)), "count": len(numbers),
        "shares": [float(shares.min()), float(shares.max())],
    }  # fmt: skip


def _tiles(judged: _Judged, slide: Slide, numbers: Array) -> Array:
    """Read tiles (n, h, w, c)."""
    if judged.draws and judged.pack is not None:
        return judged.pack[numbers]
    corners, nothing = judged.yx[numbers], np.zeros(len(numbers))
    return pack_at(slide, judged.slide, corners, judged.tile, nothing, {}, fill_of(slide))[:]


def _sample(judged: _Judged) -> Array:
    """Return the numbers of some tiles that were kept."""
    some = judged.kept & judged.whole
    if judged.values is not None:  # at the edges of the tissue is glass
        inside = some & (judged.values >= LEAST_TISSUE)
        some = inside if inside.any() else some
    numbers = np.flatnonzero(some)
    count = min(len(numbers), _most(judged.tile, SAMPLE))
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, count).astype(np.int64))]
