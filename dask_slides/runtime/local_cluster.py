"""A cluster of this machine, for the command line: it changes what all of a process sees."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import dask

from dask_slides.runtime import memory_limit

TIMEOUTS = {
    "distributed.deploy.lost-worker-timeout": "10m",
    "distributed.scheduler.no-workers-timeout": "2m",
}
"""Of a cluster of this machine. Dask closes what would start a process again if that takes more
than 15 s, and then waits for ever."""
LOW_OVERHEAD = {
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


@contextmanager
def local_cluster(workers: int, memory: int | None, silence: int) -> Iterator[None]:
    """Compute on `workers` processes of this machine, which nobody else can reach.

    A process that ends is started again. `memory` is what all of them may take, None what this
    one may; messages of dask below the logging level `silence` are not shown.
    """
    from distributed import Client, LocalCluster

    memory = memory or memory_limit.memory()
    with (
        dask.config.set(TIMEOUTS | LOW_OVERHEAD),
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


_LIBRARIES = ("tifffile", "imagecodecs")
_NOWHERE = logging.NullHandler()


def silence_library_logs() -> None:
    """Let nothing be printed of what tifffile and imagecodecs log: errors of ours tell it."""
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        logger.addHandler(_NOWHERE)
        logger.propagate = False


@contextmanager
def library_logs_silenced() -> Iterator[None]:
    """Do so while the block runs."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    before = [logger.propagate for logger in loggers]
    silence_library_logs()
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
            logger.removeHandler(_NOWHERE)


@contextmanager
def distributed_logs_above(level: int) -> Iterator[None]:
    """Show no messages of distributed below `level`, in which it tells of errors that we raise."""
    if find_spec("distributed") is None:
        yield
        return
    from distributed.utils import silence_logging_cmgr

    with silence_logging_cmgr(level):
        yield


def _without_interrupts() -> Any:
    """Return a plugin of workers that ends no work at Ctrl-C: a terminal sends it to all of us.

    The process that made the cluster ends them. They print nothing of libraries either.
    """
    from distributed import WorkerPlugin

    class WithoutInterrupts(WorkerPlugin):  # type: ignore[misc]
        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            silence_library_logs()

    return WithoutInterrupts()
