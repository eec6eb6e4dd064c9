"""The open TIFF files of a process, and their levels as arrays.

An open file cannot be pickled, so each process opens the files itself and keeps a few open.
"""

from __future__ import annotations

import os
import re
import struct
import sys
import threading
import weakref
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np

from dask_slides.core.arguments import is_remote
from dask_slides.core.geometry import Region
from dask_slides.core.types import Array
from dask_slides.errors import (
    SlideError,
    SlideFormatError,
    SlideNotFoundError,
    is_memory_error,
    memory_error,
)
from dask_slides.readers.codecs.strict import strict_decode
from dask_slides.readers.codecs.tile_bytes import TileByteReader
from dask_slides.readers.physical_units import number_above_zero
from dask_slides.readers.remote.byte_ranges import byte_file, stream
from dask_slides.readers.remote.identity import Identity, check_identity
from dask_slides.readers.selection import FIRST_PLANE, Plane, read_channels
from dask_slides.readers.tiff.series import select_plane, series_of
from dask_slides.readers.tiff.tags import (
    PHILIPS_SPACING,
    absent_tiles,
    fit_tables,
    is_mapped,
    photometric_of,
    reason_of_tags,
    tile_of,
)
from dask_slides.readers.tiff.tiled_page import TiledPage, can_read_directly
from dask_slides.readers.tile_status import TileStatus
from dask_slides.runtime.fork_safety import cleared_after_fork, fork_safe_lock

_MOST_TAGS = 4096
"""Most tags per directory that tifffile reads."""


def _most_files() -> int:
    """Return how many files a process may keep open: each has up to two of its descriptors."""
    if sys.platform == "win32":
        return 64
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 128 if soft == resource.RLIM_INFINITY else max(16, min(128, soft // 8))


OPEN_FILES = _most_files()
"""Files that one process keeps open. Opening one again takes a millisecond."""
OPEN_TILES = 2**22
"""Tiles that these files may have together. The tables of tifffile take about 80 bytes per tile."""


class StoredArray:
    """An image in tifffile's Zarr store, or mapped from the file. It is read like a TiledPage."""

    def __init__(self, array: Any, plane: Plane) -> None:
        """Read one `plane` of an array, whose axes it names."""
        self._array = array
        self._plane = plane

    @property
    def is_mapped(self) -> bool:
        """Whether the image is mapped from the file, so that reading it decodes nothing."""
        return isinstance(self._array, np.memmap)

    def read(self, region: Region) -> Array:
        """Return the stored samples (h, w, samples) of `region`."""
        return read_channels(
            lambda part: self._samples(region, part), self._plane.channels, self._together
        )

    def _samples(self, region: Region, channels: slice) -> Array:
        rows, columns = region.slices()
        index = {"Y": rows, "X": columns, "C": channels, "S": channels}
        stored = self._plane.axes
        where = tuple(index.get(axis, self._plane.index(axis)) for axis in stored)
        samples = np.asarray(self._array[where])
        axes = [axis for axis in stored if axis in index]
        if len(axes) == 2:
            samples, axes = samples[..., None], [*axes, "C"]
        channel = next(axis for axis in axes if axis in "CS")
        return samples.transpose([axes.index("Y"), axes.index("X"), axes.index(channel)])

    @property
    def _together(self) -> int:
        """How many channels are stored together."""
        axes = self._plane.axes
        at = next((number for number, axis in enumerate(axes) if axis in "CS"), None)
        if at is None or self.is_mapped:
            return 1
        return int(self._array.chunks[at])


class TiffFile:
    """An open file and the arrays of its levels. It is closed when nothing refers to it."""

    def __init__(
        self,
        path: str,
        identity: Identity,
        series: int,
        fill: float,
        masks_bad_tiles: bool,
        mask: int | None,
        plane: Plane,
        tiff: Any = None,
    ) -> None:
        """Open `path`, unless `tiff` is the open file."""
        self._path = path
        self._identity = identity
        self._tiff = tiff or tiff_file(path)
        if is_remote(path):  # later requests fail unless they are for this version
            check_identity(path, identity)
        self._close = weakref.finalize(self, self._tiff.close)
        chosen = series_of(self._tiff, plane.axes)[series]
        self._series, self._plane = select_plane(path, chosen, plane)
        self._mask = None if mask is None else self._tiff.series[mask]
        for one in (self._series, self._mask):
            for level in () if one is None else one.levels:
                fit_tables(level)
        pages = [page for level in self._series.levels for page in level.pages if page is not None]
        self.tile_count = sum(len(page.dataoffsets) for page in pages)
        """Tiles and strips of all levels."""
        self._fill = fill
        self.masks_bad_tiles = masks_bad_tiles
        self._arrays: dict[tuple[int, bool], TiledPage | StoredArray] = {}
        self._statuses: dict[int, TileStatus] = {}
        self._lock = threading.Lock()

    @property
    def levels(self) -> list[Any]:
        """The levels of the chosen plane, as tifffile describes them."""
        found: list[Any] = self._series.levels
        return found

    def tile_status(self, level: int) -> TileStatus:
        """Return which tiles or strips of `level` are known to be bad."""
        with self._lock:
            return self._status(level)

    def _status(self, level: int) -> TileStatus:
        if level not in self._statuses:
            this = self._series.levels[level]
            size = dict(zip(this.axes, this.shape, strict=True))
            shape = (size["Y"], size["X"])
            absent, offsets = absent_tiles(this, shape, self._plane.channels) or (None, None)
            self._statuses[level] = TileStatus(level, shape, tile_of(this, shape), absent, offsets)
        return self._statuses[level]

    def array(self, level: int, *, mask: bool = False) -> TiledPage | StoredArray:
        """Return the TiledPage or StoredArray of `level`, or of its mask."""
        with self._lock:
            if (level, mask) not in self._arrays:
                self._arrays[level, mask] = self._open_array(level, mask)
            return self._arrays[level, mask]

    def _open_array(self, level: int, mask: bool) -> TiledPage | StoredArray:
        series, plane = self._series, self._plane
        if mask:
            assert self._mask is not None
            series, plane = self._mask, replace(FIRST_PLANE, axes=self._mask.axes)
        this = series.levels[level]
        page = this.keyframe
        if is_mapped(this):
            # a strip may hold the whole image, and the Zarr store would read all of it
            dtype = page.parent.byteorder + page.dtype.char
            mapped = np.memmap(self._path, dtype, "r", page.dataoffsets[0], this.shape)
            return StoredArray(mapped, plane)
        # absent tiles are legal, and read as the fill and not as black
        fill = page.dtype.type(0) if mask else _stored_fill(page, self._fill)
        if can_read_directly(this):
            file = byte_file(self._path, self._identity)
            status = self._status(level) if self.masks_bad_tiles and not mask else None
            return TiledPage(
                TileByteReader(file, page), page, fill, level > 0, status, plane.channels,
                key=(self._path, self._identity, page.offset),
            )  # fmt: skip
        for one in {id(each.keyframe): each.keyframe for each in this.pages}.values():
            one.decode = strict_decode(one)  # the store decodes with this attribute
        import zarr  # here, as importing it takes as long as reading a small slide

        # with one worker tifffile decodes on Zarr's only event loop thread
        workers = max(2, os.cpu_count() or 1)
        store = series.aszarr(level=level, fillvalue=fill, maxworkers=workers)
        return StoredArray(zarr.open_array(store, mode="r"), plane)


class OpenFiles:
    """The files that this process used last, which all threads share."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[Any, ...], TiffFile] = OrderedDict()
        self._recent: dict[tuple[Any, ...], TiffFile] = {}
        self._lock = fork_safe_lock()

    def __call__(self, *key: Any) -> TiffFile:
        """Return the TiffFile of these arguments, and open it if it is not open."""
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        file = self._recent.pop(key, None) or TiffFile(*key)
        with self._lock:
            self._files[key] = file
            tiles = sum(one.tile_count for one in self._files.values())
            while len(self._files) > 1 and (len(self._files) > OPEN_FILES or tiles > OPEN_TILES):
                tiles -= self._files.popitem(last=False)[1].tile_count
        return file

    def keep(self, key: tuple[Any, ...], tiff: Any) -> None:
        """Keep an open file until the next one, so that its tables are not read twice."""
        self._recent = {key: TiffFile(*(*key, tiff))}

    def cache_clear(self) -> None:
        """Forget all files."""
        self._files.clear()
        self._recent = {}


opened = cleared_after_fork(OpenFiles())


def _stored_fill(page: Any, fill: float) -> Any:
    """Return the stored value that the conversion turns into `fill`."""
    if 1 in page.extrasamples[-1:]:
        return 0  # transparent: alpha is premultiplied
    if page.dtype.kind in "bf":
        return page.dtype.type(fill)
    if photometric_of(page) == 0 and page.dtype.kind == "u":
        return int(np.iinfo(page.dtype).max) - int(fill)
    return int(fill)


def tiff_file(path: str, file: Any = None) -> Any:
    """Open `path` with tifffile, but none of the files that its metadata name.

    A remote file is read through `file`, or a new stream.
    """
    import tifffile

    try:
        source = (file or stream(path)) if is_remote(path) else path
        tiff = tifffile.TiffFile(source, _multifile=False)
        # for these two kinds tifffile reads any file that an index in the folder names
        tiff.is_mmstack = tiff.is_ndtiff = False
        _end_pages(tiff)
        if tiff.is_philips:
            _fix_spacing(tiff)
        return tiff
    except SlideError:
        raise
    except OSError as error:
        raise SlideNotFoundError(f"{path}: {error.strerror or error}; check the path") from error
    except Exception as error:  # TiffFileError, and struct or index errors of damaged headers
        raise damaged(path, error) from None


def _end_pages(tiff: Any) -> None:
    """End the list of pages if the file ends before the pointer to a next page.

    tifffile would read the last bytes of the directory as that pointer.
    """
    pages, file, form = tiff.pages, tiff.filehandle, tiff.tiff
    if form.is_ndpi or not len(pages):  # tifffile already reads all pages of an NDPI
        return
    largest = form.tagnosize + _MOST_TAGS * form.tagsize
    for number, offset in enumerate(pages._offsets):
        if offset + largest >= file.size:
            file.seek(offset)
            (count,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            if offset + form.tagnosize + count * form.tagsize + form.offsetsize > file.size:
                del pages._offsets[number + 1 :]
                return


def _fix_spacing(tiff: Any) -> None:
    """Replace decimal commas in the pixel sizes of a Philips file, for tifffile."""
    page = tiff.pages.first
    fixed = re.sub(PHILIPS_SPACING, lambda found: found[0].replace(",", "."), page.description)
    sizes = [size for pair in re.findall(PHILIPS_SPACING, fixed) for size in pair]
    if any(number_above_zero(size) is None for size in sizes):
        tiff.is_philips = False  # tifffile would divide by them; it can read the pages without
    else:
        page.description = fixed


def damaged(path: str, error: Exception) -> SlideError:
    """Return the error for a file that tifffile does not open, with the reason."""
    reason = reason_of_tags(error)
    if is_memory_error(error):
        return memory_error(path, reason)
    return SlideFormatError(f"{path}: not a TIFF that can be read ({reason}); check the file")
