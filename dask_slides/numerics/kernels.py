"""Antialiased resampling kernels, with the same result for any chunking.

The weights follow the convention of Pillow and of "Filtered image rescaling" (Schumacher,
Graphics Gems III). The centre of output pixel i is at ``(i + 0.5) * n_in / n_out`` in the input,
and the kernel is widened by that ratio when shrinking. Weights are computed from the coordinates of
the whole image, so that a window with its halo gives the pixels of the whole image.

Weights of 8-bit images are integers with 22 fraction bits, as in Pillow, stored in float64. All
products and sums stay below 2**53, so a BLAS product is exact in any order: a pass gives the pixels
of Pillow bit for bit, with any chunking, BLAS and machine. Loops compiled by Numba add up the same
integers in 32 bits, several times faster, once many calls have shown that loading them pays.

Other dtypes use a sparse product in float64, whose order of summation is fixed. float64 cannot
represent all 64-bit integers, so these are resampled as one of their pixels plus differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.runtime.buffer_pool import thread_buffer
from dask_slides.runtime.numba_loader import numba_kernels

_BITS = 22
"""Fraction bits of a weight, as in Pillow."""
ROWS = 32
"""Rows to cast to float64 at a time, so that a block stays in the L2 cache."""
SAVED = 3e-9
"""Seconds that the compiled loops save per sample."""
CACHED = 2**19
"""Bytes of a strip to transpose at a time, so that it stays in the L2 cache."""
_TRANSPOSED = 128
"""Rows to transpose at a time, so that a cache line still holds the next column when needed."""
GEMM_LIMIT = 250_000
"""Maximum multiply-adds of one matrix product. From 262,144, OpenBLAS starts its own threads, which
would compete with those of the scheduler."""


def _box(x: Array) -> Array:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _triangle(x: Array) -> Array:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _keys(x: Array) -> Array:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos3(x: Array) -> Array:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


@dataclass(frozen=True)
class Kernel:
    """A resampling kernel: name, half width in output pixels, and weight function."""

    name: str
    support: float
    weight: Callable[[Array], Array]


KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Kernel("nearest", 0.0, _box),
        Kernel("area", 0.5, _box),  # mean of the covered pixels
        Kernel("linear", 1.0, _triangle),
        Kernel("cubic", 2.0, _keys),  # Keys 1981, a = -0.5
        Kernel("lanczos", 3.0, _lanczos3),  # Duchon 1979, three lobes
    )
}


def kernel_named(name: str) -> Kernel:
    """Return the kernel called `name`; raise SlideArgumentError if there is none."""
    try:
        return KERNELS[name]
    except (KeyError, TypeError):
        known = ", ".join(KERNELS)
        raise SlideArgumentError(f"kernel {name!r} is not known; use one of {known}") from None


@dataclass(frozen=True)
class Axis:
    """One axis of a resize of the whole image, from `n_in` to `n_out` pixels with `kernel`."""

    n_in: int
    n_out: int
    kernel: str
    ratio: float
    """Input pixels per output pixel: n_in / n_out, unless the size of a level was rounded."""
    averaged: float = 1.0
    """Pixels of level 0 per input pixel, of which it is the mean; 1 for level 0 itself."""

    @property
    def sharpening(self) -> float:
        """Weight of a neighbour in the filter that undoes the averaging of the input.

        For low frequencies v, in cycles per pixel, the mean of f pixels multiplies the amplitude
        by 1 - (pi f v)^2 (1 - 1/f^2) / 6, and the filter (-a, 1 + 2 a, -a) on the averaged pixels
        by 1 + 4 a (pi f v)^2. With a = (1 - 1/f^2) / 24 their product is 1 to the second order.
        Without the filter, the finest details lose a tenth of their contrast when an image shrinks
        by 2. The area kernel is itself a mean and needs no filter.
        """
        if self.averaged <= 1 or self.kernel in ("nearest", "area"):
            return 0.0
        return (1 - self.averaged**-2) / 24

    @property
    def identity(self) -> bool:
        """Whether every output pixel equals its input pixel."""
        return self.n_in == self.n_out and self.ratio == 1.0

    def taps(self, start: int, stop: int) -> tuple[Array, Array]:
        """Return the first input pixel per output in [start, stop), and the one past the last."""
        centre = (np.arange(start, stop) + 0.5) * self.ratio
        kernel = kernel_named(self.kernel)
        if self.identity:
            return np.arange(start, stop), np.arange(start, stop) + 1
        if kernel.name == "nearest":
            # added up step by step, as in Pillow: the last bit of the sum decides if a centre falls
            # between two pixels
            steps = np.full(stop, self.ratio)
            steps[0] = self.ratio * 0.5
            first = np.minimum(np.add.accumulate(steps)[start:].astype(np.int64), self.n_in - 1)
            return first, first + 1
        reach = kernel.support * max(self.ratio, 1.0) + (1 if self.sharpening else 0)
        # the size of a stored level is rounded, so it may end before the image does
        first = np.clip((centre - reach + 0.5).astype(np.int64), 0, self.n_in - 1)
        last = np.minimum((centre + reach + 0.5).astype(np.int64), self.n_in)
        return first, np.maximum(last, first + 1)

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of input pixels that outputs in [start, stop) need."""
        return _window(self, start, stop)

    def outputs_of(self, start: int, stop: int, low: int, high: int) -> tuple[int, int]:
        """Return the range of outputs in [start, stop) that need an input in [low, high)."""
        first, last = self.taps(start, stop)
        return (
            start + int(np.searchsorted(last, low, side="right")),
            start + int(np.searchsorted(first, high, side="left")),
        )

    def weights(self, start: int, stop: int) -> tuple[Array, Array]:
        """Return the first input pixels (n,) and the weights (n, taps), 0 past the last tap."""
        first, last = self.taps(start, stop)
        index = first[:, None] + np.arange(int((last - first).max()))
        if self.identity or self.kernel == "nearest":
            return first, np.ones(index.shape)
        centre = (np.arange(start, stop) + 0.5) * self.ratio
        widen = max(self.ratio, 1.0)
        offset = index - centre[:, None] + 0.5
        kernel = kernel_named(self.kernel).weight
        weight = kernel(offset / widen)
        if a := self.sharpening:
            beside = kernel((offset - 1) / widen) + kernel((offset + 1) / widen)
            weight = (1 + 2 * a) * weight - a * beside
        weight[index >= last[:, None]] = 0.0
        # added up tap by tap, because the order of np.sum depends on the number of taps
        return first, weight / np.add.accumulate(weight, axis=1)[:, -1:]


@lru_cache(maxsize=2**12)  # blocks of a grid share their rows and columns
def _window(axis: Axis, start: int, stop: int) -> tuple[int, int]:
    low, _ = axis.taps(start, start + 1)
    _, high = axis.taps(stop - 1, stop)
    return int(low[0]), int(high[0])


def resample_columns(strip: Array, axis: Axis, start: int, stop: int, origin: int) -> Array:
    """Resample the columns of `strip` (h, w, c), whose first column is input `origin`.

    Return (h, stop - start, c). Integers are rounded, as in Pillow between its two passes.
    """
    if axis.identity:
        return strip[:, start - origin : stop - origin]
    if axis.kernel == "nearest":
        return strip[:, axis.taps(start, stop)[0] - origin]
    if is_long(strip.dtype):
        return _long_rows(strip.transpose(1, 0, 2), axis, start, stop, origin).transpose(1, 0, 2)
    if strip.dtype != np.uint8:
        columns = _transposed(strip)
        return _sparse_rows(columns, strip.dtype, axis, start, stop, origin).transpose(1, 0, 2)
    compiled = numba_kernels(call=strip.size * SAVED)
    if compiled is not None:
        return _compiled_columns(compiled, strip, axis, start, stop, origin)
    height, width, channels = strip.shape
    bands = list(_bands(axis, start, stop))
    out = np.empty((height, stop - start, channels), np.uint8)
    planes = np.empty((channels, ROWS, width))
    sums = np.empty((channels, ROWS, stop - start))
    for top in range(0, height, ROWS):
        rows = min(ROWS, height - top)
        # one plane per channel, as all channels use the same matrix
        planes[:, :rows] = strip[top : top + rows].transpose(2, 0, 1)
        for band in bands:
            low = band.first - origin
            window = planes[:, :rows, low : low + len(band.matrix)]
            part = sums[:, :rows, band.start - start : band.stop - start]
            step = max(1, GEMM_LIMIT // band.matrix.size)
            for row in range(0, rows, step):
                np.matmul(window[:, row : row + step], band.matrix, out=part[:, row : row + step])
        out[top : top + rows] = _rounded(sums[:, :rows]).transpose(1, 2, 0)
    return out


def resample_rows(block: Array, axis: Axis, start: int, stop: int, origin: int) -> Array:
    """Resample the rows of `block` (h, w, c), whose first row is input `origin`."""
    if axis.identity:
        return block[start - origin : stop - origin]
    if axis.kernel == "nearest":
        result: Array = block[axis.taps(start, stop)[0] - origin]
        return result
    _, width, channels = block.shape
    if is_long(block.dtype):
        return _long_rows(block, axis, start, stop, origin)
    if block.dtype != np.uint8:
        return _sparse_rows(block.astype(np.float64), block.dtype, axis, start, stop, origin)
    flat = block.reshape(len(block), width * channels)
    out = np.empty((stop - start, width * channels), np.uint8)
    compiled = numba_kernels(call=block.size * SAVED)
    if compiled is not None:
        _compiled_rows(compiled, np.ascontiguousarray(flat), axis, start, stop, origin, out)
        return out.reshape(stop - start, width, channels)
    for band in _bands(axis, start, stop):
        low = band.first - origin
        window = flat[low : low + len(band.matrix)].astype(np.float64)
        transposed = np.ascontiguousarray(band.matrix.T)
        columns = max(1, GEMM_LIMIT // band.matrix.size)
        for left in range(0, width * channels, columns):
            out[band.start - start : band.stop - start, left : left + columns] = _rounded(
                transposed @ window[:, left : left + columns]
            )
    return out.reshape(stop - start, width, channels)


def _compiled_rows(
    compiled: Any, block: Array, axis: Axis, start: int, stop: int, origin: int, out: Array
) -> None:
    """Write outputs [start, stop) of the first axis of `block` to the rows of `out`."""
    first, weights = _integers(axis, start, stop)
    compiled.weighted_sums(block, first - origin, weights, 1 << (_BITS - 1), _BITS, out)


def _compiled_columns(
    compiled: Any, strip: Array, axis: Axis, start: int, stop: int, origin: int
) -> Array:
    """Resample columns with the compiled loops, which add up rows: of the strip on its side.

    Sides are padded to whole words of 8 bytes, and the padding is not used::

        (h, w c) -> (w c, h) = (w, c h) -> (width, c h) = (width c, h) -> (h, width c)
    """
    height, width, channels = strip.shape
    count = stop - start
    wide, narrow = (-(-n * channels // 8) * 8 for n in (width, count))
    out = np.empty((height, count * channels), np.uint8)
    step = max(8, CACHED // wide // 8 * 8)
    for top in range(0, height, step):
        part = strip[top : top + step]
        tall = -(-len(part) // 8) * 8
        padded = thread_buffer("padded", tall, wide, np.uint8)
        padded[: len(part), : width * channels] = part.reshape(len(part), -1)
        across = thread_buffer("across", wide, tall, np.uint8)
        compiled.transpose(padded.view(np.uint64), across.view(np.uint64))
        sums = thread_buffer("across sums", narrow, tall, np.uint8)
        _compiled_rows(
            compiled,
            across[: width * channels].reshape(width, channels * tall),
            axis,
            start,
            stop,
            origin,
            sums[: count * channels].reshape(count, channels * tall),
        )
        back = thread_buffer("padded", tall, narrow, np.uint8)
        compiled.transpose(sums.view(np.uint64), back.view(np.uint64))
        out[top : top + step] = back[: len(part), : count * channels]
    return out.reshape(height, count, channels)


@lru_cache(maxsize=32)  # blocks of a grid share their rows and columns
def _integers(axis: Axis, start: int, stop: int) -> tuple[Array, Array]:
    """Return `Axis.weights` as integers with `_BITS` fraction bits, int64 (n,) and int32.

    All sums of products with bytes fit 32 bits.
    """
    first, weight = axis.weights(start, stop)
    scaled = weight * 2.0**_BITS
    whole = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32)
    return first.astype(np.int64), whole


@dataclass(frozen=True)
class _Band:
    """Outputs [start, stop), as a product with an integer matrix (taps, outputs)."""

    start: int
    stop: int
    first: int
    matrix: Array


def _bands(axis: Axis, start: int, stop: int, outputs: int = 16) -> Iterator[_Band]:
    first, whole = _integers(axis, start, stop)
    taps = np.arange(whole.shape[1])
    for low in range(0, stop - start, outputs):
        high = min(low + outputs, stop - start)
        row = first[low:high, None] - first[low] + taps
        inside = whole[low:high] != 0
        matrix = np.zeros((int(row[inside].max()) + 1, high - low))
        column = np.broadcast_to(np.arange(high - low)[:, None], row.shape)
        matrix[row[inside], column[inside]] = whole[low:high][inside]
        yield _Band(start + low, start + high, int(first[low]), matrix)


def _rounded(product: Array) -> Array:
    """Round integers with _BITS fraction bits half up to uint8, clipped; overwrite `product`."""
    product += 2.0 ** (_BITS - 1)
    product *= 2.0**-_BITS  # exact: a power of two
    return np.clip(product, 0, 255, out=product).astype(np.uint8)


def _transposed(strip: Array) -> Array:
    """Transpose `strip` (h, w, c) to float64 (w, h, c)."""
    height, width, channels = strip.shape
    out = np.empty((width, height, channels))
    for top in range(0, height, _TRANSPOSED):
        out[:, top : top + _TRANSPOSED] = strip[top : top + _TRANSPOSED].transpose(1, 0, 2)
    return out


def _sparse_rows(
    block: Array, dtype: np.dtype[Any], axis: Axis, start: int, stop: int, origin: int
) -> Array:
    """Resample rows of float64 with a sparse matrix, and convert the result to `dtype`."""
    first, weight = axis.weights(start, stop)
    matrix = _sparse(first - origin, weight, len(block))
    flat = block.reshape(len(block), -1)
    product = matrix @ flat
    if dtype == np.float64 and not np.isfinite(product).all():
        # sums of finite samples near the limits of float64 may overflow
        most = 2.0**-8 * np.finfo(dtype).max
        scaled = matrix @ (2.0**-8 * flat)
        scaled = 2.0**8 * np.clip(scaled, -most, most, where=np.isfinite(scaled), out=scaled)
        product = np.where(np.isfinite(product), product, scaled)
    return to_dtype(product.reshape(stop - start, *block.shape[1:]), dtype)


def _sparse(first: Array, weight: Array, size: int) -> Any:
    """Return a matrix whose rows hold `weight` (n, taps), from the columns `first` (n,) on."""
    from scipy.sparse import csr_array

    count, taps = weight.shape
    column = (first[:, None] + np.arange(taps)).ravel()
    used = (weight != 0).ravel()
    row = np.repeat(np.arange(count), taps)
    return csr_array((weight.ravel()[used], (row[used], column[used])), shape=(count, size))


def is_long(dtype: np.dtype[Any]) -> bool:
    """Return whether `dtype` is a 64-bit integer, which float64 cannot represent exactly."""
    return dtype.kind in "iu" and dtype.itemsize == 8


def limbs(values: Array) -> tuple[Array, Array]:
    """Split 64-bit integers into their upper and lower 32 bits, as int64."""
    high = (values >> values.dtype.type(32)).astype(np.int64)
    return high, (values & values.dtype.type(2**32 - 1)).astype(np.int64)


def _long_rows(block: Array, axis: Axis, start: int, stop: int, origin: int) -> Array:
    """Resample rows of int64 or uint64.

    An output is the main pixel, the one with the largest weight, plus a weighted sum of the
    differences between adjacent pixels. A flat image stays flat, and differences have a precision
    of 53 bits.
    """
    first, weight = axis.weights(start, stop)
    main = weight.argmax(axis=1)
    # the weight of a difference is that of all pixels beyond it, away from the main pixel
    after = np.add.accumulate(weight[:, ::-1], axis=1)[:, ::-1][:, 1:]
    before = np.add.accumulate(weight, axis=1)[:, :-1]
    steps = np.where(np.arange(weight.shape[1] - 1) >= main[:, None], after, -before)
    high, low = limbs(block.reshape(len(block), -1))
    differences = np.diff(high, axis=0) * 2.0**32
    differences += np.diff(low, axis=0)
    change = _sparse(first - origin, steps, len(differences)) @ differences
    del differences
    at = first - origin + main
    high, low = high[at], low[at]
    parity = low & 1  # round halves to even, as in other dtypes
    change = np.rint(change + parity) - parity
    upper = np.floor(change * 2.0**-32)
    low += (change - upper * 2.0**32).astype(np.int64)
    high += upper.astype(np.int64) + (low >> 32)
    low &= 2**32 - 1
    info = np.iinfo(block.dtype)
    least, most = info.min >> 32, info.max >> 32
    low[high < least], low[high > most] = 0, 2**32 - 1
    np.clip(high, least, most, out=high)
    result: Array = (high.astype(block.dtype) << block.dtype.type(32)) | low.astype(block.dtype)
    return result.reshape(stop - start, *block.shape[1:])


def to_dtype(values: Array, dtype: np.dtype[Any]) -> Array:
    """Convert float `values` to `dtype`, clipped; round to integers of up to 32 bits."""
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return np.clip(np.rint(values), info.min, info.max).astype(dtype)
    with np.errstate(over="ignore"):
        result: Array = values.astype(dtype)
    over = np.isinf(result)
    if over.any():
        over &= np.isfinite(values)
        result[over] = np.copysign(np.finfo(dtype).max, values[over])
    return result
