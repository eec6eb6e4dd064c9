"""Chunks of Zarr that decode to no more bytes than they have, whatever their streams say.

The codecs of Zarr allocate what the header of a stream declares, or go on while there is more:
a few kilobytes from a stranger become all memory of the machine. So they are given an array of
the size of a chunk to decode into, or the header is looked at first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dask_slides.errors import SlideUnsupportedError

_INNER = ("_zstd_codec", "_gzip_codec", "_blosc_codec", "_codec")
"""Where a codec of Zarr v3 keeps the one of numcodecs that does the work."""
_GROWS_LITTLE = frozenset({
    "delta", "shuffle", "bitround", "quantize", "fixedscaleoffset", "astype", "packbits",
    "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3",
})  # fmt: skip
"""Codecs of numcodecs that give as many bytes as they get, or at most `_ROOM` times that."""
_PLAIN = frozenset({"BytesCodec", "TransposeCodec", "Crc32cCodec"})
"""The same of Zarr v3."""
_ROOM = 8
"""How many times the bytes of a chunk a stream may have below filters."""
_SLACK = 64
"""Bytes for checksums."""


def _into(name: str) -> Callable[[Any, int], Any]:
    """Return the decoder of imagecodecs that stops at the end of what it is given."""

    def decode(data: Any, most: int) -> Any:
        import imagecodecs

        found = getattr(imagecodecs, f"{name}_decode")(data, out=np.empty(most, np.uint8))
        return np.frombuffer(found, np.uint8)

    return decode


_DECODERS = {name: _into(name) for name in ("zstd", "zlib", "gzip")}
_SIZES = {"blosc": slice(4, 8), "lz4": slice(0, 4)}
"""Where in the stream of a codec the number of bytes stands that it allocates."""


class _Bounded:
    """A codec of numcodecs that decodes to `most` bytes at the most."""

    def __init__(self, codec: Any, most: int) -> None:
        self._codec = codec
        self._most = most

    def decode(self, data: Any, out: Any = None) -> Any:
        """Return the bytes of a stream; ValueError where they are more."""
        name = self._codec.codec_id
        if name in _DECODERS:
            return _DECODERS[name](data, self._most)
        size = int.from_bytes(bytes(memoryview(data).cast("B")[_SIZES[name]]), "little")
        if size > self._most:
            raise ValueError(f"a chunk is of {size:,} bytes where its array says {self._most:,}")
        return self._codec.decode(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)


def bounded(array: Any, where: str) -> Any:
    """Return `array` of Zarr, no chunk of which takes more memory than its size.

    Raises
    ------
    SlideUnsupportedError
        It has a codec that does not tell how much it decodes to.
    """
    chunk = math.prod(array.chunks) * array.dtype.itemsize
    for owner, name, codec in _inner(array.async_array.codec_pipeline):
        known = codec.codec_id if codec is not None else type(owner).__name__
        if known in _DECODERS or known in _SIZES:
            most = chunk * (_ROOM if name == "compressor" and owner.filters else 1) + _SLACK
            # frozen values, whose cached properties lie in their dictionary too
            object.__setattr__(owner, name, _Bounded(codec, most))
        elif known not in _GROWS_LITTLE and known not in _PLAIN:
            raise SlideUnsupportedError(
                f"{where}: is compressed as {known}, whose chunks do not tell their size "
                "beforehand; write it with zstd, blosc or gzip"
            )
    return array


def _inner(codecs: Any) -> Iterator[tuple[Any, str, Any]]:
    """Yield who has a codec of numcodecs, under which name, and the codec; None without one."""
    for codec in codecs:
        kind = type(codec).__name__
        if kind == "ShardingCodec":
            yield from _inner(codec.codecs)
        elif kind == "V2Codec":
            yield from ((codec, "filters", one) for one in codec.filters or ())
            if codec.compressor is not None:
                yield codec, "compressor", codec.compressor
        else:
            name = next((name for name in _INNER if hasattr(codec, name)), "")
            yield codec, name, getattr(codec, name) if name else None
