"""Decode a chunk as Zarr does with the codecs in its metadata, to check what was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.core.types import Array


def decoded_chunk(encoding: TileEncoding, data: bytes, dtype: np.dtype[Any]) -> Array:
    """Return the samples (h, w, c) of a chunk; ValueError if they do not fill it."""
    import imagecodecs

    images: dict[str, Callable[[bytes], Array]] = {
        "imagecodecs_jpeg": imagecodecs.jpeg8_decode,
        "imagecodecs_jpeg2k": imagecodecs.jpeg2k_decode,
        "imagecodecs_webp": imagecodecs.webp_decode,
    }
    height, width = encoding.tile
    name = encoding.serializer["name"]
    if name in images:
        return images[name](data).reshape(height, width, -1)
    streams: dict[str, Callable[[bytes], Any]] = {
        "imagecodecs_lzw": imagecodecs.lzw_decode,
        "imagecodecs_zlib": imagecodecs.zlib_decode,
        "zstd": imagecodecs.zstd_decode,
    }
    samples = streams[encoding.compressors[0]["name"]](data)
    endian = encoding.serializer.get("configuration", {}).get("endian", "little")
    stored = dtype.newbyteorder(">" if endian == "big" else "<")
    return np.frombuffer(samples, stored).reshape(height, width, -1)
