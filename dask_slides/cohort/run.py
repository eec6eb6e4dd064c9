"""Run the same steps for many slides, continue interrupted runs, and record failures."""

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
from dask_slides.errors import SlideArgumentError
from dask_slides.readers.remote.identity import identify
from dask_slides.runtime.client import seceded
from dask_slides.runtime.scheduler import check_memory
from dask_slides.writers.store.local_folder import locked

WHOLE_BELOW = 250.0
"""Size in megapixels from which all workers share a slide; it then has about 16 regions."""

log = logging.getLogger("dask_slides.cohort")


@dataclass(frozen=True)
class CohortResult:
    """The result of a run over many slides."""

    job: str
    """Absolute path of the job folder."""
    slides: int
    done: int
    """Slides that are done, including those of earlier runs."""
    failed: int
    todo: int
    """Slides that are left, because of a limit or after a failure."""
    filled: int
    """Slides done with corrupt tiles that were filled, with ``on_bad_tile="mask"``."""
    worked_on: int
    """Slides that this run processed."""
    seconds: float
    """Duration of this run."""


class _Run:
    """One run over the slides of a cohort."""

    def __init__(
        self, cohort: Cohort, keep_going: bool, whole_below: float, job_log: logging.Logger
    ) -> None:
        self._cohort = cohort
        self._keep_going = keep_going
        self._whole_below = whole_below
        self._job_log = job_log
        self._identifier = uuid.uuid4().hex
        self._entries = {str(entry.name): entry for entry in cohort.entries}
        rows = (Row(name, entry.path) for name, entry in self._entries.items())
        self.list = ProcessList(cohort.folder, rows, cohort.steps, cohort.earlier)
        self.worked_on = 0
        self._stopping = False

    def run(self, limit: int | None) -> None:
        """Find the slides that are done, and process at most `limit` of the others."""
        pool = Pool()
        self._record_finished("todo")
        self.list.save()
        tally = self.list.tally
        counts = f"{len(self.list.rows):,}", f"{tally['done']:,}"
        self._log(logging.INFO, "%s slides, %s already done", *counts)
        marker = os.path.join(self._cohort.folder, RUN)
        with open(marker, "w", encoding="ascii") as stream:
            stream.write(self._identifier)
        try:
            remaining = [row.name for row in self.list.rows.values() if row.status == "todo"]
            remaining = remaining[:limit]
            self.worked_on = len(remaining)
            for outcome in pool.outcomes(self._jobs(remaining)):
                self._record(outcome)
        finally:
            os.unlink(marker)  # running work stops at its next block
            pool.close()
            self._record_finished("running")
            self.list.save()
            ends = (f"{tally[status]:,}" for status in ("done", "failed", "todo"))
            self._log(logging.INFO, "ended: %s done, %s failed, %s left", *ends)

    def _log(self, level: int, text: str, *values: Any) -> None:
        """Log to the file of the job and to the logger that all runs of this process share."""
        self._job_log.log(level, text, *values)
        log.log(level, text, *values)

    def _record_finished(self, status: str) -> None:
        """Update slides with `status`: done, failed if the file has changed, or left to do."""
        for row in self.list.rows.values():
            if row.status == status:
                finished = self._cohort.finished(self._entries[row.name])
                outcome = finished or Outcome(row.name, "todo")
                if outcome.status == "done":  # not logged, as an earlier run may have done it
                    self.list.record(outcome)
                else:
                    self._record(outcome)

    def _jobs(self, names: Sequence[str]) -> Iterator[SlideJob]:
        """Yield the slides to process; open each one just before its turn."""
        for name in names:
            if self._stopping:
                return
            try:
                job = self._open(self._entries[name])
            except Exception as error:  # one bad slide must not stop the others
                self._record(failure(name, error))
                continue
            self.list.set_status(name, "running")
            yield job

    def _open(self, entry: SlideEntry) -> SlideJob:
        cohort = self._cohort
        identity = identify(entry.path)  # before opening, so that the next run notices a change
        slide = entry.open()
        cohort.check_scale(slide)
        check_memory(max(one.estimate(slide).task_bytes for one in cohort.steps), slide.name)
        whole = slide.shape[0] * slide.shape[1] < self._whole_below * 1e6
        return SlideJob(
            cohort.folder, entry, slide, identity, cohort.steps,
            self._identifier, cohort.overwrite, whole,
        )  # fmt: skip

    def _record(self, outcome: Outcome) -> None:
        """Record an outcome in the process list and in the log."""
        self.list.record(outcome)
        self.list.save_if_due()
        tally = self.list.tally
        count = f"{tally['done'] + tally['failed']:,} of {len(self.list.rows):,}"
        if outcome.status == "done":
            self._log(logging.INFO, "%s: done, %.1f s (%s)", outcome.name, outcome.seconds, count)
        elif outcome.status == "failed":
            self._stopping |= not self._keep_going
            why = f"{outcome.error}: {outcome.message}"
            self._log(logging.ERROR, "%s: failed, %s (%s)", outcome.name, why, count)
            if outcome.traceback:
                self._job_log.error("%s", outcome.traceback.rstrip())


@contextmanager
def _log_file(folder: str) -> Iterator[logging.Logger]:
    """Yield a logger of this run only, which appends to the log file of the job."""
    handler = logging.FileHandler(
        os.path.join(folder, LOG), encoding="utf-8", errors="backslashreplace"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    job_log = logging.Logger(log.name, logging.INFO)  # `getLogger` returns a shared one
    job_log.addHandler(handler)
    try:
        yield job_log
    finally:
        handler.close()


def run_cohort(
    slides: Any,
    job: Any,
    steps: Sequence[str] | Mapping[str, Mapping[str, Any]] = tuple(STEPS),
    *,
    mpp: float | None = None,
    on_bad_tile: str = "raise",
    limits: Limits = Limits(),
    overwrite: bool = False,
    keep_going: bool = True,
    limit: int | None = None,
    whole_below: float = WHOLE_BELOW,
    enlarge: bool = True,
) -> CohortResult:
    """Run the same steps for many slides and write each result to the job folder.

    A call continues where an earlier one ended or was killed: a step is done if its store records
    the same slide (file name, size and time of change), arguments and version. A slide that fails
    is listed with its error, and the next call tries it again. The work runs on the active
    scheduler: one slide per thread, or one slide at a time on all threads for slides of
    `whole_below` megapixels or more.

    Parameters
    ----------
    slides : str, path or sequence of them
        Files and stores, folders, patterns (``slides/*.svs``), or a ``.csv`` with the columns
        path, mpp, name.
    job : str or path
        The folder to write to; on a cluster, every worker must be able to access it. It gets
        ``process_list.csv``, ``cohort.log``, and for each slide ``NAME/NAME.mask.ome.zarr``,
        ``.resize.ome.zarr``, ``.cutoff.ome.zarr``, ``.tiles.zarr``. Beside them ``.mask.png``,
        ``.cutoff.png`` and ``.tiles.png`` show the tissue, or the packed tiles, on a picture of the
        slide of at most 1,024 px.
    steps : sequence of str, or mapping of str to arguments
        Any of mask, resize, cutoff, pack, with the arguments of `blank_map`, `resize`,
        `cutoff_resize` and `pack_tiles`, as in ``{"resize": {"downsample": 10}}``, and
        ``ome_zarr``. resize and cutoff also accept ``magnification``, and cutoff the
        ``min_tissue`` of `blank_map`.
    mpp : float, optional
        Micrometres per pixel of slides without an mpp in the table; replaces the values of their
        files.
    on_bad_tile : {"raise", "mask"}
        Whether a slide fails if a tile cannot be decoded ("raise"), or the tile is filled, named in
        the stores and counted in the process list ("mask"), as in `open_slide`. Run with "mask"
        after "raise" to process the slides that failed.
    limits : Limits
        Limits for the values that a file declares; a slide that exceeds them fails.
    overwrite : bool
        Replace results that have other arguments or another version, or whose slide has changed.
    keep_going : bool
        Continue after a slide fails; otherwise end once the slides in flight are done.
    limit : int, optional
        Process at most this many slides; slides that are already done do not count.
    whole_below : float
        Size in megapixels from which all threads share a slide. A larger value is more efficient
        for many slides, a smaller one is faster for few.
    enlarge : bool
        Whether a scale that is finer than a slide enlarges it; otherwise the slide fails.

    Returns
    -------
    CohortResult
        The numbers of slides that are done, failed and left.

    Raises
    ------
    OutputBusyError
        Another run uses this folder.
    OutputExistsError
        The folder contains something other than a job.
    ResumeError
        The folder has results with other arguments; the message says which.
    SlideNotFoundError, SlideFormatError, SlideArgumentError
        The list of slides or an argument is wrong, or the scheduler is Dask's pool of processes.
    """
    start = time.monotonic()
    folder = job_folder(job)
    chosen = checked_steps(steps)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise SlideArgumentError(f"limit={limit!r} is not valid; give a whole number of 1 or more")
    entries = read_list(slides, mpp, on_bad_tile, limits)
    with locked(folder, folder), _log_file(folder) as job_log, seceded():
        cohort = named_cohort(folder, entries, chosen, overwrite, enlarge)
        run = _Run(cohort, keep_going, whole_below, job_log)
        run.run(limit)
    tally = run.list.tally
    return CohortResult(
        folder, len(entries), tally["done"], tally["failed"], tally["todo"],
        sum(row.is_filled for row in run.list.rows.values()), run.worked_on,
        round(time.monotonic() - start, 3),
    )  # fmt: skip
