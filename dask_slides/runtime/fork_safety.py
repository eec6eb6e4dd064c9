"""What a process made by fork must not share with the one that made it.

PyTorch's loaders and much else fork on Linux. A child has a copy of everything but the threads:
a lock that one of them held stays locked, a pool of them does no work, and of an open file the
place where it is read is the same for both, so that each reads what the other one wanted.
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


Cached = TypeVar("Cached", bound=_Cache)


def after_fork_in_child(call: Callable[[], Any]) -> None:
    """Make a child begin with `call`."""
    if sys.platform != "win32":  # which has no fork
        os.register_at_fork(after_in_child=call)


def cleared_after_fork(cache: Cached) -> Cached:
    """Return `cache`, which a child begins empty: it opens files and starts threads itself."""
    after_fork_in_child(cache.cache_clear)
    return cache


def closed_after_fork(handle: int) -> int:
    """Return the open file `handle`, which a child closes: it would keep the file's lock.

    Give it to `close`.
    """
    _handles.add(handle)
    return handle


def close(handle: int) -> None:
    """Unlock and close what `of_one_process` returned, if this process opened it."""
    if handle in _handles:
        _handles.remove(handle)
        with suppress(ImportError, OSError):
            import fcntl

            # for a child too that was made this moment and has not closed it yet
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _close_all() -> None:
    """Close them in a child, which leaves the lock to its parent."""
    while _handles:
        os.close(_handles.pop())


after_fork_in_child(_close_all)


def fork_safe_lock() -> threading.Lock:
    """Return a lock that no fork happens under, so that a child finds it open."""
    lock = threading.Lock()
    if sys.platform != "win32":
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )
    return lock
