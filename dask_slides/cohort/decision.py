"""What a step decided about the tiles of a slide, and by which numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dask_slides.cohort.file_steps import Export
from dask_slides.cohort.step import BlankMaps, Step
from dask_slides.cohort.steps import Pack
from dask_slides.core.bad_tiles import ABSENT, CORRUPT, BadTile, bad_tile_from_json
from dask_slides.core.types import Array
from dask_slides.numerics.detectors import Measure, measure_of
from dask_slides.numerics.mask_detectors import MaskDetector
from dask_slides.ops.blank_map import BlankMap
from dask_slides.ops.chosen_tiles import tile_corners, tissue_measure
from dask_slides.ops.cutoff import Cutoff
from dask_slides.ops.pack import TilePack
from dask_slides.slide import Slide

BINS = 20
SMALL = 0.1
"""Thresholds up to which a histogram has a logarithmic axis, so that both sides can be seen."""
BELOW = 100
"""How far below the threshold this axis reaches; smaller numbers are in its first bin."""
LISTED = 8
"""Bad tiles that the facts name; they count all."""

Facts = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Decision:
    """The tiles that a step kept, those that it dropped, and what decided."""

    slide: Slide
    """The slide at the scale of the tiles."""
    tile: tuple[int, int]
    yx: Array
    """(n, 2) top left of the tiles, in pixels of `slide`."""
    kept: Array
    """(n,) bool."""
    whole: Array
    """(n,) bool: no pixel of the tile is missing."""
    measure: Measure | None
    """The number that the detector compares, of each tile; None if it does not tell."""
    tissue: float | None
    """The share of the slide that is tissue; of its tiles, for detectors of statistics."""
    bad_tiles: tuple[BadTile, ...]
    pack: TilePack | None = None
    draws: bool = False
    """Whether tiles were drawn at random, so that none was dropped."""
    score: Measure | None = None
    """The scores of the tiles that the detector kept; the threshold is that of `top_k`, if any."""

    @property
    def top_k(self) -> bool:
        """Whether the scores decided last."""
        return self.score is not None and not math.isnan(self.score.threshold)

    @property
    def deciding(self) -> Measure | None:
        """The number that decided last; None if it is not known."""
        return self.score if self.top_k else self.measure

    def nearest(self, kept: bool, count: int) -> Array:
        """Return the numbers of kept or dropped tiles nearest to the threshold, by their value."""
        measure = self.deciding
        if measure is None:
            return np.empty(0, np.int64)
        values = measure.values
        some = (self.kept == kept) & self.whole & np.isfinite(values)
        if measure.threshold > 0:  # a tile with none of it is not near
            some &= values > 0
        numbers = np.flatnonzero(some)
        order = np.argsort(np.abs(values[numbers] - measure.threshold), kind="stable")
        chosen = numbers[order[:count]]
        return chosen[np.argsort(values[chosen], kind="stable")]

    def facts(self) -> Facts:
        """Return the counts and histograms."""
        kept = int(self.kept.sum())
        bad = sorted(self.bad_tiles, key=lambda tile: tile.status != CORRUPT)
        facts: Facts = {
            "kept": kept, "dropped": None if self.draws else len(self.kept) - kept,
            "tissue": self.tissue, "top_k": self.top_k,
            "corrupt": sum(one.status == CORRUPT for one in bad),
            "absent": sum(one.status == ABSENT for one in bad),
            "bad_tiles": [str(one) for one in bad[:LISTED]],
            "histograms": [
                histogram(one, self.kept)
                for one in (self.measure, self.score)
                if one is not None and np.isfinite(one.values).any()
            ],
        }  # fmt: skip
        if self.pack is not None:
            facts["skipped"] = int(self.pack.attributes.get("skipped", 0))
        return facts


def histogram(measure: Measure, kept: Array) -> Facts:
    """Return how many of the tiles that are `kept` (n,), and of the others, have which numbers.

    The threshold is where bin `at` begins. On either side of it, bins have equal widths, or equal
    ratios if the axis is `logarithmic`.
    """
    known = ~np.isnan(measure.values)
    values, kept = measure.values[known], kept[known]
    threshold = None if math.isnan(measure.threshold) else measure.threshold
    finite = values[np.isfinite(values)]
    marks = finite if threshold is None else np.append(finite, threshold)
    low, high = float(marks.min()), 1.0 if measure.is_share else float(marks.max())
    logarithmic = threshold is not None and 0 < threshold <= SMALL and low >= 0
    if logarithmic:
        smallest = max(measure.threshold / BELOW, float(marks[marks > 0].min()))
        low = min(smallest, measure.threshold / 2)
    elif measure.is_share:
        low = 0.0
    scale: Any = np.log if logarithmic else np.asarray
    edges, at = {low: 0, high: BINS}, None
    if threshold is not None:
        at = round(float(np.interp(scale(threshold), scale([low, high]), (0, BINS))))
        at = min(max(at, threshold > low), BINS - (threshold < high))
        edges = {low: 0, threshold: at, high: BINS}
    xs, ys = list(edges), list(edges.values())
    places = np.interp(scale(np.clip(values, low, high)), scale(xs), ys)
    return {
        "what": measure.what, "meaning": measure.meaning, "is_share": measure.is_share,
        "includes": measure.includes, "threshold": threshold, "at": at,
        "logarithmic": logarithmic, "ends": (low, high),
        "kept": _counts(places[kept]), "dropped": _counts(places[~kept]),
        "below": int(np.count_nonzero(values < low)), "unknown": int(np.count_nonzero(~known)),
    }  # fmt: skip


def _counts(places: Array) -> list[int]:
    return [int(count) for count in np.histogram(places, BINS, (0, BINS))[0]]


def decision_of(step: Step, obj: Any, maps: BlankMaps) -> Decision | None:
    """Return what the step decided about tiles; None for other steps."""
    if isinstance(obj, Cutoff):
        obj = obj.blank_map
    if isinstance(obj, BlankMap):
        return _by_map(obj)
    if isinstance(obj, TilePack):
        return _by_pack(step.of if isinstance(step, Export) else step, obj, maps)
    return None


def _by_map(found: BlankMap) -> Decision | None:
    if not found.blank.size:
        return None
    if found.areas is not None:
        whole = found.areas[..., 1] == 0
        measure: Measure | None = tissue_measure(found.tissue_fraction, found.min_tissue)
    else:
        whole = found.stats.whole
        measure = measure_of(found.detector, found.stats)
    if measure is not None:
        values = np.where(whole, measure.values, np.nan).reshape(-1)
        measure = replace(measure, values=values)
    return Decision(
        found.slide, found.grid.tile, tile_corners(found.grid, np.arange(whole.size)),
        ~found.blank.reshape(-1), whole.reshape(-1), measure, found.tissue_share, found.bad_tiles,
    )  # fmt: skip


def _by_pack(step: Any, pack: TilePack, maps: BlankMaps) -> Decision | None:
    judged = pack.judged
    if judged is None:
        return None
    image, grid = step.plan(maps.slide)
    kept = np.zeros(len(judged.score), bool)
    kept[judged.chosen] = True
    passed = np.isfinite(judged.score)
    draws = not isinstance(step, Pack)
    what, tissue = "samples", float(passed.mean()) if len(passed) and not draws else None
    if isinstance(step.detector, MaskDetector):
        what, tissue = "grey values of the tissue", maps.compute(None, step.detector).tissue_share
    cut = kept.any() and (passed & ~kept).any()
    lowest = float(judged.score[kept].min()) if cut else math.nan
    measure, whole = judged.measure, np.ones(len(kept), bool)
    if measure is not None:
        if draws:  # in the order of the pack
            measure = replace(measure, values=measure.values[judged.chosen])
        whole = ~np.isnan(measure.values)
    yx = np.stack((pack.y, pack.x), axis=1) if draws else tile_corners(grid, np.arange(len(kept)))
    bad = tuple(bad_tile_from_json(row) for row in pack.attributes.get("bad_tiles", ()))
    return Decision(
        image, grid.tile, yx, kept, whole, measure, tissue, bad, pack, draws,
        Measure("score", judged.score, lowest, False, True, f"standard deviation of the {what}"),
    )  # fmt: skip
