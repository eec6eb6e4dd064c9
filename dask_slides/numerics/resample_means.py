"""Resampling of what is averaged already: the last two to five times of a shrink, fast.

An image that comes from a stored level or a reduced decode is near the resize of level 0, not
equal to it, so its weights need not be Pillow's to the bit. They are whole numbers of 15 bits
here, and all sums of them over bytes stay below 2**24: exact in float32, in whatever order a
BLAS adds, so that the pixels cannot depend on the chunking or the machine either. Half the
bytes of float64 and rows first, where the product is widest, make this several times faster
than `kernels` on the same pixels. 8-bit images only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dask_slides.core.geometry import Region
from dask_slides.core.types import Array
from dask_slides.numerics.kernels import GEMM_LIMIT, Axis
from dask_slides.runtime.buffer_pool import POOL
from dask_slides.runtime.numba_loader import numba_kernels

_BITS = 15
_BAND = 24
"""Outputs of one matrix; bands begin at multiples of it, the same for every region."""
_TOGETHER = 2**14
"""Weights that are computed, and kept, together."""
_KEPT = 64
"""Times that of all axes, 4 MB: each task of an image needs some of them."""
_BANDS_KEPT = 16
"""The same of their matrices, which are four times larger: 4 MB."""
_GROUP = 4
"""Bands that are cast, multiplied and rounded at a time."""
_SAMPLES = 6144
"""Samples cast and rounded at a time: long calls, as two threads lose time in handing over
Python's lock in short ones, in buffers of a few megabytes a thread."""
SAVED = 3e-9
"""Seconds a sample of the block that the compiled loops are faster."""
_PITCH = _SAMPLES + 16
"""Between rows: those 4,096 bytes apart would share one set of lines of the first-level cache."""


@dataclass(frozen=True, eq=False)
class _Band:
    """Outputs [start, stop) as the product of samples from `first` on with (taps, outputs)."""

    start: int
    stop: int
    first: int
    matrix: Array

    @property
    def last(self) -> int:
        """The sample past the last one that is needed."""
        return self.first + len(self.matrix)


@lru_cache(maxsize=_KEPT)
def _together(axis: Axis) -> int:
    """Return how many outputs have their weights computed together, a multiple of a band."""
    low, high = axis.window(0, 1)
    return max(1, _TOGETHER // (2 * (high - low)) // _BAND) * _BAND


@lru_cache(maxsize=_KEPT)
def _weights(axis: Axis, start: int) -> tuple[Array, Array]:
    """Return of the outputs together from `start` on the first sample, and the weights."""
    first, weight = axis.weights(start, min(start + _together(axis), axis.n_out))
    whole = np.rint(weight * 2.0**_BITS)
    # a flat image stays flat: what rounding left over goes to the largest weight
    short = 2.0**_BITS - whole.sum(axis=1)
    whole[np.arange(len(whole)), np.abs(whole).argmax(axis=1)] += short
    return first.astype(np.int64), (whole * 2.0**-_BITS).astype(np.float32)


@lru_cache(maxsize=_BANDS_KEPT)
def _bands(axis: Axis, start: int) -> tuple[_Band, ...]:
    """Return the bands of the outputs together from `start` on."""
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


def _groups(axis: Axis, start: int, stop: int) -> Iterator[list[_Band]]:
    """Yield the bands that hold outputs [start, stop), cut to them, a few at a time."""
    bands = [
        _cut(axis, band, max(start, band.start), min(stop, band.stop))
        for together in _starts(axis, start, stop)
        for band in _bands(axis, together)
        if band.start < stop and band.stop > start
    ]
    for at in range(0, len(bands), _GROUP):
        yield bands[at : at + _GROUP]


def _starts(axis: Axis, start: int, stop: int) -> range:
    """Return where the weights begin that outputs [start, stop) need."""
    together = _together(axis)
    return range(start // together * together, stop, together)


def _cut(axis: Axis, band: _Band, low: int, high: int) -> _Band:
    if (low, high) == (band.start, band.stop):
        return band
    first, last = axis.window(low, high)
    taps = slice(first - band.first, last - band.first)
    outputs = slice(low - band.start, high - band.start)
    return _Band(low, high, first, np.ascontiguousarray(band.matrix[taps, outputs]))


def shrink(
    block: Array, rows: Axis, columns: Axis, region: Region, origin: tuple[int, int], out: Array
) -> None:
    """Resample `block` (h, w, c), uint8, whose first pixel is input `origin`, to `region`: `out`.

    Each pass sums up the first axis of its input and makes it the last one of its result, so
    that neither works across the rows of an image::

        (h, w c) -> (w c, height) = (w, c height) -> (c height, width) = (c, height, width)
    """
    height, width, channels = block.shape
    compiled = numba_kernels(rows.n_in * columns.n_in * channels * SAVED)
    if compiled is not None:
        _shrink_compiled(compiled, block, (rows, columns), region, origin, out)
        return
    half = _own("half", width * channels, region.height, np.uint8)
    flat = block.reshape(height, width * channels)
    _summed(flat, rows, region.y, region.stop_y, origin[0], half)
    half = half.reshape(width, channels * region.height)
    planes = _own("planes", channels * region.height, region.width, np.uint8)
    _summed(half, columns, region.x, region.stop_x, origin[1], planes)
    for channel, plane in enumerate(planes.reshape(channels, region.height, region.width)):
        out[..., channel] = plane  # one by one: numpy would loop over three channels innermost


def _shrink_compiled(
    compiled: Any,
    block: Array,
    axes: tuple[Axis, Axis],
    region: Region,
    origin: tuple[int, int],
    out: Array,
) -> None:
    """Do the same with the compiled loops, turning the bytes between the passes and after them.

    Sides are filled up to whole words of 8 bytes; what is in there is not used::

        (h, w c) -> (height, w c) -> (w, c height) -> (width, c height) -> (height, width, c)
    """
    height, width, channels = block.shape
    rows, columns = axes
    tall, wide, narrow = (
        -(-n // 8) * 8 for n in (region.height, width * channels, region.width * channels)
    )
    half = _own("half", tall, wide, np.uint8)
    flat = np.ascontiguousarray(block).reshape(height, width * channels)
    _weighed(compiled, flat, rows, region.y, region.stop_y, origin[0], half)
    turned = _own("turned", wide, tall, np.uint8)
    compiled.turn(half.view(np.uint64), turned.view(np.uint64))
    planes = _own("planes", narrow, tall, np.uint8)
    _weighed(
        compiled,
        turned[: width * channels].reshape(width, channels * tall),
        columns,
        region.x,
        region.stop_x,
        origin[1],
        planes[: region.width * channels].reshape(region.width, channels * tall),
    )
    back = _own("half", tall, narrow, np.uint8)
    compiled.turn(planes.view(np.uint64), back.view(np.uint64))
    out[...] = back[: region.height, : region.width * channels].reshape(out.shape)


def _weighed(
    compiled: Any, block: Array, axis: Axis, start: int, stop: int, origin: int, out: Array
) -> None:
    """Put outputs [start, stop) of the first axis of `block` into the rows of `out`."""
    for at in _starts(axis, start, stop):
        first, weights = _weights(axis, at)
        low, high = max(start, at), min(stop, at + len(first))
        part = slice(low - at, high - at)
        into = out[low - start : high - start]
        compiled.weigh(block, first[part] - origin, weights[part], into)


def _summed(block: Array, axis: Axis, start: int, stop: int, origin: int, out: Array) -> None:
    """Put outputs [start, stop) of the first axis of `block` (taps, n) into `out` (n, outputs)."""
    size = block.shape[1]
    for group in _groups(axis, start, stop):
        low, high = group[0].first, max(band.last for band in group)
        top, bottom = group[0].start, group[-1].stop
        cast = _own("cast", high - low, _PITCH)
        sums = _own("sums", _SAMPLES, bottom - top)
        piece = _piece(max(band.matrix.size for band in group))
        for left in range(0, size, _SAMPLES):
            count = min(_SAMPLES, size - left)
            cast[:, :count] = block[low - origin : high - origin, left : left + count]
            # what lies past `count` in the last piece is summed and thrown away
            pieces = -(-count // piece)
            taps = cast[:, : pieces * piece].reshape(high - low, pieces, piece)
            into = sums[: pieces * piece].reshape(pieces, piece, bottom - top)
            for band in group:
                np.matmul(
                    taps[band.first - low : band.last - low].transpose(1, 2, 0),
                    band.matrix,
                    out=into[:, :, band.start - top : band.stop - top],
                )
            out[left : left + count, top - start : bottom - start] = _rounded(sums[:count])


def buffer_bytes(axis: Axis) -> int:
    """Return the bytes of what a thread sums up in along `axis`."""
    outputs = min(axis.n_out, _GROUP * _BAND)
    low, high = axis.window(0, outputs)
    return 4 * ((high - low + int(axis.ratio) + 2) * _PITCH + outputs * _SAMPLES)


def _piece(size: int) -> int:
    """Return how many samples are multiplied with a matrix of `size` at a time.

    Beyond GEMM_LIMIT the BLAS would start threads of its own. numpy does the pieces of a
    stack in one call: short calls cost two threads more, in handing over Python's lock.
    """
    return next((n for n in (256, 128, 64, 32) if n * size <= GEMM_LIMIT), 16)


_buffers = threading.local()


def _own(name: str, rows: int, columns: int, dtype: Any = np.float32) -> Array:
    """Return an array of this thread, which the next call of the same name overwrites.

    New ones for each group cost as much in page faults as the products in arithmetic, and
    large ones that come and go in several threads leave holes in the heap.
    """
    kept: dict[str, Array] = _buffers.__dict__
    if name not in kept or kept[name].size < rows * columns:
        # of a thread that ended, if there was one: schedulers make new ones for every call
        kept[name] = POOL.array((rows * columns,), dtype)
        kept[name][:] = 0  # sums of leftovers, though thrown away, would warn
    return kept[name][: rows * columns].reshape(rows, columns)


def _rounded(sums: Array) -> Array:
    """Round half up and keep in range; `sums` are overwritten."""
    sums += np.float32(0.5)
    # truncation rounds up what is below zero, and that is clipped all the same
    rows, columns = sums.shape
    whole = _own("whole", rows, columns, np.int16)  # integers clip three times faster than floats
    whole[...] = sums
    return np.clip(whole, 0, 255, out=whole)
