"""Compute arrays on the active scheduler, and report progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cached_property, partial
from multiprocessing.pool import ThreadPool
from typing import Any
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
from dask import threaded
from dask.base import get_scheduler, named_schedulers
from dask.callbacks import Callback
from dask.utils import parse_bytes
from numpy.typing import NDArray

from dask_slides.core.geometry import bounds
from dask_slides.errors import (
    ClusterLostError,
    SlideArgumentError,
    SlideError,
    SlideMemoryError,
    WorkerKilledError,
)
from dask_slides.runtime.client import (
    active_client,
    must_not_use_client,
    names_distributed,
    seceded,
)
from dask_slides.runtime.threads import (
    HelpingPool,
    configured_threads,
    is_synchronous,
    overridden_settings,
    setting,
)

MEMORY = "dask-slides.memory"
"""Key in Dask's configuration: bytes that all threads or processes may use together."""
BATCH_SECONDS = 0.5
"""Blocks that finish on a cluster within this time are fetched together. Fetched one by one, they
cost the scheduler a quarter of its time per task."""
NAMED_BLOCKS = 3
"""Maximum number of blocks that an error message names; the attribute `blocks` has all."""
ENOUGH = 2**30
"""Bytes that we assume every machine has. If all threads together need less, we do not look up the
limit, because that imports distributed, which takes longer than a small job."""

Block = tuple[int, ...]
Progress = Callable[[int, int], None]
"""Called with the numbers of finished and of all blocks."""
Report = Callable[[str, int, int], None]
"""Called with a label, and the numbers of finished and of all blocks."""

_report: ContextVar[Report | None] = ContextVar("report", default=None)
_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def report_progress_to(report: Report) -> Iterator[None]:
    """Report the progress of every computation that starts inside the block."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def reported(label: str) -> Progress:
    """Return what reports progress under `label` to the block of `report_progress_to`, if any."""
    report = _report.get()
    return _ignore_progress if report is None else partial(report, label)


def part_of(progress: Progress, before: int, total: int) -> Progress:
    """Return the progress of one computation of several, which have `total` blocks."""
    return lambda done, _: progress(before + done, total)


@contextmanager
def compute_in_this_thread() -> Iterator[None]:
    """Compute in the calling thread inside the block, whatever scheduler is active.

    Use this inside tasks if other tasks of this kind keep all workers busy.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def memory_per_thread(needed: int) -> int | None:
    """Return the bytes that the active scheduler has per task; None if there is no limit.

    On a cluster this is the smallest memory limit per thread of all workers. Otherwise it is
    ``dask-slides.memory`` of Dask's configuration (such as "8GB"), or the memory of this machine or
    container, divided by the number of threads or processes. Return None if `needed` bytes per
    thread fit any machine.
    """
    if _alone.get():  # checked before the work was given to this thread
        return None
    client = active_client()
    if client is not None:
        info = client.scheduler_info(n_workers=-1)
        if "workers" not in info:  # the client has closed
            raise lost_error(client)
        workers = info["workers"].values()
        limits = [one["memory_limit"] // one["nthreads"] for one in workers if one["memory_limit"]]
        return min(limits, default=None)
    threads = 1 if is_synchronous() else configured_threads()
    memory = setting(MEMORY)
    if memory is not None:
        return int(parse_bytes(memory) // threads)
    return None if needed * threads <= ENOUGH else memory_limit() // threads


def memory_limit() -> int:
    """Return the bytes of memory of this machine or container."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)


def check_memory(needed: int, name: str) -> None:
    """Raise SlideMemoryError if a task that needs `needed` bytes cannot fit."""
    available = memory_per_thread(needed)
    if available is not None and needed > available:
        raise SlideMemoryError(
            f"{name}: a task needs {needed / 1e6:,.0f} MB and a thread has {available / 1e6:,.0f} "
            "MB; give each worker fewer threads or more memory"
        )


def compute(
    array: da.Array,
    label: str,
    progress: Progress | None = None,
    describe: Callable[[Block], str] | None = None,
) -> NDArray[Any]:
    """Compute `array` on the active scheduler, calling `progress` after each block.

    Finished blocks are written into one array, so that memory holds the result only once. Only a
    scheduler of processes on this machine joins them at the end.

    On a cluster, a block that kills every worker which runs it does not stop the other blocks.
    When these are done, WorkerKilledError names it, with the text that `describe` returns for its
    number. If the cluster is lost, ClusterLostError is raised.
    """
    progress = progress or reported(label)
    total = int(array.npartitions)
    progress(0, total)  # the start of the time that progress bars show
    client = None if _alone.get() else active_client()
    if client is not None:
        with seceded():
            return _compute_remote(client, array, total, progress, describe or _block_text)
    filled = _FilledArray(array)
    count = _Count((array.name, filled.name), total, progress)
    with _local_options(count) as options:
        try:
            if _shares_memory(options):
                filled.lazy().compute(**options)
                result = filled.result
            else:
                result = np.asarray(array.compute(**options))
        except BrokenExecutor as error:
            raise WorkerKilledError(
                f"{label}: a process of the pool ended in a task: it was out of memory, or a tile "
                "crashed its codec; use a cluster, which names the task and does all others"
            ) from error
    if count.done < total:  # dask renames the key of an array of one block
        progress(total, total)
    return result


def computes_here() -> bool:
    """Return whether tasks would run in threads of this process."""
    try:
        if active_client() is not None:
            return False
    except SlideArgumentError:  # an asynchronous client
        return False
    return _local_scheduler() in (threaded.get, dask.get)


class _FilledArray:
    """An array in memory into which the blocks of a dask array are written."""

    def __init__(self, array: da.Array) -> None:
        self.name = f"{array.name}-fill"  # dashboards and callbacks show its beginning
        self._array = array
        self._starts = [bounds(lengths) for lengths in array.chunks]

    @cached_property
    def result(self) -> NDArray[Any]:
        """The array. Blocks that are not written yet are undefined."""
        return np.empty(self._array.shape, self._array.dtype)

    def lazy(self) -> da.Array:
        """Return a dask array with one value per block, whose tasks write the blocks."""
        return self._array.map_blocks(
            self.write,
            chunks=tuple((1,) * count for count in self._array.numblocks),
            dtype=np.bool_,
            meta=np.empty((0,) * self._array.ndim, np.bool_),
            name=self.name,
        )

    def write(self, block: NDArray[Any], block_id: Block) -> NDArray[np.bool_]:
        """Write `block` at its position."""
        edges = zip(self._starts, block_id, strict=True)
        self.result[tuple(slice(starts[n], starts[n + 1]) for starts, n in edges)] = block
        return np.ones((1,) * block.ndim, np.bool_)


def _shares_memory(options: dict[str, Any]) -> bool:
    """Return whether the scheduler runs tasks in this process."""
    pool = options.get("pool") or setting("pool")
    if options["scheduler"] not in (threaded.get, dask.get):
        return False
    return pool is None or isinstance(pool, ThreadPoolExecutor | ThreadPool)


@contextmanager
def _local_options(count: _Count) -> Iterator[dict[str, Any]]:
    """Yield the arguments of ``array.compute`` for a scheduler of this machine.

    Arguments apply to one call, but Dask's configuration and callbacks to all threads.
    """
    if _alone.get():
        yield {"scheduler": dask.get, "callbacks": [count._callback]}
        return
    get = _local_scheduler()
    options = _passed_options() | {"scheduler": get}
    if get in named_schedulers.values() or isinstance(setting("scheduler"), Executor):
        # schedulers of the user may take no callbacks; the user's own callbacks stay active
        options["callbacks"] = [*Callback.active, count._callback]
    if get is not threaded.get or setting("pool"):
        yield options
        return
    with _own_threads() as pool:
        yield options | {"pool": pool}


def _local_scheduler() -> Any:
    """Return the function of the scheduler in use.

    Dask would import distributed to look up a scheduler by name, which takes longer than a small
    job.
    """
    chosen = setting("scheduler")
    if chosen is None or (names_distributed(chosen) and must_not_use_client()):
        return threaded.get
    if isinstance(chosen, str) and chosen.lower() in named_schedulers:
        return named_schedulers[chosen.lower()]
    try:
        return get_scheduler(scheduler=chosen)
    except (ValueError, RuntimeError) as error:  # an unknown name, or no client
        raise SlideArgumentError(f"scheduler={chosen!r}: {error}") from None


def _passed_options() -> dict[str, Any]:
    """Return the options of this call that the scheduler takes."""
    return {
        name: value
        for name, value in overridden_settings().items()
        if name not in ("scheduler", MEMORY)
    }


def _block_text(block: Block) -> str:
    return f"block {block}"


def _ignore_progress(done: int, total: int) -> None:
    return None


@contextmanager
def _own_threads() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads; all of them have ended when the block ends.

    In Dask's own pool, tasks continue after another task failed or the user interrupted. They could
    then write into a store that was removed.
    """
    pool = HelpingPool(configured_threads())
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _compute_remote(
    client: Any, array: da.Array, total: int, progress: Progress, describe: Callable[[Block], str]
) -> NDArray[Any]:
    from distributed import as_completed, futures_of
    from distributed.scheduler import KilledWorker

    filled = _FilledArray(array)
    waiting: dict[Any, Any] = {}

    def fetch(futures: list[Any]) -> list[Any]:
        """Copy blocks before their worker can lose them; return those that Dask gave up."""
        blocks = client.gather({future.key: future for future in futures}, errors="skip")
        given_up = []
        for future in futures:
            if future.status != "finished":
                try:
                    future.result()
                except KilledWorker:  # more than `allowed-failures` of them
                    given_up.append(future)
                    continue
            filled.write(blocks.pop(future.key), future.key[1:])
            del waiting[future.key]  # its worker can now free the block
            progress(total - len(waiting), total)
        return given_up

    try:
        lazy = client.persist(_with_own_keys(array), **_passed_options())
        waiting |= {future.key: future for future in futures_of(lazy)}
        del lazy
        arriving = as_completed(list(waiting.values()), loop=client.loop)
        given_up = [one for batch in _batches(arriving) for one in fetch(batch)]
        for future in given_up:  # one at a time, as Dask blames every task that a worker had
            client.retry([future])
            fetch([future])
        if waiting:
            raise _killed_error(waiting, describe)
    except BaseException as error:
        with suppress(Exception):  # a lost cluster has nothing to cancel
            client.cancel(list(waiting.values()))
        if _is_lost(client, error):
            raise lost_error(client) from error
        raise
    return filled.result


def _with_own_keys(array: da.Array) -> da.Array:
    """Return `array` with keys that no other computation has.

    When a computation fails, its keys are cancelled. The client may learn of it only after the same
    array is computed again, and would then cancel the new computation.
    """
    name = f"{array.name}-{uuid4().hex}"
    return array.map_blocks(_same, dtype=array.dtype, meta=array._meta, name=name)


def _same(block: NDArray[Any]) -> NDArray[Any]:
    return block


def _batches(arriving: Any) -> Iterator[list[Any]]:
    """Yield futures as they finish, in batches of those that finish soon after each other.

    The first batches are short, so that progress shows early.
    """
    start = 0.0
    for first in arriving:
        batch, now = [first], time.monotonic()
        start = start or now
        until = now + min(BATCH_SECONDS, (now - start) / 4)
        while not arriving.is_empty() and time.monotonic() < until:
            time.sleep(BATCH_SECONDS / 20)
            batch += arriving.next_batch(block=False)
        yield batch


def _is_lost(client: Any, error: BaseException) -> bool:
    """Return whether `error` means that the cluster is lost or has no workers."""
    from distributed.comm import CommClosedError
    from distributed.scheduler import NoValidWorkerError, NoWorkerError

    # CommClosedError: the connection broke before the client has noticed
    lost = (CancelledError, CommClosedError, NoValidWorkerError, NoWorkerError)
    if isinstance(error, lost):
        return True
    ours = isinstance(error, SlideError | KeyboardInterrupt | SystemExit)
    return client.status != "running" and not ours


def _killed_error(keys: Iterable[Any], describe: Callable[[Block], str]) -> WorkerKilledError:
    blocks = sorted(tuple(key[1:]) for key in keys)
    named = "; ".join(describe(block) for block in blocks[:NAMED_BLOCKS])
    more = f" and {len(blocks) - NAMED_BLOCKS:,} more" if len(blocks) > NAMED_BLOCKS else ""
    error = WorkerKilledError(
        f"{named}{more}: every worker ended in it, because it was out of memory or a tile crashed "
        "its codec; all other blocks are done; give each worker fewer threads or more memory, or "
        "repair the slide, then resume"
    )
    error.blocks = tuple(blocks)
    return error


def lost_error(client: Any) -> ClusterLostError:
    """Return the error for a cluster that `client` cannot reach or that has no workers."""
    address = getattr(client.scheduler, "address", None)
    at = f" at {address}" if address else ""
    return ClusterLostError(
        f"the scheduler was lost{at}, or has no workers left; check that they run, connect again, "
        "then resume"
    )


class _Count(Callback):  # type: ignore[misc]
    """Count the finished blocks of one array on a scheduler of this machine."""

    def __init__(self, names: tuple[str, ...], total: int, progress: Progress) -> None:
        super().__init__()
        self._names = names
        self._total = total
        self.done = 0
        self._progress = progress

    def _posttask(self, key: Any, *_: Any) -> None:
        if isinstance(key, tuple) and key[0] in self._names:
            self.done += 1
            self._progress(self.done, self._total)
