"""Find finished results by the parameters that each store records in its attributes.

A step is done if its store has a manifest and records the requested parameters. A store appears
completely or not at all, so this is also true after a run was killed.
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
"""Key of the parameters and counts in the attribute `dask_slides` of a store."""
ON_BAD_TILE = "on_bad_tile"
CORRUPT_TILES = "corrupt"
"""Name of the count of corrupt tiles that were filled; every step has it."""

Parameters = Mapping[str, Any]
"""Everything that the result of a step depends on, as plain values by name."""


@dataclass(frozen=True)
class StepResult:
    """The parameters and counts that a finished store records."""

    parameters: Parameters
    counts: Mapping[str, Any]
    """Counts for the process list."""

    def matches(self, wanted: Parameters) -> bool:
        """Return whether this is the result of the `wanted` parameters.

        `on_bad_tile` is ignored if no tile is corrupt.
        """
        if self.counts[CORRUPT_TILES]:
            return self.parameters == wanted
        return {**self.parameters, ON_BAD_TILE: ""} == {**wanted, ON_BAD_TILE: ""}

    def check(self, wanted: Parameters, what: str) -> None:
        """Raise ResumeError if a parameter differs from `wanted`; `what` names the result."""
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
    """Return the parameters of all steps: the file and the options to open it."""
    return {
        "file": os.path.basename(entry.path),
        "size": identity.size,
        "time of change": identity.mtime_ns,
        "version of the file": identity.version,
        "mpp": entry.mpp,
        ON_BAD_TILE: entry.on_bad_tile,
    }


def step_parameters(step: Step) -> Parameters:
    """Return the parameters of all slides: the version and the arguments of the step."""
    return {"version": __version__} | facts_of(step, step.name)


def attributes_to_record(parameters: Parameters, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a store must record for `stored_result`.

    Record 2.0 as 2, because equal parameters must also be equal as text to resume a store.
    """
    plain = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in parameters.items()
    }
    return {ATTRIBUTE: {"parameters": plain, "counts": counts}}


def stored_result(path: str) -> StepResult | None:
    """Return the result recorded by the store at `path`; None if no run has finished it."""
    attributes = read_own_attributes(path) if os.path.exists(path) else None
    if attributes is None or "manifest" not in attributes:
        return None
    try:
        parameters, counts = (attributes[ATTRIBUTE][name] for name in ("parameters", "counts"))
        require_type(parameters, dict)
        for number in require_type(counts, dict).values():
            require_type(number, int, float)
    except (KeyError, TypeError):  # not written by a run
        return None
    filled = corrupt_tiles(path, parameters.get(ON_BAD_TILE))
    return StepResult(parameters, counts | {CORRUPT_TILES: filled})


def corrupt_tiles(path: str, on_bad_tile: Any) -> int:
    """Count the corrupt tiles that were filled in the store at `path`."""
    if on_bad_tile != "mask":
        return 0
    return sum(tile.status == CORRUPT for tile in bad_tiles_in(path))
