"""The process list: a CSV table with one row per slide."""

from __future__ import annotations

import csv
import glob
import io
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dask_slides.cohort.file_steps import Function
from dask_slides.cohort.job import Outcome
from dask_slides.cohort.names import PROCESS_LIST, safe_name
from dask_slides.cohort.results import CORRUPT_TILES
from dask_slides.cohort.step import Step
from dask_slides.cohort.tables import OWN, user_columns
from dask_slides.errors import SlideArgumentError, SlideFormatError
from dask_slides.writers.store.local_folder import write_whole

STATUSES = ("todo", "running", "done", "failed")
SAVE_SECONDS = 10.0
"""Time between two saves of the table. A killed run loses nothing, as the stores record which steps
are done."""


@dataclass(slots=True)
class Row:
    """The row of one slide."""

    name: str
    path: str
    mpp: float | None = None
    """Micrometres per pixel that the user gave."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Columns of the user."""
    status: str = "todo"
    counts: Mapping[str, Any] = field(default_factory=dict)
    is_filled: bool = False
    """Whether a result contains corrupt tiles that were filled."""
    seconds: float = 0.0
    error: str = ""
    message: str = ""

    def values(self) -> dict[str, Any]:
        """Return the values by column."""
        return {
            **self.columns,
            **self.counts,
            "name": self.name,
            "path": self.path,
            "mpp": self.mpp,
            "status": self.status,
            "seconds": f"{self.seconds:.3f}" if self.seconds else "",
            "error": self.error,
            "message": self.message,
        }


def csv_text(path: str) -> str:
    """Return a path as text for the table, with bytes that are not UTF-8 escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def read_rows(folder: str) -> dict[str, dict[str, str]]:
    """Return the rows of the process list in `folder` by name; empty if there is no list."""
    path = os.path.join(folder, PROCESS_LIST)
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (UnicodeDecodeError, csv.Error) as error:
        raise SlideFormatError(
            f"{path}: is not a CSV table in UTF-8 ({error}); remove it"
        ) from error
    named = (row for row in rows if row.get("name") and row.get("path"))
    return {row["name"]: row for row in named if safe_name(row["name"]) == row["name"]}


def seconds_in(row: Mapping[str, str]) -> float:
    """Return the seconds that a slide took in an earlier run; 0 if unknown."""
    try:
        return float(row.get("seconds") or 0)
    except ValueError:
        return 0.0


def _known_counts(step: Step) -> list[str]:
    return [f"{step.name}_{one}" for one in (*step.counts, CORRUPT_TILES)]


def check_columns(rows: Iterable[Mapping[str, Any] | None], steps: Iterable[Step]) -> None:
    """Raise SlideArgumentError if a column of the user has the name of a count of a step."""
    taken = {name for step in steps for name in _known_counts(step)}
    functions = tuple(f"{step.name}_" for step in steps if isinstance(step, Function))
    for name in dict.fromkeys(name for row in rows for name in row or ()):
        if name in taken or name.startswith(functions):
            raise SlideArgumentError(
                f"the column {name!r} of the table has the name of a count of a step; rename it"
            )


class ProcessList:
    """The rows of a run, and their table in the job folder.

    The table also contains the slides of earlier runs that are not part of this one. Columns of
    the user come before the status.
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
        self._steps = tuple(steps)
        before = (user_columns(list(row)) for row in earlier.values())
        given = (row.columns for row in self.rows.values())
        self._user = list(dict.fromkeys(name for names in (*given, *before) for name in names))
        self.tally = Counter(dict.fromkeys(STATUSES, 0))
        """Number of slides by status."""
        self.tally["todo"] = len(self.rows)
        self._due = 0.0
        for partial in glob.glob(f"{glob.escape(self.path)}.*.partial"):  # left by a killed run
            os.unlink(partial)

    def _counts(self) -> list[str]:
        """Return the columns of counts, by step."""
        found: list[str] = []
        for step in self._steps:
            is_function = isinstance(step, Function)
            found += self._returned(step.name) if is_function else _known_counts(step)
        return found

    def _returned(self, function: str) -> Iterator[str]:
        """Yield the columns of the values that a function returned for any slide."""
        for name in dict.fromkeys(name for row in self.rows.values() for name in row.counts):
            if name.startswith(f"{function}_") and name != f"{function}_{CORRUPT_TILES}":
                yield name

    def set_status(self, name: str, status: str) -> None:
        """Change the status of a slide."""
        row = self.rows[name]
        self.tally[row.status] -= 1
        self.tally[status] += 1
        row.status = status

    def record(self, outcome: Outcome) -> None:
        """Record the outcome of a slide."""
        row = self.rows[outcome.name]
        self.set_status(outcome.name, outcome.status)
        row.counts, row.seconds = outcome.counts, outcome.seconds
        row.is_filled = outcome.filled
        row.error, row.message = outcome.error, outcome.message

    def save_if_due(self) -> None:
        """Save the table if the last save is long enough ago."""
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Replace the table in the job folder."""
        text = io.StringIO(newline="")
        columns = ["name", "path", "mpp", *self._user, OWN[0], *self._counts(), *OWN[1:]]
        table = csv.DictWriter(text, list(dict.fromkeys(columns)), extrasaction="ignore")
        table.writeheader()
        table.writerows(row.values() for row in self.rows.values())
        table.writerows(self._earlier)
        write_whole(self.path, text.getvalue().encode("utf-8", "backslashreplace"))
        self._due = time.monotonic() + SAVE_SECONDS
