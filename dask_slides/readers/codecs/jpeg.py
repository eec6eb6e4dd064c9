"""JPEG tiles by libjpeg-turbo, at full size or reduced to 1/2, 1/4 and 1/8.

libjpeg-turbo reduces in the DCT domain (the scaled inverse DCT of the IJG): it transforms fewer
coefficients instead of decoding pixels only to average them. A tile whose sides are multiples of
16 is decoded to exactly 1/2, 1/4 or 1/8 of it, so that a page of such tiles has smaller levels
that nobody stored.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.numerics.box_means import box_mean
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
"""An APP14 segment that says that three components are red, green and blue."""
_MOST_OFF = 2.0
"""Grey levels that the mean of a reduced tile may differ from the mean of the full one."""
_COLOURS = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_SAMPLINGS = frozenset(
    (luma, 0x11, 0x11, *black)
    for luma in (0x11, 0x21, 0x12, 0x22, 0x41, 0x14)
    for black in ((), (luma,))
)
"""Sampling factors that the TurboJPEG API, which simplejpeg uses, has names for."""


class SimpleJpeg:
    """Decode by simplejpeg the streams that it is safe for. Nothing else calls simplejpeg.

    simplejpeg allocates an array of the size that it asks for. libjpeg-turbo decodes lossless
    frames at full size whatever it is asked for, and then writes beyond the array. Threads may
    share it.
    """

    def __init__(self, header: bytes, samples: int) -> None:
        """Decode streams of `samples` a pixel that begin with `header` in place of SOI."""
        self._header = header
        self._samples = samples
        # most streams of a page begin alike
        self._checked = b""

    def __call__(self, data: Data, **options: Any) -> Array | None:
        """Return the samples (h, w, s); None if the stream is of another kind."""
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

    imagecodecs decodes all that tifffile does, but damaged streams too. simplejpeg is faster,
    raises for most damage and decodes reduced, but knows fewer kinds of JPEG, and is not told
    the colour space. It decodes the tiles of a page alone once it has made the same samples of
    one of them as imagecodecs.
    """

    def __init__(self, page: Any) -> None:
        super().__init__(page)
        self._colours = _colour_spaces(page, self._samples)
        self._size = tile_size(page)
        # planes are decoded by the page of the first of them, and may have other tables
        self._simple: dict[bytes | None, SimpleJpeg | None] = {}
        self._proven: set[bytes | None] = set()
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
        # this raises if the stream is damaged
        pixels = None if simple is None else simple(stream)
        if pixels is not None and tables in self._proven:
            return pixels
        expected = self._by_imagecodecs(stream, tables)
        if pixels is not None and not _is_grey(pixels) and _is_equal(pixels, expected):
            self._proven.add(tables)
        return expected

    def _simplejpeg(self, tables: bytes | None) -> SimpleJpeg | None:
        """Return what decodes streams with these tables; None if simplejpeg has no such samples."""
        if tables not in self._simple:
            simple = self._page.bitspersample == 8 and self._samples in _COLOURS
            header = _header(tables, is_rgb=self._colours[0] is not None)
            self._simple[tables] = SimpleJpeg(header, self._samples) if simple else None
        return self._simple[tables]

    def _by_imagecodecs(self, stream: Data, tables: bytes | None) -> Array:
        import imagecodecs

        # jpeg_decode would turn to ljpeg_decode for what libjpeg refuses, and get other samples
        colours, out_colours = self._colours
        pixels: Array = imagecodecs.jpeg8_decode(
            bytes(stream), tables=tables, colorspace=colours, outcolorspace=out_colours
        )
        return pixels

    def prove(self, number: int, data: Data, whole: bool) -> bool:
        """Return whether `tile` may be used: simplejpeg makes the same samples of this tile.

        A `whole` one, which has no padding, must have the right mean at 1/2 too.
        """
        tables = self._page.jpegtables
        self._check(number, data)
        expected = self._by_imagecodecs(data, tables)
        simple = self._simplejpeg(tables)
        pixels = None if simple is None else simple(data)
        if pixels is None or not _is_equal(pixels, expected):
            return False
        self._proven.add(tables)
        if not whole:
            return True
        reduced = self.tile(number, data, FACTORS[0])
        return reduced is not None and _is_near(reduced, box_mean(pixels, FACTORS[0]))

    def tile(self, number: int, data: Data, factor: int = 1) -> Array | None:
        """Return the samples (h / factor, w / factor, s) of a tile of a page that is proven.

        None if its stream is of another size or kind. The next call in the same thread overwrites
        the array: a new one for each tile costs a third of the decode in page faults.
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
        return simple(
            data,
            min_height=height,
            min_width=width,
            min_factor=1,
            buffer=self._buffer(factor, (height, width, self._samples)),
        )

    def _buffer(self, factor: int, shape: tuple[int, int, int]) -> Array:
        buffers: dict[str, Array] = self._buffers.__dict__
        name = str(factor)
        if name not in buffers:
            buffers[name] = POOL.array(shape, np.uint8)
        return buffers[name]


def _header(tables: bytes | None, is_rgb: bool) -> bytes:
    """Return what streams begin with in place of SOI; empty for SOI alone.

    Tables may lie apart, and libjpeg takes three components without a marker for YCbCr, which
    those of Aperio are not.
    """
    tables = (tables or b"")[len(START) :].removesuffix(END)
    return START + _ADOBE_RGB * is_rgb + tables if is_rgb or tables else b""


def _colour_spaces(page: Any, samples: int) -> tuple[int | None, int | None]:
    """Return the colour spaces of a stream and of its samples as tifffile chooses them.

    They are numbers of the photometric tag; None is what libjpeg finds in the stream.
    """
    if samples == 1 or page.extrasamples:
        return None, None
    if page.photometric == 2:
        return None if page.is_jfif else 2, 2
    return None, {5: 4, 6: 2}.get(page.photometric)


def _is_equal(pixels: Array, others: Array) -> bool:
    same_size = pixels.shape[:2] == others.shape[:2] and pixels.size == others.size
    return same_size and np.array_equal(pixels.reshape(-1), others.reshape(-1))


def _is_near(reduced: Array, mean: Array) -> bool:
    return abs(float(reduced.mean()) - float(mean.mean())) <= _MOST_OFF


def _is_grey(pixels: Array) -> bool:
    """Return whether all pixels are grey, which tells nothing about the colour space."""
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

    libjpeg reads a colour component that has half the samples along both axes at twice the
    scale, so that nothing is lost. One that has half along a single axis (4:2:2) it reduces
    like the luma and then enlarges: the reduced image has colours of twice the width.
    `stream` is the beginning of one, up to the frame header (SOF); 1 for one component.
    """
    try:
        factors = [(factor >> 4, factor & 15) for factor in jpeg_frame(stream).sampling]
    except ValueError:
        factors = []
    if not factors or not all(map(all, factors)):
        return 2  # unknown: the value that does no harm
    wide, high = (max(one) for one in zip(*factors, strict=True))
    ratios = [(wide / across, high / down) for across, down in factors]
    return int(max(max(ratio) / min(ratio) for ratio in ratios))
