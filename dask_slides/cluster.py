"""Run a graph on whatever scheduler is active, and tell how far it is."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from importlib.util import find_spec
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import named_schedulers
from dask.callbacks import Callback
from dask.utils import parse_bytes
from numpy.typing import NDArray

from dask_slides import machine
from dask_slides.errors import (
    ClusterLostError,
    SlideError,
    SlideMemoryError,
    WorkerKilledError,
)
from dask_slides.geometry import bounds
from dask_slides.threads import configured_threads

MEMORY = "dask-slides.memory"
"""Key in the configuration of dask: bytes that all threads or processes may take together."""
PATIENCE = {
    "distributed.deploy.lost-worker-timeout": "10m",
    "distributed.scheduler.no-workers-timeout": "2m",
}
"""Of a cluster of this machine. Dask closes what would start a process again if that takes more
than 15 s, and then waits for ever."""
CALM = {
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.log-length": 50,
    "distributed.admin.log-length": 50,
    "distributed.admin.low-level-log-length": 50,
    "distributed.diagnostics.computations.max-history": 5,
}
"""Of the same. By default each process looks at its own loop fifty times a second, and each worker
at its stack a hundred times: a fifth of the time of a resize, where all share two cores. And its
logs of thousands of entries fill for hours, so that a scheduler grows all the while."""
TOGETHER = 0.5
"""Seconds within which blocks that end are fetched at once: one by one the messages for it were a
quarter of what a scheduler did for a task."""
NAMED = 3
"""Blocks that an error names, at the most; it has the numbers of all."""

Block = tuple[int, ...]
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


@contextmanager
def local_cluster(workers: int, memory: int | None, silence: int) -> Iterator[None]:
    """Compute on `workers` processes of this machine, which nobody else can reach.

    A process that ends is started again. `memory` is what all of them may take, None what this
    one may; messages of dask below the logging level `silence` are not shown.
    """
    from distributed import Client, LocalCluster

    memory = memory or machine.memory()
    with (
        dask.config.set(PATIENCE | CALM),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # its default is open to other machines
            memory_limit="auto" if memory is None else memory // workers,
            silence_logs=silence,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_without_interrupts())
        yield


@contextmanager
def quietly(level: int) -> Iterator[None]:
    """Show no messages of distributed below `level`, in which it tells of errors that we raise."""
    if find_spec("distributed") is None:
        yield
        return
    from distributed.utils import silence_logging_cmgr

    with silence_logging_cmgr(level):
        yield


def _without_interrupts() -> Any:
    """Return a plugin of workers that ends no work at Ctrl-C: a terminal sends it to all of us.

    The process that made the cluster ends them.
    """
    from distributed import WorkerPlugin

    class WithoutInterrupts(WorkerPlugin):  # type: ignore[misc]
        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return WithoutInterrupts()


def memory_a_thread() -> int | None:
    """Return the bytes that the active scheduler has for a task; None if nobody knows.

    On a cluster the memory limit of the worker that has least for each of its threads, else
    what ``dask.config`` has as ``dask-slides.memory`` (such as "8GB"), or this machine or the
    container or batch job in it, for each thread or process.
    """
    if _alone.get():  # who gave the work to this thread has looked
        return None
    client = active_client()
    if client is not None:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [one["memory_limit"] // one["nthreads"] for one in workers if one["memory_limit"]]
        return min(limits, default=None)
    given = dask.config.get(MEMORY, None)
    memory = machine.memory() if given is None else parse_bytes(given)
    if memory is None:
        return None
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return memory
    return int(memory // configured_threads())


def check_memory(needed: int, name: str) -> None:
    """Raise SlideMemoryError if a task that needs `needed` bytes cannot fit."""
    available = memory_a_thread()
    if available is not None and needed > available:
        raise SlideMemoryError(
            f"{name}: a task needs {needed / 1e6:,.0f} MB and a thread has {available / 1e6:,.0f} "
            "MB; give each worker fewer threads or more memory"
        )


def compute(
    array: da.Array,
    label: str,
    progress: Progress | None = None,
    place: Callable[[Block], str] | None = None,
) -> NDArray[Any]:
    """Compute `array` on the active scheduler, calling `progress` after each block.

    On a cluster a block that ends every worker it is given to is set aside, and all others are
    computed; then WorkerKilledError names it by what `place` says of its number. A cluster that is
    lost raises ClusterLostError.
    """
    report = _report.get()
    if progress is None:
        progress = _silence if report is None else partial(report, label)
    total = int(array.npartitions)
    progress(0, total)  # the clock starts here
    if _alone.get():
        # callbacks of its own: those that dask knows by itself are of all threads
        callbacks = [_Count(array, total, progress)._callback]
        return np.asarray(array.compute(scheduler=dask.get, callbacks=callbacks))
    client = active_client()
    if client is not None:
        return _compute_remote(client, array, total, progress, place or _number)
    with _threads_of_our_own(), _Count(array, total, progress) as count:
        try:
            result = np.asarray(array.compute(scheduler=_local_scheduler()))
        except BrokenExecutor as error:
            raise WorkerKilledError(
                f"{label}: a process of the pool ended in a task: out of memory, or a tile "
                "that its codec crashes on; use a cluster, which tells which and does the others"
            ) from error
    if count.done < total:  # dask renames the key of an array of one block
        progress(total, total)
    return result


def _local_scheduler() -> Any:
    """Return the function behind the name of the scheduler in use, None to leave it to dask.

    dask looks for a client wherever a scheduler has a name, and loads distributed for it, which
    takes longer than many a small job. Where nobody loaded it there is no client.
    """
    name = dask.config.get("scheduler", None) or "threads"
    if "distributed" in sys.modules or not isinstance(name, str):
        return None
    return named_schedulers.get(name.lower())


def _number(block: Block) -> str:
    return f"block {block}"


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
    threads: list[threading.Thread] = []
    pool = ThreadPoolExecutor(
        configured_threads(), initializer=lambda: threads.append(threading.current_thread())
    )
    try:
        with dask.config.set(pool=pool):
            yield
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for thread in threads:  # the pool forgets one if an interrupt comes while it starts
            thread.join()


def _compute_remote(
    client: Any, array: da.Array, total: int, progress: Progress, place: Callable[[Block], str]
) -> NDArray[Any]:
    from distributed import as_completed, futures_of
    from distributed.scheduler import KilledWorker

    result = np.empty(array.shape, array.dtype)
    starts = [bounds(lengths) for lengths in array.chunks]
    waiting: dict[Any, Any] = {}

    def keep(futures: list[Any]) -> list[Any]:
        """Take blocks home, as a worker that ends loses them; return those that were given up."""
        blocks = client.gather({future.key: future for future in futures}, errors="skip")
        given_up = []
        for future in futures:
            if future.status != "finished":
                try:
                    future.result()
                except KilledWorker:  # more than `allowed-failures` of them
                    given_up.append(future)
                    continue
            numbers = zip(starts, future.key[1:], strict=True)
            place = tuple(slice(edges[n], edges[n + 1]) for edges, n in numbers)
            result[place] = blocks[future.key]
            del waiting[future.key]
            progress(total - len(waiting), total)
        return given_up

    try:
        waiting = {future.key: future for future in futures_of(array.persist())}
        arriving = as_completed(list(waiting.values()))
        given_up = [one for some in _together(arriving) for one in keep(some)]
        for future in given_up:  # alone: dask blames every task that a worker had
            client.retry([future])
            keep([future])
        if waiting:
            raise _named(waiting, place)
    except BaseException as error:
        with suppress(Exception):  # lost meanwhile: then there is nothing to cancel
            client.cancel(list(waiting.values()))
        if _is_lost(client, error):
            raise ClusterLostError(_lost(client)) from error
        raise
    return result


def _together(arriving: Any) -> Iterator[list[Any]]:
    """Yield what has ended, together with what ends within a moment: none at the beginning."""
    start = 0.0
    for first in arriving:
        some, now = [first], time.monotonic()
        start = start or now
        until = now + min(TOGETHER, (now - start) / 4)
        while not arriving.is_empty() and time.monotonic() < until:
            time.sleep(TOGETHER / 20)
            some += arriving.next_batch(block=False)
        yield some


def _is_lost(client: Any, error: BaseException) -> bool:
    """Return whether `error` is one of a cluster that is gone, or has nobody left to work."""
    from distributed.scheduler import NoValidWorkerError, NoWorkerError

    if isinstance(error, CancelledError | NoValidWorkerError | NoWorkerError):
        return True
    ours = isinstance(error, SlideError | KeyboardInterrupt | SystemExit)
    return client.status != "running" and not ours


def _named(keys: Iterable[Any], place: Callable[[Block], str]) -> WorkerKilledError:
    blocks = sorted(tuple(key[1:]) for key in keys)
    named = "; ".join(place(block) for block in blocks[:NAMED])
    more = f" and {len(blocks) - NAMED:,} more" if len(blocks) > NAMED else ""
    error = WorkerKilledError(
        f"{named}{more}: every worker ended in it, and all the rest is done: out of "
        "memory, or a tile that its codec crashes on; give each worker fewer threads or more "
        "memory, or repair the slide, then resume"
    )
    error.blocks = tuple(blocks)
    return error


def _lost(client: Any) -> str:
    where = getattr(client.scheduler, "address", None) or "the scheduler"
    return (
        f"{where}: the scheduler was lost, or has no worker any more; see that they run, connect "
        "again, then resume"
    )


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
