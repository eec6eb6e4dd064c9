"""How a command ends: errors as one line, exit codes, signals."""

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
    OutputRoomWarning,
    SlideArgumentError,
    SlideError,
    WorkerKilledError,
)
from dask_slides.runtime.local_cluster import library_logs_silenced


def failing_softly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors of ours into one line on stderr and an exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        shared = kwargs.get("shared")
        try:
            with warnings.catch_warnings(), library_logs_silenced(), _ended_by_sigterm():
                warnings.showwarning = _one_line_warning
                for category in _NOTES:
                    warnings.simplefilter("always", category)
                return command(*args, **kwargs)
        except (SlideError, OSError, MemoryError, KeyboardInterrupt) as error:
            if shared is not None and shared.verbose:
                traceback.print_exc()
            click.echo(f"dask-slides: {_told(error, shared)}", err=True)
            sys.exit(_exit_code(error))

    return run


NAMED = 20
"""Bad tiles that are named line by line; all of them are in the store and in JSON."""


def end_named(bad_tiles: tuple[BadTile, ...]) -> None:
    """Name the corrupt ones of `bad_tiles` on stderr and exit with 3; absent ones are legal."""
    corrupt = [tile for tile in bad_tiles if tile.status == CORRUPT]
    for tile in corrupt[:NAMED]:
        click.echo(f"dask-slides: {tile}", err=True)
    if len(corrupt) > NAMED:
        click.echo(f"dask-slides: and {len(corrupt) - NAMED:,} more corrupt tiles", err=True)
    if corrupt:
        sys.exit(3)


class Terminated(KeyboardInterrupt):
    """The system asked this process to end (SIGTERM), as a batch queue does."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Raise Terminated in the block on SIGTERM, so that it is put in order as on an interrupt."""
    if threading.current_thread() is not threading.main_thread():  # only there Python allows it
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, _: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would break into putting things in order
    raise Terminated


def _told(error: BaseException, shared: Any) -> str:
    if isinstance(error, KeyboardInterrupt):
        kept = shared is not None and shared.resume
        left = "what is done is kept for --resume" if kept else "nothing half-written is left"
        return f"{'terminated' if isinstance(error, Terminated) else 'interrupted'}; {left}"
    return " ".join(str(error).split()) or type(error).__name__


def _exit_code(error: BaseException) -> int:
    """Return 3 where all but named tiles is done, 2 for wrong use; 128 and the signal for those."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    if isinstance(error, WorkerKilledError):
        return 3
    return 2 if isinstance(error, SlideArgumentError) else 1


_NOTES = (BlankSlideWarning, OutputRoomWarning)
"""Warnings that the command line tells, as a line each."""


def _one_line_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    if issubclass(category, _NOTES):
        click.echo(f"dask-slides: note: {message}", err=True)
