"""Show progress on stderr: a line that is updated on a terminal, or new lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dask_slides.runtime.scheduler import report_progress_to


@contextmanager
def progress_shown(megapixels: float) -> Iterator[None]:
    """Show the progress of computations on a slide of `megapixels` inside the block."""
    line = ProgressLine(megapixels)
    with report_progress_to(line):
        try:
            yield
        finally:
            line.end()


class ProgressLine:
    """Print the finished tasks, the rate and the seconds left of a computation."""

    def __init__(self, megapixels: float) -> None:
        self._megapixels = megapixels
        self._terminal = sys.stderr.isatty()
        self._steps = 1000 if self._terminal else 10
        self._label = ""
        self._start = 0.0
        self._step = 0

    def __call__(self, label: str, done: int, total: int) -> None:
        """Report that `done` of `total` blocks are done."""
        if label != self._label:
            self.end()
            self._label, self._start, self._step = label, time.monotonic(), 0
        step = done * self._steps // total if total else self._steps
        if done == 0 or step == self._step:
            return
        self._step = step
        seconds = max(time.monotonic() - self._start, 1e-3)
        rate = self._megapixels * done / total / seconds
        left = seconds * (total - done) / done
        text = f"{label}: {done}/{total} tasks, {rate:,.0f} megapixels/s, {left:,.0f} s left"
        # on a terminal, go back to the start of the line and erase its rest
        print(*(("\r", text, "\x1b[K") if self._terminal else (text, "\n")),
              sep="", end="", file=sys.stderr, flush=True)  # fmt: skip

    def end(self) -> None:
        """End the line on a terminal."""
        if self._terminal and self._step:
            print(file=sys.stderr)
        self._step = 0
