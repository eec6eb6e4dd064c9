"""Which decoder a page has: each of them raises where tifffile and its libraries guess.

tifffile and the libraries below it cut or pad a stream of another size, fill what is missing with
grey and ignore warnings. So the header of each stream is compared with its page before it is
decoded, and so is the size of what comes out.
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
"""Compression tags that are read; other streams do not say their size before they are decoded."""


def strict_decode(page: Any) -> Callable[..., Any]:
    """Return a function like the `decode` of a page of tifffile that raises where that guesses."""
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
