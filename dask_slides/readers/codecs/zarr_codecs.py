"""The codecs of imagecodecs for Zarr v3, under the names that it registers itself.

imagecodecs has them from version 2026.5, which needs Python 3.12. For older versions this module
has decoders of the same names, `imagecodecs_jpeg` and so on. Entry points make Zarr find them; a
process that runs dask_slides without installing it calls `register`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import imagecodecs
from zarr.abc.codec import ArrayBytesCodec, BytesBytesCodec
from zarr.registry import register_codec

from dask_slides.errors import SlideUnsupportedError

NAMES = ("jpeg", "jpeg2k", "jpegxl", "webp", "lzw", "zlib")
"""Codecs of imagecodecs in stores that hold images."""


def _jpeg(data: Any, tables: Any = None, header: Any = None, **colours: Any) -> Any:
    if header is not None:
        data = b"".join((base64.b64decode(header), bytes(data), b"\xff\xd9"))
    return imagecodecs.jpeg8_decode(
        data,
        tables=None if tables is None else base64.b64decode(tables),
        colorspace=colours.get("colorspace_jpeg"),
        outcolorspace=colours.get("colorspace_data"),
    )


def _webp(data: Any, index: Any = None, hasalpha: Any = None, **_: Any) -> Any:
    return imagecodecs.webp_decode(data, index=index, hasalpha=hasalpha)


def _jpeg2k(data: Any, planar: Any = None, **_: Any) -> Any:
    return imagecodecs.jpeg2k_decode(data, planar=planar)


def _jpegxl(data: Any, **_: Any) -> Any:
    return imagecodecs.jpegxl_decode(data)


class _Decoder:
    """Decode chunks in a thread; nothing is encoded."""

    name = ""
    configuration: dict[str, Any]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Return the codec that the metadata of an array describe."""
        return cls(dict(data.get("configuration", {})))  # type: ignore[call-arg]

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as metadata of an array."""
        more = {"configuration": self.configuration} if self.configuration else {}
        return {"name": self.name, **more}

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        raise NotImplementedError

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk: Any, chunk_spec: Any) -> Any:
        raise SlideUnsupportedError(
            f"{self.name} is only decoded here; encode with imagecodecs 2026.5 or newer"
        )

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Raise NotImplementedError, as the size depends on the pixels."""
        raise NotImplementedError


def _image_codec(short: str, decode: Callable[..., Any]) -> Any:
    """Return the class of a codec from arrays to bytes."""

    def decode_sync(self: Any, chunk_bytes: Any, chunk_spec: Any) -> Any:
        pixels = decode(chunk_bytes.as_numpy_array(), **self.configuration)
        buffer = chunk_spec.prototype.nd_buffer
        return buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    return _codec(short, ArrayBytesCodec, decode_sync)


def _bytes_codec(short: str, decode: Callable[..., Any]) -> Any:
    """Return the class of a codec from bytes to bytes."""

    def decode_sync(self: Any, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return chunk_spec.prototype.buffer.from_bytes(decode(chunk_bytes.as_numpy_array()))

    return _codec(short, BytesBytesCodec, decode_sync)


def _codec(short: str, base: Any, decode_sync: Callable[..., Any]) -> Any:
    @dataclass(frozen=True)
    class Codec(_Decoder, base):  # type: ignore[misc]
        configuration: dict[str, Any] = field(default_factory=dict)
        name = f"imagecodecs_{short}"
        is_fixed_size = False
        _decode_sync = decode_sync

    Codec.__name__ = Codec.__qualname__ = short.capitalize()
    return Codec


try:
    from imagecodecs.zarr import Jpeg, Jpeg2k, Jpegxl, Lzw, Webp, Zlib
except ImportError:
    Jpeg = _image_codec("jpeg", _jpeg)
    Jpeg2k = _image_codec("jpeg2k", _jpeg2k)
    Jpegxl = _image_codec("jpegxl", _jpegxl)
    Webp = _image_codec("webp", _webp)
    Lzw = _bytes_codec("lzw", imagecodecs.lzw_decode)
    Zlib = _bytes_codec("zlib", imagecodecs.zlib_decode)


@lru_cache(maxsize=1)
def register() -> None:
    """Register the codecs with Zarr. Registering the same class again changes nothing."""
    classes = zip(NAMES, (Jpeg, Jpeg2k, Jpegxl, Webp, Lzw, Zlib), strict=True)
    for name, codec in classes:
        register_codec(f"imagecodecs_{name}", codec)
