"""A preload of dask workers that appends a line to a journal for each published store."""

from __future__ import annotations

import os
from typing import Any

from dask_slides.writers.store.local_folder import LocalFolder


def dask_setup(worker: Any) -> None:
    """Wrap the method that publishes a store; Dask calls this in each worker process."""
    publish = LocalFolder.publish

    def published(self: LocalFolder, *args: Any) -> None:
        publish(self, *args)
        handle = os.open(os.environ["DASK_SLIDES_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(
            handle, f"{self.path}\n".encode()
        )  # one write, so that lines of two workers do not mix
        os.close(handle)

    if publish.__module__ != __name__:  # a preload may be loaded twice
        LocalFolder.publish = published  # type: ignore[method-assign]
