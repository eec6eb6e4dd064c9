"""The pixels of a resized image, computed region by region from a parent source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from dask_slides.core.bad_tiles import MissingRegion
from dask_slides.core.geometry import Placement, Region, reduced_size, shrunk, strips
from dask_slides.core.source import (
    DerivedSource,
    Level,
    Source,
    fill_holes,
)
from dask_slides.core.types import Array
from dask_slides.numerics.kernels import ROWS, Axis, is_long, resample_columns, resample_rows
from dask_slides.numerics.resample_means import buffer_bytes, shrink

STRIP_PIXELS = 2**22
"""Input pixels held at a time: what a region of any size is read in."""


COARSE = 4
"""A level more than this many times smaller has averaged away so much that what its pixels
alias shows: it must leave a quarter more to shrink. Measured: 46 dB from 1/8 at 2, 50 at 2.5."""


ROUNDED = 0.99
"""Share of a gap that is enough: an output size is rounded to whole pixels, and 4,096 px
reduced to 410 must not be taken for less than a tenth."""


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
        if left >= ROUNDED * least and level.shape[0] < levels[best].shape[0]:
            best = number
    return best


SMALL_PIXELS = 2**20
"""An image up to this size is read in full: exact pixels cost a few milliseconds more."""


def choose_factor(source: Source, level: int, shape: tuple[int, int], gap: float | None) -> int:
    """Return the largest reduction of `level` that leaves at least `gap` to resample to `shape`.

    Reduced decoding is dearer than a stored level, so it comes after the choice of the level,
    and the largest one is the cheapest. Reduced by more than 2 it must leave a quarter more:
    measured, 48 dB at 1/4 and 2.0 left, 51 dB at 2.5. Where its colours are twice as coarse
    (JPEG 4:2:2), twice as much: 46 dB at 2.5, 54 at 5.
    """
    if gap is None:
        return 1
    this = source.levels[level]
    if math.prod(this.shape) <= SMALL_PIXELS:
        return 1
    left = min(n / m for n, m in zip(this.shape, shape, strict=True))
    best = 1
    for factor in source.reductions(level):
        least = gap if factor * max(this.downsample) <= 2 else 1.25 * gap
        if left / factor >= ROUNDED * least * source.coarseness(level):
            best = max(best, factor)
    return best


class MissingPixels:
    """The pixels without a value in the window that a region is resampled from."""

    def __init__(self, window: Region) -> None:
        self._window = window
        self._found: Array | None = None

    def add(self, strip: Region, pixels: Array, valid: Array) -> Array:
        """Remember those of `strip`; return its pixels with zeros there.

        A nodata value can be the largest number of its dtype, or none at all. What is resampled
        from it is never shown, but must not overflow either.
        """
        if self._found is None:
            self._found = np.zeros((self._window.height, self._window.width), bool)
        self._found[strip.slices(self._window.y, self._window.x)] = ~valid
        return np.where(valid[..., None], pixels, pixels.dtype.type(0))

    def reached(self, axes: tuple[Axis, Axis], region: Region) -> Array | None:
        """Return which pixels of `region` need one of them, (h, w); None if none does."""
        if self._found is None or not self._found.any():
            return None
        rows, columns = axes
        found = _any_between(self._found, rows.taps(region.y, region.stop_y), self._window.y)
        turned = _any_between(found.T, columns.taps(region.x, region.stop_x), self._window.x)
        return np.ascontiguousarray(turned.T)


def _any_between(marks: Array, taps: tuple[Array, Array], origin: int) -> Array:
    """Return whether any of the rows [first, last) of `marks` is set, for each pair of `taps`."""
    sums = np.zeros((len(marks) + 1, marks.shape[1]), np.int32)
    np.cumsum(marks, axis=0, out=sums[1:])
    first, last = taps
    return np.asarray(sums[last - origin] > sums[first - origin])


@dataclass(frozen=True)
class ResizedSource(DerivedSource):
    """`parent`, resampled as a whole to `shape`; any region of it is read alone."""

    parent: Source
    shape: tuple[int, int]
    kernel: str
    gap: float | None

    @property
    def layer_name(self) -> str:
        """A resize, or a cut-off at another scale."""
        return "cutoff" if self.parent.layer_name == "cutoff" else "resize"

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level; tiles of 64 px, as nothing is stored."""
        return (Level(self.shape, (1.0, 1.0), (64, 64)),)

    @cached_property
    def from_level(self) -> int:
        """The level of the parent that is resampled."""
        return choose_level(self.parent.levels, self.shape, self.gap)

    @cached_property
    def factor(self) -> int:
        """How many times smaller that level is read."""
        if self.kernel == "nearest":  # of means there is no nearest pixel
            return 1
        return choose_factor(self.parent, self.from_level, self.shape, self.gap)

    @cached_property
    def exact(self) -> bool:
        """Whether the pixels are those of a resize of level 0, to the bit."""
        level = self.parent.levels[self.from_level]
        return self.factor == 1 and max(level.downsample) <= 1

    @property
    def _is_fast(self) -> bool:
        return not self.exact and self.dtype == np.uint8

    @property
    def operation(self) -> str:
        """By how much the parent was resized, or to which size if its shape changes."""
        y, x = (f"{factor:.3g}" for factor in self.placement.scale)
        how = f"by {y}" if y == x else f"to {self.shape[0]} x {self.shape[1]} px"
        return f"resized {how} with {self.kernel}"

    @property
    def placement(self) -> Placement:
        """All of the parent, at another size."""
        height, width = self.parent.levels[0].shape
        return Placement((height / self.shape[0], width / self.shape[1]))

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """How rows and columns of what is read become those of this image."""
        full, level = self.parent.levels[0], self.parent.levels[self.from_level]
        factor = self.factor
        rows, columns = (
            Axis(
                reduced_size(level.shape[i], factor),
                self.shape[i],
                self.kernel,
                full.shape[i] / self.shape[i] / (level.downsample[i] * factor),
                level.downsample[i] * factor,
            )
            for i in (0, 1)
        )
        return rows, columns

    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and region of the parent that `region` needs, halo included."""
        window, factor = self._window(region), self.factor
        whole = Region(*(n * factor for n in (window.y, window.x, window.height, window.width)))
        height, width = self.parent.levels[self.from_level].shape
        return self.from_level, whole.intersect(Region(0, 0, height, width))

    def _window(self, region: Region) -> Region:
        """Return the same in pixels of what is read."""
        rows, columns = self.axes
        top, bottom = rows.window(region.y, region.stop_y)
        left, right = columns.window(region.x, region.stop_x)
        return Region(top, left, bottom - top, right - left)

    def read(self, level: int, region: Region) -> Array:
        """Resample `region`, strip by strip while reading."""
        return self.read_valid(level, region)[0]

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Do the same, and tell which pixels need none that is without a value."""
        if self.lacks(level, region):
            shape = (region.height, region.width, self.channels)
            return np.full(shape, self.fill, self.dtype), None
        gaps = MissingPixels(self._window(region)) if self.masked else None
        resample = self._rows_first if self._is_fast else self._columns_first
        out = resample(region, gaps)
        fill_holes(self, self.holes(level, region), region, out)
        reached = None if gaps is None else gaps.reached(self.axes, region)
        if reached is None:
            return out, None
        np.copyto(out, self.fill, where=reached[..., None])
        return out, ~reached

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the pixels of `region` that need a pixel of a hole: none is half of the fill."""
        found = self.parent.holes(*self.window(level, region))
        if not found:
            return ()
        rows, columns = self.axes
        holes = []
        for hole in found:
            read = shrunk(hole.region, self.factor)
            top, bottom = rows.reached(region.y, region.stop_y, read.y, read.stop_y)
            left, right = columns.reached(region.x, region.stop_x, read.x, read.stop_x)
            if top < bottom and left < right:
                place = Region(top, left, bottom - top, right - left)
                holes.append(MissingRegion(place, hole.tile))
        return tuple(holes)

    def _columns_first(self, region: Region, gaps: MissingPixels | None) -> Array:
        """Resample columns while reading, then rows: the order of the whole-image resize."""
        rows, columns = self.axes
        window = self._window(region)
        read = self._strip_reader(gaps)
        middle = np.empty((window.height, region.width, self.channels), self.dtype)
        for strip in self._strips(window):
            middle[strip.y - window.y : strip.stop_y - window.y] = resample_columns(
                read(strip), columns, region.x, region.stop_x, window.x
            )
        return resample_rows(middle, rows, region.y, region.stop_y, window.y)

    def _rows_first(self, region: Region, gaps: MissingPixels | None) -> Array:
        """Resample the rows that are whole after each strip, then their columns."""
        rows, columns = self.axes
        window = self._window(region)
        _, last = rows.taps(region.y, region.stop_y)
        out = np.empty((region.height, region.width, self.channels), self.dtype)
        read = self._strip_reader(gaps)
        held, top, start = None, window.y, region.y
        for strip in self._strips(window):
            pixels = read(strip)
            held = pixels if held is None else np.concatenate((held, pixels))
            stop = region.y + int(np.searchsorted(last, strip.stop_y, side="right"))
            if stop > start:
                part = Region(start, region.x, stop - start, region.width)
                into = out[part.slices(region.y, region.x)]
                shrink(held, rows, columns, part, (top, window.x), into)
                start = stop
            if start < region.stop_y:
                first = rows.window(start, start + 1)[0]
                held, top = held[first - top :], first
        return out

    def _strips(self, window: Region) -> list[Region]:
        """Cut what is read between rows of tiles, so that none is read twice."""
        tile = max(1, self.parent.levels[self.from_level].tile[0] // self.factor)
        return list(strips(window, tile, STRIP_PIXELS))

    def _strip_reader(self, gaps: MissingPixels | None) -> Callable[[Region], Array]:
        """Return what reads a strip of the level; pixels without a value are added to `gaps`."""
        if self.factor > 1:
            return partial(self.parent.read_reduced, self.from_level, self.factor)
        if gaps is None:
            return partial(self.parent.read, self.from_level)

        def read(strip: Region) -> Array:
            pixels, valid = self.parent.read_valid(self.from_level, strip)
            return pixels if valid is None else gaps.add(strip, pixels, valid)

        return read

    def working_bytes(self, level: int, region: Region) -> int:
        """Sum up the columns done of all strips, the buffers of a pass, and the result."""
        # marks of pixels without a value, and their sums
        return self._pixel_bytes(region) + 6 * self.masked * self._window(region).area

    def _pixel_bytes(self, region: Region) -> int:
        window = self._window(region)
        strip = self._largest_strip(window)
        sample = self.channels * self.dtype.itemsize
        if self._is_fast:
            return self._fast_bytes(region, strip, sample)
        result = region.area * sample
        middle = window.height * region.width * sample
        wide = 8 * self.channels  # both passes sum in float64
        taps = ROWS * (window.height / region.height) + 8 * window.height / region.height + 8
        if self.dtype == np.uint8:
            columns = ROWS * (strip.width + 2 * region.width) * wide
            rows = int(min(window.height, taps) * region.width * wide)
        else:  # turned and cast, and the product with two copies while it is rounded
            if is_long(self.dtype):  # in two halves each
                wide *= 3
            columns = strip.area * wide + 3 * strip.height * region.width * wide
            rows = (window.height + 3 * region.height) * region.width * wide
        return middle + result + max(columns, rows)

    def _fast_bytes(self, region: Region, strip: Region, sample: int) -> int:
        """Sum up what is held of the rows, both passes of what a strip completes, the result."""
        vertical, horizontal = self.axes
        first, last = vertical.taps(region.y, region.stop_y)
        joined = (strip.height + int((last - first).max())) * strip.width
        done = min(region.height, int(strip.height / vertical.ratio) + 2)
        passes = done * (strip.width + region.width) * sample
        # with the compiled loops each pass is also turned, and sums up next to nothing
        buffers = max(passes, buffer_bytes(vertical), buffer_bytes(horizontal))
        return (region.area + joined) * sample + passes + buffers

    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the tallest strip that the window is read in."""
        strip, factor = self._largest_strip(self._window(region)), self.factor
        whole = Region(*(n * factor for n in (strip.y, strip.x, strip.height, strip.width)))
        height, width = self.parent.levels[self.from_level].shape
        return self.from_level, whole.intersect(Region(0, 0, height, width))

    def _largest_strip(self, window: Region) -> Region:
        return max(self._strips(window), key=lambda strip: strip.height)
