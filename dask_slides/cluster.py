"""Run a graph on whatever scheduler is active, and tell how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.callbacks import Callback
from numpy.typing import NDArray

Progress = Callable[[int, int], None]
"""Called with the blocks done and the blocks in all."""


def active_client() -> Any | None:
    """Return the distributed client that dask would use, or None."""
    distributed = sys.modules.get("distributed")
    if distributed is None:  # nobody made a client, so there is none
        return None
    if dask.config.get("scheduler", None) not in (None, "dask.distributed", "distributed"):
        return None
    try:
        return distributed.get_client()
    except ValueError:
        return None


def compute(array: da.Array, progress: Progress | None = None) -> NDArray[Any]:
    """Compute `array` on the active scheduler, calling `progress` after each block."""
    if progress is None:
        return np.asarray(array.compute())
    total = int(array.npartitions)
    client = active_client()
    if client is None:
        with _Count(array, total, progress) as count:
            result = np.asarray(array.compute())
        if count.done < total:  # dask renames the key of an array of one block
            progress(total, total)
        return result
    from distributed import as_completed, futures_of

    persisted = array.persist()
    futures = futures_of(persisted)
    try:
        for done, future in enumerate(as_completed(futures), 1):
            if future.status == "error":
                break  # compute raises what the task raised
            progress(done, total)
        return np.asarray(persisted.compute())
    except BaseException:
        client.cancel(futures)
        raise


class _Count(Callback):  # type: ignore[misc]
    """Counts finished blocks of one array on the schedulers of this machine."""

    def __init__(self, array: da.Array, total: int, progress: Progress) -> None:
        super().__init__()
        self._name = array.name
        self._total = total
        self.done = 0
        self._progress = progress

    def _posttask(self, key: Any, *_: Any) -> None:
        if isinstance(key, tuple) and key[0] == self._name:
            self.done += 1
            self._progress(self.done, self._total)
