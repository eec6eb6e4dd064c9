"""Read the levels of a TIFF.

Plain tiled pages are read directly (`tiled_page`), uncompressed images are mapped from the file,
and all other layouts are read through tifffile's Zarr store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from dask_slides.core.arguments import is_remote
from dask_slides.core.bad_tiles import MissingRegion, missing_within
from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.core.geometry import Region, hull
from dask_slides.core.source import Level, Source, fill_holes
from dask_slides.core.types import Array
from dask_slides.errors import SlideUnsupportedError, TileDecodeError
from dask_slides.readers.codecs.colour import Conversion
from dask_slides.readers.codecs.stream_copies import NotCopiedError
from dask_slides.readers.orientation import UPRIGHT, Orientation
from dask_slides.readers.remote.identity import Identity, check_identity
from dask_slides.readers.selection import FIRST_PLANE, Plane
from dask_slides.readers.tiff.file import StoredArray, TiffFile, opened
from dask_slides.readers.tiff.tags import tile_of
from dask_slides.readers.tiff.tiled_page import StreamError, TiledPage, ways_to_read
from dask_slides.readers.tile_status import decode_error, is_nodata

Item = TypeVar("Item")


@dataclass(frozen=True)
class TiffSource(Source):
    """The levels of one image of a TIFF file."""

    path: str
    identity: Identity
    series: int
    levels: tuple[Level, ...]
    stored_channels: int
    stored_dtype: np.dtype[Any]
    conversion: Conversion
    level_reductions: tuple[tuple[int, ...], ...]
    """For each level, the factors by which it can be read reduced."""
    level_coarseness: tuple[int, ...]
    """For each level, how many times coarser the colours of a reduced image are."""
    read_widths: tuple[int, ...]
    """For each level, pixels along x to read at once; 0 means any number."""
    on_bad_tile: str = "raise"
    orientation: Orientation = UPRIGHT
    """How the stored image is turned upright; `levels` are those of the upright image."""
    nodata: int | float | None = None
    """The stored number that means no value."""
    mask: int | None = None
    """The series that says which pixels have a value."""
    plane: Plane = FIRST_PLANE
    """The plane of the stored image that is read."""
    recorded_holes: tuple[MissingRegion, ...] = ()
    """Missing regions that a TIFF of dask_slides lists, in pixels of level 0."""

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    @property
    def channels(self) -> int:
        """Samples per pixel after the conversion to grey or RGB."""
        return self.conversion.channels(self.stored_channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample after the conversion."""
        return self.conversion.dtype(self.stored_dtype)

    @property
    def fill(self) -> Any:
        """The fill of pixels without a value."""
        return self.dtype.type(self.conversion.fill)

    @property
    def masked(self) -> bool:
        """Whether the file has a nodata value or a mask."""
        return self.nodata is not None or self.mask is not None

    def with_channels(self, numbers: tuple[int, ...]) -> TiffSource | None:
        """Return the source of these channels; None if stored samples are not channels.

        Channels in pages of their own are read without the others.
        """
        if self.conversion.mixes or self.conversion.alpha:
            return None
        plane = replace(self.plane, channels=numbers)
        chosen = replace(self, plane=plane, stored_channels=len(numbers))
        stored = chosen._open().levels[: len(self.levels)]
        plain = self.conversion.plain and self.orientation == UPRIGHT and not self.masked
        ways = ways_to_read(
            stored, plain=plain, swaps=self.orientation.swaps, remote=is_remote(self.path)
        )
        levels = []
        for level, one in zip(self.levels, stored, strict=True):
            tile = tile_of(one, self.orientation.sides(level.shape))
            levels.append(replace(level, tile=self.orientation.sides(tile)))
        return replace(chosen, levels=tuple(levels), **ways)

    def _open(self) -> TiffFile:
        """Check that the file was not overwritten, and return it open."""
        if not is_remote(self.path):  # requests to a server check it themselves
            check_identity(self.path, self.identity)
        return opened(*self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        """The arguments of `TiffFile`."""
        masks_bad_tiles = self.on_bad_tile == "mask"
        fill = self.conversion.fill
        return (
            self.path, self.identity, self.series, fill, masks_bad_tiles, self.mask, self.plane,
        )  # fmt: skip

    def keep_open(self, tiff: Any) -> None:
        """Read the first pixels through `tiff`, the open file."""
        opened.keep(self._key, tiff)

    def _upright(self, level: int, stored: Region) -> Region:
        return self.orientation.upright(stored, self.levels[level].shape)

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`."""
        return self.read_valid(level, region)[0]

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Return the pixels of `region` of `level`, and which of them have a value."""
        file = self._open()
        stored = self.orientation.stored(region, self.levels[level].shape)
        valid = np.ones((stored.height, stored.width), bool) if self.masked else None
        try:
            if file.masks_bad_tiles:
                read = partial(self._pixels, file, level, stored, valid)
                status = file.tile_status(level)
                pixels = status.read_masked(stored, read, self.channels, self.fill)
            else:
                samples = file.array(level).read(stored)
                pixels = self._converted(file, level, stored, samples, valid)
        except Exception as error:
            failure = decode_error(self.path, level, region, error)
        else:
            return self._filled(file, level, stored, pixels, valid)
        raise self._with_tile(failure, level, [stored])

    def _pixels(
        self, file: TiffFile, level: int, around: Region, valid: Array | None, part: Region
    ) -> Array:
        """Return the pixels of a part of `around`; clear `valid` where they have no value."""
        if valid is not None:
            valid = valid[part.slices(around.y, around.x)]
        return self._converted(file, level, part, file.array(level).read(part), valid)

    def _converted(
        self, file: TiffFile, level: int, region: Region, samples: Array, valid: Array | None
    ) -> Array:
        """Convert stored `samples` to pixels; clear `valid` (h, w) where they have no value."""
        if valid is not None and self.nodata is not None:
            colours = samples[..., :-1] if self.conversion.alpha else samples
            valid &= ~is_nodata(colours, self.nodata)
        if valid is not None and self.mask is not None:
            valid &= file.array(level, mask=True).read(region)[..., 0].astype(bool)
        return self.conversion(samples)

    def _filled(
        self, file: TiffFile, level: int, stored: Region, pixels: Array, valid: Array | None
    ) -> tuple[Array, Array | None]:
        """Write the fill where there is no value; return pixels and `valid` upright."""
        if self.conversion.mixes:  # no stored value is converted to the fill
            fill_holes(self, file.tile_status(level).holes(stored), stored, pixels)
        if valid is None or valid.all():
            return self.orientation.pixels(pixels), None
        if not pixels.flags.writeable:  # mapped from the file
            pixels = pixels.copy()
        np.copyto(pixels, self.fill, where=~valid[..., None])  # faster than indexing with a mask
        return self.orientation.pixels(pixels), self.orientation.pixels(valid)

    def _with_tile(self, failure: Exception, level: int, regions: list[Region]) -> Exception:
        """Return the error of the first tile of stored `regions` that cannot be decoded.

        Other errors than TileDecodeError are returned as they are.
        """
        if isinstance(failure, TileDecodeError):
            file = self._open()
            for region in regions:
                for tile, offset in file.tile_status(level).tiles(region):
                    try:
                        file.array(level).read(tile)
                    except Exception as error:
                        upright = self._upright(level, tile)
                        return decode_error(self.path, level, upright, error, offset)
        return failure

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` of `level` whose tiles are absent, masked or recorded."""
        file = self._open()
        status = file.tile_status(level)
        stored = self.orientation.stored(region, self.levels[level].shape)
        if file.masks_bad_tiles:
            for tile in status.undecoded(stored):
                self.read(level, self._upright(level, tile))
        found = status.holes(stored)
        if self.orientation != UPRIGHT:
            found = tuple(self._upright_hole(level, hole) for hole in found)
        factor = round(max(self.levels[level].downsample))
        return (*found, *missing_within(self.recorded_holes, region, factor))

    def _upright_hole(self, level: int, hole: MissingRegion) -> MissingRegion:
        at = self._upright(level, hole.tile.region)
        tile = replace(hole.tile, y=at.y, x=at.x, height=at.height, width=at.width)
        return MissingRegion(self._upright(level, hole.region), tile)

    def lacks(self, level: int, region: Region) -> bool:
        """Return whether all tiles of `region` of `level` are known to hold no pixels."""
        stored = self.orientation.stored(region, self.levels[level].shape)
        return self._open().tile_status(level).all_missing(stored)

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the factors by which `level` can be read reduced."""
        return self.level_reductions[level]

    def read_width(self, level: int) -> int:
        """Return how many pixels along x a task should read at once."""
        return self.read_widths[level]

    def coarseness(self, level: int) -> int:
        """Return how many times coarser than its pixels the colours of a reduced image are."""
        return self.level_coarseness[level]

    def tiled_page(self, level: int = 0) -> TiledPage | None:
        """Return the page of a level that can be read reduced; None for other levels."""
        page = self._open().array(level) if self.level_reductions[level] else None
        return page if isinstance(page, TiledPage) else None

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Return `region` of `level` reduced by `factor`."""
        page = self.tiled_page(level)
        assert page is not None
        try:
            return page.read(region, factor)
        except Exception as error:
            full = Region(*(n * factor for n in (region.y, region.x, region.height, region.width)))
            failure = decode_error(self.path, level, full, error)
        raise self._with_tile(failure, level, [full])

    def tiles(self, level: int, region: Region) -> Iterator[tuple[Region, Array]] | None:
        """Return the parts of `region` in each tile of a plain tiled page.

        None if parts of tiles are recorded as missing.
        """
        page = None if self.recorded_holes else self.tiled_page(level)
        return None if page is None else self._checked(level, [region], page.tiles(region))

    def gather(
        self, level: int, regions: list[Region]
    ) -> Iterator[tuple[int, Region, Array]] | None:
        """Return the parts of `regions` in each tile of a plain tiled page.

        An image that is mapped from the file needs no decoding and is read region by region. None
        if parts of tiles are recorded as missing.
        """
        if self.recorded_holes:
            return None
        page = self.tiled_page(level)
        if page is not None:
            return self._checked(level, regions, page.gather(regions))
        array = self._open().array(level)
        if isinstance(array, StoredArray) and array.is_mapped:
            return ((n, region, self.read(level, region)) for n, region in enumerate(regions))
        return None

    def encoding(self, level: int) -> TileEncoding | None:
        """Return how the tiles of `level` are compressed, if they hold the pixels as they are."""
        plain = self.conversion.plain and self.orientation == UPRIGHT and self.mask is None
        shows_nodata = self.nodata is None or np.array_equal(
            self.fill, self.dtype.type(self.nodata), equal_nan=True
        )
        if not (plain and shows_nodata and self.plane.channels is None):
            return None
        page = self._open().array(level)
        return page.encoding if isinstance(page, TiledPage) else None

    def byte_ranges(self, level: int) -> tuple[TileEncoding, Array, Array] | None:
        """Return how the tiles of `level` are decoded where they lie, and their byte ranges."""
        if self.encoding(level) is None:
            return None
        page = self._open().array(level)
        assert isinstance(page, TiledPage)
        encoding = page.encoding_in_place
        return None if encoding is None else (encoding, *page.byte_ranges)

    def streams(self, level: int, numbers: list[int]) -> Iterator[tuple[int, bytes | None]]:
        """Yield the compressed streams of tiles; an error names the tile."""
        page = self._open().array(level)
        assert isinstance(page, TiledPage)
        items = page.streams(numbers)
        failure: Exception
        while True:
            try:
                item = next(items, None)
            except NotCopiedError as error:
                failure = SlideUnsupportedError(f"{self.path}: {error}; leave codec out")
                break
            except StreamError as error:
                region = error.region.intersect(Region(0, 0, *self.levels[level].shape))
                failure = decode_error(self.path, level, region, error)
                break
            except Exception as error:
                failure = decode_error(self.path, level, page.region_of(numbers), error)
                break
            if item is None:
                return
            yield item
        raise failure

    def known_holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` whose tiles are absent or were found to be corrupt."""
        return self._open().tile_status(level).holes(region)

    def _checked(self, level: int, regions: list[Region], items: Iterator[Item]) -> Iterator[Item]:
        """Yield `items`, which are read from `regions`; raise errors that name the tile."""
        while True:
            try:
                item = next(items, None)
            except Exception as error:
                failure = decode_error(self.path, level, hull(regions), error)
                break
            if item is None:
                return
            yield item
        raise self._with_tile(failure, level, regions)
