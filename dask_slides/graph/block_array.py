"""Dask arrays whose blocks go into one result, instead of being joined at the end."""

from __future__ import annotations

from typing import Any

import dask.array as da

from dask_slides.runtime.scheduler import compute, computes_here
from dask_slides.runtime.threads import override_settings


class BlockArray(da.Array):  # type: ignore[misc]
    """A dask array whose `compute` copies each block into the result as soon as it is done.

    Plain dask arrays hold all blocks until the last one is done and then join them, which takes
    twice the memory of the result. Where tasks run in other processes, this is a plain dask array,
    as is whatever dask makes of it.
    """

    __slots__ = ()

    def compute(self, **kwargs: Any) -> Any:
        """Return the array in memory; takes what ``compute`` of any dask array takes."""
        with override_settings(kwargs):
            if computes_here():
                return compute(self, self.name)
        return super().compute(**kwargs)


def block_array(array: da.Array) -> BlockArray:
    """Return `array` as one that `compute` fills block by block."""
    return BlockArray(array.dask, array.name, array.chunks, meta=array._meta)
