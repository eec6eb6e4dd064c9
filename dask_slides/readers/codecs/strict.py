"""Decoding that raises rather than guesses, for every codec that is read.

tifffile and the libraries below it make the most of what they get: a stream of another size
is cut or padded, what is missing is grey, warnings are kept. So each stream is held against
its page before it is decoded, and what comes out must be as long as the page says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import numpy as np

from dask_slides.readers.codecs.fax import FAX, decode_fax
from dask_slides.readers.codecs.headers import JPEG, READ, between_restarts, has_end
from dask_slides.readers.codecs.jpeg import SimpleJpeg, headers
from dask_slides.readers.codecs.scans import decode_scans
from dask_slides.readers.codecs.strict_bytes import (
    BYTES,
    StrictBytes,
    Subsampled,
    like,
    uncompressed,
)
from dask_slides.readers.codecs.tile_sizes import (
    FrameCheck,
    is_subsampled,
    samples_of,
    tile_bytes,
    tile_size,
)

_LERC = 34887
_WEBP = frozenset({50001, 34927})
_PACKED_LERC = {1: 8, 2: 50000}
"""By what packs LERC once more, the compression tag of it: deflate, zstd."""
_TRIES = range(1, 5)
"""JPEG tiles of a page on which simplejpeg may prove that it decodes them as tifffile does. Not the
first one: of pages that are decoded otherwise no other is asked for."""
DECODED = BYTES | FAX | READ.keys() | {1}
"""Compression tags that are read; of all others the size is not known before they are decoded."""


def strict_decode(page: Any) -> Callable[..., Any]:
    """Return what decodes the tiles of `page` like its `decode`, and raises where that guesses."""
    compression = int(page.compression)
    if is_subsampled(page):
        return Subsampled(page)
    if compression in BYTES:
        return StrictBytes(page)
    if compression in JPEG:
        return _StrictJpeg(page)
    if compression in READ:
        return _StrictImage(page)
    if compression in FAX:
        return _StrictFax(page)
    return page.decode  # type: ignore[no-any-return]


class _StrictImage:
    """Decodes streams that are images of their own."""

    def __init__(self, page: Any) -> None:
        self._decode = page.decode
        self._check = FrameCheck(page)
        self._page = page
        # LERC can be packed once more, as the second of its parameters says
        _, self._packed = (*(page.tags.valueof(50674) or ()), 0, 0)[:2]
        self._packed *= int(page.compression) == _LERC
        # its blocks have some bytes beside the samples
        self._room = 2 * tile_bytes(page, *tile_size(page)) + 2**12

    def __call__(self, data: bytes | None, number: int, **options: Any) -> Any:
        if data is not None:
            if self._packed:
                data = self._unpacked(data, number)
            self._check(number, data)
            return self._samples(self._pixels(data, number), number, **options)
        return self._decode(data, number, **options)

    @cached_property
    def _samples(self) -> Any:
        return _samples_decode(self._page)

    def _pixels(self, data: Any, number: int) -> Any:
        """Return the samples as they are stored in a page that is not compressed."""
        import imagecodecs
        import tifffile

        page = self._page
        if int(page.compression) in _WEBP and page.samplesperpixel == 4:
            # an alpha that is 255 all over may be left out
            found = imagecodecs.webp_decode(data, hasalpha=True)
        else:
            found = tifffile.TIFF.DECOMPRESSORS[int(page.compression)](data)
        samples, dtype = found.shape[2] if found.ndim > 2 else 1, found.dtype
        if samples != samples_of(page) or dtype.itemsize != page.dtype.itemsize:
            raise ValueError(
                f"the stream of tile {number} has {samples} samples of {dtype} where the page says "
                f"{samples_of(page)} of {page.dtype}"
            )
        return _as_stored(found, page)

    def _unpacked(self, data: bytes, number: int) -> Any:
        import tifffile

        if self._packed not in _PACKED_LERC:
            raise ValueError(f"tile {number} is LERC packed in the unknown way {self._packed}")
        decompress = tifffile.TIFF.DECOMPRESSORS[_PACKED_LERC[self._packed]]
        found = decompress(data, out=np.empty(self._room, np.uint8))
        if len(found) == self._room:
            raise ValueError(f"the LERC stream of tile {number} holds more than a tile can take")
        return bytes(found)


class _StrictFax:
    """Decodes CCITT by libtiff."""

    def __init__(self, page: Any) -> None:
        self._decode = page.decode
        self._page = page

    def __call__(self, data: bytes | None, number: int, **options: Any) -> Any:
        nothing, place, shape = self._decode(None, number, **options)
        if data is None:
            return nothing, place, shape
        rows = self._decode(None, number)[2][1]  # of them, the last strip has no more
        tile = np.zeros(shape, self._page.dtype)
        tile[0, :rows, :, 0] = decode_fax(self._page, data, rows, shape[2])
        return tile, place, shape


Way = Callable[[bytes, bytes | None], Any]
"""Makes samples (h, w, s) of a JPEG stream and tables apart; None where it does not read them."""


class _StrictJpeg:
    """Decodes JPEG by tifffile, whose decoder keeps the warnings of libjpeg to itself.

    simplejpeg raises them, but reads 8 bits in one, three or four components only; anything else
    is gone through by `readers.scans`. Once one of them made of a tile what tifffile makes of it,
    it decodes the others alone. Until then each stream is checked before: simplejpeg makes 1/8 of
    it, as it has to read every coefficient for that, and transforms few.
    """

    def __init__(self, page: Any) -> None:
        # tifffile would have planes of one component taken for red, green and blue
        planes = page.planarconfig == 2 and page.photometric == 2
        self._decode = like(page, photometric=1).decode if planes else page.decode
        self._check = FrameCheck(page)
        self._is_simple = page.bitspersample == 8 and samples_of(page) in (1, 3, 4)
        # planes are decoded by the page of the first of them, and may have other tables
        self._proven: dict[bytes | None, Way] = {}
        self._count = Counter[bytes | None]()
        self._page = page
        of_image = page.imagelength * page.imagewidth * samples_of(page)
        # tifffile has colours left alone where the page says that they are red, green and blue
        as_told = page.photometric == 2 and not page.is_jfif
        self._scans: list[Way] = [
            partial(decode_scans, of_image=of_image, guessed=guessed)
            for guessed in (not as_told, as_told)
        ]

    def __call__(self, data: bytes | None, number: int, **options: Any) -> Any:
        if data is None:
            return self._decode(data, number, **options)
        begin = options.get("jpegheader")
        stream = data if begin is None else between_restarts(begin, data)
        self._check(number, stream)
        if not has_end(stream):
            raise ValueError(f"the JPEG stream of tile {number} has no end")
        tables = options.get("jpegtables")
        way = self._proven.get(tables)
        if way is not None:
            found = self._decoded(way, stream, number, options)
            return self._decode(data, number, **options) if found is None else found
        ways = self._ways(tables)
        checked = ways[0](stream, tables)
        found = self._decode(data, number, **options)
        if checked is not None:
            if self._count[tables] in _TRIES:
                proven = self._proof(ways[1:], found, stream, number, options)
                if proven is not None:
                    self._proven[tables] = proven
            self._count[tables] += 1
        return found

    def _ways(self, tables: bytes | None) -> list[Way]:
        """Return what checks a stream, and what may decode it."""
        if not self._is_simple:
            return [self._scans[0], *self._scans]
        samples = samples_of(self._page)
        ways = [SimpleJpeg(one, samples) for one in headers(self._page, samples, tables)]
        return [partial(self._simple, ways[0], least=1), *(partial(self._simple, w) for w in ways)]

    @cached_property
    def _samples(self) -> Any:
        """What makes samples of a decoded stream; most pages need it not."""
        return _samples_decode(self._page)

    def _simple(
        self, way: SimpleJpeg, stream: bytes, tables: bytes | None, *, least: int | None = None
    ) -> Any:
        """Return the samples (h, w, s); with sides of at `least` so much, at 1/8 if it can be.

        None of a stream that simplejpeg is not for, if it is whole.
        """
        sides = {} if least is None else {"min_height": least, "min_width": least, "min_factor": 1}
        found = way(stream, **sides)
        if found is None:
            self._scans[0](stream, tables)
        return found

    def _decoded(self, way: Way, stream: bytes, number: int, options: dict[str, Any]) -> Any:
        """Return what tifffile's `decode` does, of the samples that a way makes, if any."""
        pixels = way(stream, options.get("jpegtables"))
        if pixels is None:
            return None
        return self._samples(_as_stored(pixels, self._page), number, **options)

    def _proof(
        self, ways: list[Way], found: Any, stream: bytes, number: int, options: dict[str, Any]
    ) -> Way | None:
        """Return the way in which the tile comes out as `found`, if its colours tell."""
        if found[0] is None or (samples_of(self._page) == 3 and _is_grey(found[0])):
            return None  # it is grey with any of them
        for way in ways:
            with suppress(Exception):  # a stream that simplejpeg does not take, or a page
                tile, *place = self._decoded(way, stream, number, options)
                if place == list(found[1:]) and np.array_equal(tile, found[0]):
                    return way
        return None


def _is_grey(tile: Any) -> bool:
    """Return whether the three samples of every pixel are the same."""
    return all(np.array_equal(tile[..., 0], tile[..., channel]) for channel in (1, 2))


def _samples_decode(page: Any) -> Any:
    """Return the `decode` of a page like `page` whose samples are not compressed at all."""
    # nothing is left to be told about the colours
    photometric = 2 if samples_of(page) == 3 else 1
    return uncompressed(
        page, photometric=photometric, subsampling=None, predictor=1,
        bitspersample=8 * page.dtype.itemsize,
    )  # fmt: skip


def _as_stored(pixels: Any, page: Any) -> Any:
    """Return the bytes of decoded samples as a page that is not compressed stores them."""
    dtype = pixels.dtype.newbyteorder(page.parent.byteorder)
    return np.ascontiguousarray(pixels, dtype).reshape(-1).data
