"""Random numbers that are a function of a seed and a counter, for many counters at once.

NumPy's `numpy.random.Philox` is such a function too, but makes a generator object per counter.
This is the same function, Philox4x64-10, over arrays: J. K. Salmon et al., Parallel random numbers:
as easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

ROUNDS = 10
MULTIPLIERS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)


def philox(key: tuple[int, int], counters: tuple[Words, Words, Words, Words]) -> list[Words]:
    """Return four arrays of random words for each of `counters`, which have one shape."""
    c0, c1, c2, c3 = counters
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _product(c0, MULTIPLIERS[0])
        high1, low1 = _product(c2, MULTIPLIERS[1])
        c0, c1 = high1 ^ c1 ^ np.uint64(k0), low1
        c2, c3 = high0 ^ c3 ^ np.uint64(k1), low0
        k0, k1 = (k0 + WEYL[0]) % 2**64, (k1 + WEYL[1]) % 2**64
    return [c0, c1, c2, c3]


def _product(words: Words, factor: np.uint64) -> tuple[Words, Words]:
    """Return the high and the low 64 bits of products of 64 bits."""
    low, high = words & _LOW, words >> _HALF
    factor_low, factor_high = factor & _LOW, factor >> _HALF
    middle = high * factor_low + ((low * factor_low) >> _HALF)
    other = low * factor_high + (middle & _LOW)
    return high * factor_high + (middle >> _HALF) + (other >> _HALF), words * factor


def uniform(seed: int, stream: int, *counters: Any) -> NDArray[np.float64]:
    """Return four random numbers in [0, 1) for each counter, (4, n).

    Parameters
    ----------
    seed : int
        From 0 to 2**64 - 1.
    stream : int
        What the numbers are for. Streams are independent of each other.
    *counters : int or array of int
        Up to four, each (n,) or one number, from 0.
    """
    given = np.broadcast_arrays(*(np.asarray(one).astype(np.uint64) for one in counters))
    zero = np.zeros(given[0].shape, np.uint64)
    c0, c1, c2, c3 = (*given, zero, zero, zero)[:4]
    # the 53 highest bits, as NumPy makes doubles
    words = philox((seed, stream), (c0, c1, c2, c3))
    return np.stack([(one >> np.uint64(11)) * 2.0**-53 for one in words])
