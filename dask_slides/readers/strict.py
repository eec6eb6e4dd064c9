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

from dask_slides.readers.fax import FAX, decode_fax
from dask_slides.readers.frames import JPEG, READ, Data, Frame, between_restarts, has_end
from dask_slides.readers.jpeg import SimpleJpeg, headers
from dask_slides.readers.lzw import unpacked
from dask_slides.readers.scans import decode_scans

_LZW, _PACKBITS, _LZMA, _LERC = 5, 32773, 34925, 34887
_WEBP = frozenset({50001, 34927})
_PACKED_LERC = {1: 8, 2: 50000}
"""By what packs LERC once more, the compression tag of it: deflate, zstd."""
BYTES = frozenset({_LZW, 8, _PACKBITS, 32946, _LZMA, 34926, 50000, 50013})
"""Compression tags of codecs that make bytes of bytes: LZW, deflate, PackBits, LZMA, zstd."""
_TRIES = range(1, 5)
"""JPEG tiles of a page on which simplejpeg may prove that it decodes them as tifffile does. Not the
first one: of pages that are decoded otherwise no other is asked for."""
DECODED = BYTES | FAX | READ.keys() | {1}
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
        self._tiled = page.is_tiled
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

    def is_last_strip(self, number: int, height: int, width: int) -> bool:
        """Return whether a stream of this size may be the last strip, with rows to spare.

        Some writers give it as many rows as the others have, or whole blocks.
        """
        if self._across > 1 or width != self.full[1] or self._tiled:
            return False
        rows = self.valid(number)[0]
        is_last = number % self._down == self._down - 1
        return is_last and rows <= height <= max(self.full[0], -(-rows // 16) * 16)

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
        elif (frame.height, frame.width) not in self._sizes.allowed(number) and not (
            self._jpeg and self._sizes.is_last_strip(number, frame.height, frame.width)
        ):
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
        if frame.bits is not None and (
            -(-frame.bits // 8) != -(-self._bits // 8) or self._bits < min(frame.bits, 8)
        ):
            raise ValueError(
                f"the stream of tile {number} has {frame.bits} bits a sample where the page "
                f"says {self._bits}"
            )


class Bytes:
    """How many bytes the tiles of a page may have before their samples are unpacked."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self._sizes = Sizes(page)
        self.full = tile_bytes(page, *self._sizes.full)
        self.row = tile_bytes(page, 1, self._sizes.full[1])
        # writers fill strips up to whole words, or to sectors of the disk
        self.slack = min(max(self.row, 2**12), self.full)

    def needed(self, number: int) -> int:
        """Return how many of its bytes hold pixels of the image, or lie between those."""
        return self._sizes.valid(number)[0] * self.row

    def fitting(self, number: int, length: int) -> int | None:
        """Return how many of `length` bytes are tile `number`; None if there are not as many.

        What is too much is left out, as libtiff does it, if it is not as much as another tile.
        """
        if length == self.full:
            return length
        found = []
        for height, width in self._sizes.allowed(number):
            size = tile_bytes(self._page, height, width)
            # of narrower rows some could be taken for those of a tile that lacks bytes
            most = self.slack if width == self._sizes.full[1] else 1
            if size <= length < size + most:
                found.append(size)
        return max(found, default=None)


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
        self._decode = _like(page, photometric=1).decode if planes else page.decode
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


def _like(page: Any, **tags: Any) -> Any:
    """Return a page like `page`, with other `tags`."""
    other = copy.copy(page)
    for cached in ("decode", "hash"):
        other.__dict__.pop(cached, None)
    for name, value in tags.items():
        setattr(other, name, value)
    return other


def _uncompressed(page: Any, **tags: Any) -> Any:
    """Return the `decode` of a page like `page`, with other `tags`, that is not compressed."""
    import tifffile

    return _like(page, compression=tifffile.COMPRESSION.NONE, fillorder=1, **tags).decode


def _samples_decode(page: Any) -> Any:
    """Return the `decode` of a page like `page` whose samples are not compressed at all."""
    # nothing is left to be told about the colours
    photometric = 2 if samples_of(page) == 3 else 1
    return _uncompressed(
        page, photometric=photometric, subsampling=None, predictor=1,
        bitspersample=8 * page.dtype.itemsize,
    )  # fmt: skip


def _as_stored(pixels: Any, page: Any) -> Any:
    """Return the bytes of decoded samples as a page that is not compressed stores them."""
    dtype = pixels.dtype.newbyteorder(page.parent.byteorder)
    return np.ascontiguousarray(pixels, dtype).reshape(-1).data


_FILLS = (b"\0\0", b"\xff\xff", b"\x55\x55", b"\xaa\xaa")
"""What may follow LZW without an end: no byte of a tile hangs on it."""
_UNUSED = 8
"""Bytes of LZW that may lie behind those that are needed."""


def _lzw_ends(data: Any) -> bool:
    """Return whether LZW ends with its code for the end: 257, and less than a byte of zeros."""
    if data[:1] == b"\0":  # the order of bits of libtiff before 1993, which is read as it comes
        return True
    tail = int.from_bytes(bytes(data[-8:]).rstrip(b"\0")[-3:], "big")
    return bool(tail) and tail >> (tail & -tail).bit_length() - 1 & 0x1FF == 257


class _StrictBytes:
    """Decodes bytes to as many bytes as a tile has, and lets tifffile make samples of them."""

    def __init__(self, page: Any) -> None:
        import tifffile

        self._decompress = tifffile.TIFF.DECOMPRESSORS[int(page.compression)]
        self._sizes = Bytes(page)
        self._room = self._sizes.full + self._sizes.slack
        self._total = self._sizes.full * len(page.databytecounts)
        self._lzw = int(page.compression) == _LZW
        self._unending = int(page.compression) in (_LZW, _PACKBITS)
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
        found = unpacked(data, self._room, self._total) if self._lzw else None
        if found is None:
            if self._unending:
                found = self._unended(bytes(data), number)
            else:
                found = self._unpacked(data, self._room)
        length = len(found)
        fitting = self._sizes.fitting(number, length)
        if fitting is None:
            more = "or more " * (length >= self._room)
            raise ValueError(
                f"tile {number} holds {length} bytes {more}where the page says {self._sizes.full}"
            )
        return found if fitting == length else found[:fitting]

    def _unpacked(self, data: Any, room: int) -> Any:
        # into an array of ours: of bytes with room to spare the codecs return a copy
        return self._decompress(data, out=np.empty(room, np.uint8))

    def _unended(self, data: bytes, number: int) -> Any:
        """Return what LZW or PackBits holds, whether it ends as it should or not.

        Some writers leave out the code for the end of LZW, or have a few codes or bytes more than
        are needed; libtiff reads no further than it needs.
        """
        kind = "LZW" if self._lzw else "PackBits"
        reason = f"the {kind} stream of tile {number} has no end"
        if not self._lzw or _lzw_ends(data):
            with suppress(RuntimeError):
                return self._unpacked(data, self._room)
            reason = f"the {kind} stream of tile {number} is damaged, or longer than the tile"
        length = self._sizes.needed(number)
        if not self._lzw:
            data = data[: _packbits_end(data, length)]
            try:
                return self._unpacked(data, self._room)
            except RuntimeError:
                raise ValueError(reason) from None
        found = self._needed(data, length)
        if found is None:
            raise ValueError(reason)
        try:
            ended = len(self._unpacked(data + _FILLS[0], self._room)) in (length, self._sizes.full)
        except RuntimeError:
            ended = False
        # more codes than a few are those of another image, or of what was damaged before
        if not ended and (
            data.endswith(b"\0\0") or self._needed(data[:-_UNUSED], length) is not None
        ):
            raise ValueError(reason)
        return found

    def _needed(self, data: bytes, length: int) -> Any:
        """Return so many bytes that LZW holds; None if they are not in its whole codes.

        Where it is cut within a code the decoder makes up the rest of that.
        """
        try:
            found, *others = (self._unpacked(data + fill, length) for fill in _FILLS)
        except RuntimeError:
            return None
        whole = len(found) == length and all(np.array_equal(found, other) for other in others)
        return found if whole else None


def _packbits_end(data: bytes, length: int) -> int:
    """Return how many bytes of PackBits hold the first `length` bytes, if all are there."""
    at = done = 0
    while done < length and at < len(data):
        head = data[at]
        if head != 128:  # which stands for nothing
            done += head + 1 if head < 128 else 257 - head
        at += 2 + head if head < 128 else 1 + (head > 128)
    return at


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
    sizes = Bytes(page)
    for number in np.flatnonzero((counts != sizes.full) & (counts != 0)).tolist():
        if sizes.fitting(number, int(counts[number])) is None:
            return number, int(counts[number])
    return None
