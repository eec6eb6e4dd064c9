"""Compute moments, ranges and histograms of many cells at a time, of any dtype.

The first axis of the arrays is that of the cells. The module `statistics` describes the records.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.types import Array
from dask_slides.numerics.histograms import BINS, bytes_counted, grey_of, moments_of


def add_bytes(
    records: Array, parts: list[tuple[Array, Array | None]], positions: dict[str, slice]
) -> None:
    """Add uint8 samples to the records of their cells; `parts` are strips (pixels, valid)."""
    for part, valid in parts:
        histogram = _counted(*_flat(part, valid))
        records[:, :3] += moments_of(histogram)
        if "histogram" in positions and part.shape[3] > 1:
            histogram = _counted(grey_of(part), valid)
        if "histogram" in positions:
            records[:, positions["histogram"]] += histogram
    if "range" in positions:
        records[:, positions["range"]] = 0.0, BINS - 1.0, 1.0


def add_samples(
    records: Array, parts: list[tuple[Array, Array | None]], positions: dict[str, slice]
) -> None:
    """Add samples of other dtypes row by row, so that sums do not depend on the strips."""
    samples = [_flat(*part) for part in parts]
    low, high = _extremes(samples)
    some = low <= high
    if "range" in positions:
        extent = records[:, positions["range"]]
        before = extent[:, 2] > 0
        low = np.where(before, np.minimum(low, extent[:, 0]), low)
        high = np.where(before, np.maximum(high, extent[:, 1]), high)
        some |= before
        low, high = np.where(some, low, 0.0), np.where(some, high, 0.0)
        width = np.where(some, width_of(low, high, samples[0][0].dtype.kind != "f"), 0.0)
        if "histogram" in positions:
            counts = records[:, positions["histogram"]]
            moved = before & ((extent[:, 0] != low) | (extent[:, 2] != width))
            if moved.any():
                counts[moved] = rebinned(
                    counts[moved],
                    index_of(extent[moved, 0], extent[moved, 2]),
                    extent[moved, 2],
                    index_of(low[moved], width[moved]),
                    width[moved],
                )
        extent[:] = np.column_stack((low, high, width))
    for (flat, valid), part in zip(samples, parts, strict=True):
        if "histogram" in positions:
            grey, seen = (flat, valid) if part[0].shape[3] == 1 else _grey(*part)
            counts += _counted(_bins(grey, seen, low, width), seen)
        values = flat.astype(np.float64)
        if valid is not None:
            values[~valid] = 0.0
        sums = np.empty((3, *values.shape[:2]))
        sums[0] = values.shape[2] if valid is None else valid.sum(axis=2)
        with np.errstate(over="ignore", invalid="ignore"):  # float64 near its limits
            sums[1] = values.sum(axis=2)
            sums[2] = np.multiply(values, values, out=values).sum(axis=2)
            lines = np.concatenate((records[:, :3].T[..., None], sums), axis=2)
            records[:, :3] = np.add.accumulate(lines, axis=2)[..., -1].T


def _flat(pixels: Array, valid_pixels: Array | None) -> tuple[Array, Array | None]:
    """Return the samples (n, h, w c) of `pixels`, and a mask of valid ones (None: all)."""
    flat = pixels.reshape(*pixels.shape[:2], -1)
    valid = None if valid_pixels is None else np.repeat(valid_pixels, pixels.shape[3], axis=2)
    if flat.dtype.kind == "f":
        finite = np.isfinite(flat)
        if not finite.all():
            valid = finite if valid is None else valid & finite
    return flat, valid


def _grey(pixels: Array, valid: Array | None) -> tuple[Array, Array | None]:
    """Return the means (n, h, w) of the channels of `pixels`, and a mask of valid ones.

    A pixel of floats is valid if all its samples are finite.
    """
    total = pixels[..., 0].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for channel in range(1, pixels.shape[3]):
            total += pixels[..., channel]
    if pixels.dtype.kind == "f":
        finite = np.asarray(np.isfinite(pixels).all(axis=3))
        valid = finite if valid is None else valid & finite
    return np.asarray(total / pixels.shape[3]), valid


def _extremes(samples: list[tuple[Array, Array | None]]) -> tuple[Array, Array]:
    """Return the smallest and the largest sample per cell; (inf, -inf) for a cell without any."""
    dtype = samples[0][0].dtype
    info: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    least = [
        flat.min(axis=(1, 2), initial=info.max, where=True if valid is None else valid)
        for flat, valid in samples
    ]
    most = [
        flat.max(axis=(1, 2), initial=info.min, where=True if valid is None else valid)
        for flat, valid in samples
    ]
    low, high = np.min(least, axis=0), np.max(most, axis=0)
    return np.where(low <= high, low, np.inf), np.where(low <= high, high, -np.inf)


def width_of(low: Array, high: Array, whole: bool) -> Array:
    """Return the smallest power of two for which 256 aligned bins cover `low` to `high`.

    The finest width is the precision of float64 at the largest sample, or 1 for integers. Each bin
    of a part lies within one bin of the whole, so that histograms of parts can be added exactly.
    """
    top = np.maximum(np.abs(low), np.abs(high))
    finest = np.where(top > 0, np.maximum(np.frexp(top)[1] - 53, -1074), -1074)
    if whole:
        finest = np.maximum(finest, 0)
    span = high / 2 - low / 2  # halved, as high - low may overflow
    power = np.maximum(finest, np.where(span > 0, np.frexp(span)[1] - 7, -1074))
    width = np.ldexp(1.0, power)
    return np.where(np.floor(high / width) - np.floor(low / width) < BINS, width, 2 * width)


def index_of(low: Array, width: Array) -> Array:
    """Return the number of the bin that contains `low`, where bin 0 starts at 0."""
    return np.asarray(np.floor(low / np.where(width > 0, width, 1.0)))


def rebinned(counts: Array, first: Array, width: Array, to_first: Array, to_width: Array) -> Array:
    """Return histograms (n, 256) in bins of `to_width`, which is at least `width`.

    `first` and `to_first` are the numbers of the first bins, as `index_of` returns them.
    """
    bins = (first[:, None] + np.arange(BINS)) * np.reshape(width / to_width, (-1, 1))
    np.floor(bins, out=bins)
    bins -= np.reshape(to_first, (-1, 1))
    np.clip(bins, 0, BINS - 1, out=bins)  # empty bins may lie outside
    bins += BINS * np.arange(len(counts))[:, None]
    moved = np.bincount(bins.astype(np.intp).reshape(-1), counts.reshape(-1), counts.size)
    return np.asarray(moved.reshape(counts.shape))


def _bins(flat: Array, valid: Array | None, low: Array, width: Array) -> NDArray[np.uint8]:
    """Return the bin of each sample (n, h, m); the bins of invalid samples are arbitrary."""
    scale = np.where(width > 0, width, 1.0)[:, None, None]
    first = index_of(low, width)[:, None, None]
    if flat.dtype.kind != "f" and flat.dtype.itemsize <= 4:
        # bins are below 256, so 8 bits of both terms are enough
        shift = (np.frexp(scale)[1] - 1).astype(flat.dtype)
        bins: NDArray[np.uint8] = np.right_shift(flat, shift).astype(np.uint8)
        bins -= first.astype(np.int64).astype(np.uint8)
        return bins
    values = flat / scale
    if valid is not None:
        values[~valid] = 0.0
    np.floor(values, out=values)
    values -= first
    return np.clip(values, 0, BINS - 1, out=values).astype(np.uint8)


def _counted(bins: NDArray[np.uint8], valid: Array | None) -> Array:
    """Return the histograms (n, 256) of `bins` (n, h, m)."""
    if len(bins) == 1 and valid is None:
        return bytes_counted(bins[0, :, :, None])[None]
    # all cells in one call: the bins of cell i start at 256 * i
    numbers = bins.astype(np.intp)
    numbers += BINS * np.arange(len(bins))[:, None, None]
    counted = numbers.reshape(-1) if valid is None else numbers[valid]
    return np.bincount(counted, minlength=BINS * len(bins)).reshape(-1, BINS)


def saturation_of(pixels: Array, valid: Array | None) -> Array:
    """Return the histograms (n, 256) of the saturation of RGB `pixels` (n, h, w, 3)."""
    red, green, blue = (pixels[..., i] for i in range(3))
    high = np.maximum(np.maximum(red, green), blue).astype(np.float64)
    low = np.minimum(np.minimum(red, green), blue)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(high > 0, (high - low) / high, 0.0)
    share = np.nan_to_num(np.clip(np.rint(share * (BINS - 1)), 0, BINS - 1))
    return _counted(share.astype(np.uint8), valid)
