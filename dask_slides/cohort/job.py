"""Run the steps of one slide that are not done yet, on any worker."""

from __future__ import annotations

import glob
import logging
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dask_slides.cohort.card import forget_step, note_step, note_thumbnail
from dask_slides.cohort.results import (
    CORRUPT_TILES,
    Parameters,
    Record,
    attributes_to_record,
    corrupt_tiles,
    replace_file,
    result_of,
    slide_parameters,
    step_parameters,
)
from dask_slides.cohort.slide_list import SlideEntry
from dask_slides.cohort.step import BlankMaps, Step, picture_path, picture_reduction
from dask_slides.core.bad_tiles import CORRUPT
from dask_slides.core.source import root_of
from dask_slides.errors import ClusterLostError, OutputExistsError, ResumeError, SlideError
from dask_slides.graph.bad_tiles import bad_tiles_of_level
from dask_slides.plots import pictures
from dask_slides.readers.remote.identity import Identity
from dask_slides.readers.tiff.reduced_tile_cache import cached_reduced_tiles
from dask_slides.runtime.scheduler import (
    Progress,
    compute_in_this_thread,
    report_progress_to,
    reported,
)
from dask_slides.slide import Slide, open_slide
from dask_slides.writers.exports.output import check_new
from dask_slides.writers.store.transaction import Target

RUN = ".run"
"""File in the job folder with the identifier of the current run; when it is removed, work stops at
the next block."""


log = logging.getLogger("dask_slides.cohort")


class Stopped(Exception):
    """The run that started this work has ended."""


@dataclass(frozen=True)
class SlideJob:
    """A slide to process; small, because it is sent to a worker."""

    folder: str
    """The job folder."""
    entry: SlideEntry
    """The slide in the list, with its folder name in the job."""
    slide: Slide
    identity: Identity
    steps: tuple[Step, ...]
    run: str
    """Identifier of the run."""
    overwrite: bool = False
    whole: bool = True
    """Whether one worker processes the whole slide, in one thread."""
    report: bool = True
    """Whether to note what a report shows."""

    @property
    def name(self) -> str:
        """The folder name of the slide in the job."""
        return str(self.entry.name)

    def path(self, step: Step) -> str:
        """Return the path of the output of `step`."""
        return step.path(self.folder, self.name)

    def parameters(self, step: Step) -> Parameters:
        """Return the parameters that the result of `step` depends on."""
        return {**slide_parameters(self.entry, self.identity), **step_parameters(step)}


@dataclass(frozen=True)
class Outcome:
    """The result of processing one slide."""

    name: str
    status: str
    """"done", "failed", or "todo" if the run was stopped."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """Counts by column of the process list, such as ``pack_tiles``."""
    filled: bool = False
    """Whether a result contains corrupt tiles that were filled."""
    seconds: float = 0.0
    error: str = ""
    """Name of the error class."""
    message: str = ""
    traceback: str = ""
    """Traceback of an unexpected error."""


def failure(name: str, error: BaseException, counts: Any = None, seconds: float = 0.0) -> Outcome:
    """Return the outcome of a slide that failed with `error`."""
    message = " ".join(str(error).split()) or type(error).__name__
    trace = ""
    if not isinstance(error, SlideError):  # the message of a SlideError is enough
        trace = "".join(traceback.format_exception(error))
    return Outcome(
        name, "failed", counts or {}, False, seconds, type(error).__name__, message, trace
    )


def work_alone(job: SlideJob) -> Outcome:
    """Run the steps of a slide, with all computation in this thread."""
    with compute_in_this_thread():
        return work_on(job)


def work_on(job: SlideJob) -> Outcome:
    """Run the steps of a slide that are not done; return an error as an outcome."""
    counts: dict[str, Any] = {}
    filled = False
    start = time.monotonic()
    shown = reported(job.name)
    try:
        with report_progress_to(partial(_check_and_report, job, shown)):
            done = {step.name: _finished_counts(job, step) for step in job.steps}
            folder = os.path.join(job.folder, job.name)
            maps = BlankMaps(job.slide, folder, job.entry.columns)
            with cached_reduced_tiles(job.slide.source, job.folder, _reductions(job, done)):
                for step in job.steps:
                    step_counts = done[step.name]
                    if step_counts is None:
                        step_counts = _run_step(job, step, maps)
                    counts |= counts_by_step(step, step_counts)
                    filled |= bool(step_counts[CORRUPT_TILES])
            if job.report:
                _note(partial(_take_thumbnail, job, folder))
    except Stopped:
        return Outcome(job.name, "todo", counts, seconds=_seconds_since(start))
    except ClusterLostError:  # the slide is not the cause
        raise
    except Exception as error:  # one bad slide must not stop the others
        return failure(job.name, error, counts, _seconds_since(start))
    return Outcome(job.name, "done", counts, filled, _seconds_since(start))


def counts_by_step(step: Step, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of a step by column of the process list."""
    return {f"{step.name}_{name}": number for name, number in counts.items()}


def _seconds_since(start: float) -> float:
    return round(time.monotonic() - start, 3)


def _check_and_report(job: SlideJob, shown: Progress, _: str, done: int, total: int) -> None:
    """Raise Stopped if the run of this job has ended; report the progress on the slide."""
    _check_run(job)
    shown(done, total)


def _check_run(job: SlideJob) -> None:
    """Raise Stopped if the run of this job has ended."""
    try:
        with open(os.path.join(job.folder, RUN), encoding="ascii") as stream:
            if stream.read() == job.run:
                return
    except FileNotFoundError:
        pass
    raise Stopped


def _finished_counts(job: SlideJob, step: Step) -> Mapping[str, Any] | None:
    """Return the counts of a step that is done; None if it must be run.

    Raises
    ------
    ResumeError
        The step was run with other parameters and `overwrite` is false.
    """
    result, wanted = result_of(job.folder, job.entry, step), job.parameters(step)
    if result is None:
        return None
    if result.matches(wanted):
        return result.counts
    if not job.overwrite:
        result.check(wanted, f"{job.name}: {step.name}")
    return None


def _reductions(job: SlideJob, done: Mapping[str, Any]) -> list[int]:
    """Return the reductions at which the remaining steps read level 0."""
    remaining = [step for step in job.steps if done[step.name] is None]
    reductions = [factor for step in remaining for factor in step.reductions(job.slide)]
    if any(step.draws for step in remaining):
        reductions.append(picture_reduction(job.slide))
    return reductions


def _run_step(job: SlideJob, step: Step, maps: BlankMaps) -> dict[str, Any]:
    """Run a step and write its result; return its counts."""
    _check_run(job)
    os.makedirs(maps.folder, exist_ok=True)
    return (_write_store if step.is_store else _write_file)(job, step, maps)


def _write_store(job: SlideJob, step: Step, maps: BlankMaps) -> dict[str, Any]:
    """Write the store of a step; return its counts."""
    path = job.path(step)
    obj, counts = maps.build(step)
    recorded = attributes_to_record(job.parameters(step), counts)
    target = Target(path, job.overwrite, resume=True, recorded=recorded)
    with _shown(job, step, obj, maps):
        try:
            step.write(obj, target, maps)
        except ResumeError:  # the unfinished store has other parameters, so start again
            step.write(obj, replace(target, resume=False), maps)
    return counts | {CORRUPT_TILES: corrupt_tiles(path, job.entry.on_bad_tile)}


def _write_file(job: SlideJob, step: Step, maps: BlankMaps) -> dict[str, Any]:
    """Run a step that writes no store, and record what it made; return its counts."""
    path, record = job.path(step), Record.of(job.folder, job.name, step)
    begun = record.exists()
    if not step.shares_path:
        _make_room(path, begun)
    record.begin()
    obj, counts = maps.build(step)
    try:
        with _shown(job, step, obj, maps):
            output = step.write(obj, Target(path, begun), maps)
    except OutputExistsError:
        os.unlink(record.path)  # what is there was written by others
        raise
    counts = counts | {CORRUPT_TILES: _corrupt_tiles_read(job)}
    outputs = step.outputs(output, job.name)
    record.finish(job.parameters(step), counts, outputs, job.entry.columns)
    return counts


def _make_room(path: str, begun: bool) -> None:
    """Create the folder of the output at `path`; remove what a run left that began to write it.

    Raises OutputExistsError if no run began it. A complete file is not removed, as it is replaced
    at once.
    """
    if not begun:
        check_new(path, overwrite=False)
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    for left in glob.glob(os.path.join(glob.escape(folder), f".*.partial.{glob.escape(name)}")):
        os.unlink(left)  # see `new_file`
    if os.path.isdir(path):
        shutil.rmtree(path)


def _corrupt_tiles_read(job: SlideJob) -> int:
    """Count the corrupt tiles of the slide that this process found while it read the slide.

    A slide that all workers share was read by others, so its tiles are decoded again.
    """
    if job.entry.on_bad_tile != "mask":
        return 0
    source = root_of(job.slide.source)
    tiles = [
        tile
        for level in range(len(source.levels))
        for tile in bad_tiles_of_level(source, level, decodes=not job.whole)
    ]
    return sum(tile.status == CORRUPT for tile in tiles)


@contextmanager
def _shown(job: SlideJob, step: Step, obj: Any, maps: BlankMaps) -> Iterator[None]:
    """Draw the picture of a result, and note what the report shows, before the block writes it.

    They come first, because a slide whose result is there is not done again. If the block fails,
    they are removed.
    """
    drawn = picture_path(job.path(step)) if step.draws else None
    if drawn is not None:
        replace_file(drawn, pictures.png(step.picture(obj, maps)))
    try:
        if job.report:
            samples = step == _sampled_step(job.steps)
            _note(partial(note_step, step, obj, maps, job.parameters(step), samples))
        else:  # what an earlier run noted is of a result that is replaced
            _note(partial(forget_step, step, maps.folder))
        yield
    except BaseException:
        if drawn is not None:
            os.unlink(drawn)
        if job.report:
            with suppress(OSError):  # the first error is the one to report
                forget_step(step, maps.folder)
        raise


def _sampled_step(steps: tuple[Step, ...]) -> Step | None:
    """Return the step whose tiles the report shows: the first pack, or else the first map."""
    for kinds in (("TilePack",), ("BlankMap", "Cutoff")):
        for step in steps:
            if step.makes in kinds:
                return step
    return None


def _take_thumbnail(job: SlideJob, folder: str) -> None:
    """Give the report the picture of a resized image, if it has no other one."""
    for step in job.steps:
        if step.makes == "Slide":
            note_thumbnail(folder, open_slide(job.path(step)))


def _note(call: Callable[[], None]) -> None:
    """Note something for the report, which never fails a slide."""
    try:
        call()
    except (Stopped, ClusterLostError):
        raise
    except Exception as error:
        log.warning("the report will lack something: %s", " ".join(str(error).split()))
