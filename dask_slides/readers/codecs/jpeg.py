"""JPEG tiles straight through libjpeg-turbo, at full size or at 1/2, 1/4, 1/8.

libjpeg-turbo scales in the DCT domain: fewer coefficients are transformed, and none is
decoded to be averaged away (D. Taubman's and the IJG's scaled inverse DCT). A tile whose sides
are multiples of 16 comes out as exactly 1/2, 1/4 or 1/8 of it, so a page of such tiles has
smaller levels that nobody stored.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.readers.codecs.colour import box_mean
from dask_slides.readers.codecs.headers import END, FRAMES, JPEG, START, jpeg_frame
from dask_slides.runtime.buffer_pool import POOL

FACTORS = (2, 4, 8)
"""Reductions that the decoder offers."""
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""An APP14 marker without its last byte, which says whether three components are YCbCr."""
_NEAR = 2.0
"""Grey levels that a reduced decode may be off the box mean, on average over a tile."""


_SEQUENTIAL_OR_PROGRESSIVE = frozenset({0xC0, 0xC1, 0xC2})
"""Frames of Huffman codes and a DCT: all that libjpeg-turbo can decode smaller."""
_COLOURS = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_SAMPLINGS = frozenset(
    (luma, 0x11, 0x11, *black)
    for luma in (0x11, 0x21, 0x12, 0x22, 0x41, 0x14)
    for black in ((), (luma,))
)
"""What the API that simplejpeg uses knows by name."""


class SimpleJpeg:
    """Decodes by simplejpeg, but only streams that it was made for; nothing else calls it.

    It makes room for the size that it asks for. libjpeg-turbo decodes lossless frames at their
    full size whatever is asked for, and so writes beyond that room. Threads may share it.
    """

    def __init__(self, header: bytes, samples: int) -> None:
        """Put `header`, one of the `headers` of a page, before streams of so many `samples`."""
        self._header = header
        self._samples = samples
        # most streams of a page begin alike
        self._known = b""

    def __call__(self, data: bytes | memoryview, **sides: Any) -> Array | None:
        """Return the samples (h, w, s); None if the stream is of another kind."""
        import simplejpeg

        stream = begun_with(self._header, data)
        known = self._known
        if not known or stream[: len(known)] != known:
            frame = jpeg_frame(stream)
            if not (
                frame.marker in _SEQUENTIAL_OR_PROGRESSIVE
                and frame.bits == 8
                and frame.samples == self._samples in _COLOURS
                and (self._samples == 1 or frame.sampling in _SAMPLINGS)
            ):
                return None
            self._known = bytes(stream[: frame.end])
        tile: Array = simplejpeg.decode_jpeg(stream, _COLOURS[self._samples], **sides)
        return tile


class JpegTiles:
    """Decodes the tiles of one page; what it returns is overwritten by the next call.

    Threads may share it: each has an array of its own that it decodes into, as a new one for
    each tile costs a third of the decode in page faults.
    """

    def __init__(self, header: bytes, shape: tuple[int, int, int]) -> None:
        self._decode = SimpleJpeg(header, shape[2])
        self._shape = shape
        self._own = threading.local()

    def __call__(self, data: bytes | memoryview, factor: int = 1) -> Array | None:
        """Return the samples (h / factor, w / factor, s); None if the stream is of another kind."""
        height, width, samples = self._shape
        height, width = height // factor, width // factor
        tile = self._decode(
            data,
            min_height=height,
            min_width=width,
            min_factor=1,
            buffer=self._buffer(factor, (height, width, samples)),
        )
        return None if tile is None or tile.shape != (height, width, samples) else tile

    def _buffer(self, factor: int, shape: tuple[int, int, int]) -> Array:
        kept: dict[str, Array] = self._own.__dict__
        name = str(factor)
        if name not in kept:
            kept[name] = POOL.array(shape, np.uint8)
        return kept[name]


def is_jpeg(page: Any) -> bool:
    """Return whether `JpegTiles` may decode the tiles of a page of tifffile."""
    return bool(
        int(page.compression) in JPEG
        and page.dtype == np.uint8
        and page.samplesperpixel in (1, 3)
        and page.tilelength % 16 == page.tilewidth % 16 == 0
    )


def coarseness(stream: bytes) -> int:
    """Return how many times coarser than its luma the colour of a reduced decode is.

    libjpeg reads a colour component that has half the samples along both axes at twice the
    scale, so that nothing is lost. One that has half along a single axis (4:2:2) it reduces
    like the luma and then enlarges: the reduced image has colours of twice the width.
    `stream` is the beginning of one, up to the frame header (SOF); 1 for one component.
    """
    at = 2
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker in FRAMES:
            count = stream[at + 9]
            factors = stream[at + 11 : at + 10 + 3 * count : 3]
            if len(factors) < count or not all(f >> 4 and f & 15 for f in factors):
                break
            wide, high = max(f >> 4 for f in factors), max(f & 15 for f in factors)
            ratios = [(wide / (f >> 4), high / (f & 15)) for f in factors]
            return int(max(max(ratio) / min(ratio) for ratio in ratios))
        at += 2 + length
    return 2  # not told: what does no harm


def begun_with(header: bytes, data: bytes | memoryview) -> bytes | memoryview:
    """Return a stream with another beginning, one of the `headers` of its page."""
    return b"".join((header, memoryview(data)[2:])) if header else data


def headers(page: Any, samples: int, tables: bytes | None) -> list[bytes]:
    """Return what the streams of a page may have to begin with, for their first two bytes.

    They are of `samples` a pixel, with the `tables` of the page. What a stream means is not told
    by the stream alone: tables lie apart, and components without a marker are taken for YCbCr,
    which those of Aperio are not. The likely one is first; empty is the stream as it is.
    """
    tables = (tables or b"")[2:].removesuffix(END)
    plain = START + tables if tables else b""
    if samples != 3:
        return [plain]
    as_rgb, as_ycbcr = (START + _ADOBE + kind + tables for kind in (b"\0", b"\1"))
    return [as_rgb, plain, as_ycbcr] if page.photometric == 2 else [plain, as_ycbcr, as_rgb]


def jpeg_tiles(
    page: Any, data: bytes | memoryview, expected: Array, whole: bool
) -> JpegTiles | None:
    """Return the decoder that makes `expected` (h, w, s) of the tile `data`, if there is one.

    Each of the `headers` is tried on a real tile, and none that is off by a bit is used. A tile
    that is `whole`, none of it padding, must be right at 1/2 too; only such are decoded smaller.
    """
    for header in headers(page, page.samplesperpixel, page.jpegtables):
        tiles = JpegTiles(header, (page.tilelength, page.tilewidth, page.samplesperpixel))
        if _agrees(tiles, data, expected) and (not whole or _is_near(tiles, data, expected)):
            return tiles
    return None


def _agrees(tiles: JpegTiles, data: bytes | memoryview, expected: Array) -> bool:
    try:
        decoded = tiles(data)
    except (ValueError, RuntimeError):  # a stream that simplejpeg does not take
        return False
    return decoded is not None and np.array_equal(decoded, expected)


def _is_near(tiles: JpegTiles, data: bytes | memoryview, expected: Array) -> bool:
    """Return whether a reduced decode is about the mean."""
    reduced, mean = tiles(data, FACTORS[0]), box_mean(expected, FACTORS[0])
    if reduced is None or reduced.shape != mean.shape:
        return False
    return abs(float(reduced.mean()) - float(mean.mean())) <= _NEAR
