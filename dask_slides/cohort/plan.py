"""Plan a run: name its slides and find those that are already done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dask_slides.cohort.job import Outcome, counts_by_step, failure
from dask_slides.cohort.names import LOG, folded, names_for
from dask_slides.cohort.process_list import csv_text, read_rows, seconds_in
from dask_slides.cohort.results import (
    CORRUPT_TILES,
    StepResult,
    renew_metadata,
    result_of,
    slide_parameters,
    step_parameters,
)
from dask_slides.cohort.slide_list import SlideEntry
from dask_slides.cohort.step import Step
from dask_slides.core.arguments import local_path
from dask_slides.errors import OutputExistsError, SlideArgumentError, SlideError
from dask_slides.ops.scale import check_not_enlarged
from dask_slides.readers.remote.identity import identify
from dask_slides.slide import Slide


@dataclass(frozen=True)
class Cohort:
    """A list of named slides, the steps to run, and the job folder."""

    folder: str
    steps: tuple[Step, ...]
    entries: tuple[SlideEntry, ...]
    overwrite: bool
    earlier: Mapping[str, Mapping[str, str]]
    """Rows of the process list of an earlier run, by slide name."""
    enlarge: bool = True
    """Whether a step may enlarge a slide."""

    def check_scale(self, slide: Slide) -> None:
        """Raise SlideArgumentError if a step enlarges the slide and must not."""
        for step in () if self.enlarge else self.steps:
            check_not_enlarged(slide, **step.scale_arguments())

    def finished(self, entry: SlideEntry) -> Outcome | None:
        """Return the outcome of a slide that is done or whose file has changed, else None.

        Raises
        ------
        ResumeError
            A step was run with other arguments or by another version.
        """
        name = str(entry.name)
        try:
            results = [(step, result_of(self.folder, entry, step)) for step in self.steps]
            done = [(step, result) for step, result in results if result is not None]
        except SlideError as error:
            return failure(name, error)
        if not self.overwrite:
            for step, result in done:
                result.check(step_parameters(step), f"{name}: {step.name}")
        if len(done) < len(self.steps):
            return None
        try:
            return self._outcome(entry, done)
        except SlideError as error:
            return failure(name, error)

    def _outcome(
        self, entry: SlideEntry, done: Sequence[tuple[Step, StepResult]]
    ) -> Outcome | None:
        """Return the outcome of a slide with all results; None if one of them must be replaced."""
        name = str(entry.name)
        of_slide = slide_parameters(entry, identify(entry.path))
        counts: dict[str, Any] = {}
        filled = False
        for step, result in done:
            wanted = {**of_slide, **step_parameters(step)}
            if not result.matches(wanted):
                if self.overwrite:
                    return None
                result.check(wanted, f"{name}: {step.name}")
            counts |= counts_by_step(step, result.counts)
            filled |= bool(result.counts[CORRUPT_TILES])
        return Outcome(name, "done", counts, filled, seconds_in(self.earlier.get(name, {})))

    def renew_metadata(self, entry: SlideEntry) -> None:
        """Give the packs of a slide that is done the columns that the table has for it now."""
        for step in self.steps if entry.columns is not None else ():
            if step.is_store and step.makes == "TilePack":
                renew_metadata(step.path(self.folder, str(entry.name)), entry.columns or {})


def line_about(path: str, message: str) -> str:
    """Return a message about a slide, which names its file."""
    return message if os.path.basename(path) in message else f"{path}: {message}"


def job_folder(job: Any) -> str:
    """Return the absolute path of a job folder; create nothing.

    Raises
    ------
    SlideArgumentError
        `job` is a URL.
    OutputExistsError
        The folder contains something other than a job.
    """
    folder = local_path(job, "a job")
    if os.path.isdir(folder):
        names = os.listdir(folder)
        if LOG in names or all(name.startswith(".") for name in names):
            return folder
    if os.path.lexists(folder):
        raise OutputExistsError(f"{folder}: is not a job folder; choose a new or an empty folder")
    return folder


def named_cohort(
    folder: str,
    entries: Sequence[SlideEntry],
    steps: tuple[Step, ...],
    overwrite: bool,
    enlarge: bool = True,
) -> Cohort:
    """Give each slide its name in `folder`; write nothing.

    Raises
    ------
    SlideArgumentError
        The name of a slide differs from an earlier run, or belongs to another slide there.
    """
    given = {entry.path: entry.name for entry in entries if entry.name}
    earlier = read_rows(folder)
    before = {row["path"]: name for name, row in earlier.items()}
    for path in (entry.path for entry in entries):
        if csv_text(path) in before:
            before[path] = before.pop(csv_text(path))
    names = names_for([entry.path for entry in entries], given, before)
    owners = {folded(name): path for path, name in before.items()}
    for path, name in given.items():
        if owners.get(folded(name), path) != path or before.get(path, name) != name:
            raise SlideArgumentError(
                f"{path}: {name!r} is the name of another slide in {folder}, or this slide has "
                "another name there; use the same names or another folder"
            )
    named = tuple(replace(entry, name=names[entry.path]) for entry in entries)
    return Cohort(folder, steps, named, overwrite, earlier, enlarge)
