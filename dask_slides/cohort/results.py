"""Finished results: the parameters that each store records in its own attributes.

A step is done when its store has a manifest and records the parameters that are asked for. A
store appears whole or not at all, so this holds after a run was killed at any moment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from dask_slides.cohort.slide_list import SlideEntry
from dask_slides.cohort.steps import Step
from dask_slides.core.bad_tiles import CORRUPT
from dask_slides.core.json_values import require_type
from dask_slides.core.version import __version__
from dask_slides.errors import ResumeError
from dask_slides.readers.remote.identity import Identity
from dask_slides.writers.store.attributes import bad_tiles_in, read_own_attributes
from dask_slides.writers.store.transaction import facts_of

ATTRIBUTE = "cohort"
"""Name, in the attribute of a store, of the parameters and counts that are recorded here."""
ON_BAD_TILE = "on_bad_tile"
CORRUPT_TILES = "corrupt"
"""Count of every step: tiles of the slide that are filled because they cannot be decoded."""


@dataclass(frozen=True)
class Parameters:
    """Everything that the result of a step depends on, as plain values by name."""

    slide: Mapping[str, Any]
    """The file, and how it is opened."""
    step: Mapping[str, Any]
    """The version of dask_slides, and the arguments."""

    @property
    def without_mode(self) -> Parameters:
        """The same without `on_bad_tile`, which changes nothing where no tile is corrupt."""
        slide = {name: value for name, value in self.slide.items() if name != ON_BAD_TILE}
        return replace(self, slide=slide)


@dataclass(frozen=True)
class StepResult:
    """What a finished store records."""

    parameters: Parameters
    counts: Mapping[str, Any]
    """For the process list."""

    def matches(self, wanted: Parameters) -> bool:
        """Return whether this is the result of the `wanted` parameters."""
        if self.parameters == wanted:
            return True
        same = self.parameters.without_mode == wanted.without_mode
        return same and not self.counts[CORRUPT_TILES]


def parameters_of(entry: SlideEntry, identity: Identity, step: Step) -> Parameters:
    """Return the parameters of `step` for a slide of the list."""
    slide = {
        "file": os.path.basename(entry.path),
        "size": identity.size,
        "time of change": identity.mtime_ns,
        "version": identity.version,
        "mpp": entry.mpp,
        ON_BAD_TILE: entry.on_bad_tile,
    }
    return Parameters(slide, step_parameters(step))


def step_parameters(step: Step) -> Mapping[str, Any]:
    """Return the parameters that are the same for all slides."""
    return {"version": __version__} | facts_of(step, step.name)


def attributes_to_record(parameters: Parameters, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a store is to record so that `stored_result` finds it."""
    return {ATTRIBUTE: asdict(parameters) | {"counts": counts}}


def stored_result(path: str) -> StepResult | None:
    """Return what the store at `path` records; None if it is not a finished result of a run."""
    mark = read_own_attributes(path) if os.path.exists(path) else None
    if mark is None or "manifest" not in mark:
        return None
    try:
        slide, step, counts = (mark[ATTRIBUTE][name] for name in ("slide", "step", "counts"))
        for facts in (slide, step, counts):
            require_type(facts, dict)
        for number in counts.values():
            require_type(number, int, float)
    except (KeyError, TypeError):  # written by a single call, or by anybody
        return None
    filled = corrupt_tiles(path, slide.get(ON_BAD_TILE))
    return StepResult(Parameters(slide, step), counts | {CORRUPT_TILES: filled})


def corrupt_tiles(path: str, on_bad_tile: Any) -> int:
    """Return how many corrupt tiles are filled in the store at `path`."""
    if on_bad_tile != "mask":
        return 0
    return sum(tile.status == CORRUPT for tile in bad_tiles_in(path))


def check_parameters(result: StepResult, wanted: Parameters, name: str, step: Step) -> None:
    """Raise ResumeError if the result of `step` for the slide `name` has other parameters."""
    stored = result.parameters
    check_same(stored.slide, wanted.slide, f"{name}: the slide of {step.name}")
    check_same(stored.step, wanted.step, f"{name}: {step.name}")


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raise ResumeError that names the parameters in which `before` and `now` differ."""
    differing = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if differing:
        first = differing[0]
        raise ResumeError(
            f"{what} differs from the stored result in {', '.join(differing[:4])} ({first} was "
            f"{before.get(first)!r}, is {now.get(first)!r}); use the same parameters, overwrite, "
            "or use another folder"
        )
