"""Decode JPEG tiles with libjpeg-turbo, at full size or reduced to 1/2, 1/4 and 1/8.

libjpeg-turbo reduces in the DCT domain (the scaled inverse DCT of the IJG): it transforms fewer
coefficients instead of decoding pixels only to average them. A tile whose sides are multiples of
16 is decoded to exactly 1/2, 1/4 or 1/8 of its size, so a page of such tiles can be read at these
levels although the file does not store them.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.readers.codecs.headers import (
    END,
    JPEG,
    SEQUENTIAL_OR_PROGRESSIVE,
    START,
    Data,
    between_restarts,
    has_end,
    jpeg_frame,
)
from dask_slides.readers.codecs.image_codecs import ImageDecoder
from dask_slides.readers.codecs.tile_sizes import tile_size
from dask_slides.runtime.buffer_pool import POOL

FACTORS = (2, 4, 8)
"""Reductions that libjpeg-turbo offers."""
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""An APP14 segment that declares three components to be red, green and blue."""
_MAX_MEAN_DIFFERENCE = 2.0
"""Grey levels that the mean of a reduced tile may differ from the mean of the full one."""
_COLOURS = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_SAMPLINGS = frozenset(
    (luma, 0x11, 0x11, *black)
    for luma in (0x11, 0x21, 0x12, 0x22, 0x41, 0x14)
    for black in ((), (luma,))
)
"""Sampling factors that the TurboJPEG API, which simplejpeg uses, has names for."""


class SimpleJpeg:
    """Decode with simplejpeg the streams that it decodes safely. Threads may share it.

    simplejpeg allocates an array of the reduced size that it requests. libjpeg-turbo ignores the
    request for lossless frames, decodes them at full size, and writes beyond the array. So nothing
    else calls simplejpeg.
    """

    def __init__(self, header: bytes, samples: int) -> None:
        """Decode streams of `samples` per pixel, with `header` in place of their SOI marker."""
        self._header = header
        self._samples = samples
        # most streams of a page begin with the same bytes, which are checked once
        self._checked = b""

    def __call__(self, data: Data, **options: Any) -> Array | None:
        """Return the samples (h, w, s); None if the stream is of an unsafe kind."""
        import simplejpeg

        stream = b"".join((self._header, memoryview(data)[2:])) if self._header else data
        checked = self._checked
        if not checked or stream[: len(checked)] != checked:
            frame = jpeg_frame(stream)
            if not (
                frame.marker in SEQUENTIAL_OR_PROGRESSIVE
                and frame.bits == 8
                and frame.samples == self._samples in _COLOURS
                and (self._samples == 1 or frame.sampling in _SAMPLINGS)
            ):
                return None
            self._checked = bytes(stream[: frame.end])
        tile: Array = simplejpeg.decode_jpeg(stream, _COLOURS[self._samples], **options)
        return tile


class JpegDecoder(ImageDecoder):
    """Decode the JPEG tiles or strips of one page. Threads may share it.

    imagecodecs decodes every JPEG that tifffile decodes, but also damaged ones. simplejpeg is
    faster, raises for most damage and decodes reduced, but supports fewer kinds of JPEG, and takes
    the colour space from the stream alone. Only when both return the same samples for one tile
    does simplejpeg decode the other tiles of the page.
    """

    def __init__(self, page: Any) -> None:
        super().__init__(page)
        self._colours = colour_spaces(page, self._samples)
        self._size = tile_size(page)
        # by their tables: all planes are decoded with the page of the first one
        self._simple: dict[bytes | None, SimpleJpeg | None] = {}
        self._verified: set[bytes | None] = set()
        self._buffers = threading.local()

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
        if data is None:
            return self._unpack_samples(data, number, **options)
        stream = data if jpegheader is None else between_restarts(jpegheader, data)
        size = self._check(number, stream)
        if not has_end(stream):
            raise ValueError(f"the JPEG stream of tile {number} has no end")
        pixels = self._pixels(stream, jpegtables)
        return self._unpack_samples(self._as_bytes(pixels, number, size), number, **options)

    def _pixels(self, stream: Data, tables: bytes | None) -> Array:
        """Return the samples (h, w) or (h, w, s) of a stream."""
        simple = self._simplejpeg(tables)
        # simplejpeg raises if the stream is damaged
        pixels = None if simple is None else simple(stream)
        if pixels is not None and tables in self._verified:
            return pixels
        expected = self._by_imagecodecs(stream, tables)
        if pixels is not None and not _is_grey(pixels) and _is_equal(pixels, expected):
            self._verified.add(tables)
        return expected

    def _simplejpeg(self, tables: bytes | None) -> SimpleJpeg | None:
        """Return the decoder for streams with `tables`; None if it does not support the page."""
        if tables not in self._simple:
            is_supported = self._page.bitspersample == 8 and self._samples in _COLOURS
            header = stream_header(tables, is_rgb=self._colours[0] is not None)
            self._simple[tables] = SimpleJpeg(header, self._samples) if is_supported else None
        return self._simple[tables]

    def _by_imagecodecs(self, stream: Data, tables: bytes | None) -> Array:
        import imagecodecs

        # where libjpeg raises, jpeg_decode would return other samples from ljpeg_decode
        colours, out_colours = self._colours
        pixels: Array = imagecodecs.jpeg8_decode(
            bytes(stream), tables=tables, colorspace=colours, outcolorspace=out_colours
        )
        return pixels

    def matches_imagecodecs(self, number: int, data: Data, whole: bool) -> bool:
        """Return whether simplejpeg decodes a tile to the same samples, so that `tile` is right.

        A `whole` tile, which has no padding, must also have the right mean at 1/2.
        """
        tables = self._page.jpegtables
        self._check(number, data)
        expected = self._by_imagecodecs(data, tables)
        simple = self._simplejpeg(tables)
        pixels = None if simple is None else simple(data)
        if pixels is None or not _is_equal(pixels, expected):
            return False
        self._verified.add(tables)
        if not whole:
            return True
        reduced = self.tile(number, data, FACTORS[0])
        return reduced is not None and _is_near(reduced, pixels)

    def tile(
        self, number: int, data: Data, factor: int = 1, into: Array | None = None
    ) -> Array | None:
        """Return the samples (h / factor, w / factor, s) of a tile: the array `into`, if given.

        Call it only after `matches_imagecodecs`. Return None if the stream is of another size or
        kind. Without `into`, the next call in the same thread overwrites the array: the page faults
        of a new array per tile would cost a third of the decode.
        """
        height, width = self._size
        if self._check(number, data) != self._size:
            return None
        if not has_end(data):
            raise ValueError(f"the JPEG stream of tile {number} has no end")
        simple = self._simplejpeg(self._page.jpegtables)
        if simple is None:
            return None
        height, width = height // factor, width // factor
        buffer = self._buffer(factor, (height, width, self._samples)) if into is None else into
        found = simple(data, min_height=height, min_width=width, min_factor=1, buffer=buffer)
        return None if found is None else buffer

    def _buffer(self, factor: int, shape: tuple[int, int, int]) -> Array:
        buffers: dict[str, Array] = self._buffers.__dict__
        name = str(factor)
        if name not in buffers:
            buffers[name] = POOL.array(shape, np.uint8)
        return buffers[name]


def stream_header(tables: bytes | None, is_rgb: bool) -> bytes:
    """Return the bytes that replace the SOI marker of streams; empty if nothing is added.

    The tables may be stored apart from the streams. libjpeg decodes three components without a
    colour marker as YCbCr, but Aperio stores RGB, so RGB streams get a marker.
    """
    tables = (tables or b"")[len(START) :].removesuffix(END)
    return START + _ADOBE_RGB * is_rgb + tables if is_rgb or tables else b""


def colour_spaces(page: Any, samples: int) -> tuple[int | None, int | None]:
    """Return the colour spaces of a stream and of its samples as tifffile chooses them.

    They are numbers of the photometric tag. None lets libjpeg read it from the stream.
    """
    if samples == 1 or page.extrasamples:
        return None, None
    if page.photometric == 2:
        return None if page.is_jfif else 2, 2
    return None, {5: 4, 6: 2}.get(page.photometric)


def _is_equal(pixels: Array, others: Array) -> bool:
    same_size = pixels.shape[:2] == others.shape[:2] and pixels.size == others.size
    return same_size and np.array_equal(pixels.reshape(-1), others.reshape(-1))


def _is_near(reduced: Array, full: Array) -> bool:
    return abs(float(reduced.mean()) - float(full.mean())) <= _MAX_MEAN_DIFFERENCE


def _is_grey(pixels: Array) -> bool:
    """Return whether all pixels are grey, so that they do not show the colour space."""
    return pixels.shape[2] == 3 and all(
        np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in (1, 2)
    )


def is_jpeg(page: Any) -> bool:
    """Return whether the tiles of a page of tifffile may be decoded reduced."""
    return bool(
        int(page.compression) in JPEG
        and page.dtype == np.uint8
        and page.samplesperpixel in (1, 3)
        and page.tilelength % 16 == page.tilewidth % 16 == 0
    )


def coarseness(stream: bytes) -> int:
    """Return how many times coarser than its luma the colour of a reduced decode is.

    libjpeg decodes a colour component with half the samples along both axes at twice the scale,
    so that nothing is lost. It reduces a component with half the samples along one axis (4:2:2)
    like the luma and then enlarges it: its samples are twice as wide as those of the luma.
    `stream` needs to reach up to the frame header (SOF). The result for one component is 1.
    """
    try:
        factors = [(factor >> 4, factor & 15) for factor in jpeg_frame(stream).sampling]
    except ValueError:
        factors = []
    if not factors or not all(map(all, factors)):
        return 2  # unknown: the safe value
    wide, high = (max(one) for one in zip(*factors, strict=True))
    ratios = [(wide / across, high / down) for across, down in factors]
    return int(max(max(ratio) / min(ratio) for ratio in ratios))
