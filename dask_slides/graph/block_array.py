"""Dask arrays that compute their blocks into one result, without joining them at the end."""

from __future__ import annotations

from typing import Any

import dask.array as da

from dask_slides.runtime.scheduler import compute, computes_here
from dask_slides.runtime.threads import override_settings


class BlockArray(da.Array):  # type: ignore[misc]
    """A dask array whose `compute` copies each finished block into the result.

    A plain dask array holds all blocks until the last one is done and then joins them, which takes
    twice the memory of the result. If tasks run in other processes, `compute` is that of a plain
    dask array. Slices and other arrays derived from this one are plain dask arrays.
    """

    __slots__ = ()

    def compute(self, **kwargs: Any) -> Any:
        """Compute the array. Takes the arguments of ``dask.array.Array.compute``."""
        with override_settings(kwargs):
            if computes_here():
                return compute(self, self.name)
        return super().compute(**kwargs)


def block_array(array: da.Array) -> BlockArray:
    """Convert `array` to a `BlockArray`."""
    return BlockArray(array.dask, array.name, array.chunks, meta=array._meta)
