"""Huffman codes of JPEG, decoded, and what is wrong with them (ITU-T T.81, annexes F and H).

A block of coefficients is not stored by itself: those of 16 blocks at the same place of each
lie side by side, so that a vector register takes one of several blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from dask_slides.numerics.loops.compiler import compiled, inlined, put, word_at
from dask_slides.numerics.loops.huffman import (
    BITS,
    END,
    FIRST,
    LANES,
    NO_CODE,
    PADDING,
    PEEK,
    SHORT,
    SIZE,
    STEP,
    TOO_FAR,
    TOO_WIDE,
    UNKNOWN,
    WIDE,
    ZEROS,
    ZIGZAG,
)

_INT = types.int64
_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_ROOM = types.Array(types.uint8, 1, "C")
_TABLES = types.Array(types.uint32, 2, "C", readonly=True)
_ORDER = types.Array(_INT, 2, "C", readonly=True)
_BLOCKS = types.Array(types.int16, 1, "C")
_PIXELS = [types.Array(samples, 2, "A") for samples in (types.uint8, types.uint16)]

_0, _1, _3, _7, _56, _63 = (np.uint64(n) for n in (0, 1, 3, 7, 56, 63))
_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)


@compiled(types.UniTuple(_INT, 2)(_BYTES, _INT, _ROOM))
def unstuff(stream: Any, at: int, out: Any) -> tuple[Any, Any]:
    """Put what is coded from `at` on into `out`, without stuffing; return where the marker is.

    And how many bytes there are, -1 for fill bytes within. The marker is -1 if there is none.
    Zeros follow in `out`: it is larger than `stream` by as many.
    """
    size, to, filled = stream.shape[0], 0, False
    while at < size:
        while at + 8 <= size:
            word = np.uint64(word_at(stream, np.uint64(at)))
            if (~word - _ONES) & word & _HIGHS:  # one of them is FF
                break
            put(out, np.uint64(to), word)
            at += 8
            to += 8
        stop = min(at + 8, size)
        while at < stop:
            value = stream[at]
            out[to] = value
            at += 1
            to += 1
            if value == 255:
                after = at
                while after < size and stream[after] == 255:
                    after += 1
                if after == size:
                    return -1, 0
                if stream[after]:
                    out[to - 1 : to + PADDING] = 0
                    return after - 1, -1 if filled else to - 1
                filled |= after > at
                at = after + 1
    return -1, 0


@inlined
def _filled(data: Any, register: Any, count: Any, at: Any) -> Any:
    """Return the register with 56 bits or more, how many, and where the next bytes are."""
    return register | word_at(data, at) >> count, count | _56, at + ((_63 - count) >> _3)


@inlined
def _number(register: Any, total: Any, size: Any) -> Any:
    """Return the number of `size` bits that the first `total` end with (T.81, F.2.2.1)."""
    bits = register << (total - size)
    value: Any = np.int64(bits >> _1 >> (_63 - size))
    if np.int64(bits) >= 0:  # it begins with 0
        value -= (np.int64(1) << np.int64(size)) - 1
    return value


_SHIFT, _SHORT_SHIFT = np.uint64(64 - PEEK), np.uint64(64 - FIRST)
_MASK, _SIZE, _SIZE_MASK, _STEP = (np.uint64(n) for n in (BITS, SIZE, 31, STEP))
_ZEROS, _COEFFICIENTS = np.uint64(ZEROS), np.uint64(64)
# a block that is too long ends behind the last coefficient
_PLACES = np.array([*ZIGZAG, *[63] * 16], np.uint64) * np.uint64(LANES)


@compiled(_INT(_BYTES, _INT, _INT, _INT, _INT, _ORDER, _TABLES, _TABLES, _BLOCKS))
def coefficients(
    data: Any, bits: int, start: int, units: int, across: int, order: Any, first: Any,
    tables: Any, out: Any,
) -> Any:  # fmt: skip
    """Decode units of blocks; return the bits they take, or what is wrong, as `huffman.walk`.

    They are units `start` on, of which `across` are beside each other. For each block of a unit
    `order` has the rows of `tables` for its difference and for what follows; the number of its
    component; where this begins in `out`, and how many blocks are beside each other there; how
    many a unit has across and down; and which of those it is.
    """
    last = np.zeros(4, np.int64)
    register, count, at = word_at(data, _0), _56, _7
    for unit in range(start, start + units):
        row, column = unit // across, unit % across
        for number in range(order.shape[0]):
            block = (row * order[number, 6] + order[number, 8]) * order[number, 4]
            block += column * order[number, 5] + order[number, 7]
            base = np.uint64(order[number, 3] + (block >> 4) * (64 * LANES) + (block & 15))
            table, component = np.uint64(order[number, 0]), order[number, 2]
            entry = np.uint64(first[table, register >> _SHORT_SHIFT])
            if entry == _0:
                entry = np.uint64(tables[table, register >> _SHIFT])
            register, count, at = _filled(data, register, count, at)
            total = entry & _MASK
            last[component] += _number(register, total, entry >> _SIZE & _SIZE_MASK)
            register <<= total
            count -= total
            done = _1 + (entry >> _STEP)
            out[base] = np.int16(last[component])
            table = np.uint64(order[number, 1])
            while done < _COEFFICIENTS:
                entry = np.uint64(first[table, register >> _SHORT_SHIFT])
                if entry == _0:
                    entry = np.uint64(tables[table, register >> _SHIFT])
                register, count, at = _filled(data, register, count, at)
                total, size = entry & _MASK, entry >> _SIZE & _SIZE_MASK
                done += entry >> _STEP
                if size:
                    value = _number(register, total, size)
                    out[base + _PLACES[done - _1]] = np.int16(value)
                register <<= total
                count -= total
            taken = np.int64(at << _3) - np.int64(count)
            if taken > bits:
                return SHORT
            if done > np.uint64(NO_CODE):
                if entry >> _STEP == np.uint64(WIDE):
                    return TOO_WIDE
                return UNKNOWN if taken + PEEK <= bits else SHORT
            if done < np.uint64(END) and (done > _COEFFICIENTS or entry & _ZEROS):
                return TOO_FAR
    return np.int64(at << _3) - np.int64(count)


_DIFFERENCES = [
    _INT(_BYTES, _INT, _INT, _INT, _INT, _ORDER, _TABLES, _TABLES, _INT, _INT, _INT, plane)
    for plane in _PIXELS
]


@compiled(*_DIFFERENCES)
def differences(
    data: Any, bits: int, start: int, units: int, across: int, order: Any, first: Any,
    tables: Any, predictor: int, middle: int, shift: int, out: Any,
) -> Any:  # fmt: skip
    """Decode pixels without loss (T.81, H.2), like `coefficients`; rows of `out` are pixels.

    `order` has a row of `tables` and a column of `out` for each sample of a pixel. The first
    pixel, of which nothing is known, is predicted as `middle`.
    """
    samples = order.shape[0]
    above = np.zeros((samples, across), np.int32)
    left, corner = np.zeros(samples, np.int32), np.zeros(samples, np.int32)
    register, count, at = word_at(data, _0), _56, _7
    for unit in range(start, start + units):
        column = unit % across
        for sample in range(samples):
            table = np.uint64(order[sample, 0])
            entry = np.uint64(first[table, register >> _SHORT_SHIFT])
            if entry == _0:
                entry = np.uint64(tables[table, register >> _SHIFT])
            register, count, at = _filled(data, register, count, at)
            total, size = entry & _MASK, entry >> _SIZE & _SIZE_MASK
            if entry >> _STEP:
                taken = np.int64(at << _3) - np.int64(count) + np.int64(total)
                if taken > bits:
                    return SHORT
                if entry >> _STEP == np.uint64(WIDE):
                    return TOO_WIDE
                return UNKNOWN if taken + PEEK <= bits else SHORT
            value: Any = np.int32(32768)
            if size != np.uint64(16):  # of that no bits follow (H.1.2.2)
                value = np.int32(_number(register, total, size))
            register <<= total
            count -= total
            over = above[sample, column]
            if unit - start < across:  # the first row
                predicted = left[sample] if column else np.int32(middle)
            elif column == 0 or predictor == 2:
                predicted = over
            elif predictor == 1:
                predicted = left[sample]
            elif predictor == 3:
                predicted = corner[sample]
            elif predictor == 4:
                predicted = left[sample] + over - corner[sample]
            elif predictor == 5:
                predicted = left[sample] + (over - corner[sample] >> 1)
            elif predictor == 6:
                predicted = over + (left[sample] - corner[sample] >> 1)
            else:
                predicted = left[sample] + over >> 1
            value = predicted + value & 0xFFFF
            corner[sample] = over
            left[sample] = value
            above[sample, column] = value
            out[unit, order[sample, 1]] = value << shift
        if np.int64(at << _3) - np.int64(count) > bits:
            return SHORT
    return np.int64(at << _3) - np.int64(count)
