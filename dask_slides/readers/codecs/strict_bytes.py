"""Bytes of bytes: LZW, deflate, PackBits, LZMA and zstd, decoded to the bytes of a tile."""

from __future__ import annotations

import copy
import zlib
from contextlib import suppress
from typing import Any

import numpy as np

from dask_slides.readers.codecs.lzw import unpacked
from dask_slides.readers.codecs.tile_sizes import Bytes, Sizes, block_of, tile_bytes

LZW, PACKBITS = 5, 32773
BYTES = frozenset({LZW, 8, PACKBITS, 32946, 34925, 34926, 50000, 50013})
"""Compression tags of codecs that make bytes of bytes: LZW, deflate, PackBits, LZMA, zstd."""

_DEFLATE = frozenset({8, 32946})
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


class StrictBytes:
    """Decodes bytes to as many bytes as a tile has, and lets tifffile make samples of them."""

    def __init__(self, page: Any) -> None:
        import tifffile

        self._decompress = tifffile.TIFF.DECOMPRESSORS[int(page.compression)]
        self._sizes = Bytes(page)
        self._room = self._sizes.full + self._sizes.slack
        self._total = self._sizes.full * len(page.databytecounts)
        self._lzw = int(page.compression) == LZW
        self._deflate = int(page.compression) in _DEFLATE
        self._unending = int(page.compression) in (LZW, PACKBITS)
        self._turned = page.fillorder == 2
        self._decode = uncompressed(page)

    def __call__(self, data: bytes | None, number: int, **options: Any) -> Any:
        """Return what the `decode` of the page does, or raise ValueError."""
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
            elif self._deflate:
                found = self._inflated(data, number)
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

    def _inflated(self, data: Any, number: int) -> Any:
        """Return what deflate holds, of a stream that may be cut behind the last byte needed.

        libtiff reads no further; what is not cut must end with the right checksum.
        """
        try:
            return self._unpacked(data, self._room)
        except RuntimeError:
            stream = zlib.decompressobj()
            with suppress(zlib.error):
                found = stream.decompress(data, self._room)
                # more bytes would be those of another image, or of what was damaged before
                if not stream.eof and len(found) in (self._sizes.needed(number), self._sizes.full):
                    return found
            raise

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


def like(page: Any, **tags: Any) -> Any:
    """Return a page like `page`, with other `tags`."""
    other = copy.copy(page)
    for cached in ("decode", "hash"):
        other.__dict__.pop(cached, None)
    for name, value in tags.items():
        setattr(other, name, value)
    return other


def uncompressed(page: Any, **tags: Any) -> Any:
    """Return the `decode` of a page like `page`, with other `tags`, that is not compressed."""
    import tifffile

    return like(page, compression=tifffile.COMPRESSION.NONE, fillorder=1, **tags).decode


class Subsampled:
    """Decodes luma and chroma in blocks, whose pixels share one sample of either chroma."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self._sizes = Sizes(page)
        self._unpacked = StrictBytes(page).unpacked if page.compression != 1 else None
        # nothing is left to be told about the blocks
        self._decode = uncompressed(page, photometric=2, subsampling=(1, 1))

    def __call__(self, data: bytes | None, number: int, **options: Any) -> Any:
        """Return what the `decode` of the page would, or raise ValueError."""
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
