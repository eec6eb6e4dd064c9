"""The client of distributed that a thread computes with, and its place in a worker's pool."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dask_slides.errors import SlideArgumentError
from dask_slides.runtime.fork_safety import after_fork_in_child
from dask_slides.runtime.threads import setting


def active_client() -> Any | None:
    """Return the distributed client that dask would use, or None.

    Raises
    ------
    SlideArgumentError
        The client is asynchronous: nothing that waits for results can use it.
    """
    distributed = _loaded()
    if distributed is None:  # nobody made a client, so there is none
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


def _loaded() -> Any | None:
    """Return distributed if it is loaded, whole: another thread may be just importing it."""
    distributed = sys.modules.get("distributed")
    return distributed if hasattr(distributed, "worker_client") else None


def names_distributed(scheduler: Any) -> bool:
    """Return whether `scheduler` is the name of distributed's, and not another one."""
    return isinstance(scheduler, str) and scheduler.lower() in ("dask.distributed", "distributed")


def must_not_use_client() -> bool:
    """Return whether this thread must not wait for the client that dask finds for it.

    That is a thread which a task of a worker started, or a coroutine of one: neither can leave the
    worker's thread pool while it waits, and the task waits for it, so that what it gave to the
    cluster could wait for ever for a free thread. Nor must a child made by fork wait for the
    client of its parent: the threads that would answer stayed behind.
    """
    distributed = _loaded()
    if distributed is None:
        return False
    try:
        client = distributed.Client.current()
    except ValueError:
        client = None
    if _forked and client is _parents:
        return True
    if hasattr(distributed.worker.thread_state, "key"):
        return False
    try:
        distributed.get_worker()
    except ValueError:
        # a worker's own client; its threads are those of tasks, and what they start
        return client is not None and client.id.startswith("Client-worker-")
    return True


_forked = False
_parents: Any = None
"""In a child made by fork, the client that it began with, if any."""


def _left_behind() -> None:
    global _forked, _parents
    distributed = _loaded()
    if distributed is not None:
        _forked = True
        with suppress(ValueError):
            _parents = distributed.Client.current()


after_fork_in_child(_left_behind)


@contextmanager
def seceded() -> Iterator[None]:
    """Leave the thread pool of a worker, as dask's own compute does, inside of the block.

    A task that waits for other tasks would else keep the thread that they need.
    """
    distributed = _loaded()
    if distributed is None or not hasattr(distributed.worker.thread_state, "key"):
        yield
        return
    left = False
    with suppress(KeyError):  # this thread has left already
        distributed.secede()
        left = True
    try:
        yield
    finally:
        if left:
            distributed.rejoin()
