"""`run_cohort`: the same steps for many slides, whatever happens to one of them or to the run."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dask_slides.cohort.job import RUN, Outcome, SlideJob, failure
from dask_slides.cohort.names import LOG
from dask_slides.cohort.plan import Cohort, job_folder, named_cohort
from dask_slides.cohort.process_list import ProcessList, Row
from dask_slides.cohort.slide_list import SlideEntry, read_list
from dask_slides.cohort.steps import STEPS, checked_steps
from dask_slides.cohort.workers import Pool
from dask_slides.core.limits import Limits
from dask_slides.errors import OutputBusyError, SlideArgumentError
from dask_slides.readers.remote.identity import identify
from dask_slides.runtime.client import seceded
from dask_slides.runtime.scheduler import check_memory
from dask_slides.writers.store.local_folder import locked

WHOLE_BELOW = 250.0
"""Megapixels from which on a slide is shared out to all workers: about 16 regions."""

PAUSES = (1, 5, 15, 30)
"""Seconds before another try of slides that a worker is still at whose client was killed: it
stops at its next block. No other run can be at this folder."""

log = logging.getLogger("dask_slides.cohort")


@dataclass(frozen=True)
class CohortResult:
    """How a run over many slides ended."""

    job: str
    """The folder, absolute."""
    slides: int
    done: int
    """Those of runs before this one included."""
    failed: int
    todo: int
    """What was left: by a limit, or after a failure."""
    filled: int
    """Those done of which corrupt tiles were filled, with ``on_bad_tile="mask"``."""
    worked_on: int
    """Slides of this run."""
    seconds: float
    """Of this run."""


@dataclass(frozen=True)
class RunOptions:
    """How a run goes about its slides; what comes out does not depend on it."""

    keep_going: bool
    limit: int | None
    window: int | None
    whole_below: float

    def __post_init__(self) -> None:
        for name in ("limit", "window"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise SlideArgumentError(f"{name}={value!r} is not a count; give 1 or more")


class _Run:
    """One run: which slides are left, and how each of them ended."""

    def __init__(self, cohort: Cohort, manner: RunOptions, file: logging.Logger) -> None:
        self._cohort = cohort
        self._manner = manner
        self._file = file
        self._number = uuid.uuid4().hex
        self._entries = {str(entry.name): entry for entry in cohort.entries}
        rows = (Row(name, entry.path) for name, entry in self._entries.items())
        self.list = ProcessList(cohort.folder, rows, cohort.steps)
        self.worked_on = 0
        self._stopping = False
        self._busy: list[str] = []
        self._patient = True

    def go(self) -> None:
        """Find what is done, and work on what is left."""
        self._take_over("todo")
        self.list.save()
        tally = self.list.tally
        counts = f"{len(self.list.rows):,}", f"{tally['done']:,}"
        self._tell(logging.INFO, "%s slides, %s done before", *counts)
        marker = os.path.join(self._cohort.folder, RUN)
        with open(marker, "w", encoding="ascii") as stream:
            stream.write(self._number)
        pool = Pool(self._manner.window)
        try:
            left = [row.name for row in self.list.rows.values() if row.status == "todo"]
            left = left[: self._manner.limit]
            self.worked_on = len(left)
            self._work(pool, left)
            for pause in PAUSES:
                if not self._busy:
                    break
                time.sleep(pause)
                busy, self._busy = self._busy, []
                self._patient = pause != PAUSES[-1]
                self._work(pool, busy)
        finally:
            os.unlink(marker)  # what is still worked on stops at its next block
            pool.close()
            self._take_over("running")
            self.list.save()
            ends = (f"{tally[status]:,}" for status in ("done", "failed", "todo"))
            self._tell(logging.INFO, "ended: %s done, %s failed, %s left", *ends)

    def _tell(self, level: int, text: str, *values: Any) -> None:
        """Log to the file of the job, and to the logger that all runs of the process share."""
        self._file.log(level, text, *values)
        log.log(level, text, *values)

    def _work(self, pool: Pool, names: Sequence[str]) -> None:
        for outcome in pool.outcomes(self._jobs(names)):
            self._ended(outcome)

    def _take_over(self, status: str) -> None:
        """Say of the slides of `status` what was made of them, whoever it was."""
        for row in self.list.rows.values():
            if row.status == status:
                outcome = self._cohort.before(self._entries[row.name]) or Outcome(row.name, "todo")
                if outcome.status == "done":  # by a run before this one: no news
                    self.list.take(outcome)
                else:
                    self._ended(outcome)

    def _jobs(self, names: Sequence[str]) -> Iterator[SlideJob]:
        """Yield the slides to work on, each opened when it is its turn."""
        for name in names:
            if self._stopping:
                return
            try:
                job = self._opened(self._entries[name])
            except Exception as error:  # one bad slide never stops the rest
                self._ended(failure(name, error))
                continue
            self.list.mark(name, "running")
            yield job

    def _opened(self, entry: SlideEntry) -> SlideJob:
        cohort = self._cohort
        identity = identify(entry.path)  # first: a change after this is noticed by the next run
        slide = entry.open()
        check_memory(max(one.estimate(slide).task_bytes for one in cohort.steps), slide.name)
        whole = slide.shape[0] * slide.shape[1] < self._manner.whole_below * 1e6
        return SlideJob(
            cohort.folder, entry, slide, identity, cohort.steps,
            self._number, cohort.overwrite, whole,
        )  # fmt: skip

    def _ended(self, outcome: Outcome) -> None:
        """Record how a slide ended, in the list and in the log."""
        if outcome.error == OutputBusyError.__name__ and self._patient:
            self._busy.append(outcome.name)
            why = "a worker of the run before is still at it; later again"
            self._tell(logging.INFO, "%s: %s", outcome.name, why)
            outcome = Outcome(outcome.name, "todo")
        self.list.take(outcome)
        self.list.save_if_due()
        tally = self.list.tally
        count = f"{tally['done'] + tally['failed']:,} of {len(self.list.rows):,}"
        if outcome.status == "done":
            self._tell(logging.INFO, "%s: done, %.1f s (%s)", outcome.name, outcome.seconds, count)
        elif outcome.status == "failed":
            self._stopping |= not self._manner.keep_going
            why = f"{outcome.error}: {outcome.message}"
            self._tell(logging.ERROR, "%s: failed, %s (%s)", outcome.name, why, count)
            if outcome.trace:
                self._file.error("%s", outcome.trace.rstrip())


@contextmanager
def _log_file(folder: str) -> Iterator[logging.Logger]:
    """Yield a logger of this run alone, which appends to the file of the job."""
    handler = logging.FileHandler(
        os.path.join(folder, LOG), encoding="utf-8", errors="backslashreplace"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    file = logging.Logger(log.name, logging.INFO)  # `getLogger` would share it among runs
    file.addHandler(handler)
    try:
        yield file
    finally:
        handler.close()


def run_cohort(
    slides: Any,
    *,
    job: Any,
    steps: Sequence[str] | Mapping[str, Mapping[str, Any]] = tuple(STEPS),
    mpp: float | None = None,
    on_bad_tile: str = "raise",
    limits: Limits = Limits(),
    overwrite: bool = False,
    keep_going: bool = True,
    limit: int | None = None,
    window: int | None = None,
    whole_below: float = WHOLE_BELOW,
) -> CohortResult:
    """Do the same steps for many slides, each result a store in the folder of the job.

    Goes on where a call before it ended or was killed: what is done of the same slide with
    the same arguments and version is not done again. A slide that fails is recorded with its
    error, and tried again by the next call. Works on the active scheduler: whole slides one
    to a thread, those of `whole_below` megapixels and more region by region on all of them,
    one after another.

    Parameters
    ----------
    slides : str, path or sequence of them
        Files and stores, folders, patterns (``slides/*.svs``), or a ``.csv`` with the columns
        path, mpp, name.
    job : str or path
        The folder to fill; on a cluster one that every worker sees. It gets
        ``process_list.csv``, ``cohort.log``, and for each slide ``NAME/NAME.mask.ome.zarr``,
        ``.resize.ome.zarr``, ``.cutoff.ome.zarr``, ``.tiles.zarr``.
    steps : sequence of str, or mapping of str to arguments
        Of mask, resize, cutoff, pack; arguments are those of `blank_map`, `resize`,
        `cutoff_resize` and `pack_tiles`, as in ``{"resize": {"downsample": 10}}``, and
        ``ome_zarr``.
    mpp : float, optional
        Micrometres per pixel of the slides of which the table says none, instead of what
        their files say.
    on_bad_tile : {"raise", "mask"}
        Whether a slide with a tile that cannot be decoded fails, or the tile is filled, named in
        the stores and counted in the process list, as in `open_slide`. A run with "mask" after
        one with "raise" does the slides that failed.
    limits : Limits
        What each file may declare; more, and the slide fails.
    overwrite : bool
        Do again what was done with other arguments, another version, or of a slide that has
        changed.
    keep_going : bool
        Go on after a slide that fails; else end with those that are in flight.
    limit : int, optional
        Slides to work on at the most; what is done already does not count.
    window : int, optional
        Slides in flight at the most; by default two for each thread of the scheduler.
    whole_below : float
        Megapixels. Larger is more efficient with many slides, smaller is sooner done with few.

    Returns
    -------
    CohortResult
        How many slides are done, failed and left.

    Raises
    ------
    OutputBusyError
        Another run is at this folder.
    OutputExistsError
        The folder holds something else.
    ResumeError
        The job was begun with other arguments; the message says which.
    SlideNotFoundError, SlideFormatError, SlideArgumentError
        The list of slides or an argument is wrong.
    """
    start = time.monotonic()
    folder = job_folder(job)
    chosen = checked_steps(steps)
    manner = RunOptions(keep_going, limit, window, whole_below)
    entries = read_list(slides, mpp, on_bad_tile, limits)
    with locked(folder, folder), _log_file(folder) as file, seceded():
        run = _Run(named_cohort(folder, entries, chosen, overwrite), manner, file)
        run.go()
    tally = run.list.tally
    return CohortResult(
        folder, len(entries), tally["done"], tally["failed"], tally["todo"],
        sum(row.is_filled for row in run.list.rows.values()), run.worked_on,
        round(time.monotonic() - start, 3),
    )  # fmt: skip
