"""A pool of memory for large temporary arrays.

If several threads allocate and free large arrays, they fragment the heap of the C library, and the
process grows to several times the memory in use. Memory from the operating system avoids that, but
clearing its pages takes longer than a copy into them. So the pool gets memory from the operating
system and reuses it.
"""

from __future__ import annotations

import math
import mmap
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.runtime.fork_safety import fork_safe_lock

LIMIT = 2**24
"""Maximum bytes of free memory in the pool. More is returned to the operating system."""

Memory = tuple[mmap.mmap, int, int]
"""Pages, their address, and their size in bytes."""


class _Buffer:
    """The base of an array, which returns its memory to the pool when the last view is gone."""

    def __init__(
        self, pool: BufferPool, memory: Memory, shape: tuple[int, ...], dtype: Any
    ) -> None:
        self._pool = pool
        self._memory = memory
        self.__array_interface__ = {
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "data": (memory[1], False),
            "version": 3,
        }

    def __del__(self) -> None:
        self._pool.release(self._memory)


class BufferPool:
    """A pool from which all threads allocate arrays."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._free: dict[int, deque[Memory]] = {}
        self._lock = fork_safe_lock()

    @property
    def nbytes(self) -> int:
        """Bytes of free memory in the pool."""
        return sum(size * len(memories) for size, memories in list(self._free.items()))

    def array(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an uninitialized array of `shape`."""
        size = _rounded_up(max(1, math.prod(shape) * np.dtype(dtype).itemsize))
        with self._lock:
            memory = self._reuse(size) or self._allocate(size)
        return np.asarray(_Buffer(self, memory, shape, dtype))

    def _reuse(self, size: int) -> Memory | None:
        """Return the smallest free memory of at least `size` and at most twice as many bytes."""
        for fits in sorted(other for other in list(self._free) if size <= other <= 2 * size):
            try:
                return self._free[fits].pop()
            except IndexError:  # none of this size is free
                continue
        return None

    def _allocate(self, size: int) -> Memory:
        self._free.setdefault(size, deque())
        for memories in list(self._free.values()):  # drop free memory of other sizes
            while memories and self.nbytes + size > self._limit:
                memories.popleft()
        pages = _private(size)
        address: int = np.frombuffer(pages, np.uint8).__array_interface__["data"][0]
        return pages, address, size

    def release(self, memory: Memory) -> None:
        """Put `memory` back into the pool, or drop it if the pool is full."""
        # without the lock, as the garbage collector may call this in a thread that holds it
        size = memory[2]
        if self.nbytes + size <= self._limit:
            self._free[size].append(memory)


def _private(size: int) -> mmap.mmap:
    """Return new pages that a forked child does not share.

    These are huge pages if available, because they are cleared several times faster.
    """
    if sys.platform == "win32":  # no fork there
        return mmap.mmap(-1, size)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # not available, or not enabled
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def _rounded_up(size: int) -> int:
    """Round up to one of eight sizes per power of two, so that similar arrays share memory."""
    step = max(mmap.PAGESIZE, 2 ** (size.bit_length() - 4))
    return int(-(-size // step) * step)


POOL = BufferPool()
"""The pool of this process."""


_of_thread = threading.local()


def thread_buffer(name: str, rows: int, columns: int, dtype: Any) -> Array:
    """Return an array of this thread, which the next call with the same name reuses.

    Page faults of new arrays for each call would take as long as the sums in them, and large arrays
    that several threads allocate and free fragment the heap.
    """
    buffers: dict[str, Array] = _of_thread.__dict__
    if name not in buffers or buffers[name].size < rows * columns:
        # from the pool, because schedulers start new threads for every call
        buffers[name] = POOL.array((rows * columns,), dtype)
        buffers[name][:] = 0  # sums of uninitialized samples would warn
    return buffers[name][: rows * columns].reshape(rows, columns)
