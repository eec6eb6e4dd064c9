"""Finished results: the parameters that each store records in its own attributes.

A step is done when its store has a manifest and records the parameters that are asked for. A
store appears whole or not at all, so this holds after a run was killed at any moment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
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


Parameters = Mapping[str, Any]
"""Everything that the result of a step depends on, as plain values by name."""


@dataclass(frozen=True)
class StepResult:
    """What a finished store records."""

    parameters: Parameters
    counts: Mapping[str, Any]
    """For the process list."""

    def matches(self, wanted: Parameters) -> bool:
        """Return whether this is the result of the `wanted` parameters.

        Without corrupt tiles it does not depend on `on_bad_tile`.
        """
        if self.counts[CORRUPT_TILES]:
            return self.parameters == wanted
        return {**self.parameters, ON_BAD_TILE: ""} == {**wanted, ON_BAD_TILE: ""}

    def check(self, wanted: Parameters, what: str) -> None:
        """Raise ResumeError if one of the `wanted` parameters differs; name it and `what`."""
        stored = self.parameters
        differing = sorted(name for name in wanted if stored.get(name) != wanted[name])
        if differing:
            first = differing[0]
            raise ResumeError(
                f"{what}: the stored result differs in {', '.join(differing[:4])} ({first} was "
                f"{stored.get(first)!r}, is {wanted[first]!r}); use the same parameters, "
                "overwrite, or use another folder"
            )


def slide_parameters(entry: SlideEntry, identity: Identity) -> Parameters:
    """Return the parameters that are the same for all steps: the file, and how it is opened."""
    return {
        "file": os.path.basename(entry.path),
        "size": identity.size,
        "time of change": identity.mtime_ns,
        "version of the file": identity.version,
        "mpp": entry.mpp,
        ON_BAD_TILE: entry.on_bad_tile,
    }


def step_parameters(step: Step) -> Parameters:
    """Return the parameters that are the same for all slides: the version and the arguments."""
    return {"version": __version__} | facts_of(step, step.name)


def attributes_to_record(parameters: Parameters, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a store is to record so that `stored_result` finds it.

    Record 2.0 as 2: they are the same parameter, but not the same text in the key of a store.
    """
    plain = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in parameters.items()
    }
    return {ATTRIBUTE: {"parameters": plain, "counts": counts}}


def stored_result(path: str) -> StepResult | None:
    """Return what the store at `path` records; None if it is not a finished result of a run."""
    mark = read_own_attributes(path) if os.path.exists(path) else None
    if mark is None or "manifest" not in mark:
        return None
    try:
        parameters, counts = (mark[ATTRIBUTE][name] for name in ("parameters", "counts"))
        require_type(parameters, dict)
        for number in require_type(counts, dict).values():
            require_type(number, int, float)
    except (KeyError, TypeError):  # written by a single call, or by anybody
        return None
    filled = corrupt_tiles(path, parameters.get(ON_BAD_TILE))
    return StepResult(parameters, counts | {CORRUPT_TILES: filled})


def corrupt_tiles(path: str, on_bad_tile: Any) -> int:
    """Return how many corrupt tiles are filled in the store at `path`."""
    if on_bad_tile != "mask":
        return 0
    return sum(tile.status == CORRUPT for tile in bad_tiles_in(path))
