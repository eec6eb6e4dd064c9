"""Resized images, of which any region is computed from the pixels that it needs."""

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
    gutters_of,
    gutters_of_parent,
)
from dask_slides.core.types import Array
from dask_slides.numerics.kernels import ROWS, Axis, is_long, resample_columns, resample_rows
from dask_slides.numerics.resample_means import buffer_bytes, shrink

STRIP_PIXELS = 2**22
"""Input pixels to read at a time, whatever the size of the region."""


COARSE = 4
"""Levels with a larger downsample show aliasing, so they need a gap that is larger by a quarter.
Measured at a downsample of 8: 46 dB with a gap of 2.0, and 50 dB with 2.5."""


ROUNDED = 0.99
"""Share of the gap that is enough, because output sizes are rounded to whole pixels: 4,096 px
resized to 410 px count as a downsample of 10."""


def choose_level(levels: tuple[Level, ...], shape: tuple[int, int], gap: float | None) -> int:
    """Return the smallest level from which resampling to `shape` shrinks by at least `gap`.

    With ``gap=None`` it is always level 0. With a sufficient gap, the antialiasing of the kernel
    determines the quality of the result.
    """
    if gap is None:
        return 0
    best = 0
    for number, level in enumerate(levels):
        shrink_by = min(n / m for n, m in zip(level.shape, shape, strict=True))
        needed = gap if max(level.downsample) <= COARSE else 1.25 * gap
        if shrink_by >= ROUNDED * needed and level.shape[0] < levels[best].shape[0]:
            best = number
    return best


SMALL_PIXELS = 2**20
"""Smaller images are read without reduction: exact pixels take only milliseconds more."""


def choose_factor(source: Source, level: int, shape: tuple[int, int], gap: float | None) -> int:
    """Return the largest reduction of `level` from which resampling shrinks by at least `gap`.

    A stored level costs less than reduced decoding, so the level is chosen first. The largest
    reduction costs least. A reduction by more than 2 needs a gap that is larger by a quarter:
    measured at 4, 48 dB with a gap of 2.0, and 51 dB with 2.5. If its colours are twice as coarse
    (JPEG 4:2:2), it needs twice the gap: 46 dB with 2.5, and 54 dB with 5.
    """
    if gap is None:
        return 1
    stored = source.levels[level]
    if math.prod(stored.shape) <= SMALL_PIXELS:
        return 1
    shrink_by = min(n / m for n, m in zip(stored.shape, shape, strict=True))
    best = 1
    for factor in source.reductions(level):
        needed = gap if factor * max(stored.downsample) <= 2 else 1.25 * gap
        if shrink_by / factor >= ROUNDED * needed * source.coarseness(level):
            best = max(best, factor)
    return best


class MissingMask:
    """A mask of the pixels without a value in the window from which a region is resampled."""

    def __init__(self, window: Region) -> None:
        self._window = window
        self._mask: Array | None = None

    def add(self, strip: Region, pixels: Array, valid: Array) -> Array:
        """Add the pixels of `strip` that are not `valid`; return its pixels with zeros there.

        A nodata value can be NaN or the largest value of its dtype. Pixels resampled from it are
        replaced by the fill later, but they must not overflow.
        """
        if self._mask is None:
            self._mask = np.zeros((self._window.height, self._window.width), bool)
        self._mask[strip.slices(self._window.y, self._window.x)] = ~valid
        return np.where(valid[..., None], pixels, pixels.dtype.type(0))

    def needed_by(self, axes: tuple[Axis, Axis], region: Region) -> Array | None:
        """Return a mask (h, w) of the pixels of `region` that need a missing one; None if empty."""
        if self._mask is None or not self._mask.any():
            return None
        rows, columns = axes
        mask = _any_between(self._mask, rows.taps(region.y, region.stop_y), self._window.y)
        transposed = _any_between(mask.T, columns.taps(region.x, region.stop_x), self._window.x)
        return np.ascontiguousarray(transposed.T)


def _any_between(mask: Array, taps: tuple[Array, Array], origin: int) -> Array:
    """Return, per pair of `taps`, whether a row [first, last) of `mask` is True in each column."""
    sums = np.zeros((len(mask) + 1, mask.shape[1]), np.int32)
    np.cumsum(mask, axis=0, out=sums[1:])
    first, last = taps
    return np.asarray(sums[last - origin] > sums[first - origin])


@dataclass(frozen=True)
class ResizedSource(DerivedSource):
    """The image `parent` resampled to `shape`. All regions agree with a resize of the whole."""

    parent: Source
    shape: tuple[int, int]
    kernel: str
    gap: float | None

    @property
    def layer_name(self) -> str:
        """The name of the graph layer: "resize", or "cutoff" for a cut-off at another scale."""
        return "cutoff" if self.parent.layer_name == "cutoff" else "resize"

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level. It is not stored, so its tile size of 64 px is arbitrary."""
        return (Level(self.shape, (1.0, 1.0), (64, 64)),)

    @cached_property
    def from_level(self) -> int:
        """The level of the parent that is resampled."""
        return choose_level(self.parent.levels, self.shape, self.gap)

    @cached_property
    def factor(self) -> int:
        """The factor by which this level is reduced while reading."""
        if self.kernel == "nearest":  # needs stored pixels, not means
            return 1
        return choose_factor(self.parent, self.from_level, self.shape, self.gap)

    @cached_property
    def exact(self) -> bool:
        """Whether the result equals a resize of level 0 bit for bit."""
        level = self.parent.levels[self.from_level]
        return self.factor == 1 and max(level.downsample) <= 1

    @property
    def _is_fast(self) -> bool:
        return not self.exact and self.dtype == np.uint8

    @property
    def operation(self) -> str:
        """The operation with its downsample, or with its size if y and x differ."""
        y, x = (f"{factor:.3g}" for factor in self.placement.scale)
        how = f"by {y}" if y == x else f"to {self.shape[0]} x {self.shape[1]} px"
        return f"resized {how} with {self.kernel}"

    @property
    def placement(self) -> Placement:
        """The placement on the parent, which this image covers."""
        height, width = self.parent.levels[0].shape
        return Placement((height / self.shape[0], width / self.shape[1]))

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """The resampling of the rows and of the columns of the level, after its reduction."""
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
        """Return the level and region of the parent that `region` needs, with its halo."""
        window, factor = self._window(region), self.factor
        whole = Region(*(n * factor for n in (window.y, window.x, window.height, window.width)))
        height, width = self.parent.levels[self.from_level].shape
        return self.from_level, whole.intersect(Region(0, 0, height, width))

    def _window(self, region: Region) -> Region:
        """Return the input that `region` needs, in pixels of the reduced level."""
        rows, columns = self.axes
        top, bottom = rows.window(region.y, region.stop_y)
        left, right = columns.window(region.x, region.stop_x)
        return Region(top, left, bottom - top, right - left)

    def read(self, level: int, region: Region) -> Array:
        """Resample `region`, reading the parent strip by strip."""
        return self.read_valid(level, region)[0]

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Resample `region`; return its pixels, and a mask of those that need no missing pixel."""
        if self.lacks(level, region):
            shape = (region.height, region.width, self.channels)
            return np.full(shape, self.fill, self.dtype), None
        missing = MissingMask(self._window(region)) if self.masked else None
        resample = self._rows_first if self._is_fast else self._columns_first
        out = resample(region, missing)
        fill_holes(self, self.holes(level, region), region, out)
        invalid = self._invalid(region, missing)
        if invalid is None:
            return out, None
        np.copyto(out, self.fill, where=invalid[..., None])
        return out, ~invalid

    def _invalid(self, region: Region, missing: MissingMask | None) -> Array | None:
        """Return a mask of the pixels of `region` without a value; None if all have one."""
        if missing is None:
            return None
        needed, between = missing.needed_by(self.axes, region), gutters_of(self, 0, region)
        if between is None or not between.any():
            return needed
        return between if needed is None else np.asarray(needed | between)

    def gutters(self, rows: Array, columns: Array) -> Array | None:
        """Return whether the centres of these pixels lie in gutters of the parent."""
        return gutters_of_parent(self, rows, columns)

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` that need pixels of a hole of the parent."""
        found = self.parent.holes(*self.window(level, region))
        if not found:
            return ()
        rows, columns = self.axes
        holes = []
        for hole in found:
            read = shrunk(hole.region, self.factor)
            top, bottom = rows.outputs_of(region.y, region.stop_y, read.y, read.stop_y)
            left, right = columns.outputs_of(region.x, region.stop_x, read.x, read.stop_x)
            if top < bottom and left < right:
                missing = Region(top, left, bottom - top, right - left)
                holes.append(MissingRegion(missing, hole.tile))
        return tuple(holes)

    def _columns_first(self, region: Region, missing: MissingMask | None) -> Array:
        """Resample columns while reading, then rows, in the order of a whole-image resize."""
        rows, columns = self.axes
        window = self._window(region)
        read = self._strip_reader(missing)
        middle = np.empty((window.height, region.width, self.channels), self.dtype)
        for strip in self._strips(window):
            middle[strip.y - window.y : strip.stop_y - window.y] = resample_columns(
                read(strip), columns, region.x, region.stop_x, window.x
            )
        return resample_rows(middle, rows, region.y, region.stop_y, window.y)

    def _rows_first(self, region: Region, missing: MissingMask | None) -> Array:
        """Resample the rows that each strip completes, then their columns."""
        rows, columns = self.axes
        window = self._window(region)
        _, last = rows.taps(region.y, region.stop_y)
        out = np.empty((region.height, region.width, self.channels), self.dtype)
        read = self._strip_reader(missing)
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
        """Cut `window` between rows of tiles, so that no tile is read twice."""
        tile = max(1, self.parent.levels[self.from_level].tile[0] // self.factor)
        return list(strips(window, tile, STRIP_PIXELS))

    def _strip_reader(self, missing: MissingMask | None) -> Callable[[Region], Array]:
        """Return a function that reads a strip, and adds pixels without a value to `missing`."""
        if self.factor > 1:
            return partial(self.parent.read_reduced, self.from_level, self.factor)
        if missing is None:
            return partial(self.parent.read, self.from_level)

        def read(strip: Region) -> Array:
            pixels, valid = self.parent.read_valid(self.from_level, strip)
            if valid is not None:
                between = gutters_of(self.parent, self.from_level, strip)
                if between is not None:  # its fill is resampled like a colour
                    valid = valid | between
            if valid is None or valid.all():
                return pixels
            return missing.add(strip, pixels, valid)

        return read

    def working_bytes(self, level: int, region: Region) -> int:
        """Return the bytes of the intermediate columns, the buffers of a pass, and the result."""
        # plus the mask of missing pixels, and its sums
        return self._pixel_bytes(region) + 6 * self.masked * self._window(region).area

    def _pixel_bytes(self, region: Region) -> int:
        window = self._window(region)
        strip = self._largest_strip(window)
        sample = self.channels * self.dtype.itemsize
        if self._is_fast:
            return self._fast_bytes(region, strip, sample)
        result = region.area * sample
        middle = window.height * region.width * sample
        wide = 8 * self.channels  # both passes sum up in float64
        taps = ROWS * (window.height / region.height) + 8 * window.height / region.height + 8
        if self.dtype == np.uint8:
            columns = ROWS * (strip.width + 2 * region.width) * wide
            rows = int(min(window.height, taps) * region.width * wide)
        else:  # a transposed float64 copy, and the product with two copies for rounding
            if is_long(self.dtype):  # two halves of 32 bits
                wide *= 3
            columns = strip.area * wide + 3 * strip.height * region.width * wide
            rows = (window.height + 3 * region.height) * region.width * wide
        return middle + result + max(columns, rows)

    def _fast_bytes(self, region: Region, strip: Region, sample: int) -> int:
        """Return the bytes of the rows in memory, both passes over a strip, and the result."""
        vertical, horizontal = self.axes
        first, last = vertical.taps(region.y, region.stop_y)
        held = (strip.height + int((last - first).max())) * strip.width
        done = min(region.height, int(strip.height / vertical.ratio) + 2)
        passes = done * (strip.width + region.width) * sample
        # the compiled loops transpose each pass instead, and need only small buffers for sums
        buffers = max(passes, buffer_bytes(vertical), buffer_bytes(horizontal))
        return (region.area + held) * sample + passes + buffers

    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and the tallest strip that is read."""
        strip, factor = self._largest_strip(self._window(region)), self.factor
        whole = Region(*(n * factor for n in (strip.y, strip.x, strip.height, strip.width)))
        height, width = self.parent.levels[self.from_level].shape
        return self.from_level, whole.intersect(Region(0, 0, height, width))

    def _largest_strip(self, window: Region) -> Region:
        return max(self._strips(window), key=lambda strip: strip.height)
