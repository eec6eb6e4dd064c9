"""Count bytes cell by cell, with the histogram of Pillow or with compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dask_slides.core.types import Array
from dask_slides.runtime.numba_loader import numba_kernels

BINS = 256
SAVED = 0.45e-9
"""Seconds that the compiled loops save per sample."""
SAVED_GREY = 1.0e-9
"""The same with histograms of grey values of several channels."""
_MANY = 2**18
"""Samples from which it is faster to count four bands of an image than one."""
_PART = 2**16
"""Pixels to convert to grey at a time, so that they stay in the cache."""


def bytes_counted(pixels: Array) -> Array:
    """Return the histogram (256,), int64, of `pixels` (h, w, c), uint8."""
    height, width, channels = pixels.shape
    if pixels.strides[0] == 0:  # one row repeated, as in a tile of one colour
        one: Array = np.bincount(pixels[0].reshape(-1), minlength=BINS) * height
        return one
    if pixels.flags.c_contiguous or pixels.strides[1:] != (channels, 1) or height == 1:
        return _rows_counted(np.ascontiguousarray(pixels), width * channels)
    # a part of wider rows, without a copy: Pillow expects a full last row, so count it separately
    return _rows_counted(pixels[:-1], pixels.strides[0]) + bytes_counted(pixels[-1:])


def _rows_counted(pixels: Array, pitch: int) -> Array:
    """Count rows that start `pitch` bytes apart, with Pillow, ten times faster than with NumPy."""
    from PIL import Image

    height, width, channels = pixels.shape
    samples = width * channels
    mode, bands = ("RGBX", 4) if samples % 4 == 0 and samples * height >= _MANY else ("L", 1)
    flat = as_strided(pixels, (pitch * height,), (1,), writeable=False)
    image = Image.frombuffer(mode, (samples // bands, height), flat, "raw", mode, pitch, 1)
    counts: Array = np.array(image.histogram(), np.int64).reshape(bands, BINS).sum(axis=0)
    return counts


def grey_of(pixels: Array) -> Array:
    """Return the means of the channels of `pixels` (..., c), uint8, rounded down."""
    channels = pixels.shape[-1]
    if channels == 1:
        return pixels[..., 0]
    wide: Any = np.uint16 if channels <= 257 else np.uint32
    total: Any = pixels[..., 0].astype(wide)
    for channel in range(1, channels):
        total += pixels[..., channel]
    total //= wide(channels)
    return np.asarray(total.astype(np.uint8))


def greys_counted(pixels: Array, compiled: Any = None) -> Array:
    """Return the histogram (256,), int64, of the grey values of `pixels` (h, w, c), uint8."""
    if pixels.strides[0] == 0:
        return bytes_counted(grey_of(pixels[0])[None, :, None]) * len(pixels)
    counts = np.zeros(BINS, np.int64)
    if compiled is not None and pixels.shape[2] == 3:
        compiled.count_greys(pixels, counts)
        return counts
    step = max(1, _PART // pixels.shape[1])
    for top in range(0, len(pixels), step):
        counts += bytes_counted(grey_of(pixels[top : top + step])[..., None])
    return counts


def moments_of(histogram: Array) -> Array:
    """Return the count, sum and sum of squares (..., 3) of histograms (..., bins) of integers."""
    values = np.arange(histogram.shape[-1], dtype=np.float64)
    counts = histogram.astype(np.float64)
    return np.stack((counts.sum(axis=-1), counts @ values, counts @ values**2), axis=-1)


class Histograms:
    """Histograms of the cells of a block, counted by Pillow piece by piece."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._counts = np.zeros((*shape, BINS), np.int64)

    def add(self, cell: tuple[int, int], pixels: Array) -> None:
        """Add `pixels` (h, w, c), uint8, to the counts of `cell`."""
        self._counts[cell] += bytes_counted(pixels)

    def moments(self) -> Array:
        """Return the count, sum and sum of squares per cell, (rows, cols, 3), float64."""
        return moments_of(self.counts())

    def counts(self) -> Array:
        """Return the histograms (rows, cols, 256), int64."""
        return self._counts


class _CompiledHistograms(Histograms):
    """Histograms counted by the compiled loop."""

    def __init__(self, shape: tuple[int, int], compiled: Any) -> None:
        super().__init__(shape)
        self._compiled = compiled

    def add(self, cell: tuple[int, int], pixels: Array) -> None:
        if pixels.strides[0] == 0:
            super().add(cell, pixels)
            return
        rows = pixels.reshape(len(pixels), -1)  # a view, if rows are contiguous
        whole = rows.shape[1] // 8 * 8
        words, rest = rows[:, :whole].view(np.uint64), rows[:, whole:]
        self._compiled.count_bytes(words, rest, self._counts[cell])


class _Sums(Histograms):
    """Count, sum and sum of squares without histograms, by the compiled loop."""

    def __init__(self, shape: tuple[int, int], compiled: Any) -> None:
        self._counts = np.zeros((*shape, 3), np.int64)
        self._compiled = compiled

    def add(self, cell: tuple[int, int], pixels: Array) -> None:
        if pixels.strides[0] == 0:
            self._counts[cell] += moments_of(bytes_counted(pixels)).astype(np.int64)
        else:
            self._counts[cell] += (
                pixels.size,
                *self._compiled.moments(pixels.reshape(len(pixels), -1)),
            )

    def moments(self) -> Array:
        return self._counts.astype(np.float64)

    def counts(self) -> Array:
        return self._counts[..., 3:]


class _GreyHistograms(Histograms):
    """Histograms of the grey values of pixels, beside the moments of the samples."""

    def __init__(self, shape: tuple[int, int], sums: Histograms, compiled: Any) -> None:
        super().__init__(shape)
        self._sums, self._compiled = sums, compiled

    def add(self, cell: tuple[int, int], pixels: Array) -> None:
        self._sums.add(cell, pixels)
        self._counts[cell] += greys_counted(pixels, self._compiled)

    def moments(self) -> Array:
        return self._sums.moments()


def byte_sums(
    shape: tuple[int, int], histogram: bool, samples: int, channels: int = 1
) -> Histograms:
    """Return a counter for cells (rows, cols) of an image with this number of `samples`.

    It counts the grey values of pixels of so many `channels` if it counts a `histogram`.
    """
    grey = histogram and channels > 1
    compiled = numba_kernels(samples * (SAVED_GREY if grey else SAVED))
    if histogram and not grey:
        return Histograms(shape) if compiled is None else _CompiledHistograms(shape, compiled)
    sums = Histograms(shape) if compiled is None else _Sums(shape, compiled)
    return _GreyHistograms(shape, sums, compiled) if grey else sums
