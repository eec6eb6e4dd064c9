"""Show the progress of computations: a line that is redrawn, or new lines in a log."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from dask_slides.runtime.scheduler import report_progress_to

REDRAW_SECONDS = 0.1
"""Least time between two drawings of a line; notebooks keep every one that they get."""
BAR = 24
"""Characters of a bar."""


@contextmanager
def progress(file: TextIO | None = None) -> Iterator[None]:
    """Show the progress of long calls inside the block, with the rate and the time left.

    The calls are `write`, `export`, `run_cohort`, `Slide.thumbnail`, the ``compute`` of blank maps,
    and all others that find tissue, on threads, processes or a cluster. In a terminal and in a
    notebook the progress is one line that is redrawn; elsewhere, as in a log, it is a new line for
    each tenth. Blocks may be nested, and other threads may have their own: they share the line.
    For arrays that you compute yourself, use ``ProgressBar`` of dask.diagnostics.

    Parameters
    ----------
    file : text stream, optional
        Where to write the line; by default ``sys.stderr``.

    Returns
    -------
    context manager
        For a ``with`` block.

    Examples
    --------
    >>> import numpy as np, dask_slides as ds
    >>> with ds.progress():
    ...     cells = ds.blank_map(np.zeros((600, 600, 3), "uint8")).compute()
    """
    with progress_shown(None, file):
        yield


@contextmanager
def progress_shown(megapixels: float | None, file: TextIO | None = None) -> Iterator[None]:
    """Show progress inside the block; with the `megapixels` of a slide, the rate is in these."""
    stream = file or sys.stderr
    with _lock:
        line = _lines.setdefault(id(stream), _Line(stream, megapixels))
        line.blocks += 1
    try:
        with report_progress_to(line):
            yield
    finally:
        with _lock:
            line.blocks -= 1
            if not line.blocks:
                del _lines[id(stream)]
                line.end()


@dataclass
class _Computation:
    """How far a computation is."""

    label: str
    start: float
    done: int = 0
    total: int = 0
    tenth: int = 0
    """The last tenth that a log has a line for."""

    def text(self, megapixels: float | None, bar: bool) -> str:
        """Return the finished tasks, the rate and the time left."""
        seconds = max(time.monotonic() - self.start, 1e-3)
        share = self.done / self.total
        rate = f"{self.done / seconds:,.3g}/s"
        if megapixels is not None:
            rate = f"{megapixels * share / seconds:,.0f} megapixels/s"
        drawn = f"[{'#' * int(BAR * share):<{BAR}}] " if bar else ""
        left = "" if not self.done else f", {_time_text(seconds / share - seconds)} left"
        return f"{self.label}: {drawn}{self.done}/{self.total}, {rate}{left}"


class _Line:
    """The progress of all computations that report to one stream."""

    def __init__(self, stream: TextIO, megapixels: float | None) -> None:
        self.blocks = 0
        """Number of blocks that show their progress here."""
        self._stream = stream
        self._megapixels = megapixels
        # ipykernel shows what follows a carriage return in place of the line, like a terminal
        self._redraws = stream.isatty() or type(stream).__module__.startswith("ipykernel")
        self._running: dict[tuple[int, str], _Computation] = {}
        """By thread and label, in the order in which they began."""
        self._lock = threading.Lock()
        self._drawn = 0
        self._due = 0.0

    def __call__(self, label: str, done: int, total: int) -> None:
        """Report that `done` of `total` blocks of a computation are done."""
        with self._lock:
            thread = threading.get_ident()
            self._forget_inner(thread, label)
            now = time.monotonic()
            one = self._running.setdefault((thread, label), _Computation(label, now))
            if done == 0:
                one.start, one.tenth = now, 0
            one.done, one.total = done, total
            if done and self._redraws:
                self._redraw(one, now)
            elif done:
                self._log(one)
            if done == total:
                del self._running[thread, label]

    def _forget_inner(self, thread: int, label: str) -> None:
        """Forget the computations that this one began and that have ended, perhaps by an error."""
        own = [key for key in self._running if key[0] == thread]
        if (thread, label) in own:
            for key in own[own.index((thread, label)) + 1 :]:
                del self._running[key]

    def _redraw(self, one: _Computation, now: float) -> None:
        """Draw the line; leave it there if nothing else is running."""
        last = one.done == one.total and len(self._running) == 1
        if now < self._due and not last:
            return
        self._due = now + REDRAW_SECONDS
        shown = [each for each in self._running.values() if each.done]
        texts = [each.text(self._megapixels, len(shown) == 1) for each in shown]
        # a line that is too long for the terminal would not be redrawn in place
        text = " | ".join(texts)[: shutil.get_terminal_size().columns - 1]
        self._print(f"\r{text:<{self._drawn}}" + "\n" * last)
        self._drawn = 0 if last else len(text)

    def _log(self, one: _Computation) -> None:
        """Print a line for each tenth of what is not part of another computation."""
        tenth = one.done * 10 // one.total
        first = next(key for key in self._running if key[0] == threading.get_ident())
        if tenth > one.tenth and self._running[first] is one:
            one.tenth = tenth
            self._print(one.text(self._megapixels, False) + "\n")

    def end(self) -> None:
        """End the line that is drawn."""
        with self._lock:
            if self._drawn:
                self._print("\n")

    def _print(self, text: str) -> None:
        print(text, end="", file=self._stream, flush=True)


_lock = threading.Lock()
_lines: dict[int, _Line] = {}
"""The lines that are shown, by the identity of their stream."""


def _time_text(seconds: float) -> str:
    """Return a time as text, such as "40 s", "3:05 min" or "2:30 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    whole, unit = (round(seconds), "min") if seconds < 6000 else (round(seconds / 60), "h")
    return f"{whole // 60}:{whole % 60:02} {unit}"
