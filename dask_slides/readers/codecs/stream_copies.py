"""Compressed tiles as streams of their own, which are copied without decoding.

A tile of a TIFF may need its page to be decoded: JPEG tables stored apart, and colours that the
stream does not declare. Here each stream gets both. Its entropy-coded bytes stay as they are.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.readers.codecs.headers import (
    JPEG,
    READ,
    SEQUENTIAL_OR_PROGRESSIVE,
    START,
    Data,
    jpeg_frame,
)
from dask_slides.readers.codecs.headers import has_end as has_jpeg_end
from dask_slides.readers.codecs.jpeg import colour_spaces, stream_header
from dask_slides.readers.codecs.tile_sizes import FrameCheck, is_subsampled, samples_of, tile_size

Whole = Callable[[int, Data], bytes]
"""Returns the whole stream of a tile, by number and stored bytes; ValueError if it is damaged."""

_JPEG2000 = frozenset({33003, 33004, 33005, 34712})
_WEBP = frozenset({50001, 34927})
_LZW = 5
_DEFLATE = frozenset({8, 32946})
_ZSTD = frozenset({50000, 34926})
_ZSTD_START = b"\x28\xb5\x2f\xfd"
_ADOBE = b"\xff\xee\x00\x0eAdobe"
_ADOBE_BYTES = 16


class NotCopiedError(ValueError):
    """A tile that is good, but cannot be a chunk as it is, and why."""


def encoding_of(page: Any) -> TileEncoding | None:
    """Return how the tiles of a page of tifffile are compressed; None if they are not copied."""
    code, size = int(page.compression), tile_size(page)
    samples, bits = samples_of(page), page.bitspersample
    if not page.is_tiled or isinstance(bits, tuple) or bits != 8 * page.dtype.itemsize:
        return None
    if code in JPEG and bits == 8 and samples in (1, 3) and not page.extrasamples:
        return TileEncoding("JPEG", size, {"name": "imagecodecs_jpeg"})
    if code in _JPEG2000 and bits in (8, 16):
        return TileEncoding("JPEG 2000", size, {"name": "imagecodecs_jpeg2k"})
    if code in _WEBP and bits == 8 and samples == 3:
        return TileEncoding("WebP", size, {"name": "imagecodecs_webp"})
    return _bytes_encoding(page, code, size)


def _bytes_encoding(page: Any, code: int, size: tuple[int, int]) -> TileEncoding | None:
    """Return the encoding of a page whose codec compresses bytes."""
    named: dict[str, Any] = {}
    if code == _LZW:
        named = {"LZW": {"name": "imagecodecs_lzw"}}
    elif code in _DEFLATE:
        named = {"deflate": {"name": "imagecodecs_zlib"}}
    elif code in _ZSTD:
        named = {"zstd": {"name": "zstd", "configuration": {"level": 0, "checksum": False}}}
    if not named or page.predictor != 1 or page.fillorder != 1 or is_subsampled(page):
        return None
    ((name, codec),) = named.items()
    endian = {"<": "little", ">": "big"}[page.parent.byteorder]
    several = page.dtype.itemsize > 1
    order = {"configuration": {"endian": endian}} if several else {}
    return TileEncoding(name, size, {"name": "bytes", **order}, (codec,), lossy=False)


def encoding_in_place(page: Any) -> TileEncoding | None:
    """Return how the tiles of a page are decoded where they lie: tables are those of the codec."""
    encoding = encoding_of(page)
    if encoding is None or int(page.compression) not in JPEG:
        return encoding
    configuration: dict[str, Any] = {}
    if page.jpegtables is not None:
        configuration["tables"] = base64.b64encode(page.jpegtables).decode()
    if colour_spaces(page, samples_of(page))[0] is not None:
        configuration |= {"colorspace_data": "RGB", "colorspace_jpeg": "RGB"}
    more = {"configuration": configuration} if configuration else {}
    return replace(encoding, serializer={**encoding.serializer, **more})


def whole_streams(page: Any) -> Whole:
    """Return the function that makes the streams of a page whole, and checks their ends."""
    code = int(page.compression)
    if code in JPEG:
        return _WholeJpeg(page)
    if code in READ:
        return _checked(page)
    return {_LZW: _lzw}.get(code, _zstd if code in _ZSTD else _zlib)


def _checked(page: Any) -> Whole:
    check = FrameCheck(page)

    def whole(number: int, data: Data) -> bytes:
        _require_full(number, check(number, data), tile_size(page))
        return bytes(data)

    return whole


def _require_full(number: int, size: tuple[int, int], full: tuple[int, int]) -> None:
    if size != full:
        raise NotCopiedError(
            f"tile {number} is {size[0]} x {size[1]} px, and chunks need {full[0]} x {full[1]}"
        )


class _WholeJpeg:
    """Put the tables and the colour marker of a page into each of its JPEG streams."""

    def __init__(self, page: Any) -> None:
        self._check = FrameCheck(page)
        self._size = tile_size(page)
        self._is_rgb = colour_spaces(page, samples_of(page))[0] is not None
        self._header = stream_header(page.jpegtables, is_rgb=self._is_rgb)
        # most streams of a page begin with the same bytes, which are parsed once
        self._checked = b""

    def __call__(self, number: int, data: Data) -> bytes:
        """Return the whole stream of tile `number`."""
        is_checked = bool(self._checked) and bytes(data[: len(self._checked)]) == self._checked
        if not is_checked:
            _require_full(number, self._check(number, data), self._size)
        if not has_jpeg_end(data):
            raise ValueError(f"the JPEG stream of tile {number} has no end")
        if not is_checked:
            frame = jpeg_frame(data)
            if frame.marker not in SEQUENTIAL_OR_PROGRESSIVE:
                raise NotCopiedError(f"tile {number} is lossless JPEG")
            self._checked = bytes(data[: frame.end])
        if not self._header:
            return bytes(data)
        if self._is_rgb:
            data = _without_adobe(data)
        return b"".join((self._header, memoryview(data)[len(START) :]))


def _without_adobe(data: Data) -> Data:
    """Return a JPEG stream without an Adobe marker of its own, which would replace that of RGB."""
    head = bytes(data[:512])
    at = head.find(_ADOBE)
    if at < 0 or head.find(b"\xff\xda") in range(at):
        return data
    return b"".join((data[:at], data[at + _ADOBE_BYTES :]))


def _lzw(number: int, data: Data) -> bytes:
    # streams begin with the code that clears the table, 256 in 9 bits; old ones from the low bit
    # on, and decoders tell them apart by these bits too
    head = bytes(data[:2])
    if head[:1] != b"\x80" and not (len(head) == 2 and head[0] == 0 and head[1] & 1):
        raise ValueError(f"the LZW stream of tile {number} has no beginning")
    return bytes(data)


def _zlib(number: int, data: Data) -> bytes:
    head = bytes(data[:2])
    if len(head) < 2 or head[0] & 15 != 8 or int.from_bytes(head, "big") % 31:
        raise ValueError(f"the deflate stream of tile {number} has no beginning")
    return bytes(data)


def _zstd(number: int, data: Data) -> bytes:
    if data[:4] != _ZSTD_START:
        raise ValueError(f"the zstd stream of tile {number} has no beginning")
    return bytes(data)
