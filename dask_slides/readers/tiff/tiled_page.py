"""Read a page of tiles or strips directly: read the bytes, decode, copy into the result.

tifffile's Zarr store reads every layout, but under a lock, and decodes each tile through an event
loop. In most slides a level is one page of tiles with all samples. There a region is read in a
simple loop over its tiles. Strips are tiles as wide as the page.

A page of tiles can also be read reduced, as the means of 2 x 2, 4 x 4 or 8 x 8 pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.core.geometry import Region, hull
from dask_slides.core.types import Array
from dask_slides.readers.codecs.jpeg import FACTORS, coarseness, is_jpeg
from dask_slides.readers.codecs.stream_copies import (
    NotCopiedError,
    Whole,
    encoding_in_place,
    encoding_of,
    whole_streams,
)
from dask_slides.readers.codecs.tile_bytes import TileByteReader
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.codecs.tile_sizes import tile_size
from dask_slides.readers.remote.byte_ranges import Data
from dask_slides.readers.tiff.tags import is_mapped
from dask_slides.readers.tile_cache import ANY_REUSE, NO_REUSE, TILE_CACHE, Reuse, SharedTiles
from dask_slides.readers.tile_status import TileStatus
from dask_slides.runtime.buffer_pool import POOL

if TYPE_CHECKING:
    from dask_slides.readers.tiff.reduced_tile_cache import ReducedTileCache

_JPEG_HEADER = 2048
"""Bytes at the start of a JPEG stream that contain its frame header."""
_REQUEST_SIZE = 3 * 2**19
"""Bytes per request to a server, so that the transfer takes longer than the latency."""
_serial = itertools.count()


def can_read_directly(level: Any) -> bool:
    """Return whether a level of tifffile is one page of tiles or strips (y, x) with all samples."""
    page = level.keyframe
    return bool(
        len(level.pages) == 1
        and page.tiledepth == page.imagedepth == 1
        and (page.planarconfig == 1 or page.samplesperpixel == 1)
        and page.jpegheader is None  # tiles of an NDPI are restart intervals of one stream
        and level.axes in ("YXS", "YX")
    )


def reductions_of(level: Any) -> tuple[int, ...]:
    """Return the factors by which a level of tifffile can be read reduced."""
    page = level.keyframe
    if (
        not (page.is_tiled and can_read_directly(level))
        or is_mapped(level)
        or page.dtype != np.uint8
    ):
        return ()
    return tuple(f for f in FACTORS if page.tilelength % f == page.tilewidth % f == 0)


def coarseness_of(level: Any) -> int:
    """Return how many times coarser than its luma the colours of a reduced level are."""
    page = level.keyframe
    if not is_jpeg(page):
        return 1
    present = (
        offset
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        if offset and count
    )
    start = next(present, None)
    if start is None:
        return 1
    file = page.parent.filehandle
    file.seek(start)
    return coarseness(file.read(_JPEG_HEADER))


def read_width_of(level: Any, remote: bool) -> int:
    """Return how many pixels along x of a level to read at once; 0 means any number.

    Strips are decoded whole, so it is their width. For a remote file it is the width of the tiles
    that make a request of a good size.
    """
    page = level.keyframe
    if not page.is_tiled:
        return 0 if is_mapped(level) else int(page.imagewidth)
    if not (remote and can_read_directly(level)):
        return 0
    across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    requests = max(1, sum(page.databytecounts) // down // _REQUEST_SIZE)
    width: int = -(-across // requests) * page.tilewidth
    return width


def ways_to_read(levels: list[Any], *, plain: bool, swaps: bool, remote: bool) -> dict[str, Any]:
    """Return the fields of a TiffSource that say how `levels` of tifffile are best read.

    `plain`: stored samples can be averaged. `swaps`: the image is stored on its side.
    """
    reductions = tuple(reductions_of(level) if plain else () for level in levels)
    return {
        "level_reductions": reductions,
        "level_coarseness": tuple(
            coarseness_of(level) if factors else 1
            for level, factors in zip(levels, reductions, strict=True)
        ),
        "read_widths": tuple(0 if swaps else read_width_of(level, remote) for level in levels),
    }


class TiledPage:
    """The stored samples of a page of tiles or strips. Threads may share it."""

    def __init__(
        self,
        stored: TileByteReader,
        page: Any,
        fill: Any,
        cache_full: bool = False,
        status: TileStatus | None = None,
        channels: tuple[int, ...] | None = None,
        key: Hashable = None,
        absent: Any = None,
    ) -> None:
        """Read `page`, whose tiles are `stored`.

        With `cache_full` its full-size tiles are cached too. With `status`, tiles that cannot be
        decoded are recorded there and read as the fill. With `channels`, only these samples of
        each pixel are returned. `key` is that of `TileDecoder`. `absent` is the value of tiles
        that are not stored; by default they are missing, and show the fill.
        """
        self._bytes = stored
        self.decoder = TileDecoder(page, self._bytes, key)
        self.reduced_tiles: ReducedTileCache | None = None
        self._page = page
        self._channels: Any = slice(None) if channels is None else list(channels)
        self._samples = page.samplesperpixel if channels is None else len(channels)
        self._fill = fill
        self._absent = absent
        self._tile = tile_size(page)
        # strips are read at their whole width, so no region on the left or right needs them again
        self._cache_full = cache_full and page.is_tiled
        self._status = status
        self._across = -(-page.imagewidth // self._tile[1])
        self._present = self._bytes.present.reshape(-1, self._across)
        self._serial = next(_serial)

    @property
    def tile_count(self) -> int:
        """Number of tiles or strips."""
        return len(self._page.dataoffsets)

    def read(self, region: Region, factor: int = 1) -> Array:
        """Return the samples (h, w, s) of `region` of the page reduced by `factor`.

        Tiles at its edges are cached for neighbouring regions, if they are reduced or if full-size
        tiles are cached too, and those that a crop cuts for other crops.
        """
        shape = (region.height, region.width, self._samples)
        new = POOL.array if factor > 1 else np.empty
        out = new(shape, self._page.dtype)
        rows, columns = self._spans(region, factor)
        if not self._present[min(rows) : max(rows) + 1, min(columns) : max(columns) + 1].all():
            out[...] = self._fill
        shared = SharedTiles()
        if self._cache_full or factor > 1:
            size = (self._page.imagelength, self._page.imagewidth)
            shared = SharedTiles.of(region, size, self._tile, factor, TILE_CACHE.sides)
        elif self._page.is_tiled:
            shared = SharedTiles.of_crop(region, self._tile)
        for batch in self._batches(rows, columns, shared):
            for number, tile in self._tiles(batch, factor):
                row, column = divmod(number, self._across)
                (into_y, of_y), (into_x, of_x) = rows[row], columns[column]
                part = (
                    self._fill_of(number) if tile is None else tile[of_y, of_x][..., self._channels]
                )
                out[into_y, into_x] = part
        return out

    def streams(self, numbers: list[int]) -> Iterator[tuple[int, bytes | None]]:
        """Yield number and whole compressed stream of each tile; nothing is decoded.

        The stream is None if the tile is absent, or if it is corrupt and corrupt tiles are masked;
        so it is for a tile that was found to be corrupt when it was decoded. Else a corrupt tile
        raises StreamError with its region. A good tile that cannot be a chunk as it is raises
        NotCopiedError.
        """
        for number, data in self._fetched(numbers):
            stream = None
            try:
                if data is not None and not self._is_bad(number):
                    stream = self._whole(number, data)
            except NotCopiedError:
                raise
            except Exception as error:
                if self._status is None:
                    raise StreamError(self._region(number), error) from None
                self._mark_corrupt(number, error)
            yield number, stream

    def region_of(self, numbers: list[int]) -> Region:
        """Return the smallest region that holds these tiles."""
        return hull([self._region(number) for number in numbers])

    @cached_property
    def coarseness(self) -> int:
        """How many times coarser than its luma the colours of the reduced page are."""
        first = np.flatnonzero(np.asarray(self._bytes.counts))[:1].tolist()
        if not is_jpeg(self._page) or not first:
            return 1
        ((_, data),) = self._bytes.fetch(first)
        return 1 if data is None else coarseness(bytes(data[:_JPEG_HEADER]))

    @cached_property
    def _whole(self) -> Whole:
        return whole_streams(self._page)

    @property
    def encoding(self) -> TileEncoding | None:
        """How the tiles are compressed; None if they cannot be copied."""
        return encoding_of(self._page)

    @property
    def encoding_in_place(self) -> TileEncoding | None:
        """How the tiles are decoded where they lie in the file; None if Zarr cannot."""
        return encoding_in_place(self._page)

    @property
    def byte_ranges(self) -> tuple[Array, Array]:
        """Offset and length of each tile in the file; 0 for absent tiles."""
        page = self._page
        return np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)

    def tiles(self, region: Region) -> Iterator[tuple[Region, Array]]:
        """Yield the part of each good tile in `region`. The next part overwrites the array.

        A tile that is not stored is good if it has a value, `absent`.
        """
        rows, columns = self._spans(region, 1)
        for batch in self._batches(rows, columns, SharedTiles()):
            for number, tile in self._tiles(batch, 1):
                row, column = divmod(number, self._across)
                part = self._region(number).intersect(region)
                if tile is not None:
                    yield part, tile[rows[row][1], columns[column][1]][..., self._channels]
                elif self._has_value(number):
                    yield part, self._filled(number, part)

    def gather(self, regions: list[Region]) -> Iterator[tuple[int, Region, Array]]:
        """Yield the parts of `regions` in each tile. Each tile is decoded once for all regions."""
        wanted: dict[int, list[int]] = {}
        for index, region in enumerate(regions):
            rows, columns = self._spans(region, 1)
            for row, column in itertools.product(rows, columns):
                wanted.setdefault(row * self._across + column, []).append(index)
        for number, tile in self._tiles(dict.fromkeys(sorted(wanted), NO_REUSE), 1):
            covered = self._region(number)
            for index in wanted[number]:
                part = covered.intersect(regions[index])
                if tile is None:
                    yield index, part, self._filled(number, part)
                else:
                    pixels = tile[part.slices(covered.y, covered.x)]
                    yield index, part, pixels[..., self._channels]

    def read_tiles(self, numbers: list[int], out: Sequence[Array] | Array) -> None:
        """Read whole tiles, each into its contiguous array (h, w, s) of `out`.

        A JPEG tile is decoded into the array itself, which saves a copy.
        """
        wanted: dict[int, list[Array]] = {}
        for number, array in zip(numbers, out, strict=True):
            wanted.setdefault(number, []).append(array)
        for number, data in self._fetched(list(wanted)):
            into, *others = wanted[number]
            tile = None if data is None else self.decoder(number, data, 1, into)
            if tile is not into:
                into[...] = self._fill_of(number) if tile is None else tile
            for array in others:
                array[...] = into

    def _fill_of(self, number: int) -> Any:
        """Return the value of a tile that is absent or corrupt."""
        return self._absent if self._has_value(number) else self._fill

    def _has_value(self, number: int) -> bool:
        """Return whether a tile that is not stored has a value, and is not missing."""
        return self._absent is not None and not self._is_bad(number)

    def _is_bad(self, number: int) -> bool:
        """Return whether a tile is recorded as bad."""
        return self._status is not None and self._status.all_missing(self._region(number))

    def _filled(self, number: int, part: Region) -> Array:
        """Return the samples of a part of a tile that is absent or corrupt."""
        shape = (part.height, part.width, self._samples)
        return np.full(shape, self._fill_of(number), self._page.dtype)

    def _region(self, number: int) -> Region:
        """Return the region of a full-size tile on the page."""
        row, column = divmod(number, self._across)
        return Region(row * self._tile[0], column * self._tile[1], *self._tile)

    def _spans(self, region: Region, factor: int) -> tuple[Spans, Spans]:
        """Return the rows and the columns of tiles that `region` touches."""
        height, width = self._tile
        return (
            _spans(height // factor, region.y, region.stop_y),
            _spans(width // factor, region.x, region.stop_x),
        )

    def _batches(
        self, rows: Spans, columns: Spans, shared: SharedTiles
    ) -> Iterator[dict[int, Reuse]]:
        """Yield batches of the tiles that the file holds, and how often each is read again.

        A batch is fetched at once. It is a row of tiles, or all strips.
        """
        present = [row for row in rows if self._present[row, min(columns) : max(columns) + 1].any()]
        for some in [present] if self._across == 1 else [[row] for row in present]:
            yield {
                row * self._across + column: shared.reuse(row, column)
                for row in some
                for column in columns
                if self._present[row, column]
            }

    def _tiles(self, reuse: dict[int, Reuse], factor: int) -> Iterator[tuple[int, Array | None]]:
        """Yield numbers and samples of tiles; None for corrupt tiles that are masked.

        The next tile may overwrite the array. `reuse` tells how often each tile is read again.
        """
        missing = []
        cached = self.reduced_tiles
        for number, expected in reuse.items():
            tile = TILE_CACHE.take((self._serial, number, factor)) if expected.times else None
            if tile is None and cached is not None:
                tile = cached.take(number, factor)
            if tile is None:
                missing.append(number)
            else:
                yield number, tile
        for number, data in self._fetched(missing):
            expected = reuse[number]
            into = self._own_memory() if expected is ANY_REUSE else None
            try:
                tile = None if data is None else self.decoder(number, data, factor, into)
            except Exception as error:
                self._mark_corrupt(number, error)
                tile = None
            if tile is not None:
                if cached is not None:
                    cached.put(number, factor, tile)
                # the decoder itself remembers tiles of one colour, which are views of one row
                if expected.times and (tile.strides[0] or expected is not ANY_REUSE):
                    key = self._serial, number, factor
                    TILE_CACHE.put(key, tile, expected, own=tile is into)
                if self._status is not None:
                    self._status.mark_decoded(self._region(number))
            yield number, tile

    def _own_memory(self) -> Array | None:
        """Return memory to decode a tile into that is cached, which saves a copy; JPEG only."""
        if not is_jpeg(self._page):
            return None
        return POOL.array((*self._tile, self._page.samplesperpixel), np.uint8)

    def _fetched(self, numbers: list[int]) -> Iterator[tuple[int, Data | None]]:
        """Yield the bytes of tiles; None for absent tiles and for corrupt ones that are masked."""
        if self._status is None:
            yield from self._bytes.fetch(numbers)
            return
        remaining = dict.fromkeys(numbers)
        fetched = self._bytes.fetch(numbers)
        while remaining:
            try:
                number, data = next(fetched)
            except Exception:  # a tile cannot be read: fetch the remaining ones one at a time
                break
            del remaining[number]
            yield number, data
        for number in remaining:
            try:
                ((_, data),) = self._bytes.fetch([number])
            except Exception as error:
                self._mark_corrupt(number, error)
                data = None
            yield number, data

    def _mark_corrupt(self, number: int, error: Exception) -> None:
        """Record that a tile is corrupt if corrupt tiles are masked, else raise `error`."""
        if self._status is None:
            raise error
        self._status.mark_corrupt(self._region(number), error)


class StreamError(ValueError):
    """A tile whose stream cannot be copied, and why."""

    def __init__(self, region: Region, reason: Exception) -> None:
        super().__init__(str(reason))
        self.region = region


Spans = dict[int, tuple[slice, slice]]
"""By tile number along an axis, the overlapping slices of the region and of the tile."""


def _spans(size: int, start: int, stop: int) -> Spans:
    """Return the tiles of `size` along an axis that [start, stop) touches."""
    spans = {}
    for number in range(start // size, -(-stop // size)):
        low, high = max(start, number * size), min(stop, (number + 1) * size)
        spans[number] = (
            slice(low - start, high - start),
            slice(low - number * size, high - number * size),
        )
    return spans
