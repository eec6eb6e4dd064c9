"""The order in which slides take turns: balanced in every part of it, and known at any number.

A member with the share p of all turns has one turn in each interval of length 1 / p of a common
time, at a random place in it::

    p = 1/2    |   x    | x      |      x |  x     |
    p = 1/4    |           x     |    x            |
    turn           0      1 2      3  4      5

At any time each member has had its share of turns, up to one. To find the turns of some numbers,
only those near this time are looked at, so that nothing before them is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from dask_slides.feed.random_numbers import uniform

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Schedule:
    """The turns of members with shares, from 0 on without an end."""

    weights: NDArray[np.float64]
    """(members,) above 0; shares are in proportion to them."""
    seed: int
    stream: int
    """Stream of the random numbers."""

    @cached_property
    def _periods(self) -> NDArray[np.float64]:
        return np.asarray(self.weights.sum() / self.weights)

    def turns(self, start: int, stop: int) -> tuple[Integers, Integers]:
        """Return the member of each turn in [start, stop), and how many turns it had before."""
        count = len(self.weights)
        low, high = max(0, start - count - 1), stop + count + 1
        before, member, occurrence, time = self._between(low, high)
        order = np.lexsort((member, time))[start - before : stop - before]
        return member[order], occurrence[order]

    def _between(
        self, low: float, high: float
    ) -> tuple[int, Integers, Integers, NDArray[np.float64]]:
        """Return the number of turns before the time `low`, and those from then until `high`."""
        periods = self._periods
        first = np.maximum(0, np.floor(low / periods).astype(np.int64) - 1)
        length = np.floor(high / periods).astype(np.int64) + 2 - first
        member = np.repeat(np.arange(len(periods)), length)
        starts = np.cumsum(length) - length
        occurrence = np.arange(len(member)) - np.repeat(starts - first, length)
        within = uniform(self.seed, self.stream, member, occurrence)[0]
        time = (occurrence + within) * periods[member]
        early = time < low
        before = int(first.sum()) + int(np.count_nonzero(early))
        kept = ~early & (time < high)
        return before, member[kept], occurrence[kept], time[kept]


def shuffled(numbers: Integers, block: int, seed: int, stream: int, index: int) -> Integers:
    """Return where the shuffle of each block of `block` numbers moves `numbers`."""
    out = np.empty_like(numbers)
    for one in np.unique(numbers // block).tolist():
        chosen = numbers // block == one
        order = permutation(block, seed, stream, index, one)
        out[chosen] = one * block + order[numbers[chosen] - one * block]
    return out


def permutation(size: int, seed: int, stream: int, *counters: int) -> Integers:
    """Return a random permutation of `size` numbers, which depends on `counters` (up to three)."""
    keys = uniform(seed, stream, np.arange(-(-size // 4)), *counters).T.reshape(-1)[:size]
    return np.argsort(keys, kind="stable")


FEISTEL_ROUNDS = 6
_WORD = 2**64 - 1


def permuted(number: int, size: int, seed: int, stream: int, *counters: int) -> int:
    """Return where a random permutation of `size` numbers moves `number`; nothing is stored.

    The permutation depends on `counters` (up to three). It is a Feistel network over at least
    `size` numbers, applied until the result is one of them: J. Black and P. Rogaway, Ciphers with
    arbitrary finite domains, CT-RSA 2002.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = _round_keys(seed, stream, *counters)
    while True:
        left, right = number >> half, number & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        number = left << half | right
        if number < size:
            return number


@lru_cache(maxsize=4096)
def _round_keys(seed: int, stream: int, *counters: int) -> tuple[int, ...]:
    words = uniform(seed, stream, np.arange(-(-FEISTEL_ROUNDS // 4)), *counters).T.reshape(-1)
    return tuple(int(one * 2**53) for one in words[:FEISTEL_ROUNDS].tolist())


def _mixed(word: int) -> int:
    """Return 64 bits that all depend on all bits of `word` (the finalizer of SplitMix64)."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
