"""The process list: a table with a row a slide, always whole, for people and spreadsheets."""

from __future__ import annotations

import csv
import glob
import io
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dask_slides.cohort.job import Outcome
from dask_slides.cohort.names import PROCESS_LIST
from dask_slides.cohort.records import CORRUPT_TILES
from dask_slides.cohort.steps import Step
from dask_slides.writers.store.local_folder import write_whole

STATUSES = ("todo", "running", "done", "failed")
SHARE = 20
"""A table is written again after so many times what writing it took, so that of a run of
100,000 slides no more than a twentieth goes there; the records of slides are the truth."""
LEAST_SECONDS = 1.0


@dataclass(slots=True)
class Row:
    """One slide."""

    name: str
    path: str
    status: str = "todo"
    counts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    message: str = ""

    @property
    def is_filled(self) -> bool:
        """Whether a result shows the fill for corrupt tiles."""
        return any(n for count, n in self.counts.items() if count.endswith(f"_{CORRUPT_TILES}"))


class ProcessList:
    """The rows of a run, and their table in the folder of the job."""

    def __init__(self, folder: str, rows: Iterable[Row], steps: Iterable[Step]) -> None:
        self.path = os.path.join(folder, PROCESS_LIST)
        self.rows = {row.name: row for row in rows}
        self._counts = [
            f"{step.name}_{count}" for step in steps for count in (*step.counts, CORRUPT_TILES)
        ]
        self.tally = Counter(dict.fromkeys(STATUSES, 0))
        """How many slides have each status."""
        self.tally["todo"] = len(self.rows)
        self._due = 0.0
        for left in glob.glob(f"{glob.escape(self.path)}.*.partial"):  # of a run that was killed
            os.unlink(left)

    def mark(self, name: str, status: str) -> None:
        """Say where a slide is."""
        row = self.rows[name]
        self.tally[row.status] -= 1
        self.tally[status] += 1
        row.status = status

    def take(self, outcome: Outcome) -> None:
        """Take over how the work on a slide ended."""
        row = self.rows[outcome.name]
        self.mark(outcome.name, outcome.status)
        row.counts, row.seconds = outcome.counts, outcome.seconds
        row.error, row.message = outcome.error, outcome.message

    def save_if_due(self) -> None:
        """Write the table again, if the last time is long enough ago."""
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Replace the table by one of this moment."""
        start = time.monotonic()
        text = io.StringIO(newline="")
        table = csv.writer(text)
        columns = ["name", "path", "status", *self._counts, "seconds", "error", "message"]
        table.writerow(columns)
        for row in self.rows.values():
            counts = (row.counts.get(name, "") for name in self._counts)
            seconds = f"{row.seconds:.3f}" if row.seconds else ""
            table.writerow(
                [row.name, row.path, row.status, *counts, seconds, row.error, row.message]
            )
        # names of files may hold bytes that are no text
        write_whole(self.path, text.getvalue().encode("utf-8", "backslashreplace"))
        now = time.monotonic()
        self._due = now + max(LEAST_SECONDS, SHARE * (now - start))
