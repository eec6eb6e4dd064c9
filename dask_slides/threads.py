"""Work that threads of one process share without a graph."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import parent_process

import dask
import numpy as np
from dask.system import CPU_COUNT
from numpy.typing import NDArray

PARTS = 4
"""For each thread, so that the last one to end is not far behind."""


def configured_threads() -> int:
    """Return how many threads or processes a scheduler of this machine is given."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def threads_here() -> int:
    """Return how many threads or processes of this machine the scheduler would use."""
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return configured_threads()


def in_threads(call: Callable[[NDArray[np.int64]], None], numbers: NDArray[np.int64]) -> None:
    """Call `call` with parts of `numbers`, in order, in threads of this process."""
    # tasks, and the workers of a loader, have others beside them that do the same
    alone = threading.current_thread() is threading.main_thread() and parent_process() is None
    threads = threads_here() if alone else 1
    parts = np.array_split(numbers, PARTS * threads if threads > 1 else 1)
    parts = [part for part in parts if len(part)]
    if threads == 1:
        for part in parts:
            call(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, parts))  # which gives up what has not begun if a call raises
