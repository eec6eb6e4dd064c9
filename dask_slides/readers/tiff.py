"""What tifffile knows: levels, meaning of the samples, micrometres per pixel, pixels.

The pixels come through tifffile's Zarr store, which serves every layout and codec, but for
plain tiled pages (`tiles`) and images that lie in the file as in memory. Nothing of this
can be pickled, so each process opens the file itself and keeps a few open.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import (
    SlideError,
    SlideFormatError,
    SlideNotFoundError,
    SlideUnsupportedError,
)
from dask_slides.geometry import Region, snapped_factor
from dask_slides.readers.bad_tiles import Hole
from dask_slides.readers.limits import Limits
from dask_slides.readers.pixels import Conversion
from dask_slides.readers.preflight import Structure, structure_of
from dask_slides.readers.protocol import (
    Identity,
    Level,
    check_identity,
    decoded,
    fill_holes,
    identify,
)
from dask_slides.readers.ranges import byte_file, stream
from dask_slides.readers.remote import is_remote
from dask_slides.readers.strict import strict_decode
from dask_slides.readers.tiff_image import (
    check_declared,
    check_level,
    check_tables,
    conversion_of,
    largest_series,
)
from dask_slides.readers.tiff_tags import (
    absent_units,
    is_mapped,
    mpp_of,
    properties_of,
    tile_of,
)
from dask_slides.readers.tiles import (
    TiledPage,
    coarseness_of,
    factors_of,
    is_plain_tiled,
    span_of,
)
from dask_slides.readers.units import Units, shown

Array = NDArray[Any]
Item = TypeVar("Item", bound=tuple[Any, ...])

OPEN_FILES = 16
"""Slides that one process keeps open."""

_LARGEST_PIECE = 2**26
"""Bytes of a strip that may be fetched for one row of it: some writers make one of all."""


@dataclass(frozen=True)
class TiffSource:
    """The levels of one image of a TIFF file."""

    path: str
    identity: Identity
    series: int
    axes: str
    """Of the stored image, as tifffile names them."""
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

    def _open(self) -> _Opened:
        """Return the file open; each time it is looked whether it was overwritten."""
        if not is_remote(self.path):  # there every request for bytes does
            check_identity(self.path, self.identity)
        masks = self.on_bad_tile == "mask"
        return _opened(self.path, self.identity, self.series, self.conversion.fill, masks)

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`."""
        this = self._open()
        units = this.units(level)

        def read(part: Region) -> Array:
            rows, columns = part.slices()
            index = {"Y": rows, "X": columns, "C": slice(None), "S": slice(None)}
            where = tuple(index.get(axis, 0) for axis in self.axes)
            return channels_last(np.asarray(this.array(level)[where]), self.axes)

        if this.masks:
            whole = partial(
                units.masked, region, lambda p: self.conversion(read(p)), self.channels, self.fill
            )
            pixels = decoded(self.path, level, region, whole)
        else:
            pixels = self.conversion(decoded(self.path, level, region, lambda: read(region)))
        if self.conversion.mixes:  # no stored value comes out of these as the fill
            fill_holes(self, units.holes(region), region, pixels)
        return pixels

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
        return self.coarse[level]

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Return `region` of `level` reduced by `factor`."""
        this = self._open()
        place = Region(*(n * factor for n in (region.y, region.x, region.height, region.width)))
        return decoded(self.path, level, place, lambda: this.array(level).read(region, factor))

    def tiles(self, level: int, region: Region) -> Iterator[tuple[Region, Array]] | None:
        """Return what the tiles of a plain tiled page hold of `region`."""
        if not self.reductions[level]:
            return None
        return self._each(level, region, lambda page: page.tiles(region))

    def gather(
        self, level: int, regions: list[Region]
    ) -> Iterator[tuple[int, Region, Array]] | None:
        """Return what the tiles of a plain tiled page hold of each of `regions`."""
        if not self.reductions[level]:
            return None
        top, left = min(r.y for r in regions), min(r.x for r in regions)
        bottom, right = max(r.stop_y for r in regions), max(r.stop_x for r in regions)
        around = Region(top, left, bottom - top, right - left)
        return self._each(level, around, lambda page: page.gather(regions))

    def _each(
        self, level: int, around: Region, found: Callable[[TiledPage], Iterator[Item]]
    ) -> Iterator[Item]:
        """Yield what is found in the page of `level`; an error says that it lies in `around`."""
        this = self._open()
        items = found(this.array(level))
        while item := decoded(self.path, level, around, lambda: next(items, None)):
            yield item


def channels_last(stored: Array, axes: str) -> Array:
    """Return `stored`, whose other axes were dropped, as (y, x, c)."""
    kept = [axis for axis in axes if axis in "YXCS"]
    if len(kept) == 2:
        stored, kept = stored[..., None], [*kept, "C"]
    channel = next(axis for axis in kept if axis in "CS")
    return stored.transpose([kept.index("Y"), kept.index("X"), kept.index(channel)])


class _Opened:
    """An open file and its levels as Zarr arrays, closed when nobody holds it any more."""

    def __init__(
        self, path: str, identity: Identity, series: int, fill: float, masks: bool = False
    ) -> None:
        self._path = path
        self._identity = identity
        self._tiff = _tiff_file(path)
        if is_remote(path):  # what was read of it is of that version, and so is all that will be
            check_identity(path, identity)
        self._close = weakref.finalize(self, self._tiff.close)
        self._series = self._tiff.series[series]
        self._fill = fill
        self.masks = masks
        self._arrays: dict[int, Any] = {}
        self._units: dict[int, Units] = {}
        self._lock = threading.Lock()

    def units(self, level: int) -> Units:
        with self._lock:
            return self._units_of(level)

    def _units_of(self, level: int) -> Units:
        if level not in self._units:
            this = self._series.levels[level]
            size = dict(zip(this.axes, this.shape, strict=True))
            shape = (size["Y"], size["X"])
            tables = absent_units(this, shape) or (None, None)
            self._units[level] = Units(level, shape, tile_of(this.keyframe, shape), *tables)
        return self._units[level]

    def array(self, level: int) -> Any:
        with self._lock:
            if level not in self._arrays:
                self._arrays[level] = self._open_array(level)
            return self._arrays[level]

    def _open_array(self, level: int) -> Any:
        this = self._series.levels[level]
        page = this.keyframe
        if len(this.pages) == 1 and is_mapped(page):
            # one strip may be the whole image: the Zarr store would read all of it
            dtype = page.parent.byteorder + page.dtype.char
            return np.memmap(self._path, dtype, "r", page.dataoffsets[0], this.shape)
        # absent tiles are legal and read as the fill, not as black tissue
        fill = _fill_of(page, self._fill)
        if is_plain_tiled(this):
            file = byte_file(self._path, self._identity)
            masked = self._units_of(level) if self.masks else None
            return TiledPage(file, page, fill, keep=level > 0, masked=masked)
        for one in {id(each.keyframe): each.keyframe for each in this.pages}.values():
            one.decode = strict_decode(one)  # the store asks the page for it
        import zarr  # only here: it loads for as long as a small slide is read

        # without workers tifffile decodes on Zarr's single event loop thread
        workers = max(2, os.cpu_count() or 1)
        store = self._series.aszarr(level=level, fillvalue=fill, maxworkers=workers)
        return zarr.open_array(store, mode="r")


_opened = lru_cache(maxsize=OPEN_FILES)(_Opened)


def _fill_of(page: Any, fill: float) -> Any:
    """Return what an absent tile holds so that `fill` comes out of the conversion."""
    if 1 in page.extrasamples[-1:]:
        return 0  # transparent: alpha is premultiplied
    if page.dtype.kind in "bf":
        return page.dtype.type(fill)
    top = int(np.iinfo(page.dtype).max)
    value = int(min(fill, top))
    return top - value if page.photometric == 0 and page.dtype.kind == "u" else value


def _tiff_file(path: str, file: Any = None) -> Any:
    """Open `path` with tifffile; of another machine `file`, or a new stream of it."""
    import tifffile

    try:
        here = (file or stream(path)) if is_remote(path) else path
        # a companion file named inside an OME-TIFF is not followed: it may be any file
        return tifffile.TiffFile(here, _multifile=False)
    except SlideError:
        raise
    except OSError as error:
        raise SlideNotFoundError(f"{path}: {error.strerror or error}; check the path") from error
    except Exception as error:  # TiffFileError, and struct or index errors of damaged headers
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> SlideFormatError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return SlideFormatError(f"{path}: not a TIFF that can be read ({reason}); check the file")


def open_tiff(
    path: str, fill: float, limits: Limits
) -> tuple[TiffSource, tuple[float, float] | None, dict[str, str]]:
    """Read the tags of the file at `path`: source, mpp (y, x) if it is given, properties."""
    identity = identify(path)
    with stream(path) as file:
        structure = structure_of(path, file, identity.size, limits)
        file.seek(0)  # tifffile takes where it stands for the beginning
        with _tiff_file(path, file) as tiff:
            try:
                index, series = largest_series(path, tiff.series)
                for number, level in enumerate(series.levels):
                    _check(f"{path}: level {number}", level, structure, limits)
                source = _source(path, identity, index, series, fill)
                return source, mpp_of(tiff, series), properties_of(tiff, series)
            except SlideError:
                raise
            except Exception as error:  # tags that contradict each other fail in many ways
                raise _damaged(path, error) from None


def _check(where: str, level: Any, structure: Structure, limits: Limits) -> None:
    """Refuse a level that would not be read right."""
    check_level(where, level)
    check_declared(where, level.keyframe, limits)
    for page in level.pages or (None,):
        check_tables(where, level.keyframe, page, structure)


def _source(path: str, identity: Identity, index: int, series: Any, fill: float) -> TiffSource:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    for axis, length in sizes.items():
        if axis not in "YXCS" and length != 1:
            raise SlideUnsupportedError(
                f"{path}: {length} planes along {axis}; save the plane wanted as a file of its own"
            )
    if sizes.get("C", 1) != 1 and sizes.get("S", 1) != 1:
        raise SlideUnsupportedError(f"{path}: channels of colour images; save them one by one")
    axes = series.axes
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
        size = dict(zip(level.axes, level.shape, strict=True))
        shape = (size["Y"], size["X"])
        factors = (snapped_factor(full[0], shape[0]), snapped_factor(full[1], shape[1]))
        levels.append(Level(shape, factors, tile_of(level.keyframe, shape)))
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
