"""Settings that apply to one call, and work in threads without a graph."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from multiprocessing import parent_process
from types import MappingProxyType
from typing import Any

import dask
import numpy as np
from dask.system import CPU_COUNT
from numpy.typing import NDArray

PARTS_PER_THREAD = 4
"""Enough parts that all threads end at about the same time."""

_thread = threading.local()
"""The attribute `pool` is the `HelpingPool` that a thread belongs to, and its size."""
_overrides: ContextVar[Mapping[str, Any]] = ContextVar("overrides", default=MappingProxyType({}))


@contextmanager
def override_settings(options: Mapping[str, Any]) -> Iterator[None]:
    """Override Dask's configuration by `options` inside the block, in this thread only.

    ``dask.config.set`` would change it for all threads of the process.
    """
    token = _overrides.set({**_overrides.get(), **options})
    try:
        yield
    finally:
        _overrides.reset(token)


def overridden_settings() -> dict[str, Any]:
    """Return the options of the `override_settings` blocks around this call."""
    return dict(_overrides.get())


def setting(name: str) -> Any:
    """Return an overridden option, or else that of Dask's configuration; None if not set."""
    return _overrides.get().get(name) or dask.config.get(name, None)


def configured_threads() -> int:
    """Return the number of threads or processes that a scheduler of this machine may use."""
    return int(setting("num_workers") or CPU_COUNT)


def is_synchronous() -> bool:
    """Return whether the scheduler in use computes in the calling thread."""
    chosen = setting("scheduler")
    if isinstance(chosen, str):
        return chosen.lower() in ("sync", "synchronous", "single-threaded")
    return chosen is dask.get


def local_threads() -> int:
    """Return the number of threads or processes of this machine that the scheduler uses."""
    return 1 if is_synchronous() else configured_threads()


class HelpingPool(ThreadPoolExecutor):
    """A pool of threads whose idle ones help those that call `in_threads`."""

    def __init__(self, threads: int) -> None:
        self._started: list[threading.Thread] = []
        super().__init__(threads, initializer=self._register)

    def _register(self) -> None:
        self._started.append(threading.current_thread())
        _thread.pool = self, self._max_workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks. If `wait`, return once those that run have ended."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        # if a signal interrupts the start of a thread, the base class does not wait for it
        for thread in self._started if wait else ():
            thread.join()


def in_threads(call: Callable[[NDArray[np.int64]], None], numbers: NDArray[np.int64]) -> None:
    """Call `call` with parts of `numbers` in threads of this process.

    In a `HelpingPool`, they are its idle threads. In other tasks, and in workers of a data loader,
    it is the calling thread only, as these run in parallel already.
    """
    own = getattr(_thread, "pool", None)
    if own is not None:
        _share(call, numbers, *own)
        return
    alone = threading.current_thread() is threading.main_thread() and parent_process() is None
    threads = local_threads() if alone else 1
    if threads == 1:
        call(numbers)
        return
    with ThreadPoolExecutor(threads - 1) as helpers:
        _share(call, numbers, helpers, threads)


def in_slices(call: Callable[[slice], object], size: int, step: int) -> None:
    """Call `call` with slices of `step` of `size` items, in threads as `in_threads` does."""

    def run(numbers: NDArray[np.int64]) -> None:
        for start in (numbers * step).tolist():
            call(slice(start, min(start + step, size)))

    in_threads(run, np.arange(-(-size // step)))


def _share(
    call: Callable[[NDArray[np.int64]], None],
    numbers: NDArray[np.int64],
    pool: ThreadPoolExecutor,
    threads: int,
) -> None:
    """Call `call` with parts of `numbers` in this thread, and in those of `pool` that are idle."""
    waiting = deque(
        part for part in np.array_split(numbers, PARTS_PER_THREAD * threads) if len(part)
    )

    def work() -> None:
        try:
            while True:
                try:
                    part = waiting.popleft()
                except IndexError:
                    return
                call(part)
        except BaseException:
            waiting.clear()  # the others stop after their part
            raise

    helpers = []
    with suppress(RuntimeError):  # the pool is being shut down
        helpers = [pool.submit(work) for _ in range(min(threads, len(waiting)) - 1)]
    try:
        work()
    finally:
        # those that have not started would find nothing to do
        started = [helper for helper in helpers if not helper.cancel()]
        wait(started)
    for helper in started:
        helper.result()
