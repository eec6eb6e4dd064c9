"""Run a graph on whatever scheduler is active, and tell how far it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.callbacks import Callback
from dask.system import CPU_COUNT
from numpy.typing import NDArray

from dask_slides.errors import SlideMemoryError

Progress = Callable[[int, int], None]
"""Called with the blocks done and the blocks in all."""
Report = Callable[[str, int, int], None]
"""Called with what is being done, the blocks done and the blocks in all."""

_report: ContextVar[Report | None] = ContextVar("report", default=None)
_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Tell `report` of every computation that operations start inside of the block."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


@contextmanager
def in_this_thread() -> Iterator[None]:
    """Compute in the calling thread inside of the block, whatever scheduler is active.

    For what runs in a task itself. Dask's configuration is that of all threads of a process.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def active_client() -> Any | None:
    """Return the distributed client that dask would use, or None."""
    distributed = sys.modules.get("distributed")
    if distributed is None:  # nobody made a client, so there is none
        return None
    if dask.config.get("scheduler", None) not in (None, "dask.distributed", "distributed"):
        return None
    try:
        return distributed.get_client()
    except (ValueError, AttributeError):  # none, or another thread is just importing it
        return None


def memory_a_thread() -> int | None:
    """Return the bytes that the active scheduler has for a task; None if nobody knows.

    On a cluster the memory limit of the worker that has least for each of its threads, else
    the memory of this machine for each thread or process.
    """
    if _alone.get():  # who gave the work to this thread has looked
        return None
    client = active_client()
    if client is not None:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [one["memory_limit"] // one["nthreads"] for one in workers if one["memory_limit"]]
        return min(limits, default=None)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no such question
        return None
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return memory
    return int(memory // (dask.config.get("num_workers", None) or CPU_COUNT))


def check_memory(needed: int, name: str) -> None:
    """Raise SlideMemoryError if a task that needs `needed` bytes cannot fit."""
    available = memory_a_thread()
    if available is not None and needed > available:
        raise SlideMemoryError(
            f"{name}: a task needs {needed / 1e6:,.0f} MB and a thread has {available / 1e6:,.0f} "
            "MB; give each worker fewer threads or more memory"
        )


def compute(array: da.Array, label: str, progress: Progress | None = None) -> NDArray[Any]:
    """Compute `array` on the active scheduler, calling `progress` after each block."""
    report = _report.get()
    if progress is None:
        progress = _silence if report is None else partial(report, label)
    total = int(array.npartitions)
    progress(0, total)  # the clock starts here
    if _alone.get():
        # callbacks of its own: those that dask knows by itself are of all threads
        callbacks = [_Count(array, total, progress)._callback]
        return np.asarray(array.compute(scheduler="sync", callbacks=callbacks))
    client = active_client()
    if client is not None:
        return _compute_remote(client, array, total, progress)
    with _threads_of_our_own(), _Count(array, total, progress) as count:
        result = np.asarray(array.compute())
    if count.done < total:  # dask renames the key of an array of one block
        progress(total, total)
    return result


def _silence(done: int, total: int) -> None:
    return None


@contextmanager
def _threads_of_our_own() -> Iterator[None]:
    """Run the threaded scheduler in a pool that is empty when the block ends.

    In dask's own pool tasks go on after another one has failed or the user has interrupted;
    one that writes would then write into a store that was taken away.
    """
    scheduler = dask.config.get("scheduler", None)
    if scheduler not in (None, "threads", "threading") or dask.config.get("pool", None):
        yield
        return
    workers = dask.config.get("num_workers", None) or CPU_COUNT
    pool = ThreadPoolExecutor(workers)
    try:
        with dask.config.set(pool=pool):
            yield
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _compute_remote(client: Any, array: da.Array, total: int, progress: Progress) -> NDArray[Any]:
    from distributed import as_completed, futures_of

    persisted = array.persist()
    futures = futures_of(persisted)
    try:
        for done, future in enumerate(as_completed(futures), 1):
            if future.status == "error":
                break  # compute raises what the task raised
            progress(done, total)
        return np.asarray(persisted.compute())
    except BaseException:
        client.cancel(futures)
        raise


class _Count(Callback):  # type: ignore[misc]
    """Counts finished blocks of one array on the schedulers of this machine."""

    def __init__(self, array: da.Array, total: int, progress: Progress) -> None:
        super().__init__()
        self._name = array.name
        self._total = total
        self.done = 0
        self._progress = progress

    def _posttask(self, key: Any, *_: Any) -> None:
        if isinstance(key, tuple) and key[0] == self._name:
            self.done += 1
            self._progress(self.done, self._total)
