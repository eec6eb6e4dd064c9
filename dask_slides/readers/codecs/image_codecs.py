"""Codecs whose streams are images with a header: JPEG 2000, WebP, PNG, JPEG XL, LERC."""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.readers.codecs.page_decoder import PageDecoder, bytes_of_samples, tags_of_samples
from dask_slides.readers.codecs.tile_sizes import FrameCheck, samples_of, tile_bytes, tile_size

_LERC = 34887
_WEBP = frozenset({50001, 34927})
_PACKED_LERC = {1: 8, 2: 50000}
"""Compression tag of the second codec of LERC streams, by its number in LercParameters."""


class ImageDecoder(PageDecoder):
    """Decode streams; raise if the header or the decoded samples do not fit the page."""

    def __init__(self, page: Any) -> None:
        self._samples = samples_of(page)
        super().__init__(page, **tags_of_samples(page, self._samples))
        self._check = FrameCheck(page)
        # the second of LercParameters says whether LERC is compressed once more
        _, self._packed = (*(page.tags.valueof(50674) or ()), 0, 0)[:2]
        self._packed *= int(page.compression) == _LERC
        # a LERC stream has some bytes in addition to the samples
        self._capacity = 2 * tile_bytes(page, *tile_size(page)) + 2**12

    def unpacked(self, data: Any, number: int) -> Any:
        """Return the bytes that an uncompressed page has for the stream `data`."""
        if self._packed:
            data = self._lerc_stream(data, number)
        size = self._check(number, data)
        return self._as_bytes(self._decoded(data), number, size)

    def _decoded(self, data: Any) -> Array:
        import imagecodecs
        import tifffile

        code = int(self._page.compression)
        if code in _WEBP and self._samples == 4:
            # encoders may omit an alpha channel that is 255 everywhere
            pixels: Array = imagecodecs.webp_decode(data, hasalpha=True)
        else:
            pixels = tifffile.TIFF.DECOMPRESSORS[code](data)
        return pixels

    def _as_bytes(self, pixels: Array, number: int, size: tuple[int, int]) -> memoryview:
        """Return the bytes of decoded `pixels`; raise if they do not fit the page."""
        page, shape = self._page, (*size, self._samples)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.shape != shape or pixels.dtype.itemsize != page.dtype.itemsize:
            raise ValueError(
                f"the stream of tile {number} has samples {pixels.shape} of {pixels.dtype} where "
                f"the page says {shape} of {page.dtype}"
            )
        return bytes_of_samples(pixels, page)

    def _lerc_stream(self, data: Any, number: int) -> bytes:
        import tifffile

        if self._packed not in _PACKED_LERC:
            raise ValueError(f"tile {number} is LERC with unknown compression {self._packed}")
        decompress = tifffile.TIFF.DECOMPRESSORS[_PACKED_LERC[self._packed]]
        found = decompress(data, out=np.empty(self._capacity, np.uint8))
        if len(found) == self._capacity:
            raise ValueError(f"the LERC stream of tile {number} is longer than its tile")
        return bytes(found)
