"""Dask arrays whose blocks go into one result, instead of being joined at the end."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
from dask import threaded
from dask.base import get_scheduler

from dask_slides.runtime.scheduler import FilledArray


class BlockArray(da.Array):  # type: ignore[misc]
    """A dask array whose `compute` copies each block into the result as soon as it is done.

    Plain dask arrays hold all blocks until the last one is done and then join them, which takes
    twice the memory of the result. Where tasks run in other processes, this is a plain dask array,
    as is whatever dask makes of it.
    """

    __slots__ = ()

    def compute(self, **kwargs: Any) -> Any:
        """Return the array in memory; takes what ``compute`` of any dask array takes."""
        scheduler = get_scheduler(scheduler=kwargs.get("scheduler"), collections=[self])
        if scheduler not in (threaded.get, dask.get):
            return super().compute(**kwargs)
        filled = FilledArray(self)
        filled.lazy().compute(**kwargs)
        return filled.result


def block_array(array: da.Array) -> BlockArray:
    """Return `array` as one that `compute` fills block by block."""
    return BlockArray(array.dask, array.name, array.chunks, meta=array._meta)
