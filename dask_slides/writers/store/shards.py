"""Encode and decode the chunks and shards of arrays that this package creates.

A chunk is compressed by zstd and ends with a checksum (crc32c). A shard holds its chunks one after
another; its index, at the end, has offset and length of each chunk, and a checksum of its own.
Stores without shards are for readers that know few codecs: there zstd writes the checksum.
Zarr does the same in threads of its own, each of which keeps memory, and reads the index again for
each chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import google_crc32c
import numpy as np

from dask_slides.core.types import Array

Data = bytes | memoryview

ZSTD_LEVEL = 1
"""Twice as fast as level 3, and files of slides are at most 1 % larger."""
CHECKSUM_BYTES = 4
_CHECKED = 0x48674BC7
"""CRC-32C of any bytes that their own CRC-32C follows, so that no copy without it is needed."""
_NO_CHUNK = np.iinfo(np.uint64).max
"""Offset and length of a chunk that a shard does not hold."""


def compress(chunk: Array, shape: tuple[int, ...], checksum: bool = False) -> bytes:
    """Compress a chunk, in little-endian byte order; zeros fill it up to `shape`.

    With `checksum`, zstd adds one of its own, which each decoder compares.
    """
    from numcodecs import Zstd

    little = np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<"))
    if little.shape != shape:
        padded = np.zeros(shape, little.dtype)
        padded[tuple(slice(n) for n in little.shape)] = little
        little = padded
    return bytes(Zstd(ZSTD_LEVEL, checksum).encode(little))


def decompress(data: Data, out: Array) -> None:
    """Decompress a chunk into the contiguous array `out`; ValueError if it is too short."""
    import imagecodecs

    target = out.reshape(-1).view(np.uint8).data
    stream: Any = data  # the annotations of imagecodecs lack memoryview
    if len(imagecodecs.zstd_decode(stream, out=target)) != target.nbytes:
        raise ValueError("the chunk is too short")


def checksum_of(data: Data) -> bytes:
    """Return the checksum of `data`."""
    checksum: int = google_crc32c.value(data)
    return checksum.to_bytes(CHECKSUM_BYTES, "little")


def add_checksum(data: bytes) -> bytes:
    """Return `data` with its checksum at the end."""
    return data + checksum_of(data)


def remove_checksum(data: bytes) -> memoryview:
    """Return `data` without the checksum at its end; ValueError if that is wrong."""
    if google_crc32c.value(data) != _CHECKED:
        raise ValueError("checksum mismatch")
    return memoryview(data)[:-CHECKSUM_BYTES]


def encode_shard(pixels: Array, shard: tuple[int, ...], chunk: tuple[int, ...]) -> bytes:
    """Return a shard of shape `shard`; chunks that lie beyond `pixels` are not in it."""
    counts = [n // size for n, size in zip(shard, chunk, strict=True)]
    index = np.full((*counts, 2), _NO_CHUNK, "<u8")
    parts, offset = [], 0
    for position in np.ndindex(*counts):
        edges = zip(position, chunk, strict=True)
        part = pixels[tuple(slice(n * size, (n + 1) * size) for n, size in edges)]
        if part.size:
            parts.append(add_checksum(compress(part, chunk)))
            index[position] = offset, len(parts[-1])
            offset += len(parts[-1])
    return b"".join([*parts, add_checksum(index.tobytes())])


def shard_of(chunks: Iterable[Data | None]) -> list[Data]:
    """Return a shard of encoded `chunks`, in rows from the top left; None is not stored.

    It is in parts that follow one another, as joining them costs as much as reading the file.
    """
    entries: list[tuple[int, int]] = []
    parts: list[Data] = []
    offset = 0
    for chunk in chunks:
        if chunk is None:
            entries.append((_NO_CHUNK, _NO_CHUNK))
            continue
        parts += [chunk, checksum_of(chunk)]
        length = len(chunk) + CHECKSUM_BYTES
        entries.append((offset, length))
        offset += length
    return [*parts, add_checksum(np.array(entries, "<u8").tobytes())]


def index_size(chunks: int) -> int:
    """Return the bytes of the index of a shard of so many `chunks`."""
    return 16 * chunks + CHECKSUM_BYTES


def decode_index(data: bytes) -> Array:
    """Return offset and length of each chunk, (chunks, 2); ValueError if the index is damaged."""
    return np.frombuffer(remove_checksum(data), "<u8").reshape(-1, 2)
