"""The base class of all decoders: they decompress tiles, and tifffile unpacks the samples."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.readers.codecs.headers import Data


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


def tags_of_samples(page: Any, samples: int) -> dict[str, Any]:
    """Return the tags that describe the decoded `samples` of `page`, which take whole bytes."""
    # the codec has already converted the colours
    return {
        "photometric": 2 if samples == 3 else 1,
        "subsampling": None,
        "predictor": 1,
        "bitspersample": 8 * page.dtype.itemsize,
    }


def bytes_of_samples(pixels: Array, page: Any) -> memoryview:
    """Return the bytes that an uncompressed page like `page` has for `pixels` (h, w, s)."""
    dtype = pixels.dtype.newbyteorder(page.parent.byteorder)
    return np.ascontiguousarray(pixels, dtype).reshape(-1).data
