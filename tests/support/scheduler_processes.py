"""Run a Dask scheduler and workers as separate processes of this machine."""

import json
import subprocess
import sys
from contextlib import contextmanager

import distributed
import fault_work

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def started(module, *words, **options):
    """Start a module of Python, whose output is dropped."""
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.Popen(command, **QUIET, **options)


@contextmanager
def scheduler_and_worker(file, workers=2, host="127.0.0.1", **options):
    """Yield the processes of a scheduler and of its `workers`, of one thread each.

    `file` becomes the scheduler file, and `options` are those of the processes.
    """
    words = ["--host", host, "--no-dashboard", "--scheduler-file", file]
    processes = [started("distributed.cli.dask_scheduler", *words, "--port", 0, **options)]
    try:
        fault_work.wait_until(
            lambda: file.exists() and json.loads(file.read_text() or "{}").get("address")
        )
        words += ["--nworkers", workers, "--nthreads", 1, "--death-timeout", 60]
        processes.append(
            started("distributed.cli.dask_worker", *words, "--no-reconnect", **options)
        )
        yield processes
    finally:
        for one in processes:
            one.kill()
            one.wait()


@contextmanager
def local_client(workers, threads=1, **options):
    """Yield a client of a new local cluster, which is the scheduler inside the block."""
    options = {"processes": True, "host": "127.0.0.1", "silence_logs": 50} | options
    options |= {"n_workers": workers, "threads_per_worker": threads}
    with (
        # without an address the dashboard would use port 8787
        distributed.LocalCluster(dashboard_address="127.0.0.1:0", **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        client.as_current(),
    ):
        yield client
