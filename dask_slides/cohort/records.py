"""What is done of a slide: one small file in its folder, written by whoever works on it.

Each step leaves what it is of (slide, arguments, version) before its store can appear, so a
run that is killed at any moment finds the stores that are whole, and takes no other ones.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dask_slides.cohort.slide_list import SlideEntry
from dask_slides.cohort.steps import Step, store_of
from dask_slides.core.json_values import require_type
from dask_slides.core.version import __version__
from dask_slides.errors import ResumeError, SlideFormatError
from dask_slides.readers.remote.identity import Identity
from dask_slides.writers.store.attributes import read_own_attributes
from dask_slides.writers.store.local_folder import write_whole
from dask_slides.writers.store.transaction import facts_of

MODE = "on_bad_tile"
CORRUPT_TILES = "corrupt"
"""Count of every step: tiles of the slide that were filled, as they cannot be decoded."""


@dataclass(frozen=True)
class Key:
    """What tells the result of a step from another one, as plain values by name."""

    slide: Mapping[str, Any]
    """Which slide, and what was said of it."""
    step: Mapping[str, Any]
    """Arguments and version."""

    @property
    def without_mode(self) -> Key:
        """The same, whatever becomes of corrupt tiles: where there are none the result is one."""
        return replace(self, slide={k: v for k, v in self.slide.items() if k != MODE})


@dataclass(frozen=True)
class StepRecord:
    """What a step of a slide is of, and how far it is."""

    key: Key
    counts: Mapping[str, Any]
    before: str | None = None
    """Checksum of the store that was there when it began."""
    done: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class SlideRecord:
    """The steps that were begun or done for a slide."""

    path: str
    steps: Mapping[str, StepRecord] = field(default_factory=dict)

    def holding(self, step: Step, record: StepRecord) -> SlideRecord:
        """Return this with another record of `step`."""
        return replace(self, steps={**self.steps, step.name: record})

    def is_done(self, step: Step) -> bool:
        """Return whether `step` ended, of whatever key."""
        return step.name in self.steps and self.steps[step.name].done


def key_of(entry: SlideEntry, identity: Identity, step: Step) -> Key:
    """Return the key of `step` for a slide of the list."""
    facts = {"path": entry.path, "size": identity.size, "time of change": identity.mtime_ns}
    return Key(facts | {"mpp": entry.mpp, MODE: entry.on_bad_tile}, step_key(step))


def step_key(step: Step) -> Mapping[str, Any]:
    """Return the part of a key that is the same for all slides."""
    return {"version": __version__} | facts_of(step, step.name)


def _file(job: str, name: str) -> str:
    return os.path.join(job, name, f"{name}.json")


def read_record(job: str, name: str) -> SlideRecord | None:
    """Return the record of a slide, None if nothing was begun."""
    path = _file(job, name)
    try:
        with open(path, "rb") as stream:
            found = json.load(stream)
        steps = {step: _step_record(one) for step, one in found["steps"].items()}
        return SlideRecord(require_type(found["path"], str), steps)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SlideFormatError(
            f"{path}: is no record of a slide ({error}); move its folder away"
        ) from error


def _step_record(one: Any) -> StepRecord:
    """Return what a record says of a step; TypeError, ValueError or KeyError if it is none."""
    key = Key(**{part: require_type(facts, dict) for part, facts in one["key"].items()})
    record = StepRecord(**one | {"key": key})
    for number in require_type(record.counts, dict).values():
        require_type(number, int, float)
    require_type(record.before, str, type(None))
    require_type(record.done, bool)
    require_type(record.seconds, int, float, type(None))
    return record


def keep_record(job: str, name: str, record: SlideRecord) -> None:
    """Write the record of a slide; it is the old one or the new one at any moment."""
    path = _file(job, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for left in glob.glob(f"{glob.escape(path)}.*.partial"):  # of a run that was killed
        os.unlink(left)
    write_whole(path, json.dumps(asdict(record), indent=1, sort_keys=True).encode())


def store_digest(path: str) -> str | None:
    """Return what tells a finished store from another one; None if there is none."""
    mark = read_own_attributes(path) if os.path.exists(path) else None
    return None if mark is None else mark.get("manifest", {}).get("sha256")


def is_finished(record: StepRecord, path: str) -> bool:
    """Return whether the store at `path` is the one that `record` is of."""
    if record.done:
        return os.path.exists(path)
    return store_digest(path) not in (None, record.before)


def _filled(record: StepRecord) -> bool:
    """Return whether the result depends on what becomes of corrupt tiles."""
    return bool(record.counts.get(CORRUPT_TILES))


def finished_step(
    record: SlideRecord | None, job: str, name: str, step: Step, key: Key, overwrite: bool
) -> StepRecord | None:
    """Return the record of a step that is done, None if it is to be done.

    Raises
    ------
    ResumeError
        It was begun or done with another key, and is not to be overwritten.
    """
    found = None if record is None else record.steps.get(step.name)
    if found is None:
        return None
    whole = is_finished(found, store_of(job, name, step))
    if found.key == key:
        return found if whole else None
    if found.key.without_mode == key.without_mode and not (found.done and _filled(found)):
        return found if found.done and whole else None
    if not overwrite:
        check_same(found.key.slide, key.slide, f"{name}: what {step.name} was done of")
        check_same(found.key.step, key.step, f"{name}: {step.name}")
    return None


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raise ResumeError if what was begun is not what is asked for now."""
    differing = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if differing:
        first = differing[0]
        raise ResumeError(
            f"{what} differs in {', '.join(differing[:4])} ({first} was {before.get(first)!r}, "
            f"is {now.get(first)!r}); do it the same way again, overwrite, or use another folder"
        )
