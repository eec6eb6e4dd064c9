"""Loops over bytes compiled by Numba: sums, histograms, box means, weighted sums, transposition.

They give the same bits as NumPy and Pillow in `histograms`, `resample_means` and `box_means`, and
do not hold Python's lock. `dask_slides.runtime.numba_loader` imports this module for large jobs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

_BYTES = types.Array(types.uint8, 2, "A", readonly=True)
_ROWS = types.Array(types.uint8, 2, "C", readonly=True)
_OUT = types.Array(types.uint8, 2, "C")
_WORDS = types.Array(types.uint64, 2, "C", readonly=True)
_OUT_WORDS = types.Array(types.uint64, 2, "C")
_INDEX = types.Array(types.int64, 1, "C", readonly=True)
_FLOATS = types.Array(types.float32, 2, "C", readonly=True)
_INTEGERS = types.Array(types.int32, 2, "C", readonly=True)

_PIECE = 2**15
"""Bytes whose sum of squares fits 32 bits."""


def compiled(*signatures: Any) -> Callable[[Any], Any]:
    """Compile a function for `signatures` now, and cache the machine code on disk."""
    # all products and sums are exact, so contracting them does not change the result
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

    def compile_now(function: Any) -> Any:
        try:
            return njit([*signatures], cache=True, **options)(function)
        except RuntimeError:  # no cache directory is writable
            return njit([*signatures], **options)(function)

    return compile_now


def inlined(function: Any) -> Any:
    """Inline a function into the compiled functions that call it.

    Do not use arrays in its branches: Numba would count references to each of them.
    """
    return njit(inline="always")(function)


@compiled(types.UniTuple(types.int64, 2)(_BYTES))
def moments(values: Any) -> tuple[Any, Any]:
    """Return the sum and the sum of squares of bytes (rows, n)."""
    total, squares = np.int64(0), np.int64(0)
    for row in range(values.shape[0]):
        for left in range(0, values.shape[1], _PIECE):
            piece = values[row, left : left + _PIECE]
            some, some_squares = np.uint32(0), np.uint32(0)
            for i in range(piece.shape[0]):
                value = np.uint32(piece[i])
                some += value
                some_squares += value * value
            total += np.int64(some)
            squares += np.int64(some_squares)
    return total, squares


@compiled(types.void(_BYTES, types.int64, types.int64, _OUT))
def box_means(pixels: Any, channels: int, factor: int, out: Any) -> None:
    """Write the means of boxes of `factor` x `factor` of `pixels` (h, w c) to `out`.

    Means are rounded half up. `factor` is 2, 4 or 8, so that sums fit 16 bits. All boxes are whole.
    """
    width = out.shape[1] // channels
    size = width * factor * channels
    sums = np.empty(size, np.uint16)
    half = factor * factor // 2
    shift = 2 if factor == 2 else 4 if factor == 4 else 6
    for row in range(out.shape[0]):
        first = pixels[row * factor][:size]
        for i in range(size):
            sums[i] = first[i]
        for y in range(1, factor):
            more = pixels[row * factor + y][:size]
            for i in range(size):
                sums[i] += more[i]
        into = out[row]
        if channels == 3:  # the usual case, without an inner loop over channels
            for x in range(width):
                at = x * factor * 3
                red, green, blue = half, half, half
                for i in range(at, at + factor * 3, 3):
                    red += sums[i]
                    green += sums[i + 1]
                    blue += sums[i + 2]
                into[x * 3] = red >> shift
                into[x * 3 + 1] = green >> shift
                into[x * 3 + 2] = blue >> shift
        else:
            for x in range(width):
                for channel in range(channels):
                    value = half
                    at = x * factor * channels + channel
                    for i in range(at, at + factor * channels, channels):
                        value += sums[i]
                    into[x * channels + channel] = value >> shift


_ACROSS = 512
"""Samples of a row to sum at a time, so that the rows in use stay in the L2 cache."""


@compiled(
    types.void(_ROWS, _INDEX, _FLOATS, types.float32, types.int32, _OUT),
    types.void(_ROWS, _INDEX, _INTEGERS, types.int32, types.int32, _OUT),
)
def weighted_sums(block: Any, first: Any, weights: Any, half: Any, bits: Any, out: Any) -> None:
    """Write to row i of `out` the sum of rows of `block` from ``first[i]``, times ``weights[i]``.

    Sums plus `half` lose `bits` fraction bits, and are clipped. Weights beyond the last row of
    `block` are not used. Each row is cast once, into a ring buffer that holds the rows of one
    output.
    """
    height, width = block.shape
    count = weights.shape[1]
    held = 1
    while held < count:
        held *= 2
    ring = np.empty((held, _ACROSS), weights.dtype)
    sums = np.empty(_ACROSS, weights.dtype)
    for left in range(0, width, _ACROSS):
        size = min(_ACROSS, width - left)
        part = sums[:size]
        cast = first[0]
        for row in range(out.shape[0]):
            start = first[row]
            stop = min(start + count, height)
            cast = max(cast, start)
            while cast < stop:
                source = block[cast][left : left + size]
                target = ring[cast & (held - 1)][:size]
                for i in range(size):
                    target[i] = source[i]
                cast += 1
            for i in range(size):
                part[i] = half
            tap = 0
            while tap + 4 <= stop - start:  # four at a time, to load and store sums less often
                at = start + tap
                a, b, c, d = (
                    weights[row, tap],
                    weights[row, tap + 1],
                    weights[row, tap + 2],
                    weights[row, tap + 3],
                )
                of_a = ring[at & (held - 1)][:size]
                of_b = ring[(at + 1) & (held - 1)][:size]
                of_c = ring[(at + 2) & (held - 1)][:size]
                of_d = ring[(at + 3) & (held - 1)][:size]
                for i in range(size):
                    part[i] += a * of_a[i] + b * of_b[i] + c * of_c[i] + d * of_d[i]
                tap += 4
            while tap < stop - start:
                weight = weights[row, tap]
                of_one = ring[(start + tap) & (held - 1)][:size]
                for i in range(size):
                    part[i] += weight * of_one[i]
                tap += 1
            into = out[row][left : left + size]
            for i in range(size):
                # truncation rounds negative values up, but these are clipped
                value = np.int32(part[i]) >> bits
                into[i] = np.uint8(min(max(value, np.int32(0)), np.int32(255)))


@compiled(types.void(_WORDS, _OUT_WORDS))
def transpose(words: Any, out: Any) -> None:
    """Transpose bytes (h, w) to (w, h), both multiples of 8, given as words of 8 bytes.

    Eight words, one per row, are an 8 x 8 matrix, which three steps of masks and shifts transpose
    (Warren, Hacker's Delight, 7-3). This needs a little-endian machine.
    """
    bytes_mask, shorts_mask = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
    words_mask = np.uint64(0x00000000FFFFFFFF)
    one, two, four = np.uint64(8), np.uint64(16), np.uint64(32)
    for block in range(words.shape[0] // 8):
        rows = words[8 * block : 8 * block + 8]
        for column in range(words.shape[1]):
            a, b, c, d = rows[0, column], rows[1, column], rows[2, column], rows[3, column]
            e, f, g, h = rows[4, column], rows[5, column], rows[6, column], rows[7, column]
            swap = ((a >> one) ^ b) & bytes_mask
            a, b = a ^ (swap << one), b ^ swap
            swap = ((c >> one) ^ d) & bytes_mask
            c, d = c ^ (swap << one), d ^ swap
            swap = ((e >> one) ^ f) & bytes_mask
            e, f = e ^ (swap << one), f ^ swap
            swap = ((g >> one) ^ h) & bytes_mask
            g, h = g ^ (swap << one), h ^ swap
            swap = ((a >> two) ^ c) & shorts_mask
            a, c = a ^ (swap << two), c ^ swap
            swap = ((b >> two) ^ d) & shorts_mask
            b, d = b ^ (swap << two), d ^ swap
            swap = ((e >> two) ^ g) & shorts_mask
            e, g = e ^ (swap << two), g ^ swap
            swap = ((f >> two) ^ h) & shorts_mask
            f, h = f ^ (swap << two), h ^ swap
            swap = ((a >> four) ^ e) & words_mask
            a, e = a ^ (swap << four), e ^ swap
            swap = ((b >> four) ^ f) & words_mask
            b, f = b ^ (swap << four), f ^ swap
            swap = ((c >> four) ^ g) & words_mask
            c, g = c ^ (swap << four), g ^ swap
            swap = ((d >> four) ^ h) & words_mask
            d, h = d ^ (swap << four), h ^ swap
            at = 8 * column
            out[at, block], out[at + 1, block] = a, b
            out[at + 2, block], out[at + 3, block] = c, d
            out[at + 4, block], out[at + 5, block] = e, f
            out[at + 6, block], out[at + 7, block] = g, h


_COUNTS = types.Array(types.int64, 1, "C")
_ANYWHERE = types.Array(types.uint64, 2, "A", readonly=True, aligned=False)


@inlined
def _add(tables: Any, word: Any, times: Any) -> None:
    """Count the 8 bytes of `word` in a table each, so that no addition waits for another."""
    byte = np.uint64(255)
    tables[0, word & byte] += times
    tables[1, word >> np.uint64(8) & byte] += times
    tables[2, word >> np.uint64(16) & byte] += times
    tables[3, word >> np.uint64(24) & byte] += times
    tables[4, word >> np.uint64(32) & byte] += times
    tables[5, word >> np.uint64(40) & byte] += times
    tables[6, word >> np.uint64(48) & byte] += times
    tables[7, word >> np.uint64(56)] += times


@compiled(types.void(_ANYWHERE, _BYTES, _COUNTS))
def count_bytes(words: Any, rest: Any, counts: Any) -> None:
    """Add the histogram of the bytes of `words` and of the `rest` of their rows to `counts` (256).

    Three words hold 8 RGB pixels. On glass the same three words repeat, because JPEG stores little
    more than the mean of a block. Such a run is counted in one step.
    """
    tables = np.zeros((8, 256), np.uint32)  # fit the L1 cache
    one = np.uint32(1)
    for row in range(words.shape[0]):
        line = words[row]
        groups = line.shape[0] // 3
        if groups:
            a, b, c = line[0], line[1], line[2]
            times = np.uint32(0)
            for group in range(groups):
                x, y, z = line[3 * group], line[3 * group + 1], line[3 * group + 2]
                if (x == a) & (y == b) & (z == c):
                    times += one
                else:
                    _add(tables, a, times)
                    _add(tables, b, times)
                    _add(tables, c, times)
                    a, b, c, times = x, y, z, one
            _add(tables, a, times)
            _add(tables, b, times)
            _add(tables, c, times)
        for i in range(3 * groups, line.shape[0]):
            _add(tables, line[i], one)
        for value in rest[row]:
            counts[value] += 1
    for table in range(8):
        for value in range(256):
            counts[value] += tables[table, value]


_PIXELS = types.Array(types.uint8, 3, "A", readonly=True)


@compiled(types.void(_PIXELS, _COUNTS))
def count_greys(pixels: Any, counts: Any) -> None:
    """Add the histogram of the means of three channels, rounded down, to `counts` (256).

    Sums are counted, as fewer of them than of pixels have to be divided.
    """
    tables = np.zeros((4, 766), np.uint32)  # fit the L1 cache
    one = np.uint32(1)
    for row in range(pixels.shape[0]):
        line = pixels[row]
        for i in range(line.shape[0]):
            grey = np.int64(line[i, 0]) + np.int64(line[i, 1]) + np.int64(line[i, 2])
            tables[i & 3, grey] += one  # neighbours are often equal: no addition waits for another
    for table in range(4):
        for total in range(766):
            counts[total // 3] += tables[table, total]
