"""Choose the decoder of a page. All of them raise where tifffile and its libraries guess.

tifffile and the libraries below it cut or pad streams of another size, fill missing data with
grey and ignore warnings. So the header of each stream is compared with its page before it is
decoded, and the size of the decoded samples afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_slides.readers.codecs.byte_codecs import BYTES, ByteDecoder, SubsampledDecoder
from dask_slides.readers.codecs.fax import FAX, FaxDecoder
from dask_slides.readers.codecs.headers import JPEG, READ
from dask_slides.readers.codecs.image_codecs import ImageDecoder
from dask_slides.readers.codecs.jpeg import JpegDecoder
from dask_slides.readers.codecs.tile_sizes import is_subsampled

DECODED = BYTES | FAX | READ.keys() | {1}
"""Compression tags that are read. Other codecs show the size of a tile only after decoding."""


def strict_decode(page: Any) -> Callable[..., Any]:
    """Return a function like the `decode` of a tifffile page that raises instead of guessing."""
    compression = int(page.compression)
    if is_subsampled(page):
        return SubsampledDecoder(page)
    if compression in BYTES:
        return ByteDecoder(page)
    if compression in JPEG:
        return JpegDecoder(page)
    if compression in READ:
        return ImageDecoder(page)
    if compression in FAX:
        return FaxDecoder(page)
    return page.decode  # type: ignore[no-any-return]
