"""The process list: a CSV table with one row per slide, for people and spreadsheets."""

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
from dask_slides.cohort.names import PROCESS_LIST, safe_name
from dask_slides.cohort.results import CORRUPT_TILES
from dask_slides.cohort.steps import Step
from dask_slides.errors import SlideFormatError
from dask_slides.writers.store.local_folder import write_whole

STATUSES = ("todo", "running", "done", "failed")
SHARE = 20
"""The table is saved again after this many times the time that saving it took: in a run of 100,000
slides that is a twentieth of the time. Nothing is lost, as the stores say what is done."""
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
        """Whether corrupt tiles are filled in a result."""
        return any(n for count, n in self.counts.items() if count.endswith(f"_{CORRUPT_TILES}"))

    def values(self) -> dict[str, Any]:
        """Return the values by column."""
        return {
            **self.counts,
            "name": self.name,
            "path": self.path,
            "status": self.status,
            "seconds": f"{self.seconds:.3f}" if self.seconds else "",
            "error": self.error,
            "message": self.message,
        }


def csv_text(path: str) -> str:
    """Return a path as it is in the table: it may hold bytes that are not text."""
    return path.encode("utf-8", "backslashreplace").decode()


def read_rows(folder: str) -> dict[str, dict[str, str]]:
    """Return the rows of the process list in `folder`, by name; none if there is no list."""
    path = os.path.join(folder, PROCESS_LIST)
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (UnicodeDecodeError, csv.Error) as error:
        raise SlideFormatError(f"{path}: is not a table in UTF-8 ({error}); remove it") from error
    named = (row for row in rows if row.get("name") and row.get("path"))
    return {row["name"]: row for row in named if safe_name(row["name"]) == row["name"]}


def seconds_in(row: Mapping[str, str]) -> float:
    """Return the seconds that a slide took in an earlier run; 0 if they are not known."""
    try:
        return float(row.get("seconds") or 0)
    except ValueError:
        return 0.0


class ProcessList:
    """The rows of a run, and their table in the folder of the job.

    Rows of slides that only earlier runs had stay in the table.
    """

    def __init__(
        self,
        folder: str,
        rows: Iterable[Row],
        steps: Iterable[Step],
        earlier: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.path = os.path.join(folder, PROCESS_LIST)
        self.rows = {row.name: row for row in rows}
        self._earlier = [row for name, row in earlier.items() if name not in self.rows]
        counts = [f"{step.name}_{one}" for step in steps for one in (*step.counts, CORRUPT_TILES)]
        self._columns = ["name", "path", "status", *counts, "seconds", "error", "message"]
        self.tally = Counter(dict.fromkeys(STATUSES, 0))
        """How many slides have each status."""
        self.tally["todo"] = len(self.rows)
        self._due = 0.0
        for partial in glob.glob(f"{glob.escape(self.path)}.*.partial"):  # of a killed run
            os.unlink(partial)

    def set_status(self, name: str, status: str) -> None:
        """Change the status of a slide."""
        row = self.rows[name]
        self.tally[row.status] -= 1
        self.tally[status] += 1
        row.status = status

    def record(self, outcome: Outcome) -> None:
        """Record how the work on a slide ended."""
        row = self.rows[outcome.name]
        self.set_status(outcome.name, outcome.status)
        row.counts, row.seconds = outcome.counts, outcome.seconds
        row.error, row.message = outcome.error, outcome.message

    def save_if_due(self) -> None:
        """Save the table, if the last time is long enough ago."""
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Replace the table in the folder."""
        start = time.monotonic()
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, self._columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(row.values() for row in self.rows.values())
        table.writerows(self._earlier)
        write_whole(self.path, text.getvalue().encode("utf-8", "backslashreplace"))
        now = time.monotonic()
        self._due = now + max(LEAST_SECONDS, SHARE * (now - start))
