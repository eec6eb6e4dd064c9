"""Find finished results by the parameters that they were made with.

A step is done if its store has a manifest and records the requested parameters. A store appears
completely or not at all, so this is also true after a run was killed. For a step that writes no
store, the record is a file beside the results, ``JOB/NAME/.STEP.json``. It is written twice: before
the step begins, so that only what a run began is replaced, and when the step is done.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask_slides.cohort.slide_list import SlideEntry
from dask_slides.cohort.step import METADATA, Step
from dask_slides.core.bad_tiles import CORRUPT, MARK
from dask_slides.core.json_values import require_type
from dask_slides.core.version import __version__
from dask_slides.errors import ResumeError
from dask_slides.readers.remote.identity import Identity
from dask_slides.writers.store.attributes import (
    bad_tiles_in,
    read_own_attributes,
    root_digest,
)
from dask_slides.writers.store.local_folder import LocalFolder, write_whole

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
    return {"version": __version__} | step.facts()


def attributes_to_record(parameters: Parameters, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a store must record for `stored_result`.

    Record 2.0 as 2, because equal parameters must also be equal as text to resume a store.
    """
    numbers = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in parameters.items()
    }
    return {ATTRIBUTE: {"parameters": numbers, "counts": counts}}


def result_of(folder: str, entry: SlideEntry, step: Step) -> StepResult | None:
    """Return the result of a step for a slide of the job in `folder`; None if it is not done."""
    name = str(entry.name)
    if step.is_store:
        return stored_result(step.path(folder, name))
    columns = entry.columns if step.makes == "TilePack" else None  # packs have them as attributes
    return Record.of(folder, name, step).result(columns)


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


@dataclass(frozen=True)
class Record:
    """The file that records what a step made that writes no store."""

    path: str
    folder: str
    """The job folder."""

    @classmethod
    def of(cls, folder: str, name: str, step: Step) -> Record:
        """Return the record of `step` for the slide `name`."""
        return cls(os.path.join(folder, name, f".{step.name}.json"), folder)

    def exists(self) -> bool:
        """Return whether a run began the step, or has done it."""
        return os.path.exists(self.path)

    def begin(self) -> None:
        """Record that the step begins, so that a later run may replace what it leaves."""
        replace_file(self.path, b"{}")

    def finish(
        self, parameters: Parameters, counts: Mapping[str, Any], outputs: Sequence[str],
        columns: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        """Record that the step is done, and what it wrote, once that is on the disk."""
        LocalFolder(self.folder).flush([one for one in outputs if os.path.isfile(one)])
        facts = {
            "parameters": parameters, "counts": counts, METADATA: columns,
            "outputs": [os.path.relpath(one, self.folder) for one in outputs],
        }  # fmt: skip
        replace_file(self.path, json.dumps(facts).encode())

    def result(self, columns: Mapping[str, Any] | None) -> StepResult | None:
        """Return the result; None if it is not finished, is gone, or has other `columns`."""
        try:
            with open(self.path, encoding="utf-8") as stream:
                facts = json.load(stream)
            result = StepResult(
                *(require_type(facts[one], dict) for one in ("parameters", "counts"))
            )
            outputs, before = require_type(facts["outputs"], list), facts[METADATA]
            require_type(result.counts[CORRUPT_TILES], int)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if not all(os.path.exists(os.path.join(self.folder, str(one))) for one in outputs):
            return None
        return result if columns is None or columns == before else None


def replace_file(path: str, data: bytes) -> None:
    """Write a file whole, and remove what a killed run left of it."""
    for left in glob.glob(f"{glob.escape(path)}.*.partial"):
        os.unlink(left)
    write_whole(path, data)


def renew_metadata(store: str, columns: Mapping[str, Any]) -> None:
    """Give the finished pack at `store` the columns that the table has for its slide now."""
    file = os.path.join(store, "zarr.json")
    with open(file, encoding="utf-8") as stream:
        root = json.load(stream)
    attributes = root["attributes"]
    if attributes.get(METADATA, {}) == columns:
        return
    attributes[METADATA] = dict(columns)
    attributes[MARK]["manifest"]["root"] = root_digest(attributes)
    replace_file(file, json.dumps(root).encode())


def corrupt_tiles(path: str, on_bad_tile: Any) -> int:
    """Count the corrupt tiles that were filled in the store at `path`."""
    if on_bad_tile != "mask":
        return 0
    return sum(tile.status == CORRUPT for tile in bad_tiles_in(path))
