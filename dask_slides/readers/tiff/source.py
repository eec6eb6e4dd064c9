"""What tifffile knows: levels, meaning of the samples, micrometres per pixel, pixels.

The pixels come through tifffile's Zarr store, which serves every layout and codec, but for
plain tiled pages (`tiles`) and images that lie in the file as in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from dask_slides.core.bad_tiles import BadTile, MissingRegion
from dask_slides.core.geometry import Region, hull
from dask_slides.core.source import Level, Source, fill_holes, read_or_raise
from dask_slides.core.types import Array
from dask_slides.errors import TileDecodeError
from dask_slides.readers.codecs.colour import Conversion
from dask_slides.readers.orientation import UPRIGHT, Orientation
from dask_slides.readers.remote.identity import Identity, check_identity
from dask_slides.readers.remote.object_store import is_remote
from dask_slides.readers.selection import FIRST_PLANE, Plane
from dask_slides.readers.tiff.companions import Companion
from dask_slides.readers.tiff.file import TiffFile, opened
from dask_slides.readers.tiff.tiled_page import TiledPage
from dask_slides.readers.tile_status import lacks_value, shown

Item = TypeVar("Item", bound=tuple[Any, ...])
Read = TypeVar("Read")


@dataclass(frozen=True)
class TiffSource(Source):
    """The levels of one image of a TIFF file."""

    path: str
    identity: Identity
    series: int
    axes: str
    """Of what is read, as tifffile names them."""
    levels: tuple[Level, ...]
    stored_channels: int
    stored_dtype: np.dtype[Any]
    conversion: Conversion
    factors: tuple[tuple[int, ...], ...]
    """Of each level, the reductions at which it can be read."""
    coarse: tuple[int, ...]
    """Of each level, how many times coarser the colours of a reduced image are."""
    spans: tuple[int, ...]
    """Of each level, pixels along x that should be read at once; 0 if any may."""
    on_bad_tile: str = "raise"
    companions: tuple[Companion, ...] = ()
    """Files beside it that hold planes of it."""
    turn: Orientation = UPRIGHT
    """What makes the stored image upright; the levels are those of the upright one."""
    means: bool = False
    """Whether reduced tiles are means of full ones, however their codec would do it."""
    nodata: int | float | None = None
    """The stored number that stands for no value."""
    mask: int | None = None
    """The series that says which pixels have a value."""
    plane: Plane = FIRST_PLANE
    """Of the stored image, whose axes may be more."""

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    @property
    def channels(self) -> int:
        """Samples a pixel after the conversion to plain grey or colour."""
        return self.conversion.channels(self.stored_channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample after the conversion."""
        return self.conversion.dtype(self.stored_dtype)

    @property
    def fill(self) -> Any:
        """What a pixel shows that no tile holds."""
        return shown(self.conversion.fill, self.dtype)

    def _open(self) -> TiffFile:
        """Return the file open; each time it is looked whether it was overwritten."""
        if not is_remote(self.path):  # there every request for bytes does
            check_identity(self.path, self.identity)
        for one in self.companions:
            check_identity(one.path, one.identity)
        return opened(
            self.path,
            self.identity,
            self.series,
            self.conversion.fill,
            self.on_bad_tile == "mask",
            self.companions,
            self.means,
            self.mask,
            self.plane,
        )

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`."""
        return self.read_valid(level, region)[0]

    @property
    def masked(self) -> bool:
        """Whether the file has a nodata value or a mask."""
        return self.nodata is not None or self.mask is not None

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Return the pixels of `region` of `level`, and which of them have a value."""
        this = self._open()
        region = self.turn.stored(region, self.levels[level].shape)
        units = this.units(level)
        valid = np.ones((region.height, region.width), bool) if self.masked else None

        def read(part: Region) -> Array:
            stored = self._stored(this, level, part)
            if valid is not None:
                place = part.slices(region.y, region.x)
                valid[place] = self._with_value(this, level, part, stored)
            return self.conversion(stored)

        if this.masks:
            whole = partial(units.masked, region, read, self.channels, self.fill)
            pixels = self._decoded(level, region, whole)
        else:
            pixels = self._decoded(level, region, lambda: read(region))
        if self.conversion.mixes:  # no stored value comes out of these as the fill
            fill_holes(self, units.holes(region), region, pixels)
        if valid is None or valid.all():
            return self.turn.pixels(pixels), None
        if not pixels.flags.writeable:  # it lies in the file
            pixels = pixels.copy()
        np.copyto(pixels, self.fill, where=~valid[..., None])  # a mask as index is made numbers
        return self.turn.pixels(pixels), self.turn.pixels(valid)

    def _with_value(self, this: TiffFile, level: int, region: Region, stored: Array) -> Array:
        """Return which pixels (h, w) of `region` are neither nodata nor masked."""
        valid = np.ones(stored.shape[:2], bool)
        if self.nodata is not None:
            samples = stored[..., :-1] if self.conversion.alpha else stored
            valid &= ~lacks_value(samples, self.nodata)
        if self.mask is not None:
            valid &= np.asarray(this.array(level, mask=True)[region.slices()]).astype(bool)
        return valid

    def _stored(
        self, this: TiffFile, level: int, region: Region, channels: slice = slice(None)
    ) -> Array:
        """Return what the file holds of `region`, (h, w, samples), before the conversion."""
        rows, columns = region.slices()
        index = {"Y": rows, "X": columns, "C": channels, "S": channels}
        where = tuple(index.get(axis, self.plane.at(axis)) for axis in self.axes)
        return channels_last(np.asarray(this.array(level)[where]), self.axes)

    def _decoded(
        self,
        level: int,
        around: Region,
        fetch: Callable[[], Read],
        regions: list[Region] | None = None,
    ) -> Read:
        """Return what `fetch` reads of `regions` in `around`, by default of all of it.

        An error names the tile that is its reason, and the file if there are several. The
        regions are those of the stored image, the error names those of the upright one.
        """
        upright = partial(self.turn.upright, shape=self.levels[level].shape)
        try:
            return read_or_raise(self.path, level, upright(around), fetch)
        except TileDecodeError as error:
            told = error
        this = self._open()
        for region in regions or [around]:
            for tile, offset in this.units(level).whole(region):
                for name, channels in this.parts(level):
                    fetch_one = partial(self._stored, this, level, tile, channels)
                    read_or_raise(name, level, upright(tile), fetch_one, offset)
        raise told

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` of `level` whose tiles are absent or masked."""
        this = self._open()
        units = this.units(level)
        upright = partial(self.turn.upright, shape=self.levels[level].shape)
        stored = self.turn.stored(region, self.levels[level].shape)
        if this.masks:
            for part in units.unknown(stored):
                self.read(level, upright(part))
        found = units.holes(stored)
        if self.turn == UPRIGHT:
            return found
        return tuple(
            MissingRegion(upright(hole.region), _moved(hole.tile, upright(hole.tile.region)))
            for hole in found
        )

    def lacks(self, level: int, region: Region) -> bool:
        """Return whether it is known that no tile holds any of `region` of `level`."""
        stored = self.turn.stored(region, self.levels[level].shape)
        return self._open().units(level).lacks(stored)

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the reductions that `level` can be read at."""
        return self.factors[level]

    def read_width(self, level: int) -> int:
        """Return how many pixels along x a task should read at once."""
        return self.spans[level]

    def coarseness(self, level: int) -> int:
        """Return how many times coarser than told the colours of a reduced image are."""
        return 1 if self.means else self.coarse[level]

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Return `region` of `level` reduced by `factor`."""
        this = self._open()
        place = Region(*(n * factor for n in (region.y, region.x, region.height, region.width)))
        return self._decoded(level, place, lambda: this.array(level).read(region, factor))

    def tiles(self, level: int, region: Region) -> Iterator[tuple[Region, Array]] | None:
        """Return what the tiles of a plain tiled page hold of `region`."""
        if not self.factors[level]:
            return None
        return self._each(level, [region], lambda page: page.tiles(region))

    def gather(
        self, level: int, regions: list[Region]
    ) -> Iterator[tuple[int, Region, Array]] | None:
        """Return what the tiles of a plain tiled page hold of each of `regions`.

        Or of an image that lies in the file as in memory, where nothing is decoded.
        """
        if not self.factors[level]:
            if isinstance(self._open().array(level), np.memmap):
                return ((n, region, self.read(level, region)) for n, region in enumerate(regions))
            return None
        return self._each(level, regions, lambda page: page.gather(regions))

    def with_means(self) -> TiffSource:
        """Return the same, whose reduced tiles are means of full ones."""
        return replace(self, means=True)

    def sharing(self, folder: str, reads: Sequence[int]) -> AbstractContextManager[None]:
        """Decode each tile of level 0 once for what reads it in this process meanwhile."""
        if not self.factors[0]:
            return nullcontext()
        page: TiledPage = self._open().array(0)
        return page.sharing(folder, reads)

    def _each(
        self, level: int, regions: list[Region], found: Callable[[TiledPage], Iterator[Item]]
    ) -> Iterator[Item]:
        """Yield what is found of `regions` in the page of `level`."""
        this = self._open()
        items, around = found(this.array(level)), hull(regions)
        while item := self._decoded(level, around, lambda: next(items, None), regions):
            yield item


def _moved(tile: BadTile, place: Region) -> BadTile:
    return replace(tile, y=place.y, x=place.x, height=place.height, width=place.width)


def channels_last(stored: Array, axes: str) -> Array:
    """Return `stored`, whose other axes were dropped, as (y, x, c)."""
    kept = [axis for axis in axes if axis in "YXCS"]
    if len(kept) == 2:
        stored, kept = stored[..., None], [*kept, "C"]
    channel = next(axis for axis in kept if axis in "CS")
    return stored.transpose([kept.index("Y"), kept.index("X"), kept.index(channel)])
