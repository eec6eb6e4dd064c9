"""Decode the tiles of one page at full size or reduced.

Most JPEG tiles are decoded directly at the reduced size. All other tiles are decoded at full size
and averaged while they are in the CPU cache.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import numpy as np

from dask_slides.core.geometry import reduced_size
from dask_slides.core.types import Array
from dask_slides.numerics.box_means import box_mean
from dask_slides.readers.codecs.jpeg import JpegDecoder, is_jpeg
from dask_slides.readers.codecs.strict import strict_decode
from dask_slides.readers.codecs.tile_bytes import TileByteReader
from dask_slides.readers.codecs.tile_sizes import TileSizes
from dask_slides.readers.remote.byte_ranges import Data

_FLAT_BYTES = 2**13
"""Longest stream, in bytes, that is checked for a single colour. Scanners store the same tile for
all the glass that they did not scan. Equal streams have equal pixels and are decoded once."""
_FLAT_TILES = 64
"""Most tiles of one colour that a page remembers."""
_TEST_TILES = 4
"""Most tiles that simplejpeg is tested on: some of them may be damaged."""
_RESULTS = 2**14
"""Results of these tests that a process remembers."""
_results: dict[Hashable, bool] = {}


class TileDecoder:
    """Decode the tiles of one page. A call may overwrite the array of the call before it.

    Threads may share it.
    """

    def __init__(self, page: Any, stored: TileByteReader, key: Hashable = None) -> None:
        """Decode tiles of `page`.

        A `key`, which tells the page and the version of its file from all others, saves a second
        test of simplejpeg if the file is closed and opened again.
        """
        self._page = page
        self._key = key
        self._stored = stored
        self._sizes = TileSizes(page)
        self._across = -(-page.imagewidth // self._sizes.full[1])
        self._strict = strict_decode(page)
        self._jpeg: JpegDecoder | None = None
        self._untested = is_jpeg(page) and page.is_tiled
        self._lock = threading.Lock()
        self._flat: dict[tuple[bytes, int], Array] = {}

    def __call__(
        self, number: int, data: Data, factor: int, into: Array | None = None
    ) -> Array | None:
        """Decode the stream `data` of tile `number` to samples (h / factor, w / factor, s).

        Return the contiguous array `into` if a tile of full size was decoded into it.
        """
        height, width = self._sizes.full
        key = None
        if len(data) <= _FLAT_BYTES and self._sizes.valid(number) == (height, width):
            key = bytes(data), factor
            row = self._flat.get(key)
            if row is not None:
                return np.broadcast_to(row, (height // factor, *row.shape[1:]))
        if factor == 1:
            tile = self._tile(number, data, into)
        else:
            tile = self._reduced(number, data, factor)
        if key is None or tile is None or not _is_flat(tile):
            return tile
        if len(self._flat) >= _FLAT_TILES:
            self._flat.clear()
        # one row: numpy copies and compares rows many times faster than pixels
        self._flat[key] = row = tile[:1].copy()
        return np.broadcast_to(row, tile.shape)

    def _tile(self, number: int, data: Data, into: Array | None = None) -> Array | None:
        """Return the samples (h, w, s) of a tile."""
        jpeg = self.simplejpeg()
        tile = None if jpeg is None else jpeg.tile(number, data, 1, into)
        if tile is None:
            found, _, _ = self._strict(
                data,
                number,
                jpegtables=self._page.jpegtables,
                _fullsize=self._page.is_tiled,  # the last strip has no padding
            )
            tile = None if found is None else np.asarray(found[0])
        return tile

    def _reduced(self, number: int, data: Data, factor: int) -> Array | None:
        """Return the samples (h / factor, w / factor, s) of a tile."""
        jpeg = self.simplejpeg()
        if jpeg is not None and self._is_scaled(number):
            reduced = jpeg.tile(number, data, factor)
            if reduced is not None:
                return reduced
        tile = self._tile(number, data)
        return None if tile is None else self._averaged(number, tile, factor)

    def shape(self, number: int, factor: int) -> tuple[int, int, int]:
        """Return height, width and samples of a tile reduced by `factor`."""
        height, width = self._sizes.valid(number)
        samples: int = self._page.samplesperpixel
        return reduced_size(height, factor), reduced_size(width, factor), samples

    @property
    def averages(self) -> bool:
        """Whether a reduced tile is averaged from the full one."""
        return self.simplejpeg() is None

    def reduced(self, number: int, tile: Array, factor: int) -> Array | None:
        """Return a full tile reduced; None if the codec reduces it while decoding."""
        if self._is_scaled(number):
            return None
        if tile.strides[0] == 0:  # a tile of one colour, without padding
            return tile[::factor, ::factor]
        return self._averaged(number, tile, factor)

    def _is_scaled(self, number: int) -> bool:
        """Return whether the codec itself reduces a tile, as it does for tiles without padding."""
        return not self.averages and self._sizes.valid(number) == self._sizes.full

    def _averaged(self, number: int, tile: Array, factor: int) -> Array:
        """Return the means of a tile without its padding."""
        height, width = self._sizes.valid(number)
        page = self._page
        samples = page.imagelength * page.imagewidth * page.samplesperpixel
        return box_mean(tile[:height, :width], factor, samples)

    def simplejpeg(self) -> JpegDecoder | None:
        """Return the decoder with simplejpeg; None if it may not be used for this page.

        simplejpeg is tested on the tile with the most bytes, so that the pixels do not depend on
        which tile is read first.
        """
        if self._untested:
            with self._lock:
                if self._untested:
                    assert isinstance(self._strict, JpegDecoder)
                    self._jpeg = self._strict if self._passes(self._strict) else None
                    self._untested = False
        return self._jpeg

    def _passes(self, decoder: JpegDecoder) -> bool:
        """Return whether simplejpeg passes the test, or has passed it before."""
        passed = _results.get(self._key)
        if passed is None:
            passed = self._test(decoder)
            if len(_results) >= _RESULTS:
                _results.clear()
            if self._key is not None:
                _results[self._key] = passed
        return passed

    def _test(self, decoder: JpegDecoder) -> bool:
        page = self._page
        counts: Array = np.array(self._stored.counts).reshape(-1, self._across)
        # tiles at the edges come last: their padding may have any colour
        inside = counts[: page.imagelength // page.tilelength, : page.imagewidth // page.tilewidth]
        whole = bool(inside.any())
        counts[: inside.shape[0], : inside.shape[1]] *= 1 + whole * int(counts.max())
        for number in np.argsort(counts, axis=None)[: -_TEST_TILES - 1 : -1].tolist():
            # the test ignores a damaged tile; reading it reports the damage
            with suppress(Exception):
                ((_, data),) = self._stored.fetch([number])
                if data is not None:
                    return decoder.matches_imagecodecs(number, data, whole)
        return False


def _is_flat(tile: Array) -> bool:
    """Return whether all pixels of a tile (h, w, s) are the same."""
    height, width, _ = tile.shape
    row: bytes = tile[0].tobytes()  # for most tiles the first row decides
    return bool(row == tile[0, 0].tobytes() * width and tile.tobytes() == row * height)
