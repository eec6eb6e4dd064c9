"""Read Zarr arrays whose chunks are encoded images as fast as the TIFF that they were copied from.

Zarr decodes every chunk in full, and does not notice most damage of a JPEG. Here the chunks are
read as tiles of a TIFF page: checked, decoded in the thread of the caller, and reduced while they
are decoded.
"""

from __future__ import annotations

import io
import math
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import google_crc32c
import numpy as np

from dask_slides.core.types import Array
from dask_slides.errors import SlideNotFoundError
from dask_slides.readers.codecs.tile_bytes import TileByteReader
from dask_slides.readers.remote.byte_ranges import ByteFile, Data, byte_file
from dask_slides.readers.remote.identity import identify
from dask_slides.readers.tiff.tiled_page import TiledPage
from dask_slides.readers.tile_status import TileStatus

_CHECKSUM = 4
_ENTRY = np.dtype("<u8")
_NO_CHUNK = np.iinfo(np.uint64).max
_MOST_ROWS = 2**31
"""Rows that the header of a page can declare; a pack as one image may have more."""
_OPEN_SHARDS = 64
"""Shards of an array that stay open in a process."""
_INTERLEAVED = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
_ZSTD = 50000
_COMPRESSIONS = {
    ("imagecodecs_jpeg",): 7,
    ("imagecodecs_jpeg2k",): 34712,
    ("imagecodecs_jpegxl",): 50002,
    ("imagecodecs_webp",): 50001,
    ("bytes", "imagecodecs_lzw"): 5,
    ("bytes", "imagecodecs_zlib"): 8,
    ("bytes", "zstd"): _ZSTD,
}
"""Compression tag of a TIFF by the names of the codecs of a chunk."""
_BYTES = (5, 8, _ZSTD)
"""Those that compress bytes: a pixel may have any number of samples."""
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


@dataclass(frozen=True)
class EncodedArray:
    """A sharded array (c, y, x) whose chunks are encoded with their samples together."""

    path: str
    shape: tuple[int, int]
    tile: tuple[int, int]
    per_shard: tuple[int, int]
    """Tiles of a shard along y and along x."""
    samples: int
    dtype: np.dtype[Any]
    compression: int
    """Compression tag of a TIFF whose tiles are the same streams."""
    big_endian: bool
    has_checksums: bool
    """Whether each chunk ends with its CRC-32C."""
    fill: int | float
    """The value of chunks that are not stored."""
    key: str = "c/0/{row}/{column}"
    """File of a shard, by its row and column."""

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles along y and along x."""
        height, width = self.shape
        return -(-height // self.tile[0]), -(-width // self.tile[1])

    def file(self, row: int, column: int) -> str:
        """Return the path of a shard."""
        return f"{self.path}/{self.key.format(row=row, column=column)}"

    def shard_of(self, number: int) -> tuple[int, int, int]:
        """Return row and column of the shard of a tile, and its position in the shard."""
        (down, across), columns = self.per_shard, self.tiles[1]
        row, column = divmod(number, columns)
        inside = row % down * across + column % across
        return row // down, column // across, inside


@dataclass(frozen=True)
class _ChunkCodecs:
    """What the metadata of an array say about its chunks."""

    compression: int
    big_endian: bool
    has_checksums: bool


def encoded_array(path: str, array: Any) -> EncodedArray | None:
    """Return how a Zarr `array` (c, y, x) at `path` is encoded; None if Zarr must read it."""
    if len(array.shape) != 3:
        return None
    codecs = _codecs_of(array, [_INTERLEAVED])
    samples, *shape = array.shape
    if codecs is None or not array.chunks[0] == array.shards[0] == samples:
        return None
    if samples not in (1, 3) and codecs.compression not in _BYTES:
        return None
    return _array(path, array, shape, array.chunks[1:], array.shards[1:], samples, codecs)


def encoded_pack(path: str, array: Any) -> EncodedArray | None:
    """Return how the tiles (n, h, w, c) of a pack at `path` are encoded; None if as samples.

    The tiles are read as one image, one below the other.
    """
    if len(array.shape) != 4 or array.shape[3] not in (1, 3):
        return None
    codecs = _codecs_of(array, [])
    count, height, width, samples = array.shape
    one, *chunk, together = array.chunks
    if codecs is None or (one, together) != (1, samples) or height % chunk[0] or width % chunk[1]:
        return None
    if codecs.compression == _ZSTD and tuple(chunk) == (height, width):
        return None  # the samples of a tile in one block
    per_shard, *sides = array.shards
    if sides != [height, width, samples]:
        return None
    shape, shard = (count * height, width), (per_shard * height, width)
    found = _array(path, array, shape, chunk, shard, samples, codecs)
    return replace(found, key="c/{row}/0/0/0")


def _array(
    path: str,
    array: Any,
    shape: Sequence[int],
    tile: Sequence[int],
    shard: Sequence[int],
    samples: int,
    codecs: _ChunkCodecs,
) -> EncodedArray:
    return EncodedArray(
        path,
        (shape[0], shape[1]),
        (tile[0], tile[1]),
        (shard[0] // tile[0], shard[1] // tile[1]),
        samples,
        np.dtype(array.dtype).newbyteorder("="),
        codecs.compression,
        codecs.big_endian,
        codecs.has_checksums,
        array.metadata.fill_value.item(),
    )


def _codecs_of(array: Any, first: list[dict[str, Any]]) -> _ChunkCodecs | None:
    """Return the codecs of a sharded array if they begin with `first` and decode images."""
    metadata = _plain(array.metadata.to_dict())
    if metadata.get("zarr_format") != 3 or metadata["codecs"][0]["name"] != "sharding_indexed":
        return None
    keys, sharding = metadata["chunk_key_encoding"], metadata["codecs"][0]["configuration"]
    codecs = sharding["codecs"]
    if codecs[: len(first)] != first:
        return None
    codecs = codecs[len(first) :]
    checked = codecs[-1] == {"name": "crc32c"}
    codecs = codecs[:-1] if checked else codecs
    compression = _COMPRESSIONS.get(tuple(one["name"] for one in codecs))
    is_plain = compression == _ZSTD or (codecs and not codecs[-1].get("configuration"))
    if (
        compression is None
        or not is_plain
        or sharding["index_codecs"] != _INDEX_CODECS
        or sharding.get("index_location", "end") != "end"
        or keys["name"] != "default"
        or keys.get("configuration", {}).get("separator", "/") != "/"
    ):
        return None
    endian = codecs[0].get("configuration", {}).get("endian", "little")
    return _ChunkCodecs(compression, endian == "big", checked)


def _plain(value: Any) -> Any:
    """Return metadata as JSON has them: lists and no tuples."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def encoded_page(
    array: EncodedArray, fill: Any, cache_full: bool, status: TileStatus | None
) -> TiledPage:
    """Return an array as a page of tiles; the parameters are those of TiledPage."""
    stored = ShardReader(array)
    return TiledPage(stored, tiff_page(array), fill, cache_full, status, absent=array.fill)


def tiff_page(array: EncodedArray) -> Any:
    """Return a page of tifffile that describes tiles like the chunks of `array`."""
    import tifffile

    order = ">" if array.big_endian else "<"
    height, width = array.shape
    bits, kind = 8 * array.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    # JPEG streams say by themselves which colours they hold
    colour = 6 if array.compression == 7 else 2
    tags = {
        256: [width], 257: [min(height, _MOST_ROWS)], 258: [bits], 259: [array.compression],
        262: [colour if array.samples == 3 else 1], 277: [array.samples],
        322: [array.tile[1]], 323: [array.tile[0]], 324: [0], 325: [0], 339: [kind],
    }  # fmt: skip
    entries = b"".join(
        struct.pack(order + "HHII", code, 4, 1, value) for code, (value,) in tags.items()
    )
    magic = b"MM\0*" if array.big_endian else b"II*\0"
    head = magic + struct.pack(order + "IH", 8, len(tags))
    with tifffile.TiffFile(io.BytesIO(head + entries + bytes(4))) as tiff:
        page = tiff.pages.first
    page.imagelength = height
    count = math.prod(array.tiles)
    page.dataoffsets = page.databytecounts = np.ones(count, np.int64)
    return page


class ShardReader(TileByteReader):
    """Read the chunks of an array by tile number. Threads may share it."""

    def __init__(self, array: EncodedArray) -> None:
        self._array = array
        count = math.prod(array.tiles)
        # which tiles are stored is known when their shard is read
        self.present: Array = np.ones(count, bool)
        self._lock = threading.Lock()
        self._shards: OrderedDict[tuple[int, int], Shard | None] = OrderedDict()

    @property
    def counts(self) -> Array:
        """Byte counts of the tiles of the first shard that holds any; 0 for all others."""
        array = self._array
        found: Array = np.zeros(math.prod(array.tiles), np.int64)
        (down, across), (rows, columns) = array.per_shard, array.tiles
        for row in range(0, rows, down):
            for column in range(0, columns, across):
                shard = self._shard(row // down, column // across)
                if shard is None or not (shard.index[:, 1] != _NO_CHUNK).any():
                    continue
                for number in self._numbers(row, column):
                    start, length = shard.index[array.shard_of(number)[2]].tolist()
                    found[number] = length if start != _NO_CHUNK else 0
                return found
        return found

    def _numbers(self, row: int, column: int) -> Iterator[int]:
        """Yield the tiles of the shard whose first tile is at `row`, `column`."""
        (down, across), (rows, columns) = self._array.per_shard, self._array.tiles
        for y in range(row, min(row + down, rows)):
            yield from range(y * columns + column, y * columns + min(column + across, columns))

    def fetch(self, numbers: list[int]) -> Iterator[tuple[int, Data | None]]:
        """Yield number and stream of each tile; None for a tile that is not stored."""
        by_shard: dict[tuple[int, int], dict[int, int]] = {}
        for number in numbers:
            row, column, inside = self._array.shard_of(number)
            by_shard.setdefault((row, column), {})[number] = inside
        for place, tiles in by_shard.items():
            shard = self._shard(*place)
            if shard is None:
                yield from ((number, None) for number in tiles)
                continue
            offsets, counts = {}, {}
            for number, inside in tiles.items():
                start, length = shard.index[inside].tolist()
                offsets[number] = counts[number] = 0
                if start != _NO_CHUNK:
                    # the readers of tiles take offset 0 for an absent one
                    offsets[number], counts[number] = start + 1, length
            file = _Shifted(shard.file)
            for number, data in self.read_streams(file, list(tiles), offsets, counts):
                yield number, None if data is None else self._checked(number, data)

    def _checked(self, number: int, data: Data) -> Data:
        """Return a stream without its checksum; ValueError if that is wrong."""
        if not self._array.has_checksums:
            return data
        content = data[:-_CHECKSUM]
        if google_crc32c.value(bytes(content)) != int.from_bytes(data[-_CHECKSUM:], "little"):
            raise ValueError(f"the checksum of tile {number} is wrong")
        return content

    def _shard(self, row: int, column: int) -> Shard | None:
        """Return an open shard; None if the store does not hold it."""
        with self._lock:
            if (row, column) in self._shards:
                self._shards.move_to_end((row, column))
                return self._shards[row, column]
        shard = _open_shard(self._array.file(row, column), self._array.per_shard)
        with self._lock:
            self._shards[row, column] = shard
            while len(self._shards) > _OPEN_SHARDS:
                self._shards.popitem(last=False)
        return shard


@dataclass(frozen=True)
class Shard:
    """An open file of chunks."""

    file: ByteFile
    index: Array
    """(chunks, 2) uint64: offset and length of each chunk."""


@dataclass(frozen=True)
class _Shifted:
    """A file whose offsets are one larger."""

    file: ByteFile

    def ranges(self, wanted: list[tuple[int, int]]) -> Iterator[Data]:
        return self.file.ranges([(start - 1, stop - 1) for start, stop in wanted])


def _open_shard(path: str, per_shard: tuple[int, int]) -> Shard | None:
    """Return a shard with its index; None if there is no such file."""
    try:
        identity = identify(path)
    except SlideNotFoundError:
        return None
    file = byte_file(path, identity)
    length = 2 * math.prod(per_shard) * _ENTRY.itemsize
    start = identity.size - length - _CHECKSUM
    if start < 0:
        raise ValueError("a shard is shorter than its index")
    (data,) = file.ranges([(start, identity.size)])
    content = bytes(data[:length])
    if google_crc32c.value(content) != int.from_bytes(data[length:], "little"):
        raise ValueError("the index of a shard is damaged")
    return Shard(file, np.frombuffer(content, _ENTRY).reshape(-1, 2))
