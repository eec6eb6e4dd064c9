"""A preload of dask workers that appends a line to a journal for each published store."""

from __future__ import annotations

import os
from typing import Any

from dask_slides.writers.store import local_transaction


def dask_setup(worker: Any) -> None:
    """Wrap the function that publishes; dask calls this in each worker process."""
    publish = local_transaction._publish

    def publish_and_record(hidden: str, target: str, overwrite: bool) -> None:
        publish(hidden, target, overwrite)
        handle = os.open(os.environ["DASK_SLIDES_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{target}\n".encode())  # one write: lines of two workers do not mix
        os.close(handle)

    if publish.__module__ != __name__:  # a preload may be loaded twice
        local_transaction._publish = publish_and_record
