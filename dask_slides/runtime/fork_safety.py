"""Make locks, caches and open files safe in a forked child process.

PyTorch's data loaders, among others, fork on Linux. A child gets a copy of everything except the
threads. Locks that another thread held stay locked, thread pools do no work, and open files share
their position with the parent.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar


class _Cache(Protocol):
    def cache_clear(self) -> None: ...


_handles: set[int] = set()
"""Open files that a child closes."""

Cached = TypeVar("Cached", bound=_Cache)


def after_fork_in_child(call: Callable[[], Any]) -> None:
    """Call `call` in every forked child, before its other code."""
    if sys.platform != "win32":  # no fork there
        os.register_at_fork(after_in_child=call)


def cleared_after_fork(cache: Cached) -> Cached:
    """Return `cache`, which a child clears, so that it opens its own files and threads."""
    after_fork_in_child(cache.cache_clear)
    return cache


def closed_after_fork(handle: int) -> int:
    """Return the open file `handle`, which a child closes, because it would hold the file's lock.

    Use `close` to close it.
    """
    _handles.add(handle)
    return handle


def close(handle: int) -> None:
    """Unlock and close a file from `closed_after_fork` if this process opened it."""
    if handle in _handles:
        _handles.remove(handle)
        with suppress(ImportError, OSError):
            import fcntl

            # a child that was just forked may not have closed it yet
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _close_all() -> None:
    """Close the files in a child. The parent still holds their locks."""
    while _handles:
        os.close(_handles.pop())


after_fork_in_child(_close_all)


def fork_safe_lock() -> threading.Lock:
    """Return a lock that is free during every fork, so that a child finds it unlocked."""
    lock = threading.Lock()
    if sys.platform != "win32":
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )
    return lock
