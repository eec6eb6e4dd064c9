"""What tifffile knows: levels, meaning of the samples, micrometres per pixel, pixels.

The pixels come through tifffile's Zarr store, which serves every layout and codec, but for
plain tiled pages (`tiles`) and images that lie in the file as in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import SlideError, SlideUnsupportedError, TileDecodeError
from dask_slides.geometry import Region, hull, snapped_factor
from dask_slides.readers.bad_tiles import Hole
from dask_slides.readers.choice import FIRST_PLANE, Choice, Plane, plane_of
from dask_slides.readers.companions import (
    Companion,
    companions_of,
    keep_open,
    names_in,
    structures_of,
)
from dask_slides.readers.limits import Limits
from dask_slides.readers.pixels import Conversion
from dask_slides.readers.preflight import Structure, structure_of
from dask_slides.readers.protocol import (
    Identity,
    Level,
    Opened,
    check_identity,
    decoded,
    fill_holes,
    identify,
)
from dask_slides.readers.ranges import stream
from dask_slides.readers.remote import is_remote
from dask_slides.readers.tiff_file import TiffFile, damaged, opened, tiff_file
from dask_slides.readers.tiff_image import (
    check_alike,
    check_declared,
    check_level,
    check_tables,
    chosen_series,
    conversion_of,
    one_plane,
    series_of,
)
from dask_slides.readers.tiff_tags import channels_of, mpp_of, properties_of, tile_of
from dask_slides.readers.tiles import TiledPage, coarseness_of, factors_of, span_of
from dask_slides.readers.units import shown

Array = NDArray[Any]
Item = TypeVar("Item", bound=tuple[Any, ...])
Read = TypeVar("Read")

_LARGEST_PIECE = 2**26
"""Bytes of a strip that may be fetched for one row of it: some writers make one of all."""


@dataclass(frozen=True)
class TiffSource:
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
    reductions: tuple[tuple[int, ...], ...]
    """Of each level, the reductions at which it can be read."""
    coarse: tuple[int, ...]
    """Of each level, how many times coarser the colours of a reduced image are."""
    spans: tuple[int, ...]
    """Of each level, pixels along x whose tiles are a request of a good size; 0 of a file here."""
    on_bad_tile: str = "raise"
    companions: tuple[Companion, ...] = ()
    """Files beside it that hold planes of it."""
    means: bool = False
    """Whether reduced tiles are means of full ones, however their codec would do it."""
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
            self.plane,
        )

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`."""
        this = self._open()
        units = this.units(level)
        read = partial(self._stored, this, level)
        if this.masks:
            whole = partial(
                units.masked, region, lambda p: self.conversion(read(p)), self.channels, self.fill
            )
            pixels = self._decoded(level, region, whole)
        else:
            pixels = self.conversion(self._decoded(level, region, lambda: read(region)))
        if self.conversion.mixes:  # no stored value comes out of these as the fill
            fill_holes(self, units.holes(region), region, pixels)
        return pixels

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

        An error names the tile that is its reason, and the file if there are several.
        """
        try:
            return decoded(self.path, level, around, fetch)
        except TileDecodeError as error:
            told = error
        this = self._open()
        for region in regions or [around]:
            for tile, offset in this.units(level).whole(region):
                for name, channels in this.parts(level):
                    fetch_one = partial(self._stored, this, level, tile, channels)
                    decoded(name, level, tile, fetch_one, offset)
        raise told

    def holes(self, level: int, region: Region) -> tuple[Hole, ...]:
        """Return the parts of `region` of `level` whose tiles are absent or masked."""
        this = self._open()
        units = this.units(level)
        if this.masks:
            for part in units.unknown(region):
                self.read(level, part)
        return units.holes(region)

    def factors(self, level: int) -> tuple[int, ...]:
        """Return the reductions that `level` can be read at."""
        return self.reductions[level]

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
        if not self.reductions[level]:
            return None
        return self._each(level, [region], lambda page: page.tiles(region))

    def gather(
        self, level: int, regions: list[Region]
    ) -> Iterator[tuple[int, Region, Array]] | None:
        """Return what the tiles of a plain tiled page hold of each of `regions`."""
        if not self.reductions[level]:
            return None
        return self._each(level, regions, lambda page: page.gather(regions))

    def with_means(self) -> TiffSource:
        """Return the same, whose reduced tiles are means of full ones."""
        return replace(self, means=True)

    def sharing(self, folder: str, reads: Sequence[int]) -> AbstractContextManager[None]:
        """Decode each tile of level 0 once for what reads it in this process meanwhile."""
        if not self.reductions[0]:
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


def channels_last(stored: Array, axes: str) -> Array:
    """Return `stored`, whose other axes were dropped, as (y, x, c)."""
    kept = [axis for axis in axes if axis in "YXCS"]
    if len(kept) == 2:
        stored, kept = stored[..., None], [*kept, "C"]
    channel = next(axis for axis in kept if axis in "CS")
    return stored.transpose([kept.index("Y"), kept.index("X"), kept.index(channel)])


def open_tiff(
    path: str, fill: float, limits: Limits, companions: bool = False, choice: Choice = Choice()
) -> Opened:
    """Read the tags of the file at `path`.

    With `companions` the files beside it are read too that its metadata name.
    """
    identity = identify(path)
    with stream(path) as file:
        structure = structure_of(path, file, identity.size, limits)
        file.seek(0)  # tifffile takes where it stands for the beginning
        with tiff_file(path, file, companions) as tiff:
            try:
                beside = companions_of(path, tiff) if companions else ()
                structures = structures_of(path, structure, beside, limits)
                found = series_of(tiff, choice.axes)
                index, page, name, names = chosen_series(path, found, choice)
                series = found[index]
                keep_open(path, series, beside)
                plane = replace(plane_of(path, series.axes, series.shape, choice), page=page)
                others = plane.check(path, series.shape)
                read, axes = one_plane(path, series, plane)
                for number, level in enumerate(read.levels):
                    _check(path, number, level, structures, limits)
                source = replace(
                    _source(path, identity, index, read, axes, fill),
                    companions=beside,
                    plane=plane,
                )
                told = properties_of(tiff, series) | _told(tiff, companions) | others
                if names:
                    told["image"] = name
                channels = channels_of(tiff, series, plane.axes, source.channels)
                return Opened(source, mpp_of(tiff, series), told, names, channels)
            except SlideError:
                raise
            except Exception as error:  # tags that contradict each other fail in many ways
                raise damaged(path, error) from None


def _told(tiff: Any, read: bool) -> dict[str, str]:
    """Return what is told of the files that the slide names, if there are any."""
    names = ", ".join(names_in(tiff))
    if not names:
        return {}
    return {"companions": names if read else f"{names}: not read, companions=True asks for them"}


def _check(
    path: str, number: int, level: Any, files: Mapping[str, Structure], limits: Limits
) -> None:
    """Refuse a level that would not be read right; `files` are those that its pages lie in."""
    where = f"{path}: level {number}"
    check_level(where, level)
    check_declared(where, level, limits)
    check_alike(where, level)
    for page in level.pages or (None,):
        if page is None or page.parent is page.parent.root:
            check_tables(where, level.keyframe, page, files[path])
        else:
            of = page.parent.filehandle
            check_tables(f"{where} in {of.name}", level.keyframe, page, files[of.path])


def _source(
    path: str, identity: Identity, index: int, series: Any, axes: str, fill: float
) -> TiffSource:
    sizes = dict(zip(axes, series.shape, strict=True))
    if sizes.get("C", 1) != 1 and sizes.get("S", 1) != 1:
        raise SlideUnsupportedError(f"{path}: channels of colour images; save them one by one")
    if "C" in sizes and "S" in sizes:  # the one of length 1 is dropped like any other
        axes = axes.replace("C" if sizes["C"] == 1 else "S", "Q")
    full = (sizes["Y"], sizes["X"])
    levels = []
    for number, level in enumerate(series.levels):
        piece = max(level.keyframe.databytecounts)
        if is_remote(path) and piece > _LARGEST_PIECE:
            raise SlideUnsupportedError(
                f"{path}: level {number} lies in pieces of {piece / 1e6:,.0f} MB, which can only "
                "be fetched whole; fetch the file first, or save it in tiles"
            )
        size = dict(zip(axes, level.shape, strict=True))
        shape = (size["Y"], size["X"])
        factors = (snapped_factor(full[0], shape[0]), snapped_factor(full[1], shape[1]))
        levels.append(Level(shape, factors, tile_of(level, shape)))
    channels = next((sizes[axis] for axis in axes if axis in "CS"), 1)
    conversion = conversion_of(path, series.keyframe, channels, fill)
    reductions = tuple(factors_of(level) if conversion.plain else () for level in series.levels)
    coarse = tuple(
        coarseness_of(level) if factors else 1
        for level, factors in zip(series.levels, reductions, strict=True)
    )
    return TiffSource(
        path,
        identity,
        index,
        axes,
        tuple(levels),
        channels,
        series.dtype,
        conversion,
        reductions,
        coarse,
        tuple(span_of(level) if is_remote(path) else 0 for level in series.levels),
    )
