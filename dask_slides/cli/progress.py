"""Show progress as bars on a terminal or as lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class ProgressLines:
    """Print a line after each tenth of a computation: tasks, rate and seconds left."""

    def __init__(self, megapixels: float) -> None:
        self._megapixels = megapixels
        self._label = ""
        self._start = 0.0
        self._tenth = 0

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, label: str, done: int, total: int) -> None:
        """Report that `done` of `total` blocks are done."""
        now = time.monotonic()
        if label != self._label:
            self._label, self._start, self._tenth = label, now, 0
        if done == 0 or (done * 10 // total == self._tenth and done < total):
            return
        self._tenth = done * 10 // total
        seconds = max(now - self._start, 1e-3)
        rate = self._megapixels * done / total / seconds
        left = seconds * (total - done) / done
        print(
            f"{label}: {done}/{total} tasks, {rate:,.0f} megapixels/s, {left:,.0f} s left",
            file=sys.stderr,
            flush=True,
        )


class ProgressBars:
    """Show a bar for each computation, with the rate in pixels of the slide and the time left."""

    def __init__(self, megapixels: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._megapixels = megapixels
        self._bars: Any = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} tasks"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._ids: dict[str, Any] = {}

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, label: str, done: int, total: int) -> None:
        """Report that `done` of `total` blocks are done."""
        if label not in self._ids:
            self._ids[label] = self._bars.add_task(label, total=total, rate="")
        number = self._ids[label]
        seconds = max(self._bars.tasks[number].elapsed or 0.0, 1e-3)
        rate = self._megapixels * done / total / seconds
        self._bars.update(number, completed=done, total=total, rate=f"{rate:,.0f} megapixels/s")


class NoProgress:
    """Show no progress."""

    def __enter__(self) -> NoProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, label: str, done: int, total: int) -> None:
        """Do nothing."""


def progress_for(megapixels: float, quiet: bool) -> ProgressLines | ProgressBars | NoProgress:
    """Return bars on a terminal, lines in a log, and nothing if `quiet`."""
    if quiet:
        return NoProgress()
    return ProgressBars(megapixels) if sys.stderr.isatty() else ProgressLines(megapixels)
