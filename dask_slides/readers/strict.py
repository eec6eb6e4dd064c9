"""Decoding that raises rather than guesses, for every codec that is read.

tifffile and the libraries below it make the most of what they get: a stream of another size
is cut or padded, what is missing is grey, warnings are kept. So each stream is held against
its page before it is decoded, and what comes out must be as long as the page says.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import numpy as np

from dask_slides.readers.frames import JPEG, READ, Data, Frame, between_restarts, has_end
from dask_slides.readers.jpeg import begun_with, headers
from dask_slides.readers.lzw import unpacked
from dask_slides.readers.scans import decode_scans

_LZW, _LZMA = 5, 34925
BYTES = frozenset({_LZW, 8, 32773, 32946, _LZMA, 34926, 50000, 50013})
"""Compression tags of codecs that make bytes of bytes: LZW, deflate, PackBits, LZMA, zstd."""
_FAX = frozenset({2, 3, 4})
"""CCITT, which is told its size and fills no other."""
_TRIES = range(1, 5)
"""JPEG tiles of a page on which simplejpeg may prove that it decodes them as tifffile does. Not the
first one: of pages that are decoded otherwise no other is asked for."""
DECODED = BYTES | _FAX | READ.keys() | {1}
"""Compression tags that are read; of all others the size is not known before they are decoded."""


def tile_size(page: Any) -> tuple[int, int]:
    """Return height and width of a stored tile or strip of a page of tifffile."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def samples_of(page: Any) -> int:
    """Return the samples that a pixel has in one stored tile of a page of tifffile."""
    return int(page.samplesperpixel) if page.planarconfig == 1 else 1


def is_subsampled(page: Any) -> bool:
    """Return whether pixels share chroma in blocks of bytes, which tifffile does not read."""
    of_bytes = int(page.compression) in BYTES | {1}
    return of_bytes and page.photometric == 6 and block_of(page) != (1, 1)


def block_of(page: Any) -> tuple[int, int]:
    """Return height and width of the pixels that share chroma; 2 x 2 if the page does not say."""
    wide, high = page.tags.valueof(530, (2, 2))
    return int(high), int(wide)


def tile_bytes(page: Any, height: int, width: int) -> int:
    """Return the bytes of a decoded tile before its samples are unpacked."""
    if is_subsampled(page):
        high, wide = block_of(page)
        return -(-height // high) * -(-width // wide) * (high * wide + 2)
    bits = page.bitspersample
    each = sum(bits) if isinstance(bits, tuple) else bits * samples_of(page)
    return height * -(-width * each // 8)


class Sizes:
    """Which sizes the tiles of a page may have, number by number."""

    def __init__(self, page: Any) -> None:
        self.full = tile_size(page)
        self._image = page.imagelength, page.imagewidth
        self._down, self._across = (
            -(-n // side) for n, side in zip(self._image, self.full, strict=True)
        )

    def valid(self, number: int) -> tuple[int, int]:
        """Return how many rows and columns of tile `number` lie in the image."""
        row, column = divmod(number % (self._down * self._across), self._across)
        return (
            min(self.full[0], self._image[0] - row * self.full[0]),
            min(self.full[1], self._image[1] - column * self.full[1]),
        )

    def allowed(self, number: int) -> set[tuple[int, int]]:
        """Return the sizes that writers give tile `number`: whole, or without its padding."""
        height, width = self.valid(number)
        return {self.full, (height, self.full[1]), (height, width)}


class FrameCheck:
    """Holds the header of a stream against its page. Threads may share it."""

    def __init__(self, page: Any) -> None:
        self._sizes = Sizes(page)
        self._samples = samples_of(page)
        self._bits = page.bitspersample
        self._jpeg = int(page.compression) in JPEG
        self._read = READ[int(page.compression)]
        # the tiles of a page begin alike: what was found right once is compared and not parsed
        self._known = b""

    def __call__(self, number: int, data: Data) -> None:
        """Raise ValueError unless tile `number` is what the page says, and whole."""
        known = self._known
        if known and data[: len(known)] == known:
            return
        frame = self._read(data)
        if (frame.height, frame.width) == self._sizes.full:
            pass
        elif (frame.height, frame.width) not in self._sizes.allowed(number):
            height, width = self._sizes.full
            raise ValueError(
                f"the stream of tile {number} is of {frame.height} x {frame.width} px where the "
                f"page says {height} x {width}"
            )
        self._matches(number, frame)
        if self._jpeg and (frame.height, frame.width) == self._sizes.full:
            self._known = bytes(data[: frame.end])

    def _matches(self, number: int, frame: Frame) -> None:
        if frame.samples is not None and frame.samples != self._samples:
            raise ValueError(
                f"the stream of tile {number} has {frame.samples} components where the page "
                f"says {self._samples}"
            )
        # 12 bits in samples of 16 are the same numbers
        if frame.bits is not None and -(-frame.bits // 8) != -(-self._bits // 8):
            raise ValueError(
                f"the stream of tile {number} has {frame.bits} bits a sample where the page "
                f"says {self._bits}"
            )


def strict_decode(page: Any) -> Callable[..., Any]:
    """Return what decodes the tiles of `page` like its `decode`, and raises where that guesses."""
    compression = int(page.compression)
    if is_subsampled(page):
        return _Subsampled(page)
    if compression in BYTES:
        return _StrictBytes(page)
    if compression in JPEG:
        return _StrictJpeg(page)
    if compression in READ:
        return _StrictImage(page)
    return page.decode  # type: ignore[no-any-return]


class _StrictImage:
    """Decodes streams that are images of their own."""

    def __init__(self, page: Any) -> None:
        self._decode = page.decode
        self._check = FrameCheck(page)

    def __call__(self, data: bytes | None, number: int, **options: Any) -> Any:
        if data is not None:
            self._check(number, data)
        return self._decode(data, number, **options)


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
        self._decode = page.decode
        self._check = FrameCheck(page)
        colours = {1: "GRAY", 3: "RGB", 4: "CMYK"}
        self._colours = colours.get(samples_of(page)) if page.bitspersample == 8 else None
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
        if self._colours is None:
            return [self._scans[0], *self._scans]
        possible = headers(self._page, samples_of(self._page), tables)
        return [
            partial(self._simple, possible[0], least=1),
            *(partial(self._simple, header) for header in possible),
        ]

    @cached_property
    def _samples(self) -> Any:
        """What makes samples of a decoded stream; most pages need it not."""
        # nothing is left to be told about the colours
        photometric = 2 if samples_of(self._page) == 3 else 1
        return _uncompressed(
            self._page, photometric=photometric, subsampling=None,
            bitspersample=8 * self._page.dtype.itemsize,
        )  # fmt: skip

    def _simple(
        self, header: bytes, stream: bytes, _: bytes | None, *, least: int | None = None
    ) -> Any:
        """Return the samples (h, w, s); with sides of at `least` so much, at 1/8 if it can be."""
        import simplejpeg

        sides = {} if least is None else {"min_height": least, "min_width": least, "min_factor": 1}
        return simplejpeg.decode_jpeg(begun_with(header, stream), self._colours, **sides)

    def _decoded(self, way: Way, stream: bytes, number: int, options: dict[str, Any]) -> Any:
        """Return what tifffile's `decode` does, of the samples that a way makes, if any."""
        pixels = way(stream, options.get("jpegtables"))
        if pixels is None:
            return None
        order = self._page.parent.byteorder
        stored = pixels.astype(pixels.dtype.newbyteorder(order), copy=False)
        return self._samples(stored.reshape(-1).data, number, **options)

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


def _uncompressed(page: Any, **tags: Any) -> Any:
    """Return the `decode` of a page like `page`, with other `tags`, that is not compressed."""
    import tifffile

    plain = copy.copy(page)
    for cached in ("decode", "hash"):
        plain.__dict__.pop(cached, None)
    plain.compression, plain.fillorder = tifffile.COMPRESSION.NONE, 1
    for name, value in tags.items():
        setattr(plain, name, value)
    return plain.decode


def _lzw_ends(data: Any) -> bool:
    """Return whether LZW ends with its code for the end: 257, and less than a byte of zeros.

    Where it is cut, the decoder makes what is missing of a code up.
    """
    if data[:1] == b"\0":  # the order of bits of libtiff before 1993, which is read as it comes
        return True
    tail = int.from_bytes(bytes(data[-8:]).rstrip(b"\0")[-3:], "big")
    return bool(tail) and tail >> (tail & -tail).bit_length() - 1 & 0x1FF == 257


class _StrictBytes:
    """Decodes bytes to as many bytes as a tile has, and lets tifffile make samples of them."""

    def __init__(self, page: Any) -> None:
        import tifffile

        self._decompress = tifffile.TIFF.DECOMPRESSORS[int(page.compression)]
        self._sizes = Sizes(page)
        self._page = page
        self._most = tile_bytes(page, *self._sizes.full)
        self._row = tile_bytes(page, 1, self._sizes.full[1])
        self._total = self._most * len(page.databytecounts)
        self._lzw = int(page.compression) == _LZW
        # these say nothing where they stop before the end, the others raise
        stops = self._lzw or int(page.compression) == _LZMA
        self._room = self._most + self._row * stops
        self._turned = page.fillorder == 2
        self._decode = _uncompressed(page)

    def __call__(self, data: bytes | None, number: int, **options: Any) -> Any:
        if data is not None:
            data = self.unpacked(data, number)
        return self._decode(data, number, **options)

    def unpacked(self, data: Any, number: int) -> Any:
        """Return the bytes of a tile, as many as the page says."""
        import imagecodecs

        if self._turned:
            data = imagecodecs.bitorder_decode(data)
        if self._lzw and not _lzw_ends(data):
            raise ValueError(f"the LZW stream of tile {number} has no end")
        found = unpacked(data, self._room, self._total) if self._lzw else None
        if found is None:
            # into an array of ours: of bytes with room to spare the codecs return a copy
            found = self._decompress(data, out=np.empty(self._room, np.uint8))
        length = len(found)
        if length == self._most:
            return found
        allowed = [tile_bytes(self._page, *size) for size in self._sizes.allowed(number)]
        # scanners write LZW strips with a few bytes too many, libtiff leaves those out too
        slack = self._row if self._lzw else 1
        if not any(size <= length < size + slack for size in allowed):
            more = "or more " * (length >= self._room)
            raise ValueError(
                f"tile {number} holds {length} bytes {more}where the page says {max(allowed)}"
            )
        return found


class _Subsampled:
    """Decodes luma and chroma in blocks, whose pixels share one sample of either chroma."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self._sizes = Sizes(page)
        self._unpacked = _StrictBytes(page).unpacked if page.compression != 1 else None
        # nothing is left to be told about the blocks
        self._decode = _uncompressed(page, photometric=2, subsampling=(1, 1))

    def __call__(self, data: bytes | None, number: int, **options: Any) -> Any:
        if data is not None:
            data = self._samples(data, number)
        return self._decode(data, number, **options)

    def _samples(self, data: Any, number: int) -> Any:
        import imagecodecs

        if self._unpacked is not None:
            data = self._unpacked(data, number)
        elif self._page.fillorder == 2:
            data = imagecodecs.bitorder_decode(data)
        sizes = {tile_bytes(self._page, *size): size for size in self._sizes.allowed(number)}
        fitting = [nbytes for nbytes in sizes if nbytes <= len(data)]
        if not fitting:
            raise ValueError(f"tile {number} holds {len(data)} bytes, less than its pixels take")
        nbytes = max(fitting)
        height, width = sizes[nbytes]
        high, wide = block_of(self._page)
        rows, columns = -(-height // high), -(-width // wide)
        blocks = np.frombuffer(data, np.uint8, nbytes).reshape(rows, columns, -1)
        luma = blocks[..., :-2].reshape(rows, columns, high, wide).swapaxes(1, 2)
        samples = np.empty((rows * high, columns * wide, 3), np.uint8)
        samples[..., 0] = luma.reshape(samples.shape[:2])
        samples[..., 1:] = blocks[..., -2:].repeat(high, axis=0).repeat(wide, axis=1)
        return np.ascontiguousarray(samples[:height, :width]).reshape(-1).data


def check_raw(page: Any, counts: Any) -> tuple[int, int] | None:
    """Return the number and byte count of an uncompressed tile that is not as long as it must be.

    None if all are. `counts` is an array of the byte counts of all tiles of `page`.
    """
    sizes = Sizes(page)
    full = tile_bytes(page, *sizes.full)
    for number in np.flatnonzero((counts != full) & (counts != 0)).tolist():
        allowed = {tile_bytes(page, *size) for size in sizes.allowed(number)}
        if int(counts[number]) not in allowed:
            return number, int(counts[number])
    return None
