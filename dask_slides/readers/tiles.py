"""Tiled pages straight: pread, decode, into the region's array; no lock, no store.

The general path, tifffile's Zarr store, reads under a lock and sends every tile through an
event loop. Where a level is one page of tiles, each with all its samples, reading a region is
a loop over its tiles, each read and decoded once.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_JPEG = {7, 33007, 34892}
_END_OF_IMAGE = b"\xff\xd9"


def is_plain_tiled(level: Any) -> bool:
    """Return whether a level of tifffile is one page of tiles (y, x) with all samples each."""
    page = level.keyframe
    return bool(
        len(level.pages) == 1
        and page.is_tiled
        and page.tiledepth == page.imagedepth == 1
        and (page.planarconfig == 1 or page.samplesperpixel == 1)
        and page.jpegheader is None  # NDPI: restart intervals of one stream, made into tiles
        and level.axes in ("YXS", "YX")
    )


class TiledPage:
    """The stored samples of a tiled page; indexing reads them.

    ``page[rows, columns]`` and ``page[rows, columns, :]`` with slices that have both ends,
    like the Zarr array that serves the other layouts. Threads may share it.
    """

    def __init__(self, path: str, page: Any, fill: Any) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._file)
        self._page = page
        self._fill = fill
        self._decode = page.decode
        self._across = -(-page.imagewidth // page.tilewidth)
        self._ends = int(page.compression) in _JPEG

    def __getitem__(self, index: tuple[slice, ...]) -> Array:
        rows, columns = index[:2]
        page = self._page
        shape = (rows.stop - rows.start, columns.stop - columns.start, page.samplesperpixel)
        out = np.empty(shape, page.dtype)
        height, width = page.tilelength, page.tilewidth
        for top in range(rows.start // height * height, rows.stop, height):
            for left in range(columns.start // width * width, columns.stop, width):
                tile = self._tile(top // height * self._across + left // width)
                low, high = max(rows.start, top), min(rows.stop, top + height)
                first, last = max(columns.start, left), min(columns.stop, left + width)
                into = out[low - rows.start : high - rows.start]
                into = into[:, first - columns.start : last - columns.start]
                if tile is None:
                    into[...] = self._fill
                else:
                    into[...] = tile[low - top : high - top, first - left : last - left]
        return out if len(index) == 3 else out[..., 0]

    def _tile(self, number: int) -> Array | None:
        """Return the samples (h, w, s) of a tile; None if the file does not hold it."""
        offset, count = self._page.dataoffsets[number], self._page.databytecounts[number]
        if not count or not offset:
            return None
        data = os.pread(self._file, count, offset)
        if len(data) != count:
            raise ValueError(f"the file ends within tile {number}")
        # libjpeg makes flat grey of what is missing
        if self._ends and not data.rstrip(b"\0").endswith(_END_OF_IMAGE):
            raise ValueError(f"the JPEG stream of tile {number} has no end")
        tile, _, _ = self._decode(data, number, jpegtables=self._page.jpegtables, _fullsize=True)
        return None if tile is None else np.asarray(tile[0])
