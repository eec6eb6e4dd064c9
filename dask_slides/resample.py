"""The pixels of a resized image, computed region by region from a parent source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.geometry import Region, strips
from dask_slides.kernels import ROWS, Axis, resample_columns, resample_rows
from dask_slides.readers.protocol import Level, Source

Array = NDArray[Any]

STRIP_PIXELS = 2**22
"""Input pixels held at a time: what a region of any size is read in."""


COARSE = 4
"""A level more than this many times smaller has averaged away so much that what its pixels
alias shows: it must leave a quarter more to shrink. Measured: 46 dB from 1/8 at 2, 50 at 2.5."""


def choose_level(levels: tuple[Level, ...], shape: tuple[int, int], gap: float | None) -> int:
    """Return the smallest level that leaves at least `gap` to resample to `shape`.

    ``gap=None`` is always level 0. With a gap the stored level only does what the kernel
    would have done with ease, and the kernel's own antialiasing decides how the result looks.
    """
    if gap is None:
        return 0
    best = 0
    for number, level in enumerate(levels):
        left = min(n / m for n, m in zip(level.shape, shape, strict=True))
        least = gap if max(level.downsample) <= COARSE else 1.25 * gap
        if left >= least and level.shape[0] < levels[best].shape[0]:
            best = number
    return best


@dataclass(frozen=True)
class ResizedSource:
    """`parent`, resampled as a whole to `shape`; any region of it is read alone."""

    parent: Source
    shape: tuple[int, int]
    kernel: str
    gap: float | None

    @property
    def name(self) -> str:
        """The name of the parent."""
        return self.parent.name

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level; tiles of 64 px, as nothing is stored."""
        return (Level(self.shape, (1.0, 1.0), (64, 64)),)

    @property
    def channels(self) -> int:
        """As the parent."""
        return self.parent.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """As the parent."""
        return self.parent.dtype

    @property
    def from_level(self) -> int:
        """The level of the parent that is resampled."""
        return choose_level(self.parent.levels, self.shape, self.gap)

    def axes(self) -> tuple[Axis, Axis]:
        """Return how rows and columns of the parent's level become those of this image."""
        full, level = self.parent.levels[0], self.parent.levels[self.from_level]
        rows, columns = (
            Axis(
                level.shape[i],
                self.shape[i],
                self.kernel,
                full.shape[i] / self.shape[i] / level.downsample[i],
                level.downsample[i],
            )
            for i in (0, 1)
        )
        return rows, columns

    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and region of the parent that `region` needs, halo included."""
        rows, columns = self.axes()
        top, bottom = rows.window(region.y, region.stop_y)
        left, right = columns.window(region.x, region.stop_x)
        return self.from_level, Region(top, left, bottom - top, right - left)

    def read(self, level: int, region: Region) -> Array:
        """Resample `region`: columns strip by strip while reading, then rows."""
        rows, columns = self.axes()
        number, window = self.window(level, region)
        middle = np.empty((window.height, region.width, self.channels), self.dtype)
        tile_height = self.parent.levels[number].tile[0]
        for strip in strips(window, tile_height, STRIP_PIXELS):
            middle[strip.y - window.y : strip.stop_y - window.y] = resample_columns(
                self.parent.read(number, strip), columns, region.x, region.stop_x, window.x
            )
        return resample_rows(middle, rows, region.y, region.stop_y, window.y)

    def working_bytes(self, level: int, region: Region) -> int:
        """Sum up the columns done of all strips, the buffers of a pass, and the result."""
        _, window = self.window(level, region)
        _, strip = self.largest_read(level, region)
        sample = self.channels * self.dtype.itemsize
        result = region.area * sample
        middle = window.height * region.width * sample
        wide = 8 * self.channels  # both passes sum in float64
        taps = ROWS * (window.height / region.height) + 8 * window.height / region.height + 8
        if self.dtype == np.uint8:
            columns = ROWS * (strip.width + 2 * region.width) * wide
            rows = int(min(window.height, taps) * region.width * wide)
        else:  # turned, cast, and the product with two copies while it is rounded
            columns = strip.area * (sample + wide) + 3 * strip.height * region.width * wide
            rows = (window.height + 3 * region.height) * region.width * wide
        return middle + result + max(columns, rows)

    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the tallest strip that the window is read in."""
        number, window = self.window(level, region)
        tile_height = self.parent.levels[number].tile[0]
        pieces = strips(window, tile_height, STRIP_PIXELS)
        return number, max(pieces, key=lambda strip: strip.height)
