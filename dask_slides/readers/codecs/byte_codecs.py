"""The base class of all decoders, and codecs of bytes: LZW, deflate, PackBits, LZMA, zstd.

A stream without its end, or that is too short or too long for its tile, is refused.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from dask_slides.readers.codecs.headers import Data
from dask_slides.readers.codecs.tile_sizes import ByteCounts

_LZW = 5
BYTES = frozenset({_LZW, 8, 32773, 32946, 34925, 34926, 50000, 50013})
"""Compression tags of LZW, deflate, PackBits, LZMA and zstd."""


class PageDecoder:
    """Decode the tiles of one page like tifffile's `page.decode`, but raise instead of guessing.

    A codec decompresses a stream to bytes; tifffile unpacks, orders and pads the samples in them.
    """

    def __init__(self, page: Any, **tags: Any) -> None:
        """Decode tiles of `page`; `tags` replace those that do not describe the decoded bytes."""
        self._page = page
        self._unpack_samples = uncompressed_decode(page, **tags)

    def __call__(
        self,
        data: Data | None,
        number: int,
        *,
        jpegtables: bytes | None = None,
        jpegheader: bytes | None = None,
        **options: Any,
    ) -> Any:
        """Return samples, indices and shape of tile `number`; ValueError if it is damaged."""
        if data is not None:
            data = self.unpacked(data, number)
        return self._unpack_samples(data, number, **options)

    def unpacked(self, data: Any, number: int) -> Any:
        """Return the bytes that an uncompressed page has for the stream `data`."""
        raise NotImplementedError


def uncompressed_decode(page: Any, **tags: Any) -> Any:
    """Return the `decode` of a page like `page`, but uncompressed and with other `tags`."""
    import tifffile

    other = copy.copy(page)
    for cached in ("decode", "hash"):
        other.__dict__.pop(cached, None)
    for name, value in {"compression": tifffile.COMPRESSION.NONE, "fillorder": 1, **tags}.items():
        setattr(other, name, value)
    return other.decode


class ByteDecoder(PageDecoder):
    """Decode streams to the bytes of a tile."""

    def __init__(self, page: Any) -> None:
        import tifffile

        super().__init__(page)
        self._decompress = tifffile.TIFF.DECOMPRESSORS[int(page.compression)]
        self._sizes = ByteCounts(page)
        self._capacity = self._sizes.full + self._sizes.padding
        self._lzw = int(page.compression) == _LZW
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
            raise ValueError(
                f"the stream of tile {number} is damaged, or longer than the tile ({error})"
            ) from None
        length = len(found)
        fitting = self._sizes.fitting(number, length)
        if fitting is None:
            more = "or more " * (length >= self._capacity)
            raise ValueError(
                f"tile {number} holds {length} bytes {more}where the page says {self._sizes.full}"
            )
        return found if fitting == length else found[:fitting]


def _has_lzw_end(data: Any) -> bool:
    """Return whether LZW ends with its code for the end, 257, and any number of zeros."""
    if data[:1] == b"\0":  # bits in the order of libtiff before 1993, which imagecodecs reads too
        return True
    tail = int.from_bytes(bytes(data).rstrip(b"\0")[-3:], "big")
    return bool(tail) and tail >> (tail & -tail).bit_length() - 1 & 0x1FF == 257
