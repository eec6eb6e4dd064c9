"""Run the same steps for many slides, continue interrupted runs, and record failures."""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dask_slides.cohort.chosen_steps import Steps, checked_steps
from dask_slides.cohort.job import RUN, Outcome, SlideJob, failure
from dask_slides.cohort.names import EXPORTS, LOG
from dask_slides.cohort.plan import Cohort, job_folder, line_about, named_cohort
from dask_slides.cohort.process_list import ProcessList, Row, check_columns
from dask_slides.cohort.report import write_report
from dask_slides.cohort.slide_list import SlideEntry, read_list
from dask_slides.cohort.steps import USUAL
from dask_slides.cohort.tables import user_columns
from dask_slides.cohort.workers import Pool
from dask_slides.core.limits import Limits
from dask_slides.errors import ClusterLostError, SlideArgumentError
from dask_slides.readers.remote.identity import identify
from dask_slides.runtime.client import seceded
from dask_slides.runtime.scheduler import check_memory, reported
from dask_slides.runtime.write_permission import check_writable, permission_errors
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
    left_out: tuple[str, ...] = ()
    """What was not processed at all, one line each with the reason: files of a folder that are not
    slides, rows of a table without a path, and slides that cannot be opened, or that a step cannot
    use because their mpp is not known. Such slides also count as failed."""
    report: str = ""
    """Path of the report; empty if it was not wanted or could not be written."""


class _Run:
    """One run over the slides of a cohort."""

    def __init__(
        self, cohort: Cohort, keep_going: bool, whole_below: float, report: bool,
        job_log: logging.Logger,
    ) -> None:  # fmt: skip
        self._cohort = cohort
        self._keep_going = keep_going
        self._whole_below = whole_below
        self._report = report
        self._job_log = job_log
        self._identifier = uuid.uuid4().hex
        self._entries = {str(entry.name): entry for entry in cohort.entries}
        rows = (self._row(entry) for entry in cohort.entries)
        self.list = ProcessList(cohort.folder, rows, cohort.steps, cohort.earlier)
        self.worked_on = 0
        self.left_out: list[str] = []
        self._stopping = False

    def _row(self, entry: SlideEntry) -> Row:
        """Return the row of a slide; without a table, with the columns of an earlier run."""
        before = self._cohort.earlier.get(str(entry.name), {})
        columns = entry.columns
        if columns is None:
            columns = {name: before[name] for name in user_columns(list(before))}
        return Row(str(entry.name), entry.path, entry.mpp, columns)

    def leave_out(self, lines: Sequence[str]) -> None:
        """Log and remember what is not processed, and why."""
        for line in lines:
            self._log(logging.WARNING, "left out: %s", line)
        self.left_out += lines

    def run(self, limit: int | None) -> None:
        """Find the slides that are done, and process at most `limit` of the others."""
        pool = Pool()
        self._record_finished("todo")
        self.list.save()
        tally = self.list.tally
        slides = "slide" if len(self.list.rows) == 1 else "slides"
        counts = f"{len(self.list.rows):,} {slides}", f"{tally['done']:,}"
        self._log(logging.INFO, "%s, %s already done", *counts)
        marker = os.path.join(self._cohort.folder, RUN)
        if os.path.exists(marker):  # the run before was killed
            _remove_partial_exports(os.path.join(self._cohort.folder, EXPORTS))
        with open(marker, "w", encoding="ascii") as stream:
            stream.write(self._identifier)
        try:
            remaining = [row.name for row in self.list.rows.values() if row.status == "todo"]
            remaining = remaining[:limit]
            self.worked_on = len(remaining)
            progress = reported("slides")
            progress(0, self.worked_on)
            for number, outcome in enumerate(pool.outcomes(self._jobs(remaining)), 1):
                self._record(outcome)
                progress(number, self.worked_on)
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
                    self._cohort.renew_metadata(self._entries[row.name])
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
            except ClusterLostError:  # the slide is not the cause
                raise
            except Exception as error:  # one bad slide must not stop the others
                outcome = failure(name, error)
                self._record(outcome)
                self.left_out.append(line_about(self._entries[name].path, outcome.message))
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
            self._identifier, cohort.overwrite, whole, self._report,
        )  # fmt: skip

    def _record(self, outcome: Outcome) -> None:
        """Record an outcome in the process list and in the log."""
        self.list.record(outcome)
        self.list.save_if_due()
        tally = self.list.tally
        count = f"{tally['done'] + tally['failed']:,} of {len(self.list.rows):,}"
        if outcome.status == "done":
            self._cohort.renew_metadata(self._entries[outcome.name])
            self._log(logging.INFO, "%s: done, %.1f s (%s)", outcome.name, outcome.seconds, count)
        elif outcome.status == "failed":
            self._stopping |= not self._keep_going
            why = f"{outcome.error}: {outcome.message}"
            self._log(logging.ERROR, "%s: failed, %s (%s)", outcome.name, why, count)
            if outcome.traceback:
                self._job_log.error("%s", outcome.traceback.rstrip())


def _remove_partial_exports(folder: str) -> None:
    """Remove hidden files and folders of exports that a killed run did not complete."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if name.startswith(".") and ".partial" in name:
                path = os.path.join(parent, name)
                shutil.rmtree(path) if name in folders else os.unlink(path)
        folders[:] = [name for name in folders if not name.startswith(".")]


def _make_folder(folder: str) -> None:
    """Create the folder of a job; raise OutputDeniedError if it cannot be written to."""
    with permission_errors(folder):
        os.makedirs(folder, exist_ok=True)
    check_writable(os.path.join(folder, LOG))


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


def _write_report(folder: str) -> str:
    """Return the path of the report; a report that fails does not make the run fail."""
    try:
        return write_report(folder)
    except Exception as error:
        log.warning("the report could not be written: %s", " ".join(str(error).split()))
        return ""


def run_cohort(
    slides: Any,
    job: Any,
    steps: Steps = USUAL,
    *,
    mpp: float | None = None,
    on_bad_tile: str = "raise",
    limits: Limits = Limits(),
    overwrite: bool = False,
    keep_going: bool = True,
    limit: int | None = None,
    whole_below: float = WHOLE_BELOW,
    enlarge: bool = True,
    report: bool = True,
) -> CohortResult:
    """Run the same steps for many slides and write each result to the job folder.

    A call continues where an earlier one ended or was killed: a step is done if its store, or the
    record beside its file, has the same slide (file name, size and time of change), arguments and
    version. A slide that fails is listed with its error, and the next call tries it again. The work
    runs on the active scheduler: one slide per thread, or one slide at a time on all threads for
    slides of `whole_below` megapixels or more.

    Parameters
    ----------
    slides : str, path, DataFrame, or sequence of them
        Files and stores, folders, patterns (``slides/*.svs``), or a table: a ``.csv`` or
        ``.parquet`` file or a DataFrame of pandas with the column path and, if needed, mpp and
        name. All may lie in a bucket (``s3://bucket/slides/*.svs``). The table's other columns,
        such as label, split or group, are kept: in the process list, and as
        ``attributes["metadata"]`` of packs and crops. They may change between calls; the pixels of
        finished packs are not written again.
    job : str or path
        The folder to write to; on a cluster, every worker must be able to access it. It gets
        ``process_list.csv``, ``report.html``, ``cohort.log``, and for each slide
        ``NAME/NAME.mask.ome.zarr``, ``.resize.ome.zarr``, ``.cutoff.ome.zarr``, ``.tiles.zarr``,
        ``.crops.zarr``. Beside them ``.mask.png``, ``.cutoff.png``, ``.tiles.png`` and
        ``.crops.png`` show the tissue, or the tiles, on a picture of the slide of at most 1,024 px.
        Exports lie in ``exports``.
    steps : sequence of str, mappings and functions, or one of them
        Any of mask, resize, cutoff, pack and crops, with the arguments of `blank_map`, `resize`,
        `cutoff_resize`, `pack_tiles` and `random_crops`, as in ``{"resize": {"downsample": 10}}``
        or ``["mask", {"crops": {"n": 100, "size": 256}}]``. All accept the ``shards`` of
        `write`; mask, resize and cutoff also ``ome_zarr``, and ``format="ome.tif"`` for a file
        instead of a store; resize and cutoff ``magnification``, and cutoff the ``min_tissue`` of
        `blank_map`.

        An export: ``{"export": {"of": "pack", "to": "csv"}}``, with the options of the format, or a
        list of such arguments. It exports what the step `of` makes with its arguments in this run.
        Without that step in the run, ``"of": {"pack": {"tile_size": 512}}`` gives arguments, and no
        store is written. Options that are a blank map or a pack take steps too: ``{"of": "resize",
        "to": "spatialdata", "blank_map": "mask", "pack": "pack"}``. The files of all slides lie in
        one folder, ``exports/pack_csv/NAME.csv``; ``"file"`` names them otherwise, as in
        ``"a/{name}.csv"``. A format that is itself a folder for many slides has one for all its
        exports, such as ``exports/trident``.

        A function of the user, or ``{"NAME": function}``: it is called as ``function(slide)``, or
        ``function(slide, folder)`` if it takes a second argument, with the `Slide` and the absolute
        path of the folder of the slide in the job, where stores of the other steps already are. It
        returns a dict of numbers and text, which become the columns ``NAME_KEY`` of the process
        list, the path of a file that it wrote, or None. An error fails the slide. It is done once
        for each slide and name, and repeated if the slide or the version of dask_slides differs, or
        the file is gone; a change of its code is not noticed, so give it another name or delete
        ``NAME/.FUNCTION.json``. It may be repeated for a slide if the run is killed. It runs where
        the slide is processed, in a thread, and on a cluster in a worker, which gets functions of
        notebooks and scripts by value and imports those of modules. A slide that all workers share
        is given to it in this process.
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
    report : bool
        Whether to write the page ``report.html`` at the end, as `write_report` does. Without it,
        nothing is noted for a report either.

    Returns
    -------
    CohortResult
        The numbers of slides that are done, failed and left, and what was left out.

    Raises
    ------
    OutputBusyError
        Another run uses this folder.
    OutputExistsError
        The folder contains something other than a job.
    OutputDeniedError
        The folder cannot be made or written to.
    ResumeError
        The folder has results with other arguments; the message says which.
    SlideNotFoundError, SlideFormatError, SlideArgumentError
        The list of slides or an argument is wrong, or the scheduler is Dask's pool of processes.
    ImportError
        The table is Parquet, and pyarrow is not installed.

    Examples
    --------
    >>> import dask_slides as ds
    >>> path = ds.sample_slide("a.tif", shape=(2048, 2048))
    >>> result = ds.run_cohort("*.tif", job="job", steps={"pack": {"tile_size": 64}})
    >>> result.done, result.failed
    (1, 0)
    """
    start = time.monotonic()
    folder = job_folder(job)
    chosen = checked_steps(steps)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise SlideArgumentError(f"limit={limit!r} is not valid; give a whole number of 1 or more")
    listed = read_list(slides, mpp, on_bad_tile, limits)
    check_columns([entry.columns for entry in listed.entries], chosen)
    _make_folder(folder)
    with locked(folder, folder), _log_file(folder) as job_log, seceded():
        cohort = named_cohort(folder, listed.entries, chosen, overwrite, enlarge)
        run = _Run(cohort, keep_going, whole_below, report, job_log)
        run.leave_out(listed.left_out)
        run.run(limit)
        page = _write_report(folder) if report else ""
    tally = run.list.tally
    return CohortResult(
        folder, len(listed.entries), tally["done"], tally["failed"], tally["todo"],
        sum(row.is_filled for row in run.list.rows.values()), run.worked_on,
        round(time.monotonic() - start, 3), tuple(run.left_out), page,
    )  # fmt: skip
