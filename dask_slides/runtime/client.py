"""Find the distributed client of a thread, and leave the thread pool of a worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dask_slides.errors import SlideArgumentError
from dask_slides.runtime.fork_safety import after_fork_in_child
from dask_slides.runtime.threads import setting


def active_client() -> Any | None:
    """Return the distributed client that Dask would use; None without one.

    Raises
    ------
    SlideArgumentError
        The client is asynchronous, so that a call cannot wait for its result.
    """
    distributed = _distributed()
    if distributed is None:  # without it there is no client
        return None
    chosen = setting("scheduler")
    if isinstance(chosen, distributed.Client):
        client = chosen
    elif (chosen is not None and not names_distributed(chosen)) or must_not_use_client():
        return None
    else:
        try:
            client = distributed.get_client()
        except ValueError:
            return None
    if client.asynchronous:
        raise SlideArgumentError(
            "the active Dask client is asynchronous, and this call waits for its result; "
            "use a client with asynchronous=False, or call this in a thread"
        )
    return client


def _distributed() -> Any | None:
    """Return the module distributed if it is imported completely; None otherwise."""
    distributed = sys.modules.get("distributed")
    # another thread may still be importing it
    return distributed if hasattr(distributed, "worker_client") else None


def names_distributed(scheduler: Any) -> bool:
    """Return whether `scheduler` is one of the names of the distributed scheduler."""
    return isinstance(scheduler, str) and scheduler.lower() in ("dask.distributed", "distributed")


def must_not_use_client() -> bool:
    """Return whether waiting for the client that Dask finds for this thread could block forever.

    This is the case in a thread or coroutine that a task of a worker started: it cannot leave the
    thread pool of the worker while it waits, and the task waits for it. It is also the case in a
    forked child with the client of its parent, because the child lacks the threads of that client.
    """
    distributed = _distributed()
    if distributed is None:
        return False
    try:
        client = distributed.Client.current()
    except ValueError:
        client = None
    if _forked and client is _client_of_parent:
        return True
    if hasattr(distributed.worker.thread_state, "key"):
        return False
    try:
        distributed.get_worker()
    except ValueError:
        # a task started this thread if its client is that of a worker
        return client is not None and client.id.startswith("Client-worker-")
    return True


_forked = False
_client_of_parent: Any = None
"""In a forked child, the client of its parent; None without one."""


def _remember_client_of_parent() -> None:
    global _forked, _client_of_parent
    distributed = _distributed()
    if distributed is not None:
        _forked = True
        with suppress(ValueError):
            _client_of_parent = distributed.Client.current()


after_fork_in_child(_remember_client_of_parent)


@contextmanager
def seceded() -> Iterator[None]:
    """Leave the thread pool of a worker inside the block, as Dask's own compute does.

    Otherwise a task that waits for other tasks would occupy the thread that they need.
    """
    distributed = _distributed()
    if distributed is None or not hasattr(distributed.worker.thread_state, "key"):
        yield
        return
    left = False
    with suppress(KeyError):  # this thread has left it already
        distributed.secede()
        left = True
    try:
        yield
    finally:
        if left:
            distributed.rejoin()
