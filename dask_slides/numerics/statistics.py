"""Statistics of grid cells, with one small record per cell. All detectors use only these.

Counts and sums are stored in float64. Integers are exact up to 2**53. Beyond that, and for floats,
sums are added row by row, so that they do not depend on the strips in which a cell is read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.equality import EqualByFields
from dask_slides.core.types import Array
from dask_slides.numerics.cell_samples import (
    add_bytes,
    add_samples,
    index_of,
    rebinned,
    saturation_of,
    width_of,
)
from dask_slides.numerics.histograms import BINS

FIELDS = ("histogram", "saturation", "range")
"""Optional fields of a record, in addition to count, sum and sum of squares."""


LENGTHS = {"histogram": BINS, "saturation": BINS, "range": 3}
"""Number of values per field."""


COUNTS = ("missing", "nodata")
"""The last values of every record."""


TOGETHER = 2**16
"""Samples to process at a time, so that intermediate arrays stay in the cache."""


@dataclass(frozen=True, eq=False)
class CellStats(EqualByFields):
    """Statistics of the colour samples per tile of a grid, as arrays (rows, cols).

    Alpha is not counted, because it is composited when the slide is read. Of float images, only
    finite samples are counted.

    Examples
    --------
    >>> import numpy as np, dask_slides as ds
    >>> image = np.arange(16, dtype="uint8").reshape(4, 4)
    >>> ds.blank_map(image, tile_size=2, detector=ds.Contrast(0.05)).stats.mean
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """

    count: Array
    """Number of samples: pixels times channels."""
    total: Array
    """Sum of the samples."""
    squares: Array
    """Sum of their squares."""
    histogram: Array | None = None
    """Histogram of the grey values of pixels (rows, cols, 256): of the means of their channels. Bin
    i of a tile counts pixels from ``first + i * width`` up to but not including
    ``first + (i + 1) * width``. For uint8 each value has a bin; for other dtypes the bins of a tile
    cover the range of its samples. A pixel of floats counts if all its samples are finite."""
    saturation: Array | None = None
    """Histogram of the HSV saturation of pixels (rows, cols, 256); zero if the image is not RGB."""
    missing: Array | None = None
    """Number of pixels without a value: those of absent and corrupt tiles, nodata and masked ones.
    No other field counts them. None means 0."""
    nodata: Array | None = None
    """Number of missing pixels that are nodata or masked. None means 0."""
    low: Array | None = None
    """Smallest sample; None for uint8. For a tile without samples, it, `high` and `width` are 0."""
    high: Array | None = None
    """Largest sample; None for uint8."""
    width: Array | None = None
    """Width of a bin of the histogram; None for uint8, where it is 1. It is the smallest power of
    two for which 256 bins that start at a multiple of it cover the samples, and at least 1 for
    integers."""

    @property
    def first(self) -> Array:
        """The start of the first bin of the histogram of each tile."""
        if self.low is None or self.width is None:
            return np.zeros(self.count.shape)
        with np.errstate(over="ignore"):
            return np.asarray(np.nan_to_num(index_of(self.low, self.width) * self.width))

    def pool(self) -> tuple[Array, float, float]:
        """Return the histogram of all tiles (256,), the start of its first bin, and the bin width.

        This is the histogram of one tile with all pixels.
        """
        if self.histogram is None:
            raise ValueError("the statistics hold no histogram")
        counts = np.asarray(self.histogram).reshape(-1, BINS)
        if self.low is None or self.high is None or self.width is None:
            return counts.sum(axis=0), 0.0, 1.0
        some = np.asarray(self.width).reshape(-1) > 0
        if not some.any():
            return np.zeros(BINS), 0.0, 1.0
        low, high, width = (
            np.asarray(part).reshape(-1)[some] for part in (self.low, self.high, self.width)
        )
        common = np.maximum(width.max(), width_of(low.min(), high.max(), whole=False))
        first = index_of(low.min(), common)
        pooled = rebinned(counts[some], index_of(low, width), width, first, common)
        with np.errstate(over="ignore"):
            return pooled.sum(axis=0), float(np.nan_to_num(first * common)), float(common)

    @property
    def whole(self) -> Array:
        """A mask (rows, cols) of tiles in which every pixel has a value."""
        return np.ones(self.count.shape, bool) if self.missing is None else self.missing == 0

    @property
    def known(self) -> Array:
        """A mask (rows, cols) of tiles without pixels of absent or corrupt tiles of the file."""
        if self.missing is None:
            return np.ones(self.count.shape, bool)
        return np.asarray(self.missing == (0 if self.nodata is None else self.nodata))

    @property
    def mean(self) -> Array:
        """Mean of the samples; 0 for a tile without samples."""
        mean = self.total / np.maximum(self.count, 1)
        if self.low is not None and self.high is not None:
            mean = np.clip(mean, self.low, self.high)  # sums may be rounded
        return np.asarray(mean)

    @property
    def std(self) -> Array:
        """Population standard deviation of the samples; 0 if all of them are equal."""
        with np.errstate(over="ignore", invalid="ignore"):  # of squares beyond float64
            variance = self.squares / np.maximum(self.count, 1) - self.mean**2
        std = np.sqrt(np.maximum(np.nan_to_num(variance, nan=np.inf, posinf=np.inf), 0.0))
        if self.low is not None and self.high is not None:
            std = np.where(self.low == self.high, 0.0, std)  # sums may be rounded
        return np.asarray(std)

    def packed(self) -> Array:
        """Return the records of all tiles as one float64 array (rows, cols, record)."""
        none = np.zeros(self.count.shape)
        missing = none if self.missing is None else self.missing
        nodata = none if self.nodata is None else self.nodata
        parts = [self.count[..., None], self.total[..., None], self.squares[..., None]]
        parts += [part for part in (self.histogram, self.saturation) if part is not None]
        parts += [part[..., None] for part in (self.low, self.high, self.width) if part is not None]
        parts += [missing[..., None], nodata[..., None]]
        return np.concatenate(parts, axis=-1, dtype=np.float64)


def record_length(fields: tuple[str, ...]) -> int:
    """Return the length of a packed record with `fields`."""
    return 3 + sum(LENGTHS[name] for name in fields) + len(COUNTS)


def fields_of(names: Collection[str], dtype: np.dtype[Any]) -> tuple[str, ...]:
    """Return the fields `names` in order, and "range" if the dtype is not uint8."""
    return tuple(
        name for name in FIELDS if name in names or (name == "range" and dtype != np.uint8)
    )


def _positions(fields: tuple[str, ...]) -> dict[str, slice]:
    """Return the position of each of the `fields` in a record."""
    found, at = {}, 3
    for name in FIELDS:
        if name in fields:
            found[name] = slice(at, at := at + LENGTHS[name])
    return found


def unpacked(records: Array, fields: tuple[str, ...]) -> CellStats:
    """Return the statistics of packed `records`, the reverse of `CellStats.packed`."""
    parts = {name: records[..., position] for name, position in _positions(fields).items()}
    if "range" in parts:
        parts |= zip(("low", "high", "width"), np.moveaxis(parts.pop("range"), -1, 0), strict=True)
    if records.shape[-1] == record_length(fields):
        parts |= {"missing": records[..., -2], "nodata": records[..., -1]}
    return CellStats(records[..., 0], records[..., 1], records[..., 2], **parts)


def record_of(
    pixels: Array,
    fields: tuple[str, ...],
    above: Array | None = None,
    seen: Array | None = None,
) -> Array:
    """Return the packed record of `pixels` (h, w, c), added to that of the rows `above`.

    `seen` is a mask (h, w) of the pixels with a value; the others count as missing. None means all.
    """
    record: Array = np.zeros(record_length(fields)) if above is None else above.copy()
    add_records(record[None], pixels[None], fields, None if seen is None else seen[None])
    record[-2] += 0 if seen is None else seen.size - np.count_nonzero(seen)
    return record


def add_records(
    records: Array, pixels: Array, fields: tuple[str, ...], seen: Array | None = None
) -> None:
    """Add the next rows, `pixels` (n, h, w, c), to the packed `records` (n, record) of n cells.

    `seen` is a mask (n, h, w) of the pixels with a value; None means all. The records are changed
    in place. Missing pixels are not counted.
    """
    count, height, width, channels = pixels.shape
    cells = max(1, TOGETHER // (height * width * channels))
    rows = max(1, TOGETHER // (width * channels))
    positions = _positions(fields)
    for first in range(0, count, cells):
        some = slice(first, first + cells)
        parts = [
            (
                pixels[some, top : top + rows],
                None if seen is None else seen[some, top : top + rows],
            )
            for top in range(0, height, rows)
        ]
        if pixels.dtype == np.uint8:  # counted without a copy
            add_bytes(
                records[some], parts if seen is not None else [(pixels[some], None)], positions
            )
        else:
            add_samples(records[some], parts, positions)
        if "saturation" in positions and channels == 3:
            for part, visible in parts:
                records[some, positions["saturation"]] += saturation_of(part, visible)
