"""Compute the levels of a pyramid as area means of level 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.numerics.kernels import limbs


def area_levels(
    sums: Array, covered: tuple[Array, Array], dtype: np.dtype[Any], numbers: range
) -> Iterator[tuple[Array, Array]]:
    """Yield the area means of an image of `dtype` and their sums, for each of the levels `numbers`.

    `sums` (h, w, c) are those of the level before `numbers`: level 0 itself, or the last yielded
    sums. `covered` has the number of pixels of level 0 per row and per column of this level. Sums
    are exact (see `sum_dtype`), so that every level is rounded only once, half up. A partial last
    row or column is the mean of the pixels in the image.
    """
    rows, columns = covered
    for number in numbers:
        wanted = sum_dtype(dtype, number)
        if wanted.kind == "c" and sums.dtype.kind != "c":
            high, low = limbs(sums.astype(np.int64) if sums.dtype.itemsize < 8 else sums)
            sums = high + 1j * low
        elif dtype == np.float64:
            sums = sums * 0.25
        sums = _halved(_halved(sums, 0, wanted), 1)
        rows, columns = _halved(rows, 0), _halved(columns, 0)
        yield _mean(sums, rows, columns, dtype, number), sums


def sum_dtype(dtype: np.dtype[Any], halvings: int) -> np.dtype[Any]:
    """Return the smallest dtype that holds the sum of 4**halvings samples exactly.

    If 64 bits are too few, a complex number holds the sums of the upper and of the lower 32 bits,
    which is enough for 10 halvings of 64-bit integers, and for 20 of other integers. Sums of
    float64 could overflow, so they are divided by 4**halvings.
    """
    if dtype.kind == "f":
        return np.dtype(np.float64)
    bits = 8 * dtype.itemsize + 2 * halvings
    if bits > 63:
        return np.dtype(np.complex128)
    if dtype.kind == "u" and bits <= 32:
        return np.dtype(np.uint16 if bits <= 16 else np.uint32)
    return np.dtype(np.int64)


def _halved(sums: Array, axis: int, dtype: np.dtype[Any] | None = None) -> Array:
    """Add adjacent pairs along `axis`. The last one of an odd number is not changed."""
    even = (slice(None),) * axis + (slice(0, None, 2),)
    odd = (slice(None),) * axis + (slice(1, None, 2),)
    out = sums[even].astype(dtype or sums.dtype)
    out[(slice(None),) * axis + (slice(0, sums.shape[axis] // 2),)] += sums[odd]
    return out


def _mean(sums: Array, rows: Array, columns: Array, dtype: np.dtype[Any], halvings: int) -> Array:
    """Divide `sums` by the pixels of level 0 that `rows` and `columns` cover."""
    count = rows[:, None, None] * columns[None, :, None]
    if dtype.kind == "f":
        if dtype == np.float64:
            count = count * 0.25**halvings
        result: Array = (sums / count).astype(dtype)
        return result
    if sums.dtype.kind == "c":
        return _long_mean(sums, count, dtype)
    count = count.astype(sums.dtype)
    rounded: Array = ((sums + count // 2) // count).astype(dtype)
    return rounded


def _long_mean(sums: Array, count: Array, dtype: np.dtype[Any]) -> Array:
    """Divide sums of upper and lower 32 bits by long division, 16 bits at a time."""
    high, low = sums.real.astype(np.int64), sums.imag.astype(np.int64) + count // 2
    quotient, rest = np.divmod(high, count)
    found = quotient.astype(dtype)
    for part in (low >> 16, low & 0xFFFF):
        quotient, rest = np.divmod((rest << 16) + part, count)
        found = (found << dtype.type(16)) + quotient.astype(dtype)
    return found
