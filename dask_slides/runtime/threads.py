"""Settings that apply to one call, and work in threads without a graph."""

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

PARTS_PER_THREAD = 4
"""Enough parts that all threads end at about the same time."""


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


def in_threads(call: Callable[[NDArray[np.int64]], None], numbers: NDArray[np.int64]) -> None:
    """Call `call` with parts of `numbers`, in order, in threads of this process."""
    # tasks and workers of a data loader already run in parallel
    alone = threading.current_thread() is threading.main_thread() and parent_process() is None
    threads = local_threads() if alone else 1
    parts = np.array_split(numbers, PARTS_PER_THREAD * threads if threads > 1 else 1)
    parts = [part for part in parts if len(part)]
    if threads == 1:
        for part in parts:
            call(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, parts))  # after an error, parts that have not started are dropped
