"""The work on one slide, wherever it runs: each step that is not done yet, and its record."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dask_slides.cohort.records import (
    CORRUPT_TILES,
    SlideRecord,
    StepRecord,
    finished_step,
    keep_record,
    key_of,
    read_record,
    store_digest,
)
from dask_slides.cohort.slide_list import SlideEntry
from dask_slides.cohort.steps import Maps, Step, store_of
from dask_slides.core.bad_tiles import CORRUPT
from dask_slides.errors import ClusterLostError, SlideError
from dask_slides.ops.sharing import sharing
from dask_slides.readers.remote.identity import Identity
from dask_slides.runtime.scheduler import compute_in_this_thread, report_progress_to
from dask_slides.slide import Slide
from dask_slides.writers.store.attributes import bad_tiles_in

RUN = ".run"
"""File of a job that holds the number of its run: without it work stops at the next block."""


class Stopped(Exception):
    """The run that this work is of has ended."""


@dataclass(frozen=True)
class SlideJob:
    """A slide to work on; small, as it is sent to a worker."""

    folder: str
    """Of the job."""
    entry: SlideEntry
    """The slide in the list, with the name that it has in the job."""
    slide: Slide
    identity: Identity
    steps: tuple[Step, ...]
    run: str
    overwrite: bool = False
    whole: bool = True
    """Whether one worker does all of it, in one thread."""

    @property
    def name(self) -> str:
        """Of the slide in the job."""
        return str(self.entry.name)


@dataclass(frozen=True)
class Outcome:
    """How the work on a slide ended."""

    name: str
    status: str
    """done, failed, or todo where the run was stopped."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """By step and count: ``pack_tiles``."""
    seconds: float = 0.0
    error: str = ""
    """Class of the error."""
    message: str = ""
    trace: str = ""
    """Of an error that is not expected."""


def failure(name: str, error: BaseException, counts: Any = None, seconds: float = 0.0) -> Outcome:
    """Return the outcome of a slide that `error` ended."""
    message = " ".join(str(error).split()) or type(error).__name__
    trace = ""
    if not isinstance(error, SlideError):  # those say it all in one line
        trace = "".join(traceback.format_exception(error))
    return Outcome(name, "failed", counts or {}, seconds, type(error).__name__, message, trace)


def work_alone(job: SlideJob) -> Outcome:
    """Work on a slide in this thread; nothing of it is computed elsewhere."""
    with compute_in_this_thread():
        return work_on(job)


def work_on(job: SlideJob) -> Outcome:
    """Do the steps of a slide that are not done; whatever goes wrong is in the outcome."""
    counts: dict[str, Any] = {}
    seconds = 0.0
    try:
        with report_progress_to(partial(_check_run, job)):
            maps = Maps(job.slide)
            record = read_record(job.folder, job.name) or SlideRecord(str(job.slide.path))
            with sharing(job.slide, job.folder, _reads_left(job, record)):
                for step in job.steps:
                    record = _do_step(job, step, maps, record)
                    done = record.steps[step.name]
                    counts |= {f"{step.name}_{key}": value for key, value in done.counts.items()}
                    seconds += done.seconds or 0.0
    except Stopped:
        return Outcome(job.name, "todo", counts, seconds)
    except ClusterLostError:  # no fault of the slide
        raise
    except Exception as error:  # one bad slide never stops the rest
        return failure(job.name, error, counts, seconds)
    return Outcome(job.name, "done", counts, seconds)


def _reads_left(job: SlideJob, record: SlideRecord) -> list[int]:
    """Return the reductions at which the steps that are not done will read level 0."""
    left = (step for step in job.steps if job.overwrite or not record.is_done(step))
    return [factor for step in left for factor in step.reads(job.slide)]


def _filled(job: SlideJob, path: str) -> dict[str, int]:
    """Return the count of corrupt tiles where the store at `path` shows the fill."""
    found = bad_tiles_in(path) if job.entry.on_bad_tile == "mask" else ()
    return {CORRUPT_TILES: sum(tile.status == CORRUPT for tile in found)}


def _check_run(job: SlideJob, *_: object) -> None:
    try:
        with open(os.path.join(job.folder, RUN), encoding="ascii") as stream:
            if stream.read() == job.run:
                return
    except FileNotFoundError:
        pass
    raise Stopped


def _do_step(job: SlideJob, step: Step, maps: Maps, record: SlideRecord) -> SlideRecord:
    _check_run(job)
    key = key_of(job.entry, job.identity, step)
    done = finished_step(record, job.folder, job.name, step, key, job.overwrite)
    path = store_of(job.folder, job.name, step)
    if done is None:
        start = time.monotonic()
        before = record.steps.get(step.name)
        obj, counts = step.made(job.slide, maps)
        begun = StepRecord(key, counts, store_digest(path))
        # first: a store that appears after this is of this key
        keep_record(job.folder, job.name, record.holding(step, begun))
        # what another key has begun is given up
        step.write(obj, path, job.overwrite, resume=before is None or before.key == key)
        seconds = round(time.monotonic() - start, 3)
        done = StepRecord(key, counts | _filled(job, path), None, done=True, seconds=seconds)
    elif done.done:
        return record
    else:
        done = StepRecord(key, {**done.counts, **_filled(job, path)}, None, done=True)
    record = record.holding(step, done)
    keep_record(job.folder, job.name, record)
    return record
