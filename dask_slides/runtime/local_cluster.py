"""A local cluster, and the log messages of libraries, for the command line.

Both change state that all threads of a process share, so no other code uses this module.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask

from dask_slides.runtime.scheduler import memory_limit

TIMEOUTS = {
    "distributed.deploy.lost-worker-timeout": "10m",
    "distributed.scheduler.no-workers-timeout": "2m",
}
"""Settings of a local cluster. By default, Dask abandons a worker that takes more than 15 s to
restart, and then waits forever."""
LOW_OVERHEAD = {
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.log-length": 50,
    "distributed.admin.log-length": 50,
    "distributed.admin.low-level-log-length": 50,
    "distributed.diagnostics.computations.max-history": 5,
}
"""Settings of a local cluster. With Dask's defaults, monitoring and profiling took 20 % of the time
of a resize on two cores, and the scheduler's logs grew for hours."""


@contextmanager
def local_cluster(workers: int, memory: int | None, log_level: int) -> Iterator[None]:
    """Compute on `workers` processes of this machine, which other machines cannot reach.

    A process that ends is restarted. `memory` limits all of them together; the default is the
    memory of the machine or container. Log messages below `log_level` are not shown.
    """
    from distributed import Client, LocalCluster

    memory = memory or memory_limit()
    with (
        dask.config.set(TIMEOUTS | LOW_OVERHEAD),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # the default is open to other machines
            memory_limit=memory // workers,
            silence_logs=log_level,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_quiet_worker_plugin())
        yield


_LIBRARIES = ("tifffile", "imagecodecs")
_NULL_HANDLER = logging.NullHandler()


def silence_library_logs() -> None:
    """Hide log messages of tifffile and imagecodecs, which our errors repeat.

    The loggers are not disabled: the decoder of CCITT looks at the warnings of imagecodecs.
    """
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        logger.addHandler(_NULL_HANDLER)
        logger.propagate = False


@contextmanager
def library_logs_silenced() -> Iterator[None]:
    """Hide log messages of tifffile and imagecodecs inside the block."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    before = [logger.propagate for logger in loggers]
    silence_library_logs()
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
            logger.removeHandler(_NULL_HANDLER)


def _quiet_worker_plugin() -> Any:
    """Return a plugin with which workers hide logs and leave Ctrl-C to the main process."""
    from distributed import WorkerPlugin

    class QuietWorker(WorkerPlugin):  # type: ignore[misc]
        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            silence_library_logs()

    return QuietWorker()
