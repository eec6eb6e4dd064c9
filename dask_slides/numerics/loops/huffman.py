"""Huffman codes of JPEG, gone through and not decoded (ITU-T T.81, annexes C, F and H).

A code says how many bits follow it and how many coefficients it is for. That is enough to tell
whether bits are codes, and whether they are as many as their blocks take.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PEEK = 16
"""Bits of the longest code."""
BITS = 63
"""Mask of an entry of a table: the bits of a code and of the number that follows it."""
ZEROS = 64
"""Flag of an entry: zeros alone, so that more must come in this block (ZRL)."""
SIZE = 7
"""From this bit on an entry has 5 that say how many of its bits are those of the number."""
STEP = 12
"""From this bit on it says for how many coefficients it is; 0 is a difference (DC)."""
END = 128
"""Step of the entry for a block that is done (EOB)."""
NO_CODE, WIDE = 256, 257
"""Steps of the entries for what is no code, and for numbers that are wider than they can be."""
FIRST = 10
"""Bits of the first look at a code: tables of so many stay in the first-level cache."""
_REST = PEEK - FIRST
PADDING = 264
"""Bytes of zeros that may be looked at beyond the end: as many as a block can take, and a word."""
LANES = 16
"""Blocks that the compiled loops keep side by side."""
ZIGZAG = tuple(
    sorted(range(64), key=lambda n: (sum(divmod(n, 8)), n if sum(divmod(n, 8)) % 2 else -n))
)
"""Of each coefficient in the order of a stream, its place in a block, row by row (A.3.6)."""

SHORT, UNKNOWN, TOO_WIDE, TOO_FAR = -1, -2, -3, -4
"""What `walk` found: bits that end too early, that are no code, and entries of tables that fit
no sample or go beyond the block."""


def lookup(counts: bytes, symbols: bytes, is_dc: bool, widest: int) -> NDArray[np.uint32]:
    """Return, for any 16 bits, an entry for the code that they begin with (annex C).

    `counts` has how many codes there are of each length; `symbols`, what they stand for: a run
    of zeros and the bits of a number, or for a difference bits alone. A number has at most
    `widest` bits.
    """
    lengths = np.repeat(np.arange(1, PEEK + 1), list(counts))
    values = np.frombuffer(symbols, np.uint8).astype(np.int64)
    if is_dc:
        sizes = values
        # there is one number of 16 bits, and none of them follows (H.1.2.2)
        entries = lengths + sizes % 16 + (sizes << SIZE)
    else:
        sizes = values & 15
        entries = lengths + sizes + (sizes << SIZE) + ((values >> 4) + 1 << STEP)
        entries[sizes == 0] = NO_CODE << STEP  # two of them are told apart below
        entries[values == 0x00] = lengths[values == 0x00] + (END << STEP)
        entries[values == 0xF0] = lengths[values == 0xF0] + (16 << STEP) + ZEROS
    entries[sizes > widest] = WIDE << STEP
    # codes of one length follow each other, and longer ones follow those; ones alone are none by
    # the standard, but libjpeg reads them
    taken = np.repeat(entries.astype(np.uint32), 1 << (PEEK - lengths))
    if len(taken) > 1 << PEEK:
        raise ValueError("the JPEG stream has a Huffman table of more codes than there can be")
    table = np.full(1 << PEEK, NO_CODE << STEP, np.uint32)
    table[: len(taken)] = taken
    return table


def first_look(tables: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the tables (n, 65536) for the first bits alone, 0 where those are not enough."""
    groups = tables.reshape(len(tables), 1 << FIRST, -1)
    alike = (groups == groups[..., :1]).all(axis=-1)
    return np.where(alike, groups[..., 0], np.uint32(0))


def words(data: bytes) -> NDArray[np.int64]:
    """Return each 16 bits of `data` with the 16 that follow: any 16 bits lie in one of those."""
    halves = np.frombuffer(data + bytes(PADDING + len(data) % 2), ">u2").astype(np.int64)
    return halves[:-1] << 16 | halves[1:]


def walk(
    words: Any, bits: int, units: int, order: Any, first: Any, tables: Any, coefficients: int
) -> int:
    """Return how many of the `bits` of `words` the `units` take, or what is wrong (F.2.2, H.2).

    A unit (MCU) has a block of `coefficients`, 64 or 1, for each row of `order`, which says the
    rows of `first` and `tables` for its difference and for what follows.
    """
    at = 0
    for _ in range(units):
        for block in range(len(order)):
            row = order[block][0]
            peek = words[at >> 4] >> (16 - (at & 15)) & 0xFFFF
            entry = first[row][peek >> _REST] or tables[row][peek]
            at += entry & BITS
            done = 1 + (entry >> STEP)
            row = order[block][1]
            while done < coefficients:
                peek = words[at >> 4] >> (16 - (at & 15)) & 0xFFFF
                entry = first[row][peek >> _REST] or tables[row][peek]
                at += entry & BITS
                done += entry >> STEP
            if at > bits:
                return SHORT
            if done > NO_CODE:
                if entry >> STEP == WIDE:
                    return TOO_WIDE
                return UNKNOWN if at + PEEK <= bits else SHORT  # it may be half a code
            if done < END and (done > coefficients or entry & ZEROS):
                return TOO_FAR
    return at
