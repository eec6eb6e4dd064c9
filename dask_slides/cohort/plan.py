"""Which slides a run is of, under which names, and what runs before it have done of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dask_slides.cohort.job import Outcome, failure
from dask_slides.cohort.names import LOG, folded, names_for
from dask_slides.cohort.records import (
    SlideRecord,
    check_same,
    finished_step,
    key_of,
    read_record,
    step_key,
)
from dask_slides.cohort.slide_list import SlideEntry
from dask_slides.cohort.steps import Step
from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideError
from dask_slides.readers.remote.identity import identify


@dataclass(frozen=True)
class Cohort:
    """A list of slides, each with a name, and the folder of what is made of them."""

    folder: str
    steps: tuple[Step, ...]
    entries: tuple[SlideEntry, ...]
    overwrite: bool = False

    def before(self, entry: SlideEntry) -> Outcome | None:
        """Return what runs before this one made of a slide; None if something is left to do.

        A slide that is not what it was is a failure.
        """
        name = str(entry.name)
        try:
            record = read_record(self.folder, name)
            if record is None:
                return None
            identity = identify(entry.path)
            counts: dict[str, Any] = {}
            seconds = 0.0
            for step in self.steps:
                key = key_of(entry, identity, step)
                found = finished_step(record, self.folder, name, step, key, self.overwrite)
                if found is None or not found.done:  # who works on it says so in its record
                    return None
                counts |= {f"{step.name}_{count}": value for count, value in found.counts.items()}
                seconds += found.seconds or 0.0
        except SlideError as error:
            return failure(name, error)
        return Outcome(name, "done", counts, seconds)


def job_folder(job: Any) -> str:
    """Return the absolute path of the folder of a job; nothing is made.

    Raises
    ------
    SlideArgumentError
        It is an address.
    OutputExistsError
        It holds anything but a job.
    """
    if "://" in os.fspath(job):
        raise SlideArgumentError(
            f"{job}: a run keeps its records in a folder; give one that every worker sees"
        )
    folder: str = os.path.abspath(os.fspath(job))
    if os.path.isdir(folder):
        names = os.listdir(folder)
        if LOG in names or all(name.startswith(".") for name in names):
            return folder
    if os.path.lexists(folder):
        raise OutputExistsError(
            f"{folder}: is not the folder of a run over slides; choose a new or an empty one"
        )
    return folder


def named_cohort(
    folder: str, entries: Sequence[SlideEntry], steps: tuple[Step, ...], overwrite: bool
) -> Cohort:
    """Return the slides with the names that they have in `folder`; nothing is written.

    Raises
    ------
    SlideArgumentError
        A name that was asked for is another slide's there.
    ResumeError
        The job was begun with other arguments, or another version.
    """
    given = {entry.path: entry.name for entry in entries if entry.name}
    before = {}
    wanted = {step.name: step_key(step) for step in steps}
    for name, record in _records(folder):
        before[record.path] = name
        for step in () if overwrite else wanted.keys() & record.steps.keys():
            check_same(record.steps[step].key.step, wanted[step], f"{folder}: step {step}")
    names = names_for([entry.path for entry in entries], given, before)
    owners = {folded(name): path for path, name in before.items()}
    for path, name in given.items():
        if owners.get(folded(name), path) != path or before.get(path, name) != name:
            raise SlideArgumentError(
                f"{path}: {name!r} is the name of another slide in {folder}, or this one has "
                "another name there; keep the names, or use another folder"
            )
    named = tuple(replace(entry, name=names[entry.path]) for entry in entries)
    return Cohort(folder, steps, named, overwrite)


def _records(folder: str) -> Iterator[tuple[str, SlideRecord]]:
    if not os.path.isdir(folder):
        return
    for name in sorted(os.listdir(folder)):
        record = None if name.startswith(".") else read_record(folder, name)
        if record is not None:
            yield name, record
