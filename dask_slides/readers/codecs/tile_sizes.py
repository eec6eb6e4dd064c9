"""Sizes of the stored tiles of a page: in pixels, in bytes and in the headers of streams."""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_slides.readers.codecs.headers import (
    JPEG,
    LOSSLESS,
    READ,
    SEQUENTIAL_OR_PROGRESSIVE,
    Data,
    Frame,
)


def tile_size(page: Any) -> tuple[int, int]:
    """Return height and width of a stored tile or strip of a page of tifffile."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def samples_of(page: Any) -> int:
    """Return the samples per pixel in one stored tile of a page of tifffile."""
    return int(page.samplesperpixel) if page.planarconfig == 1 else 1


def is_subsampled(page: Any) -> bool:
    """Return whether pixels share chroma in blocks, in a codec that compresses bytes."""
    return int(page.compression) not in READ and page.photometric == 6 and block_of(page) != (1, 1)


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


class TileSizes:
    """Sizes that the tiles of a page may have, by tile number."""

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
        """Return whether a stream of this size may be the last strip.

        Some writers give it as many rows as the others have, or whole blocks of 8 or 16 rows.
        """
        if self._across > 1 or width != self.full[1] or self._tiled:
            return False
        rows = self.valid(number)[0]
        is_last = number % self._down == self._down - 1
        return is_last and rows <= height <= max(self.full[0], -(-rows // 16) * 16)

    def allowed(self, number: int) -> set[tuple[int, int]]:
        """Return the sizes that tile `number` may have: with its padding or without."""
        height, width = self.valid(number)
        return {self.full, (height, self.full[1]), (height, width)}


class FrameCheck:
    """Compare the header of each stream with its page. Threads may share it."""

    def __init__(self, page: Any) -> None:
        self._sizes = TileSizes(page)
        self._samples = samples_of(page)
        self._bits = page.bitspersample
        self._ycbcr = page.photometric == 6 and self._samples == 3
        self._jpeg = int(page.compression) in JPEG
        self._frame_of = READ[int(page.compression)]
        # most streams of a page begin with the same bytes, which are parsed once and then compared
        self._checked = b""

    def __call__(self, number: int, data: Data) -> tuple[int, int]:
        """Return height and width of the stream of tile `number`.

        Raise ValueError if the stream does not fit the page, or if its kind is not read.
        """
        checked = self._checked
        if checked and data[: len(checked)] == checked:
            return self._sizes.full
        frame = self._frame_of(data)
        size = frame.height, frame.width
        if size not in self._sizes.allowed(number) and not (
            self._jpeg and self._sizes.is_last_strip(number, *size)
        ):
            height, width = self._sizes.full
            raise ValueError(
                f"the stream of tile {number} is of {frame.height} x {frame.width} px where the "
                f"page says {height} x {width}"
            )
        self._check_samples(number, frame)
        if self._jpeg:
            self._check_kind(number, frame)
            if size == self._sizes.full:
                self._checked = bytes(data[: frame.end])
        return size

    def _check_samples(self, number: int, frame: Frame) -> None:
        if frame.samples is not None and frame.samples != self._samples:
            raise ValueError(
                f"the stream of tile {number} has {frame.samples} components where the page "
                f"says {self._samples}"
            )
        # 12-bit numbers may lie in 16-bit samples
        if frame.bits is not None and (
            -(-frame.bits // 8) != -(-self._bits // 8) or self._bits < min(frame.bits, 8)
        ):
            raise ValueError(
                f"the stream of tile {number} has {frame.bits} bits per sample where the page "
                f"says {self._bits}"
            )

    def _check_kind(self, number: int, frame: Frame) -> None:
        """Refuse kinds of JPEG that libjpeg decodes to wrong samples, or not at all."""
        kind = None
        if frame.marker not in SEQUENTIAL_OR_PROGRESSIVE | {LOSSLESS}:
            kind = "hierarchical or arithmetic JPEG"
        elif frame.marker == LOSSLESS and len(set(frame.sampling)) > 1:
            kind = "lossless JPEG with subsampled components"
        elif frame.marker == LOSSLESS and self._ycbcr and frame.identifiers != b"RGB":
            kind = "lossless JPEG of YCbCr"
        if kind is not None:
            raise ValueError(
                f"the stream of tile {number} is {kind} (SOF{frame.marker - 0xC0}), which is not "
                "read; save it as sequential JPEG"
            )


class ByteCounts:
    """Numbers of bytes that the decoded tiles of a page may have, before samples are unpacked."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self._sizes = TileSizes(page)
        self.full = tile_bytes(page, *self._sizes.full)
        self.row = tile_bytes(page, 1, self._sizes.full[1])
        # writers pad strips to whole words or disk sectors
        self.padding = min(max(self.row, 2**12), self.full)

    def needed(self, number: int) -> int:
        """Return the bytes of tile `number` that hold pixels of the image."""
        return self._sizes.valid(number)[0] * self.row

    def fitting(self, number: int, length: int) -> int | None:
        """Return how many of `length` bytes belong to tile `number`; None if no size fits.

        Padding behind a tile is ignored, as in libtiff, unless it is too long.
        """
        if length == self.full:
            return length
        found = []
        for height, width in self._sizes.allowed(number):
            size = tile_bytes(self._page, height, width)
            # only with full rows: else a tile that lacks bytes could pass for a narrower one
            most = self.padding if width == self._sizes.full[1] else 1
            if size <= length < size + most:
                found.append(size)
        return max(found, default=None)


def check_raw(page: Any, counts: Any) -> tuple[int, int] | None:
    """Return number and byte count of the first uncompressed tile of a wrong size; None if none.

    `counts` is an array of the byte counts of all tiles of `page`.
    """
    sizes = ByteCounts(page)
    for number in np.flatnonzero((counts != sizes.full) & (counts != 0)).tolist():
        if sizes.fitting(number, int(counts[number])) is None:
            return number, int(counts[number])
    return None
