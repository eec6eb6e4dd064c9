"""How the loops are compiled, and the words of bits that they read and write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def compiled(*signatures: Any) -> Callable[[Any], Any]:
    """Return what compiles a function for `signatures`, and keeps the machine code if it can."""
    # fused products change nothing: every one of them, and every sum, is exact
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

    def made(function: Any) -> Any:
        try:
            return njit([*signatures], cache=True, **options)(function)
        except RuntimeError:  # nowhere to keep it
            return njit([*signatures], **options)(function)

    return made


def inlined(function: Any) -> Any:
    """Make a function part of those that call it.

    Without arrays in its branches: each of those would count references, with locked additions.
    """
    return njit(inline="always")(function)


_8, _16, _24, _32, _40, _48, _56 = (np.uint64(n) for n in range(8, 57, 8))


@inlined
def word_at(data: Any, at: Any) -> Any:
    """Return 8 bytes, the first one highest: one load, as compilers know this pattern."""
    return (
        np.uint64(data[at]) << _56
        | np.uint64(data[at + np.uint64(1)]) << _48
        | np.uint64(data[at + np.uint64(2)]) << _40
        | np.uint64(data[at + np.uint64(3)]) << _32
        | np.uint64(data[at + np.uint64(4)]) << _24
        | np.uint64(data[at + np.uint64(5)]) << _16
        | np.uint64(data[at + np.uint64(6)]) << _8
        | np.uint64(data[at + np.uint64(7)])
    )


@inlined
def put(data: Any, to: Any, word: Any) -> None:
    """Put 8 bytes, the highest one first: one store."""
    data[to] = np.uint8(word >> _56)
    data[to + np.uint64(1)] = np.uint8(word >> _48 & np.uint64(255))
    data[to + np.uint64(2)] = np.uint8(word >> _40 & np.uint64(255))
    data[to + np.uint64(3)] = np.uint8(word >> _32 & np.uint64(255))
    data[to + np.uint64(4)] = np.uint8(word >> _24 & np.uint64(255))
    data[to + np.uint64(5)] = np.uint8(word >> _16 & np.uint64(255))
    data[to + np.uint64(6)] = np.uint8(word >> _8 & np.uint64(255))
    data[to + np.uint64(7)] = np.uint8(word & np.uint64(255))
