"""Pages of tiles or strips straight: pread, decode, into the region's array; no lock, no store.

The general path, tifffile's Zarr store, reads under a lock and sends every tile through an
event loop. Where a level is one page of tiles, each with all its samples, reading a region is
a loop over its tiles, each read and decoded once. Strips are tiles as wide as the page.

A page of tiles can also be read smaller, as the means of 2 x 2, 4 x 4 or 8 x 8 pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dask_slides.core.geometry import Region, tiles_of
from dask_slides.core.types import Array
from dask_slides.readers.codecs.jpeg import FACTORS, coarseness, is_jpeg
from dask_slides.readers.codecs.tile_bytes import TileByteReader
from dask_slides.readers.codecs.tile_decoder import TileDecoder
from dask_slides.readers.codecs.tile_sizes import tile_size
from dask_slides.readers.remote.byte_ranges import ByteFile, Data
from dask_slides.readers.shared_tiles import SharedTiles, shared_tiles
from dask_slides.readers.tiff.tags import is_mapped, is_single
from dask_slides.readers.tile_cache import NOBODY, TILE_CACHE, Around, Claim
from dask_slides.readers.tile_status import TileStatus
from dask_slides.runtime.buffer_pool import POOL

_HEADER = 2048
"""Bytes of a JPEG stream that hold its frame header."""
_GOOD_REQUEST = 3 * 2**19
"""Bytes that a request to another machine should bring: the wait is then the lesser part."""
_serial = itertools.count()


def can_read_directly(level: Any) -> bool:
    """Return whether a level of tifffile is one page of tiles or strips (y, x) with all samples."""
    page = level.keyframe
    return bool(
        is_single(level)
        and page.tiledepth == page.imagedepth == 1
        and (page.planarconfig == 1 or page.samplesperpixel == 1)
        and page.jpegheader is None  # NDPI: restart intervals of one stream, made into tiles
        and level.axes in ("YXS", "YX")
    )


def factors_of(level: Any) -> tuple[int, ...]:
    """Return the reductions at which a level of tifffile can be read."""
    page = level.keyframe
    if (
        not (page.is_tiled and can_read_directly(level))
        or is_mapped(level)
        or page.dtype != np.uint8
    ):
        return ()
    return tuple(f for f in FACTORS if page.tilelength % f == page.tilewidth % f == 0)


def coarseness_of(level: Any) -> int:
    """Return how much coarser the colours of a reduced level of tifffile are than its luma."""
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
    return coarseness(file.read(_HEADER))


def span_of(level: Any, remote: bool) -> int:
    """Return pixels along x of a level of tifffile that should be read at once; 0 if any may.

    Of strips all of them, as each is decoded whole. Of another machine's tiles those of a request
    of a good size.
    """
    page = level.keyframe
    if not page.is_tiled:
        return 0 if is_mapped(level) else int(page.imagewidth)
    if not (remote and can_read_directly(level)):
        return 0
    across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    pieces = max(1, sum(page.databytecounts) // down // _GOOD_REQUEST)
    span: int = -(-across // pieces) * page.tilewidth
    return span


class TiledPage:
    """The stored samples of a page of tiles or strips; indexing reads them.

    ``page[rows, columns]`` and ``page[rows, columns, :]`` with slices that have both ends,
    like the Zarr array that serves the other layouts. Threads may share it.
    """

    def __init__(
        self,
        file: ByteFile,
        page: Any,
        fill: Any,
        keep: bool = False,
        masked: TileStatus | None = None,
        means: bool = False,
    ) -> None:
        """Read `page` of `file`; with `keep` its full-size tiles are kept too.

        With `masked` a tile that cannot be decoded is told there and reads like an absent one.
        With `means` reduced tiles are those of full ones, however the codec would do it.
        """
        self._stored = TileByteReader(file, page)
        self.decoder = TileDecoder(page, self._stored, means)
        self._page = page
        self._fill = fill
        self._tile = tile_size(page)
        # of strips each region takes another part of the width: they are read together instead
        self._keep = keep and page.is_tiled
        self._masked = masked
        self._across = -(-page.imagewidth // self._tile[1])
        offsets, counts = (
            np.array(table, np.int64).reshape(-1, self._across)
            for table in (page.dataoffsets, page.databytecounts)
        )
        self._present = (offsets != 0) & (counts != 0)
        self._serial = next(_serial)
        self._shared: SharedTiles | None = None

    def __getitem__(self, index: tuple[slice, ...]) -> Array:
        rows, columns = index[:2]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        out = self.read(Region(rows.start, columns.start, height, width))
        return out if len(index) == 3 else out[..., 0]

    def read(self, region: Region, factor: int = 1) -> Array:
        """Return the samples (h, w, s) of `region` of the page reduced by `factor`.

        Tiles that its edges cut are kept a while for the regions beside it, if they are small
        or of a level that is there to be shrunk further.
        """
        shape = (region.height, region.width, self._page.samplesperpixel)
        new = POOL.array if factor > 1 else np.empty
        out = new(shape, self._page.dtype)
        height, width = (side // factor for side in self._tile)
        if not self._present[tiles_of(region, (height, width)).slices()].all():
            out[...] = self._fill
        for place, samples in self._parts(region, factor, self._keep or factor > 1):
            out[place] = self._fill if samples is None else samples
        return out

    def tiles(self, region: Region) -> Iterator[tuple[Region, Array]]:
        """Yield what each tile that is not bad holds of `region`; the next one overwrites it."""
        for (rows, columns), samples in self._parts(region, 1, keep=False):
            if samples is not None:
                height, width = rows.stop - rows.start, columns.stop - columns.start
                yield (
                    Region(region.y + rows.start, region.x + columns.start, height, width),
                    samples,
                )

    @contextmanager
    def sharing(self, folder: str, reads: Sequence[int]) -> Iterator[None]:
        """Decode each tile once for all that reads the page at these reductions, in this process.

        Those that more than one read can use are kept in a file in `folder` meanwhile.
        """
        if self._shared is not None:  # by another thread, which goes on with it
            yield
            return
        page = self._page
        samples = page.tilelength * page.tilewidth * page.samplesperpixel
        full = 1 in reads and self.decoder.averages
        wanted = {factor for factor in reads if factor > 1 and reads.count(factor) + full > 1}
        sizes = {factor: samples // factor**2 for factor in sorted(wanted)}
        self._shared = shared_tiles(folder, sizes, len(page.dataoffsets))
        try:
            yield
        finally:
            self._shared = None

    def _share(self, shared: SharedTiles, number: int, factor: int, tile: Array) -> None:
        """Keep what a later read can use of a tile that was decoded."""
        for wanted in shared.factors if factor == 1 else (factor,):
            if shared.lacks(number, wanted):
                reduced = tile if wanted == factor else self.decoder.reduced(number, tile, wanted)
                if reduced is not None:
                    shared.put(number, wanted, reduced)

    def _absent(self, place: Region) -> Array:
        """Return what stands for the samples of a tile that is absent or masked."""
        shape = (place.height, place.width, self._page.samplesperpixel)
        return np.full(shape, self._fill, self._page.dtype)

    def _parts(
        self, region: Region, factor: int, keep: bool
    ) -> Iterator[tuple[tuple[slice, slice], Array | None]]:
        """Yield where in `region` a tile lies, and what it holds there; None if it is masked.

        Absent ones are left out.
        """
        page = self._page
        rows = _spans(self._tile[0] // factor, region.y, region.stop_y)
        columns = _spans(self._tile[1] // factor, region.x, region.stop_x)
        around = Around()
        if keep:
            size = (page.imagelength, page.imagewidth)
            around = Around.of(region, size, self._tile, factor, TILE_CACHE.sides)
        # strips are fetched many at once
        first, last = min(columns), max(columns) + 1
        present = [row for row in rows if self._present[row, first:last].any()]
        together = [present] if self._across == 1 else [[row] for row in present]
        for some in together:
            claims = {
                row * self._across + column: around.claim(row, column)
                for row in some
                for column in columns
                if self._present[row, column]
            }
            for number, tile in self._tiles(claims, factor):
                row, column = divmod(number, self._across)
                (into_y, of_y), (into_x, of_x) = rows[row], columns[column]
                yield (into_y, into_x), None if tile is None else tile[of_y, of_x]

    def gather(self, regions: list[Region]) -> Iterator[tuple[int, Region, Array]]:
        """Yield what each tile holds of each of many regions; a tile is decoded once for all."""
        height, width = self._tile
        wanted: dict[int, list[int]] = {}
        for index, region in enumerate(regions):
            for row in range(region.y // height, -(-region.stop_y // height)):
                for column in range(region.x // width, -(-region.stop_x // width)):
                    wanted.setdefault(row * self._across + column, []).append(index)
        for number, tile in self._tiles(dict.fromkeys(sorted(wanted), NOBODY), 1):
            row, column = divmod(number, self._across)
            place = Region(row * height, column * width, height, width)
            for index in wanted[number]:
                part = place.intersect(regions[index])
                own = self._absent(part) if tile is None else tile[part.slices(place.y, place.x)]
                yield index, part, own

    def _tiles(self, claims: dict[int, Claim], factor: int) -> Iterator[tuple[int, Array | None]]:
        """Yield number and samples of tiles; the array may be overwritten by the next one.

        `claims` are those of further regions on each of them.
        """
        missing = []
        shared = self._shared
        for number, claim in claims.items():
            tile = TILE_CACHE.take((self._serial, number, factor)) if claim.uses else None
            if tile is None and shared is not None:
                tile = shared.take(number, factor, self.decoder.shape(number, factor))
            if tile is None:
                missing.append(number)
            else:
                yield number, tile
        for number, data in self._fetched(missing):
            tile = None if data is None else self._decoded(number, data, factor)
            if tile is not None and shared is not None:
                self._share(shared, number, factor, tile)
            if tile is not None and claims[number].uses:
                TILE_CACHE.keep((self._serial, number, factor), tile, claims[number])
            yield number, tile

    def _fetched(self, numbers: list[int]) -> Iterator[tuple[int, Data | None]]:
        """Yield the bytes of tiles; None where the file holds none, or they are masked."""
        if self._masked is None:
            yield from self._stored.fetch(numbers)
            return
        left = dict.fromkeys(numbers)
        together = self._stored.fetch(numbers)
        while left:
            try:
                number, data = next(together)
            except Exception:  # of one of them: which one is told below
                break
            del left[number]
            yield number, data
        for number in left:
            try:
                ((_, data),) = self._stored.fetch([number])
            except Exception as error:
                data = None
                self._masked.spoil(self._corner(number), error)
            yield number, data

    def _decoded(self, number: int, data: Data, factor: int) -> Array | None:
        """Return the samples of a tile; None if it is masked."""
        if self._masked is None:
            return self.decoder(number, data, factor)
        try:
            tile = self.decoder(number, data, factor)
        except Exception as error:
            self._masked.spoil(self._corner(number), error)
            return None
        self._masked.saw(self._corner(number))
        return tile

    def _corner(self, number: int) -> Region:
        row, column = divmod(number, self._across)
        return Region(row * self._tile[0], column * self._tile[1], 1, 1)


def _spans(size: int, start: int, stop: int) -> dict[int, tuple[slice, slice]]:
    """Return of each tile along an axis where it lies in [start, stop), and what of it does."""
    spans = {}
    for number in range(start // size, -(-stop // size)):
        low, high = max(start, number * size), min(stop, (number + 1) * size)
        spans[number] = (
            slice(low - start, high - start),
            slice(low - number * size, high - number * size),
        )
    return spans
