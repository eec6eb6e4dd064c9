"""Error messages, exit codes and signals of a command."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click

from dask_slides.core.bad_tiles import CORRUPT, BadTile
from dask_slides.errors import (
    BlankSlideWarning,
    LittleTissueWarning,
    OutputRoomWarning,
    ReaderWarning,
    SkippedGeometryWarning,
    SlideArgumentError,
    SlideError,
    WorkerKilledError,
)
from dask_slides.runtime.local_cluster import library_logs_silenced

MAX_PRINTED = 20
"""Maximum number of bad tiles to print; the store and the JSON output list all of them."""
WARNINGS = (
    BlankSlideWarning,
    LittleTissueWarning,
    OutputRoomWarning,
    ReaderWarning,
    SkippedGeometryWarning,
)
"""Warnings that are printed, as one line each."""


def report_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print an error as one line on stderr, and exit with its code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        common = kwargs.get("common")
        try:
            with warnings.catch_warnings(), library_logs_silenced(), _signals_raised():
                warnings.showwarning = _print_warning
                for category in WARNINGS:
                    warnings.simplefilter("always", category)
                return command(*args, **kwargs)
        # ImportError: an extra is not installed; the message says which
        except (SlideError, ImportError, OSError, MemoryError, KeyboardInterrupt) as error:
            if common is not None and common.verbose:
                traceback.print_exc()
            click.echo(f"dask-slides: {_message(error, common)}", err=True)
            sys.exit(_exit_code(error))

    return run


def exit_for_bad_tiles(bad_tiles: tuple[BadTile, ...]) -> None:
    """Print corrupt tiles on stderr and exit with 3 if there are any; absent tiles are valid."""
    corrupt = [tile for tile in bad_tiles if tile.status == CORRUPT]
    for tile in corrupt[:MAX_PRINTED]:
        click.echo(f"dask-slides: {tile}", err=True)
    if len(corrupt) > MAX_PRINTED:
        click.echo(f"dask-slides: and {len(corrupt) - MAX_PRINTED:,} more corrupt tiles", err=True)
    if corrupt:
        sys.exit(3)


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM, for example from a batch queue."""


@contextmanager
def interrupt_leaves(state: str) -> Iterator[None]:
    """Let an interrupt inside the block say what it leaves behind, such as finished slides."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise type(error)(state) from error


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise Terminated on SIGTERM inside the block, so that it cleans up as after Ctrl-C.

    Python prints and drops an exception that is raised in a destructor, such as that of a future
    of dask. If it drops an interrupt, the signal is sent again.
    """
    # only the main thread can set signal handlers
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = again = _SendingAgain(sys.unraisablehook)
    try:
        yield
    finally:
        sys.unraisablehook = again.hook
        again.cancel()
        signal.signal(signal.SIGTERM, handler)


def _terminate(number: int, _: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal would interrupt the cleanup
    raise Terminated


class _SendingAgain:
    """A hook for exceptions that Python drops; it sends the signal of an interrupt again."""

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self.hook = hook
        """For other exceptions."""
        self._timer: threading.Timer | None = None

    def __call__(self, dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            self.hook(dropped)
            return
        number = signal.SIGINT
        if issubclass(dropped.exc_type, Terminated):
            number = signal.SIGTERM
            signal.signal(number, _terminate)
        if self._timer is None or not self._timer.is_alive():
            # after a while, as an interrupt inside this hook would be dropped too
            self._timer = threading.Timer(0.05, _interrupt, [number])
            self._timer.start()

    def cancel(self) -> None:
        """Send no signal any more."""
        if self._timer is not None:
            self._timer.cancel()


def _interrupt(number: signal.Signals) -> None:
    """Send a signal to the main thread."""
    if hasattr(signal, "pthread_kill"):  # also ends what the thread waits for
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def _message(error: BaseException, common: Any) -> str:
    if isinstance(error, KeyboardInterrupt):
        word = "terminated" if isinstance(error, Terminated) else "interrupted"
        state = str(error)
        if not state and common is not None:  # other commands write nothing, or one file at the end
            resumes = common.resume
            state = "finished work is kept for --resume" if resumes else "no partial output is left"
        return f"{word}; {state}" if state else word
    return " ".join(str(error).split()) or type(error).__name__


def _exit_code(error: BaseException) -> int:
    """Return 128 + signal, 3 if tiles killed their worker, 2 for wrong use, else 1."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    if isinstance(error, WorkerKilledError):
        return 3
    return 2 if isinstance(error, SlideArgumentError) else 1


def _print_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    if issubclass(category, WARNINGS):
        click.echo(f"dask-slides: note: {message}", err=True)
