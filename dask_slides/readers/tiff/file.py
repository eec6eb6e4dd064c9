"""The TIFF files that a process keeps open, and their levels as arrays.

Nothing of this can be pickled, so each process opens the file itself and keeps a few open.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import weakref
from functools import lru_cache
from typing import Any

import numpy as np

from dask_slides.errors import (
    SlideError,
    SlideFormatError,
    SlideNotFoundError,
    is_memory_error,
    memory_error,
)
from dask_slides.readers.codecs.strict import strict_decode
from dask_slides.readers.physical_units import number_above_zero
from dask_slides.readers.remote.byte_ranges import byte_file, stream
from dask_slides.readers.remote.identity import Identity, check_identity
from dask_slides.readers.remote.object_store import is_remote
from dask_slides.readers.selection import Plane
from dask_slides.readers.tiff.companions import Companion, check_known, keep_open
from dask_slides.readers.tiff.series import one_plane, series_of
from dask_slides.readers.tiff.tags import (
    PHILIPS_SPACING,
    absent_units,
    complete_tables,
    is_mapped,
    is_single,
    photometric_of,
    reason_of_tags,
    tile_of,
)
from dask_slides.readers.tiff.tiled_page import TiledPage, can_read_directly
from dask_slides.readers.tile_status import TileStatus
from dask_slides.runtime.fork_safety import cleared_after_fork

_MOST_TAGS = 4096
"""Of a directory that tifffile reads."""
OPEN_FILES = 16
"""Slides that one process keeps open."""


class TiffFile:
    """An open file and its levels as Zarr arrays, closed when nobody holds it any more."""

    def __init__(
        self,
        path: str,
        identity: Identity,
        series: int,
        fill: float,
        masks: bool = False,
        companions: tuple[Companion, ...] = (),
        means: bool = False,
        mask: int | None = None,
        plane: Plane | None = None,
    ) -> None:
        self._path = path
        self._identity = identity
        self._tiff = tiff_file(path, companions=bool(companions))
        if is_remote(path):  # what was read of it is of that version, and so is all that will be
            check_identity(path, identity)
        self._close = weakref.finalize(self, self._tiff.close)
        if companions:
            check_known(path, self._tiff, companions)
        whole = series_of(self._tiff, None if plane is None else plane.axes)[series]
        if companions:
            keep_open(path, whole, companions)
        self._series = whole if plane is None else one_plane(path, whole, plane)[0]
        self._mask = None if mask is None else self._tiff.series[mask]
        masks_of = [] if self._mask is None else self._mask.levels
        for level in (*self._series.levels, *masks_of):
            complete_tables(level)
        self._several = bool(companions)
        self._fill = fill
        self.masks = masks
        self._means = means
        self._arrays: dict[tuple[int, bool], Any] = {}
        self._units: dict[int, TileStatus] = {}
        self._lock = threading.Lock()

    def units(self, level: int) -> TileStatus:
        """Return what this process knows of the tiles or strips of `level`."""
        with self._lock:
            return self._units_of(level)

    def _units_of(self, level: int) -> TileStatus:
        if level not in self._units:
            this = self._series.levels[level]
            size = dict(zip(this.axes, this.shape, strict=True))
            shape = (size["Y"], size["X"])
            absent, offsets = absent_units(this, shape) or (None, None)
            if self._several and not is_single(this):  # a byte of which file it is none can tell
                offsets = None
            self._units[level] = TileStatus(level, shape, tile_of(this, shape), absent, offsets)
        return self._units[level]

    def parts(self, level: int) -> list[tuple[str, slice]]:
        """Return what messages call the files of `level`, and which channels are in each."""
        if not self._several:
            return [(self._path, slice(None))]
        found = []
        for number, page in enumerate(self._series.levels[level].pages):
            beside = page.parent is not page.parent.root
            name = f": companion {page.parent.filename}" if beside else ""
            found.append((f"{self._path}{name}", slice(number, number + 1)))
        return found if len(found) > 1 else [(found[0][0], slice(None))]

    def array(self, level: int, *, mask: bool = False) -> Any:
        """Return the stored samples of `level` or of its mask, to be indexed like a Zarr array."""
        with self._lock:
            if (level, mask) not in self._arrays:
                self._arrays[level, mask] = self._open_array(level, mask)
            return self._arrays[level, mask]

    def _open_array(self, level: int, mask: bool) -> Any:
        series = self._mask if mask else self._series
        assert series is not None
        this = series.levels[level]
        page = this.keyframe
        if is_mapped(this):
            # one strip may be the whole image: the Zarr store would read all of it
            dtype = page.parent.byteorder + page.dtype.char
            return np.memmap(self._path, dtype, "r", page.dataoffsets[0], this.shape)
        # absent tiles are legal and read as the fill, not as black tissue
        fill = page.dtype.type(0) if mask else _fill_of(page, self._fill)
        if can_read_directly(this):
            file = byte_file(self._path, self._identity)
            masked = self._units_of(level) if self.masks and not mask else None
            return TiledPage(file, page, fill, level > 0, masked, self._means)
        for one in {id(each.keyframe): each.keyframe for each in this.pages}.values():
            one.decode = strict_decode(one)  # the store asks the page for it
        import zarr  # only here: it loads for as long as a small slide is read

        # without workers tifffile decodes on Zarr's single event loop thread
        workers = max(2, os.cpu_count() or 1)
        store = series.aszarr(level=level, fillvalue=fill, maxworkers=workers)
        return zarr.open_array(store, mode="r")


opened = cleared_after_fork(lru_cache(maxsize=OPEN_FILES)(TiffFile))
"""Returns the file open, of all threads one and the same."""


def _fill_of(page: Any, fill: float) -> Any:
    """Return what an absent tile holds so that `fill` comes out of the conversion."""
    if 1 in page.extrasamples[-1:]:
        return 0  # transparent: alpha is premultiplied
    if page.dtype.kind in "bf":
        return page.dtype.type(fill)
    if photometric_of(page) == 0 and page.dtype.kind == "u":
        return int(np.iinfo(page.dtype).max) - int(fill)
    return int(fill)


def tiff_file(path: str, file: Any = None, companions: bool = False) -> Any:
    """Open `path` with tifffile; of another machine `file`, or a new stream of it.

    With `companions` tifffile will open the files that an OME-TIFF names when it is asked for the
    series; not before, so they can be looked at.
    """
    import tifffile

    try:
        here = (file or stream(path)) if is_remote(path) else path
        tiff = tifffile.TiffFile(here, _multifile=companions)
        # of these two tifffile reads any file that an index in the folder names
        tiff.is_mmstack = tiff.is_ndtiff = False
        _end_pages(tiff)
        if tiff.is_philips:
            _mend_spacing(tiff)
        return tiff
    except SlideError:
        raise
    except OSError as error:
        raise SlideNotFoundError(f"{path}: {error.strerror or error}; check the path") from error
    except Exception as error:  # TiffFileError, and struct or index errors of damaged headers
        raise damaged(path, error) from None


def _end_pages(tiff: Any) -> None:
    """Let the list of pages end with the file, where the last pointer of it is missing.

    tifffile would take the last bytes of the directory for a pointer to one more.
    """
    pages, file, form = tiff.pages, tiff.filehandle, tiff.tiff
    if form.is_ndpi or not len(pages):  # which has looked at all of them
        return
    largest = form.tagnosize + _MOST_TAGS * form.tagsize
    for number, offset in enumerate(pages._offsets):
        if offset + largest >= file.size:
            file.seek(offset)
            (count,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            if offset + form.tagnosize + count * form.tagsize + form.offsetsize > file.size:
                del pages._offsets[number + 1 :]
                return


def _mend_spacing(tiff: Any) -> None:
    """Let tifffile read a Philips file whose pixel sizes have commas, or are no numbers."""
    page = tiff.pages.first
    mended = re.sub(PHILIPS_SPACING, lambda found: found[0].replace(",", "."), page.description)
    sizes = [size for pair in re.findall(PHILIPS_SPACING, mended) for size in pair]
    if any(number_above_zero(size) is None for size in sizes):
        tiff.is_philips = False  # it divides by them; what the pages are shows without
    else:
        page.description = mended


def damaged(path: str, error: Exception) -> SlideError:
    """Return what is said of a file that tifffile does not open, with its reason."""
    reason = reason_of_tags(error)
    if is_memory_error(error):
        return memory_error(path, reason)
    return SlideFormatError(f"{path}: not a TIFF that can be read ({reason}); check the file")
