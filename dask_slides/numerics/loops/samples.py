"""Samples of the coefficients of a JPEG, to the bit as libjpeg makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from dask_slides.numerics.loops.compiler import compiled, inlined
from dask_slides.numerics.loops.huffman import LANES

_INT, _SHORT, _FLOAT = types.int64, types.int32, types.float64
_BLOCKS = types.Array(types.int16, 1, "C", readonly=True)
_STEPS = types.Array(_FLOAT, 1, "C", readonly=True)
_PLANES = [types.Array(samples, 2, "A") for samples in (types.uint8, types.uint16)]
_PLANE = types.Array(types.uint16, 2, "C", readonly=True)
_OUT = types.Array(types.uint16, 2, "C")
_COLOURS = types.Array(types.uint16, 3, "C")


def _fixed(number: float) -> int:
    return round(number * 2**13)


_A, _B, _C = _fixed(0.541196100), _fixed(1.847759065), _fixed(0.765366865)
_EVEN = [[float(n) for n in row] for row in ((_A, _A - _B), (_A + _C, _A))]
_D, _E, _F, _G = (_fixed(n) for n in (0.298631336, 2.053119869, 3.072711026, 1.501321110))
_H, _I, _J, _K = (_fixed(n) for n in (0.899976223, 2.562915447, 1.961570560, 0.390180644))
_L = _fixed(1.175875602)
_ODD = [
    [float(n) for n in row]
    for row in (
        (_D - _H - _J + _L, _L, _L - _J, _L - _H),
        (_L, _E - _I - _K + _L, _L - _I, _L - _K),
        (_L - _J, _L - _I, _F - _I - _J + _L, _L),
        (_L - _H, _L - _K, _L, _G - _H - _K + _L),
    )
]
((_E00, _E01), (_E10, _E11)) = _EVEN
(_O00, _O01, _O02, _O03), (_O10, _O11, _O12, _O13) = _ODD[:2]
(_O20, _O21, _O22, _O23), (_O30, _O31, _O32, _O33) = _ODD[2:]


@inlined
def _inverse(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """Return the inverse DCT of eight coefficients, times 2 ** 13.

    It is that of C. Loeffler, A. Ligtenberg and G. Moschytz (1989) in the whole numbers of
    libjpeg's `jidctint`, multiplied out: sums in float64 are exact, so their order is free.
    """
    two, three = c * _E00 + g * _E01, c * _E10 + g * _E11
    total, rest = (a + e) * 8192.0, (a - e) * 8192.0
    p, q, r, s = total + three, rest + two, rest - two, total - three
    t = h * _O00 + f * _O01 + d * _O02 + b * _O03
    u = h * _O10 + f * _O11 + d * _O12 + b * _O13
    v = h * _O20 + f * _O21 + d * _O22 + b * _O23
    w = h * _O30 + f * _O31 + d * _O32 + b * _O33
    return p + w, q + v, r + u, s + t, s - t, r - u, q - v, p - w


_N = LANES


@inlined
def _whole(value: Any) -> Any:
    return np.int32(np.floor(value + 0.5))


_TRANSFORM = [
    _SHORT(_BLOCKS, _INT, _STEPS, _FLOAT, _FLOAT, _SHORT, _SHORT, plane) for plane in _PLANES
]


@compiled(*_TRANSFORM)
def transform(
    blocks: Any, across: int, steps: Any, narrow: float, narrower: float, middle: int,
    top: int, out: Any,
) -> Any:  # fmt: skip
    """Put the samples of a component into `out`; return the bits that one of them took.

    `across` blocks lie beside each other, `steps` are those of the quantisation. Sums of columns
    are multiplied by `narrow`, of rows by `narrower`, to what is rounded half up. Then `middle`
    is added, and what is not within 0 and `top` is cut: the bits are those before, without sign.
    Steps of 12 bits keep all sums within 32 bits, whatever the coefficients are.
    """
    height, width = np.uint64(out.shape[0]), np.uint64(out.shape[1])
    sums = np.empty(64 * _N, np.float64)
    cut = np.empty(8 * _N, np.int32)
    tops, lefts = np.empty(_N, np.uint64), np.empty(_N, np.uint64)
    reached, zero, sign = np.int32(0), np.int32(0), np.int32(31)
    rows = (out.shape[0] + 7) // 8
    for group in range((rows * across + _N - 1) // _N):
        block = blocks[group * 64 * _N : (group + 1) * 64 * _N]
        for i in range(_N):
            tops[i], lefts[i] = (group * _N + i) // across * 8, (group * _N + i) % across * 8
        for i in range(8 * _N):
            a, b, c, d, e, f, g, h = _inverse(
                block[i] * steps[i], block[8 * _N + i] * steps[8 * _N + i],
                block[16 * _N + i] * steps[16 * _N + i], block[24 * _N + i] * steps[24 * _N + i],
                block[32 * _N + i] * steps[32 * _N + i], block[40 * _N + i] * steps[40 * _N + i],
                block[48 * _N + i] * steps[48 * _N + i], block[56 * _N + i] * steps[56 * _N + i],
            )  # fmt: skip
            sums[i] = np.floor(a * narrow + 0.5)
            sums[8 * _N + i] = np.floor(b * narrow + 0.5)
            sums[16 * _N + i] = np.floor(c * narrow + 0.5)
            sums[24 * _N + i] = np.floor(d * narrow + 0.5)
            sums[32 * _N + i] = np.floor(e * narrow + 0.5)
            sums[40 * _N + i] = np.floor(f * narrow + 0.5)
            sums[48 * _N + i] = np.floor(g * narrow + 0.5)
            sums[56 * _N + i] = np.floor(h * narrow + 0.5)
        for y in range(8):
            row = sums[y * 8 * _N : (y + 1) * 8 * _N]
            for i in range(_N):
                a, b, c, d, e, f, g, h = _inverse(
                    row[i], row[_N + i], row[2 * _N + i], row[3 * _N + i],
                    row[4 * _N + i], row[5 * _N + i], row[6 * _N + i], row[7 * _N + i],
                )  # fmt: skip
                cut[i], cut[_N + i] = _whole(a * narrower), _whole(b * narrower)
                cut[2 * _N + i], cut[3 * _N + i] = _whole(c * narrower), _whole(d * narrower)
                cut[4 * _N + i], cut[5 * _N + i] = _whole(e * narrower), _whole(f * narrower)
                cut[6 * _N + i], cut[7 * _N + i] = _whole(g * narrower), _whole(h * narrower)
            for i in range(8 * _N):
                whole = cut[i]
                reached |= whole ^ whole >> sign
                whole = whole + middle
                whole = whole if whole > zero else zero
                cut[i] = whole if whole < top else top
            for i in range(_N):
                at, left = tops[i] + np.uint64(y), lefts[i]
                if at < height and left + np.uint64(8) <= width:
                    for x in range(8):
                        out[at, left + np.uint64(x)] = cut[x * _N + i]
                elif at < height and left < width:
                    for x in range(np.int64(width - left)):
                        out[at, left + np.uint64(x)] = cut[x * _N + i]
    return reached


@compiled(types.void(_PLANE, _INT, _INT, _OUT))
def enlarge(plane: Any, across: int, down: int, out: Any) -> None:
    """Enlarge a plane by 1 or 2 along each axis, nearer samples weighing three times the others.

    Rounded as `jdsample` of libjpeg does, down and up by turns.
    """
    height, width = plane.shape
    sums = np.empty(width + 2, np.int32)
    twice = np.empty(2 * width, np.uint16)
    for y in range(out.shape[0]):
        near = plane[y // down]
        if down == 2:
            far = plane[min(max(y // 2 + (1 if y & 1 else -1), 0), height - 1)]
            for x in range(width):
                sums[x + 1] = np.int32(3) * np.int32(near[x]) + np.int32(far[x])
        else:
            for x in range(width):
                sums[x + 1] = np.int32(near[x])
        line = out[y]
        if across == 1:
            odd = np.int32(1 + (y & 1))
            for x in range(line.shape[0]):
                line[x] = np.uint16(sums[x + 1] + odd >> 2)
            continue
        sums[0], sums[width + 1] = sums[1], sums[width]
        shift, left, right = (4, 8, 7) if down == 2 else (2, 1, 2)
        for x in range(width):
            three = np.int32(3) * sums[x + 1]
            twice[2 * x] = np.uint16(three + sums[x] + np.int32(left) >> np.int32(shift))
            twice[2 * x + 1] = np.uint16(three + sums[x + 2] + np.int32(right) >> np.int32(shift))
        for x in range(line.shape[0]):
            line[x] = twice[x]


@compiled(types.void(_PLANE, _PLANE, _PLANE, types.int32, _COLOURS))
def colours(luma: Any, blue: Any, red: Any, middle: Any, out: Any) -> None:
    """Put the red, green and blue of YCbCr (JFIF) into `out`, rounded as libjpeg's `jdcolor`."""
    top, half, shift = np.int32(2) * middle - np.int32(1), np.int32(32768), np.int32(16)
    size = out.shape[1]
    rows = np.empty((3, size), np.int32)
    for y in range(out.shape[0]):
        lumas, blues, reds = luma[y], blue[y], red[y]
        first, second, third = rows[0], rows[1], rows[2]
        for x in range(size):
            grey = np.int32(lumas[x])
            u, v = np.int32(blues[x]) - middle, np.int32(reds[x]) - middle
            first[x] = grey + (np.int32(91881) * v + half >> shift)
            second[x] = grey + (np.int32(-22554) * u - np.int32(46802) * v + half >> shift)
            third[x] = grey + (np.int32(116130) * u + half >> shift)
        for colour in range(3):
            row = rows[colour]
            for x in range(size):
                value = row[x]
                value = value if value > 0 else np.int32(0)
                row[x] = value if value < top else top
        line = out[y]
        for x in range(size):
            line[x, 0] = np.uint16(first[x])
            line[x, 1] = np.uint16(second[x])
            line[x, 2] = np.uint16(third[x])
