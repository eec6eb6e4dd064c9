"""Fast resampling of images that are already averaged: the last part of a shrink, by 2 to 5.

A resize of a stored level or of a reduced decode is close to the resize of level 0, but not equal,
so the weights need not be those of Pillow bit for bit. Here they are integers of 15 bits, and all
their sums over bytes stay below 2**24. float32 represents these exactly in any order of summation,
so the pixels do not depend on the chunking or the machine. float32 takes half the bytes of float64,
and resampling rows first makes products wide, so this is several times faster than `kernels`. It is
for 8-bit images only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dask_slides.core.geometry import Region
from dask_slides.core.types import Array
from dask_slides.numerics.kernels import GEMM_LIMIT, Axis
from dask_slides.runtime.buffer_pool import thread_buffer
from dask_slides.runtime.numba_loader import numba_kernels

_BITS = 15
_BAND = 16
"""Outputs of one matrix. Bands start at multiples of it, the same for every region."""
_GROUP_WEIGHTS = 2**14
"""Maximum weights of a group of outputs, which are computed and cached together."""
_CACHED_WEIGHTS = 64
"""Groups of outputs whose weights are cached, 4 MB, for all tasks of an image."""
_CACHED_BANDS = 16
"""Groups whose matrices are cached. These are four times larger than weights: 4 MB."""
_BATCH = 4
"""Bands to cast, multiply and round at a time."""
_SAMPLES = 1536
"""Samples to cast and round at a time, in buffers of a few megabytes per thread. In shorter calls,
threads would lose time waiting for Python's lock."""
SAVED = 3e-9
"""Seconds that the compiled loops save per sample of the block."""
_PITCH = _SAMPLES + 16
"""Samples from row to row of a buffer. Rows 4,096 bytes apart would compete for the same lines of
the L1 cache."""


@dataclass(frozen=True, eq=False)
class _Band:
    """Outputs [start, stop): the samples from `first` times a matrix (taps, outputs)."""

    start: int
    stop: int
    first: int
    matrix: Array

    @property
    def last(self) -> int:
        """The sample past the last one needed."""
        return self.first + len(self.matrix)


@lru_cache(maxsize=_CACHED_WEIGHTS)
def _group_size(axis: Axis) -> int:
    """Return the number of outputs of a group, which has whole bands."""
    low, high = axis.window(0, 1)
    return max(1, _GROUP_WEIGHTS // (2 * (high - low)) // _BAND) * _BAND


@lru_cache(maxsize=_CACHED_WEIGHTS)
def _weights(axis: Axis, start: int) -> tuple[Array, Array]:
    """Return the first sample and the weights of each output of the group at `start`."""
    first, weight = axis.weights(start, min(start + _group_size(axis), axis.n_out))
    whole = np.rint(weight * 2.0**_BITS)
    # adjust the largest weight so that they add up to 1, and a flat image stays flat
    missing = 2.0**_BITS - whole.sum(axis=1)
    whole[np.arange(len(whole)), np.abs(whole).argmax(axis=1)] += missing
    return first.astype(np.int64), (whole * 2.0**-_BITS).astype(np.float32)


@lru_cache(maxsize=_CACHED_BANDS)
def _bands(axis: Axis, start: int) -> tuple[_Band, ...]:
    """Return the bands of the group at `start`."""
    first, weight = _weights(axis, start)
    _, last = axis.taps(start, start + len(first))
    bands = []
    for low in range(0, len(first), _BAND):
        high = min(low + _BAND, len(first))
        row = first[low:high, None] - first[low] + np.arange(weight.shape[1])
        matrix = np.zeros((int(row.max()) + 1, high - low), np.float32)
        matrix[row.T, np.arange(high - low)] = weight[low:high].T
        taps = int(last[low:high].max() - first[low])
        bands.append(_Band(start + low, start + high, int(first[low]), matrix[:taps]))
    return tuple(bands)


def _batches(axis: Axis, start: int, stop: int) -> Iterator[list[_Band]]:
    """Yield the bands of outputs [start, stop), cut at both ends, a few at a time."""
    bands = [
        _cut_band(axis, band, max(start, band.start), min(stop, band.stop))
        for group in _group_starts(axis, start, stop)
        for band in _bands(axis, group)
        if band.start < stop and band.stop > start
    ]
    for at in range(0, len(bands), _BATCH):
        yield bands[at : at + _BATCH]


def _group_starts(axis: Axis, start: int, stop: int) -> range:
    """Return where the groups start that contain outputs [start, stop)."""
    size = _group_size(axis)
    return range(start // size * size, stop, size)


def _cut_band(axis: Axis, band: _Band, low: int, high: int) -> _Band:
    """Return the part of `band` with the outputs [low, high)."""
    if (low, high) == (band.start, band.stop):
        return band
    first, last = axis.window(low, high)
    taps = slice(first - band.first, last - band.first)
    outputs = slice(low - band.start, high - band.start)
    return _Band(low, high, first, np.ascontiguousarray(band.matrix[taps, outputs]))


def shrink(
    block: Array, rows: Axis, columns: Axis, region: Region, origin: tuple[int, int], out: Array
) -> None:
    """Resample `region` into `out` from `block` (h, w, c), uint8, which starts at input `origin`.

    Each pass resamples the first axis of its input and makes it the last axis of its result, so
    that both passes access memory in order::

        (h, w c) -> (w c, height) = (w, c height) -> (c height, width) = (c, height, width)
    """
    height, width, channels = block.shape
    compiled = numba_kernels(rows.n_in * columns.n_in * channels * SAVED)
    if compiled is not None:
        _shrink_compiled(compiled, block, (rows, columns), region, origin, out)
        return
    half = thread_buffer("half", width * channels, region.height, np.uint8)
    flat = block.reshape(height, width * channels)
    _resample(flat, rows, region.y, region.stop_y, origin[0], half)
    half = half.reshape(width, channels * region.height)
    planes = thread_buffer("planes", channels * region.height, region.width, np.uint8)
    _resample(half, columns, region.x, region.stop_x, origin[1], planes)
    for channel, plane in enumerate(planes.reshape(channels, region.height, region.width)):
        out[..., channel] = plane  # all channels in one call would make the inner loop short


def _shrink_compiled(
    compiled: Any,
    block: Array,
    axes: tuple[Axis, Axis],
    region: Region,
    origin: tuple[int, int],
    out: Array,
) -> None:
    """Resample as `shrink` does with the compiled loops, transposing after each pass.

    Sides are padded to whole words of 8 bytes, and the padding is not used::

        (h, w c) -> (height, w c) -> (w, c height) -> (width, c height) -> (height, width, c)
    """
    height, width, channels = block.shape
    rows, columns = axes
    tall, wide, narrow = (
        -(-n // 8) * 8 for n in (region.height, width * channels, region.width * channels)
    )
    half = thread_buffer("half", tall, wide, np.uint8)
    flat = np.ascontiguousarray(block).reshape(height, width * channels)
    _resample_compiled(compiled, flat, rows, region.y, region.stop_y, origin[0], half)
    transposed = thread_buffer("transposed", wide, tall, np.uint8)
    compiled.transpose(half.view(np.uint64), transposed.view(np.uint64))
    planes = thread_buffer("planes", narrow, tall, np.uint8)
    _resample_compiled(
        compiled,
        transposed[: width * channels].reshape(width, channels * tall),
        columns,
        region.x,
        region.stop_x,
        origin[1],
        planes[: region.width * channels].reshape(region.width, channels * tall),
    )
    back = thread_buffer("half", tall, narrow, np.uint8)
    compiled.transpose(planes.view(np.uint64), back.view(np.uint64))
    out[...] = back[: region.height, : region.width * channels].reshape(out.shape)


def _resample_compiled(
    compiled: Any, block: Array, axis: Axis, start: int, stop: int, origin: int, out: Array
) -> None:
    """Write outputs [start, stop) of the first axis of `block` to the rows of `out`."""
    for at in _group_starts(axis, start, stop):
        first, weights = _weights(axis, at)
        low, high = max(start, at), min(stop, at + len(first))
        part = slice(low - at, high - at)
        into = out[low - start : high - start]
        compiled.weighted_sums(block, first[part] - origin, weights[part], 0.5, 0, into)


def _resample(block: Array, axis: Axis, start: int, stop: int, origin: int, out: Array) -> None:
    """Write outputs [start, stop) of the first axis of `block` (taps, n) to `out` (n, outputs)."""
    size = block.shape[1]
    for batch in _batches(axis, start, stop):
        low, high = batch[0].first, max(band.last for band in batch)
        top, bottom = batch[0].start, batch[-1].stop
        cast = thread_buffer("cast", high - low, _PITCH, np.float32)
        sums = thread_buffer("sums", _SAMPLES, bottom - top, np.float32)
        piece = _samples_per_product(max(band.matrix.size for band in batch))
        for left in range(0, size, _SAMPLES):
            count = min(_SAMPLES, size - left)
            cast[:, :count] = block[low - origin : high - origin, left : left + count]
            # the last piece may extend beyond `count`; these sums are not used
            pieces = -(-count // piece)
            taps = cast[:, : pieces * piece].reshape(high - low, pieces, piece)
            into = sums[: pieces * piece].reshape(pieces, piece, bottom - top)
            for band in batch:
                np.matmul(
                    taps[band.first - low : band.last - low].transpose(1, 2, 0),
                    band.matrix,
                    out=into[:, :, band.start - top : band.stop - top],
                )
            out[left : left + count, top - start : bottom - start] = _rounded(sums[:count])


def buffer_bytes(axis: Axis) -> int:
    """Return the bytes of the buffers of a thread for sums along `axis`."""
    outputs = min(axis.n_out, _BATCH * _BAND)
    low, high = axis.window(0, outputs)
    return 4 * ((high - low + int(axis.ratio) + 2) * _PITCH + outputs * _SAMPLES)


def _samples_per_product(size: int) -> int:
    """Return how many samples to multiply at a time with a matrix of `size` weights.

    Beyond GEMM_LIMIT, the BLAS would start its own threads. NumPy multiplies a stack of pieces in
    one call, because threads would wait for Python's lock in short calls.
    """
    return next((n for n in (256, 128, 64, 32) if n * size <= GEMM_LIMIT), 16)


def _rounded(sums: Array) -> Array:
    """Round half up and clip to 0 to 255; overwrite `sums`."""
    sums += np.float32(0.5)
    # truncation rounds negative values up, but these are clipped
    rows, columns = sums.shape
    # clipping integers is three times faster than clipping floats
    whole = thread_buffer("whole", rows, columns, np.int16)
    whole[...] = sums
    return np.clip(whole, 0, 255, out=whole)
