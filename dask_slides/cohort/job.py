"""The work on one slide, on whatever worker: the steps that are not done yet."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dask_slides.cohort.results import (
    CORRUPT_TILES,
    Parameters,
    attributes_to_record,
    corrupt_tiles,
    slide_parameters,
    step_parameters,
    stored_result,
)
from dask_slides.cohort.slide_list import SlideEntry
from dask_slides.cohort.steps import BlankMaps, Step, store_path
from dask_slides.errors import ClusterLostError, ResumeError, SlideError
from dask_slides.readers.remote.identity import Identity
from dask_slides.readers.tiff.reduced_tile_cache import cached_reduced_tiles
from dask_slides.runtime.scheduler import compute_in_this_thread, report_progress_to
from dask_slides.slide import Slide
from dask_slides.writers.store.transaction import Target

RUN = ".run"
"""File in the folder of a job with the identifier of the run; when it goes, work stops at the next
block."""


class Stopped(Exception):
    """The run that this work belongs to has ended."""


@dataclass(frozen=True)
class SlideJob:
    """A slide to work on; small, because it is sent to a worker."""

    folder: str
    """Of the job."""
    entry: SlideEntry
    """The slide in the list, with its name in the job."""
    slide: Slide
    identity: Identity
    steps: tuple[Step, ...]
    run: str
    """Identifier of the run."""
    overwrite: bool = False
    whole: bool = True
    """Whether one worker does all of it, in one thread."""

    @property
    def name(self) -> str:
        """The name of the slide in the job."""
        return str(self.entry.name)

    def path(self, step: Step) -> str:
        """Return where the result of `step` is written."""
        return store_path(self.folder, self.name, step)

    def parameters(self, step: Step) -> Parameters:
        """Return what the result of `step` depends on."""
        return {**slide_parameters(self.entry, self.identity), **step_parameters(step)}


@dataclass(frozen=True)
class Outcome:
    """How the work on a slide ended."""

    name: str
    status: str
    """done, failed, or todo if the run was stopped."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """By step and count, such as ``pack_tiles``."""
    seconds: float = 0.0
    error: str = ""
    """Class of the error."""
    message: str = ""
    traceback: str = ""
    """Of an unexpected error."""


def failure(name: str, error: BaseException, counts: Any = None, seconds: float = 0.0) -> Outcome:
    """Return the outcome of a slide that failed with `error`."""
    message = " ".join(str(error).split()) or type(error).__name__
    trace = ""
    if not isinstance(error, SlideError):  # whose message is enough
        trace = "".join(traceback.format_exception(error))
    return Outcome(name, "failed", counts or {}, seconds, type(error).__name__, message, trace)


def work_alone(job: SlideJob) -> Outcome:
    """Do the steps of a slide in this thread; compute nothing elsewhere."""
    with compute_in_this_thread():
        return work_on(job)


def work_on(job: SlideJob) -> Outcome:
    """Do the steps of a slide that are not done; return errors in the outcome."""
    counts: dict[str, Any] = {}
    start = time.monotonic()
    try:
        with report_progress_to(partial(_check_run, job)):
            done = {step.name: _finished_counts(job, step) for step in job.steps}
            maps = BlankMaps(job.slide)
            with cached_reduced_tiles(job.slide.source, job.folder, _reductions(job, done)):
                for step in job.steps:
                    found = done[step.name]
                    if found is None:
                        found = _do_step(job, step, maps)
                    counts |= counts_by_step(step, found)
    except Stopped:
        return Outcome(job.name, "todo", counts, _seconds_since(start))
    except ClusterLostError:  # not the fault of the slide
        raise
    except Exception as error:  # one bad slide never stops the others
        return failure(job.name, error, counts, _seconds_since(start))
    return Outcome(job.name, "done", counts, _seconds_since(start))


def counts_by_step(step: Step, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts with the names of their columns in the process list."""
    return {f"{step.name}_{name}": number for name, number in counts.items()}


def _seconds_since(start: float) -> float:
    return round(time.monotonic() - start, 3)


def _check_run(job: SlideJob, *_: object) -> None:
    """Raise Stopped unless the run of this job is still going on."""
    try:
        with open(os.path.join(job.folder, RUN), encoding="ascii") as stream:
            if stream.read() == job.run:
                return
    except FileNotFoundError:
        pass
    raise Stopped


def _finished_counts(job: SlideJob, step: Step) -> Mapping[str, Any] | None:
    """Return the counts of a step that is done; None if it has to be done.

    Raises
    ------
    ResumeError
        It was done with other parameters, and is not to be overwritten.
    """
    result, wanted = stored_result(job.path(step)), job.parameters(step)
    if result is None:
        return None
    if result.matches(wanted):
        return result.counts
    if not job.overwrite:
        result.check(wanted, f"{job.name}: {step.name}")
    return None


def _reductions(job: SlideJob, done: Mapping[str, Any]) -> list[int]:
    """Return the reductions at which the steps that are not done read level 0."""
    left = (step for step in job.steps if done[step.name] is None)
    return [factor for step in left for factor in step.reductions(job.slide)]


def _do_step(job: SlideJob, step: Step, maps: BlankMaps) -> dict[str, Any]:
    """Write the result of a step; return its counts."""
    _check_run(job)
    path = job.path(step)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    obj, counts = step.build(job.slide, maps)
    recorded = attributes_to_record(job.parameters(step), counts)
    target = Target(path, job.overwrite, resume=True, recorded=recorded)
    try:
        step.write(obj, target)
    except ResumeError:  # an unfinished store of other parameters: start again
        step.write(obj, replace(target, resume=False))
    return counts | {CORRUPT_TILES: corrupt_tiles(path, job.entry.on_bad_tile)}
