"""Work that threads of one process share without a graph."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import parent_process
from types import MappingProxyType
from typing import Any

import dask
import numpy as np
from dask.system import CPU_COUNT
from numpy.typing import NDArray

PARTS = 4
"""For each thread, so that the last one to end is not far behind."""


_given: ContextVar[Mapping[str, Any]] = ContextVar("given", default=MappingProxyType({}))


@contextmanager
def override_settings(options: Mapping[str, Any]) -> Iterator[None]:
    """Prefer `options` to dask's configuration inside of the block, in this thread alone.

    ``dask.config.set`` would change it for every thread of the process.
    """
    token = _given.set({**_given.get(), **options})
    try:
        yield
    finally:
        _given.reset(token)


def overridden_settings() -> dict[str, Any]:
    """Return the options of the `using` blocks around this call."""
    return dict(_given.get())


def setting(name: str) -> Any:
    """Return an option of `using`, or else what dask's configuration holds; None if neither."""
    return _given.get().get(name) or dask.config.get(name, None)


def configured_threads() -> int:
    """Return how many threads or processes a scheduler of this machine is given."""
    return int(setting("num_workers") or CPU_COUNT)


def is_synchronous() -> bool:
    """Return whether the scheduler in use computes in the thread that calls it."""
    chosen = setting("scheduler")
    if isinstance(chosen, str):
        return chosen.lower() in ("sync", "synchronous", "single-threaded")
    return chosen is dask.get


def local_threads() -> int:
    """Return how many threads or processes of this machine the scheduler would use."""
    return 1 if is_synchronous() else configured_threads()


def in_threads(call: Callable[[NDArray[np.int64]], None], numbers: NDArray[np.int64]) -> None:
    """Call `call` with parts of `numbers`, in order, in threads of this process."""
    # tasks, and the workers of a loader, have others beside them that do the same
    alone = threading.current_thread() is threading.main_thread() and parent_process() is None
    threads = local_threads() if alone else 1
    parts = np.array_split(numbers, PARTS * threads if threads > 1 else 1)
    parts = [part for part in parts if len(part)]
    if threads == 1:
        for part in parts:
            call(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, parts))  # which gives up what has not begun if a call raises
