"""Codecs that compress bytes: LZW, deflate, PackBits, LZMA, zstd.

libtiff stops at the last byte that a tile needs, so a stream may end in any way behind it. A
stream that ends before it, or that is too long for the tile, is refused.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Any

import numpy as np

from dask_slides.readers.codecs.page_decoder import PageDecoder
from dask_slides.readers.codecs.tile_sizes import ByteCounts, TileSizes, block_of, tile_bytes

LZW, PACKBITS = 5, 32773
BYTES = frozenset({LZW, 8, PACKBITS, 32946, 34925, 34926, 50000, 50013})
"""Compression tags of LZW, deflate, PackBits, LZMA and zstd."""

_DEFLATE = frozenset({8, 32946})
_CONTINUATIONS = (b"\0\0", b"\xff\xff", b"\x55\x55", b"\xaa\xaa")
"""Bytes that are appended to LZW without an end code: no byte of the tile may depend on them."""
_MOST_UNUSED = 8
"""Most bytes that may follow those that a tile needs in LZW without an end code."""


class ByteDecoder(PageDecoder):
    """Decode streams to the bytes of a tile."""

    def __init__(self, page: Any) -> None:
        import tifffile

        super().__init__(page)
        self._decompress = tifffile.TIFF.DECOMPRESSORS[int(page.compression)]
        self._sizes = ByteCounts(page)
        self._capacity = self._sizes.full + self._sizes.padding
        self._lzw = int(page.compression) == LZW
        self._packbits = int(page.compression) == PACKBITS
        self._deflate = int(page.compression) in _DEFLATE
        self._bits_reversed = page.fillorder == 2

    def unpacked(self, data: Any, number: int) -> Any:
        """Return the bytes of tile `number`, as many as the page says."""
        import imagecodecs

        if self._bits_reversed:
            data = imagecodecs.bitorder_decode(data)
        try:
            # the end is checked first: without it imagecodecs invents the rest of a code
            if self._lzw and not _has_lzw_end(data):
                raise RuntimeError("it has no end")
            # codecs copy results that are shorter than an array that they allocate themselves
            found = self._decompress(data, out=np.empty(self._capacity, np.uint8))
        except RuntimeError as error:
            found = self._without_end(bytes(data), number, error)
        length = len(found)
        fitting = self._sizes.fitting(number, length)
        if fitting is None:
            more = "or more " * (length >= self._capacity)
            raise ValueError(
                f"tile {number} holds {length} bytes {more}where the page says {self._sizes.full}"
            )
        return found if fitting == length else found[:fitting]

    def _decoded(self, data: Any, capacity: int) -> Any:
        return self._decompress(data, out=np.empty(capacity, np.uint8))

    def _without_end(self, data: bytes, number: int, error: RuntimeError) -> Any:
        """Return the bytes of a stream with a wrong end, if the tile needs no more than these."""
        needed = self._sizes.needed(number)
        found = None
        if self._lzw:
            found = self._lzw_without_end(data, needed)
        elif self._packbits:
            with suppress(RuntimeError):
                found = self._decoded(data[: _packbits_end(data, needed)], self._capacity)
        elif self._deflate:
            stream = zlib.decompressobj()
            with suppress(zlib.error):
                found = stream.decompress(data, self._capacity)
                # at its end the checksum was wrong; more bytes than needed are of another image
                if stream.eof or len(found) not in (needed, self._sizes.full):
                    found = None
        if found is None:
            raise ValueError(
                f"the stream of tile {number} is damaged, or longer than the tile ({error})"
            )
        return found

    def _lzw_without_end(self, data: bytes, needed: int) -> Any:
        """Return the `needed` bytes; None if `data` holds fewer, or many more."""
        found = self._in_whole_codes(data, needed)
        if found is None:
            return None
        try:
            ended = len(self._decoded(data + _CONTINUATIONS[0], self._capacity))
        except RuntimeError:
            ended = 0
        # more than a few further codes are of another image, or follow damage
        if ended not in (needed, self._sizes.full) and (
            data.endswith(b"\0\0") or self._in_whole_codes(data[:-_MOST_UNUSED], needed) is not None
        ):
            return None
        return found

    def _in_whole_codes(self, data: bytes, length: int) -> Any:
        """Return the first `length` bytes of LZW; None if one of their codes is cut off."""
        try:
            found, *others = (self._decoded(data + more, length) for more in _CONTINUATIONS)
        except RuntimeError:
            return None
        whole = len(found) == length and all(np.array_equal(found, other) for other in others)
        return found if whole else None


def _has_lzw_end(data: Any) -> bool:
    """Return whether LZW ends with its code for the end, 257, and less than a byte of zeros."""
    if data[:1] == b"\0":  # bits in the order of libtiff before 1993, which imagecodecs reads too
        return True
    tail = int.from_bytes(bytes(data[-8:]).rstrip(b"\0")[-3:], "big")
    return bool(tail) and tail >> (tail & -tail).bit_length() - 1 & 0x1FF == 257


def _packbits_end(data: bytes, length: int) -> int:
    """Return how many bytes of PackBits hold the first `length` bytes, if all are there."""
    at = done = 0
    while done < length and at < len(data):
        head = data[at]
        if head != 128:  # a no-operation
            done += head + 1 if head < 128 else 257 - head
        at += 2 + head if head < 128 else 1 + (head > 128)
    return at


class SubsampledDecoder(PageDecoder):
    """Decode YCbCr in blocks of pixels that share one sample of each chroma."""

    def __init__(self, page: Any) -> None:
        # `unpacked` returns chroma for each pixel
        super().__init__(page, photometric=2, subsampling=(1, 1))
        self._sizes = TileSizes(page)
        self._bytes = ByteDecoder(page) if page.compression != 1 else None

    def unpacked(self, data: Any, number: int) -> Any:
        """Return the bytes of tile `number` with chroma for each pixel."""
        import imagecodecs

        if self._bytes is not None:
            data = self._bytes.unpacked(data, number)
        elif self._page.fillorder == 2:
            data = imagecodecs.bitorder_decode(data)
        sizes = {tile_bytes(self._page, *size): size for size in self._sizes.allowed(number)}
        fitting = [nbytes for nbytes in sizes if nbytes <= len(data)]
        if not fitting:
            raise ValueError(f"tile {number} holds {len(data)} bytes, fewer than its pixels need")
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
