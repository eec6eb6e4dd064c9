"""Dask arrays whose blocks go into one result, instead of being joined at the end."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
from dask import threaded
from dask.base import get_scheduler

from dask_slides.core.types import Array


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
        result = _Result(np.empty(self.shape, self.dtype))
        da.store(self, result, lock=False, **kwargs)
        return result.array


class _Result:
    """Where blocks are written. It has a name, as dask would hash all pixels of a bare array."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape = array.shape
        self.name = uuid4().hex

    def __setitem__(self, index: Any, block: Array) -> None:
        self.array[index] = block

    def __dask_tokenize__(self) -> str:
        return self.name


def block_array(array: da.Array) -> BlockArray:
    """Return `array` as one that `compute` fills block by block."""
    return BlockArray(array.dask, array.name, array.chunks, meta=array._meta)
