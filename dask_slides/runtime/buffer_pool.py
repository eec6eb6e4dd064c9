"""Memory of its own for arrays of megabytes that come and go, handed round.

In the heap, small arrays that stay between large ones that come and go in several threads
leave holes, so that a process grows by several times what it holds. Fresh memory from the
system is cleared page by page when it is first touched, which costs more than the copy that
is made into it. So it comes from the system, and what is freed is lent again.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.runtime.fork_safety import fork_safe_lock

LIMIT = 2**26
"""Bytes that wait for the next array, at the most; the rest goes back to the system."""


Memory = tuple[mmap.mmap, int, int]
"""Pages of the system, their address and their size."""


class _Loan:
    """The base of an array; when no view of it is left the memory is free again."""

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
        self._pool.take_back(self._memory)


class BufferPool:
    """Lends arrays of bytes or numbers; threads share it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._free: dict[int, deque[Memory]] = {}
        self._lock = fork_safe_lock()

    @property
    def nbytes(self) -> int:
        """Bytes that wait."""
        return sum(size * len(memories) for size, memories in list(self._free.items()))

    def array(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array of `shape`; what is in it is left over from the last one."""
        size = _rounded_up(max(1, math.prod(shape) * np.dtype(dtype).itemsize))
        with self._lock:
            memory = self._waiting(size) or self._new(size)
        return np.asarray(_Loan(self, memory, shape, dtype))

    def _waiting(self, size: int) -> Memory | None:
        """Return the least memory that waits and fits, of up to twice the size."""
        for fits in sorted(other for other in list(self._free) if size <= other <= 2 * size):
            try:
                return self._free[fits].pop()
            except IndexError:  # none of these
                continue
        return None

    def _new(self, size: int) -> Memory:
        self._free.setdefault(size, deque())
        for memories in list(self._free.values()):  # of sizes that nobody asks for now
            while memories and self.nbytes + size > self._limit:
                memories.popleft()
        pages = _private(size)
        address: int = np.frombuffer(pages, np.uint8).__array_interface__["data"][0]
        return pages, address, size

    def take_back(self, memory: Memory) -> None:
        """Let `memory` wait for the next array; called wherever the last view is dropped."""
        # without the lock: the collector may call this in a thread that holds it
        size = memory[2]
        if self.nbytes + size <= self._limit:
            self._free[size].append(memory)


def _private(size: int) -> mmap.mmap:
    """Return fresh pages of this process alone; by default a child made by fork would share them.

    Large ones where the system has them: they are cleared several times faster.
    """
    if sys.platform == "win32":  # no fork either
        return mmap.mmap(-1, size)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # not on this system, or not switched on
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def _rounded_up(size: int) -> int:
    """Return one of eight sizes between two powers of two, so that windows share them."""
    step = max(mmap.PAGESIZE, 2 ** (size.bit_length() - 4))
    return int(-(-size // step) * step)


POOL = BufferPool()
"""Of this process."""
