"""LZW as TIFF has it: the bytes of imagecodecs, or none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from dask_slides.numerics.loops.compiler import compiled, put, word_at

_STREAM = types.Array(types.uint8, 1, "C", readonly=True)
_ROOM = types.Array(types.uint8, 1, "C")
_0, _1, _8, _16, _64 = (np.uint64(n) for n in (0, 1, 8, 16, 64))
"""Indices and shifts without a sign: Numba would look whether others count from the end."""


@compiled(types.int64(_STREAM, _ROOM))
def unpack(data: Any, out: Any) -> Any:
    """Decode the LZW of TIFF 6.0 (section 13) from `data` to `out`; return the bytes, or -1.

    -1 where the stream does not begin with a clear, holds more than `out`, or has no end.
    Every string of the table lies in what was decoded: that of a new code is the one before and
    the byte behind it. So the table keeps where a string begins and how long it is, and is
    filled without looking at the bytes. The first 256 bytes of `out` are 0 to 255, the strings
    of those codes.
    8 bytes are read and written where fewer may be meant: as many must follow in both.
    """
    end = np.uint64(257)  # 256 is a clear
    widest, long = np.uint64(12), np.uint64(0xFFFF)
    table = np.empty(4096, np.uint64)  # 48 bits where, 16 how long
    for value in range(256):
        table[value] = np.uint64(value) << _16 | _1
    bits, room = _8 * np.uint64(data.shape[0] - 8), np.uint64(out.shape[0] - 8)
    # the first code after a clear puts what is left over to the code for the end
    width, last, new = np.uint64(9), np.uint64(511), end
    bit, at, before = _0, np.uint64(256), _0
    if bits < width or word_at(data, bit) >> (_64 - width) != np.uint64(256):
        return -1
    while bit + width <= bits:
        code = word_at(data, bit >> np.uint64(3)) << (bit & np.uint64(7)) >> (_64 - width)
        bit += width
        if code | _1 == end:
            if code == end:
                return np.int64(at) - 256
            width, last, new = np.uint64(9), np.uint64(511), end
            continue
        if code > new or new >= np.uint64(4096):
            return -1
        table[new] = before
        start, length = table[code] >> _16, table[code] & long
        if at + length > room:
            return -1
        before = (at << _16) + length + _1
        put(out, at, word_at(out, start))
        done = _8
        while done < length:
            put(out, at + done, word_at(out, start + done))
            done += _8
        if code == new:  # its last byte is its first one, which was not there yet
            out[at + length - _1] = out[start]
        at += length
        new += _1
        if new == last:  # a code early, as TIFF has it
            if width < widest:
                width += _1
            last = (_1 << width) - _1
    return -1
