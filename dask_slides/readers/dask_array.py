"""A dask array as a source, and the blocks of it that one task reads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.equality import EqualByFields
from dask_slides.core.geometry import Region, bounds
from dask_slides.core.source import Level, Source, Span, Spans
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.runtime.scheduler import compute

UNIT = 64
"""Tile side of a source of blocks in memory, from which regions of any size can be read."""


@dataclass(frozen=True)
class BlocksSource(Source):
    """Blocks in memory of an image that is divided at `rows` and `columns`."""

    name: str
    levels: tuple[Level, ...]
    channels: int
    dtype: np.dtype[Any]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    """First row or column of each block, and the end of the image."""
    blocks: Mapping[tuple[int, int], Array] | None = None
    """Blocks (h, w, c) by row and column; None in the graph, before they are computed."""

    def _indices(self, rows: Span, columns: Span) -> list[tuple[int, int]]:
        across = _overlapping(self.columns, *columns)
        return [(i, j) for i in _overlapping(self.rows, *rows) for j in across]

    def touched(self, spans: list[Spans]) -> list[tuple[int, int]]:
        """Return the blocks that hold any pixel of these rows and columns, in order."""
        pairs = [
            pair
            for rows, columns in spans
            for y in _joined(rows)
            for x in _joined(columns)
            for pair in self._indices(y, x)
        ]
        return list(dict.fromkeys(pairs))

    def nbytes(self, spans: list[Spans]) -> int:
        """Return the size in bytes of the blocks that `touched` returns."""
        sizes = (
            (self.rows[i + 1] - self.rows[i]) * (self.columns[j + 1] - self.columns[j])
            for i, j in self.touched(spans)
        )
        return sum(sizes) * self.channels * self.dtype.itemsize

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region`: a view if one block holds them all."""
        assert level == 0
        assert self.blocks is not None
        found = self._indices((region.y, region.stop_y), (region.x, region.stop_x))
        if len(found) == 1:
            i, j = found[0]
            return self.blocks[i, j][region.slices(self.rows[i], self.columns[j])]
        out = np.empty((region.height, region.width, self.channels), self.dtype)
        for i, j in found:
            y, x = self.rows[i], self.columns[j]
            block = Region(y, x, self.rows[i + 1] - y, self.columns[j + 1] - x)
            part = block.intersect(region)
            out[part.slices(region.y, region.x)] = self.blocks[i, j][part.slices(y, x)]
        return out

    def gather(self, level: int, regions: list[Region]) -> Iterator[tuple[int, Region, Array]]:
        """Yield the regions one by one: reading some together would not save any decoding."""
        for number, region in enumerate(regions):
            yield number, region, self.read(level, region)


def _joined(spans: list[Span]) -> list[Span]:
    """Join neighbouring `spans` with less than one tile between them: they are read together."""
    out = spans[:1]
    for start, stop in spans[1:]:
        first, last = out[-1]
        if start // UNIT <= -(-last // UNIT):
            out[-1] = first, max(last, stop)
        else:
            out.append((start, stop))
    return out


def _overlapping(edges: tuple[int, ...], start: int, stop: int) -> range:
    """Return the indices of the intervals between `edges` that overlap [start, stop)."""
    return range(bisect_right(edges, start) - 1, bisect_left(edges, min(stop, edges[-1])))


@dataclass(frozen=True, eq=False)
class ArraySource(EqualByFields, Source):
    """A dask array (y, x, c) of one chunk along c; tasks depend on the blocks they need."""

    array: da.Array
    name: str = "dask array"

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level: the array."""
        tile = (max(self.array.chunks[0]), max(self.array.chunks[1]))
        return (Level(self.array.shape[:2], (1.0, 1.0), tile),)

    @property
    def channels(self) -> int:
        """Length of the last axis."""
        return int(self.array.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the array."""
        # numpy has two equal 64-bit integer types, and Zarr accepts only one of them
        result: np.dtype[Any] = np.dtype(self.array.dtype.str)
        return result

    def read(self, level: int, region: Region) -> Array:
        """Compute `region` of the array."""
        return compute(self.array[region.slices()], "read")

    def without_blocks(self) -> BlocksSource:
        """Return the source of a task without its blocks, which is small to pickle."""
        rows, columns = (bounds(chunks) for chunks in self.array.chunks[:2])
        level = Level(self.array.shape[:2], (1.0, 1.0), (UNIT, UNIT))
        return BlocksSource(self.name, (level,), self.channels, self.dtype, rows, columns)


def array_source(array: Any) -> ArraySource:
    """Check `array` (y, x) or (y, x, c) and wrap it."""
    if isinstance(array, np.ndarray | da.Array):
        _check_samples(array)
    if isinstance(array, np.ndarray):
        array = da.from_array(array, chunks="auto")
    if not isinstance(array, da.Array):
        raise SlideArgumentError(
            f"{type(array).__name__} is not an image; give a path, a Slide, or a dask array"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise SlideArgumentError(
            f"dask array of shape {array.shape} is not an image; give (y, x) or (y, x, c)"
        )
    if np.isnan(sum(array.shape)):
        raise SlideArgumentError(
            "dask array has chunks of unknown size; call compute_chunk_sizes() on it first"
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return ArraySource(array.rechunk({2: -1}))


def _check_samples(array: np.ndarray | da.Array) -> None:
    """Raise SlideArgumentError for samples that are no numbers, or that have a mask."""
    if array.dtype.kind not in "buif":
        raise SlideArgumentError(
            f"dask array of dtype {array.dtype} is not an image; use an integer or float dtype"
        )
    if isinstance(getattr(array, "_meta", array), np.ma.MaskedArray):
        raise SlideArgumentError(
            "a masked array is not an image, as its mask would be lost; give its masked samples a "
            "value first, with numpy.ma.filled or dask.array.ma.filled"
        )
