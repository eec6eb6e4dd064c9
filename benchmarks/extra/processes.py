"""Start a scheduler and two workers as separate processes, with the settings for long runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dask_slides.runtime.local_cluster import LOW_OVERHEAD


@contextmanager
def cluster_of_processes(
    folder: Path, worker: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str]]:
    """Yield the process id of a scheduler and its file; it has two workers of one thread each.

    `worker` are additional options of the workers; all files are written to `folder`.
    """
    file = str(folder / "scheduler.json")
    shared = os.environ | dict(environment or {})
    for key, value in LOW_OVERHEAD.items():
        shared["DASK_" + key.upper().replace(".", "__").replace("-", "_")] = str(value)
    here = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", file]
    quiet: dict[str, Any] = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    processes = []
    try:
        for module, options in (
            ("dask_scheduler", ["--port", "0"]),
            ("dask_worker", ["--nworkers", "2", "--nthreads", "1", *worker]),
        ):
            words = [sys.executable, "-m", f"distributed.cli.{module}", *here, *options]
            processes.append(subprocess.Popen(words, env=shared, cwd=folder, **quiet))
            while not os.path.exists(file):
                time.sleep(0.1)
        yield processes[0].pid, file
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        Path(file).unlink(missing_ok=True)
