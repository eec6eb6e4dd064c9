"""One tile from bytes to samples, at full size or reduced.

JPEG is decoded at the size that is asked for, of other codecs each tile is averaged while it is
in the cache.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import numpy as np

from dask_slides.core.geometry import reduced_size
from dask_slides.core.types import Array
from dask_slides.readers.codecs.colour import box_mean
from dask_slides.readers.codecs.jpeg import JpegTiles, is_jpeg, jpeg_tiles
from dask_slides.readers.codecs.strict import strict_decode
from dask_slides.readers.codecs.tile_bytes import TileByteReader
from dask_slides.readers.codecs.tile_sizes import FrameCheck, Sizes
from dask_slides.readers.remote.byte_ranges import Data

_SMALLEST = 2**13
"""Bytes of a tile up to which it may be of one colour: glass that a scanner did not scan is one
tile over and over, and the same bytes are the same pixels."""
_TRIED = 4
"""Tiles that are looked at for one that is not damaged."""
_COLOURS = 64
"""Tiles of one colour that a page remembers."""


class TileDecoder:
    """Decodes the tiles of one page; what it returns may be overwritten by the next call.

    Threads may share it.
    """

    def __init__(self, page: Any, stored: TileByteReader) -> None:
        """Decode tiles of `page`."""
        self._page = page
        self._stored = stored
        self._sizes = Sizes(page)
        self._across = -(-page.imagewidth // self._sizes.full[1])
        self._lock = threading.Lock()
        self._strict = strict_decode(page)
        self._jpeg: JpegTiles | None = None
        self._unproven = is_jpeg(page) and page.is_tiled
        self._check = FrameCheck(page) if self._unproven else None
        self._colours: dict[tuple[bytes, int], Array] = {}

    def __call__(self, number: int, data: Data, factor: int) -> Array | None:
        """Decode a tile to (h / factor, w / factor, s), if it is not of one colour and known."""
        size = self._sizes.full
        if len(data) > _SMALLEST or self._sizes.valid(number) != size:
            return self._decode(number, data, factor)
        key = (bytes(data), factor)
        colour = self._colours.get(key)
        if colour is None:
            tile = self._decode(number, data, factor)
            if tile is None or not _is_flat(tile):
                return tile
            # a row of it: numpy copies and counts rows many times faster than pixels
            self._colours[key] = colour = tile[:1].copy()
            if len(self._colours) > _COLOURS:
                self._colours.clear()
        return np.broadcast_to(colour, (size[0] // factor, *colour.shape[1:]))

    def _decode(self, number: int, data: Data, factor: int) -> Array | None:
        if factor == 1:
            return self._tile(number, data)
        decoder = self.fast()
        if decoder is not None and self._is_scaled(number):
            self._checked(number, data)
            reduced = decoder(data, factor)
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
        """Whether a reduced tile is made of the full one."""
        return self.fast() is None

    def reduced(self, number: int, tile: Array, factor: int) -> Array | None:
        """Return what decoding reduced gives of a tile that was decoded in full.

        None where it would be decoded in another way, as JPEG is.
        """
        if self._is_scaled(number):
            return None
        if tile.strides[0] == 0:  # of one colour, as only whole ones are
            return tile[::factor, ::factor]
        return self._averaged(number, tile, factor)

    def _is_scaled(self, number: int) -> bool:
        """Return whether the codec itself reduces a tile: one that is whole."""
        return not self.averages and self._sizes.valid(number) == self._sizes.full

    def _averaged(self, number: int, tile: Array, factor: int) -> Array:
        """Return the means of a tile; what lies beyond the image is no part of any."""
        height, width = self._sizes.valid(number)
        page = self._page
        samples = page.imagelength * page.imagewidth * page.samplesperpixel
        return box_mean(tile[:height, :width], factor, samples)

    def _checked(self, number: int, data: Data) -> None:
        if self._check is not None:
            self._check(number, data)

    def _tile(self, number: int, data: Data) -> Array | None:
        """Decode a tile to (h, w, s)."""
        decoder = self.fast()
        tile = None
        if decoder is not None:
            self._checked(number, data)
            tile = decoder(data)
        return self._general(number, data) if tile is None else tile

    def _general(self, number: int, data: Data) -> Array | None:
        """Decode as tifffile does."""
        tables = self._page.jpegtables
        # the last strip has no padding
        whole = self._page.is_tiled
        tile, _, _ = self._strict(bytes(data), number, jpegtables=tables, _fullsize=whole)
        return None if tile is None else np.asarray(tile[0])

    def fast(self) -> JpegTiles | None:
        """Return the decoder of JPEG, proven on a whole tile with the most in it; else None."""
        if self._unproven:
            with self._lock:
                if self._unproven:
                    self._jpeg = self._proven()
                    self._unproven = False
        return self._jpeg

    def _proven(self) -> JpegTiles | None:
        page = self._page
        counts: Array = np.array(page.databytecounts).reshape(-1, self._across)
        # the padding of a tile at the edge may be of no colour at all
        inside = counts[: page.imagelength // page.tilelength, : page.imagewidth // page.tilewidth]
        whole = bool(inside.any())
        counts[: inside.shape[0], : inside.shape[1]] *= 1 + whole * int(counts.max())
        for number in np.argsort(counts, axis=None)[: -_TRIED - 1 : -1].tolist():
            # a damaged tile proves nothing; it is told where it is asked for
            with suppress(Exception):
                ((_, data),) = self._stored.fetch([number])
                expected = None if data is None else self._general(number, data)
                if data is not None and expected is not None:
                    return jpeg_tiles(page, data, expected, whole)
        return None


def _is_flat(tile: Array) -> bool:
    """Return whether all pixels of a tile (h, w, s) are the same; most are not, seen in a row."""
    height, width, _ = tile.shape
    row: bytes = tile[0].tobytes()
    return bool(row == tile[0, 0].tobytes() * width and tile.tobytes() == row * height)
