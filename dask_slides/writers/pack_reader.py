"""Open stored tile packs and read their tiles."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from dask_slides.core.bad_tiles import MARK
from dask_slides.core.geometry import Region, bounds, even_pieces
from dask_slides.core.limits import Limits
from dask_slides.core.types import Array
from dask_slides.errors import (
    SlideError,
    SlideFormatError,
    SlideLimitError,
    SlideNotFoundError,
    TileDecodeError,
    reason_of,
)
from dask_slides.graph.block_array import block_array
from dask_slides.ops.pack import TilePack
from dask_slides.readers.encoded_array import EncodedArray, encoded_pack, encoded_page
from dask_slides.readers.ome_zarr import check_chunks
from dask_slides.readers.remote.byte_ranges import byte_file
from dask_slides.readers.remote.identity import Identity, check_identity, identify
from dask_slides.readers.remote.object_store import open_group
from dask_slides.readers.tiff.tiled_page import TiledPage
from dask_slides.runtime.fork_safety import cleared_after_fork
from dask_slides.writers.packs import COLUMNS, NO_CLASS, tiles_per_shard
from dask_slides.writers.store import shards
from dask_slides.writers.store.arrays import has_checksum_codec
from dask_slides.writers.store.attributes import open_own

MAX_TILES = 2**25
"""Largest number of tiles of a pack; damaged metadata can declare any number."""
TILE_CODECS = ("bytes", "zstd", "crc32c")
"""Zarr codecs of a tile, in the order in which they encode."""
PLAIN_CODECS = ("bytes", "zstd")
"""The same for a pack that was written without shards; zstd has the checksum."""
INDEX_CODECS = ("bytes", "crc32c")
"""Zarr codecs of the index of a shard."""
MAX_READ_BYTES = 2**22
"""Largest single read of several tiles."""
OPEN_PACKS = 16
"""Packs of encoded images that a process keeps open."""
OPEN_SHARDS = 256
"""Shards that a process keeps open."""

Range = tuple[int, int]


@dataclass(frozen=True)
class PackReader:
    """Reads the tiles of a stored pack, in any process.

    It reads shards without Zarr. With Zarr, one tile takes four times as long: Zarr reads the
    index of the shard again for each tile, and runs every step in another thread.
    """

    path: str
    identity: Identity
    shape: tuple[int, ...]
    """(n, h, w, c) of the array."""
    dtype: np.dtype[Any]
    tiles_per_shard: int
    encoded: EncodedArray | None = None
    """How tiles that are images are encoded; None for samples compressed by zstd."""
    fill: int | float = 0
    """Value of chunks that are not stored."""
    has_checksums: bool = True
    """Whether a crc32c follows each compressed tile; if not, zstd has one."""

    def __call__(self, start: int, stop: int) -> Array:
        """Return tiles [start, stop)."""
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self.read(np.arange(start, stop), out)
        return out

    def read(self, numbers: NDArray[np.int64], out: Sequence[Array] | Array) -> None:
        """Read the tiles `numbers` into the arrays `out`, which must be contiguous."""
        if self.encoded is not None:
            self._read_encoded(numbers, out)
            return
        of_shard = numbers // self.tiles_per_shard
        pieces = np.flatnonzero(np.diff(of_shard)) + 1
        for part in np.split(np.arange(len(numbers)), pieces):
            if len(part):
                tiles = [out[i] for i in part.tolist()]
                self._read_shard(int(of_shard[part[0]]), numbers[part], tiles)

    def _read_encoded(self, numbers: NDArray[np.int64], out: Sequence[Array] | Array) -> None:
        """Read tiles that are images."""
        check_identity(f"{self.path}/zarr.json", self.identity)
        assert self.encoded is not None
        height, width = self.shape[1:3]
        try:
            page = _page_of(self)
            if self.encoded.tile == (height, width):
                page.read_tiles(numbers.tolist(), out)
                return
            regions = [Region(number * height, 0, height, width) for number in numbers.tolist()]
            for index, part, pixels in page.gather(regions):
                out[index][part.slices(regions[index].y)] = pixels
            return
        except SlideError:
            raise
        except Exception as error:  # each codec has its own exceptions
            reason = reason_of(error)
        raise self._damaged(numbers, reason)

    def _damaged(self, numbers: NDArray[np.int64], reason: str) -> TileDecodeError:
        return TileDecodeError(
            f"{self.path}: tiles {numbers[0]} to {numbers[-1]} cannot be read ({reason}); the "
            "store is damaged, write it again"
        )

    def _read_shard(self, shard: int, numbers: NDArray[np.int64], out: list[Array]) -> None:
        try:
            inside = (numbers - shard * self.tiles_per_shard).tolist()
            for data, tile in zip(_open_shard(self, shard).encoded(inside), out, strict=True):
                shards.decompress(
                    shards.remove_checksum(data) if self.has_checksums else data, tile
                )
            return
        except SlideError:
            raise
        except Exception as error:  # each codec has its own exceptions
            reason = reason_of(error)
        # not in the except block: an error of a codec often cannot be pickled
        raise self._damaged(numbers, reason)


@cleared_after_fork
@lru_cache(maxsize=OPEN_PACKS)
def _page_of(reader: PackReader) -> TiledPage:
    assert reader.encoded is not None
    return encoded_page(reader.encoded, reader.fill, False, None)


class Shard:
    """An open shard. The byte ranges of its tiles are read once, on opening."""

    def __init__(self, path: str, tiles: int) -> None:
        identity = identify(path)
        self._file = byte_file(path, identity)
        if tiles == 1:  # not sharded: the file is the tile
            self._ranges = [(0, identity.size)]
            return
        start = identity.size - shards.index_size(tiles)
        (data,) = self._file.ranges([(start, identity.size)])
        index = shards.decode_index(bytes(data)).tolist()
        self._ranges = [(offset, offset + length) for offset, length in index]

    def encoded(self, numbers: list[int]) -> Iterator[bytes]:
        """Yield the encoded bytes of tiles, by their number in the shard."""
        ranges = [self._ranges[number] for number in numbers]
        groups = _adjacent(ranges)
        reads = [(group[0][0], group[-1][1]) for group in groups]
        for group, (start, _), data in zip(groups, reads, self._file.ranges(reads), strict=True):
            for first, last in group:
                yield bytes(data[first - start : last - start])


def _adjacent(ranges: list[Range]) -> list[list[Range]]:
    """Group ranges that follow each other in the file, to read each group at once."""
    groups: list[list[Range]] = []
    for start, stop in ranges:
        if groups and groups[-1][-1][1] == start and stop - groups[-1][0][0] <= MAX_READ_BYTES:
            groups[-1].append((start, stop))
        else:
            groups.append([(start, stop)])
    return groups


@lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(reader: PackReader, shard: int) -> Shard:
    check_identity(f"{reader.path}/zarr.json", reader.identity)
    try:
        return Shard(f"{reader.path}/tiles/c/{shard}/0/0/0", reader.tiles_per_shard)
    except SlideNotFoundError:
        raise ValueError(f"shard {shard} is missing") from None


def _read_block(reader: PackReader, starts: tuple[int, ...], block_id: Any) -> Array:
    return reader(starts[block_id[0]], starts[block_id[0] + 1])


def _check_codecs(path: str, array: Any) -> None:
    """Raise SlideFormatError unless the tiles are encoded as `write` encodes them."""
    codecs = array.metadata.to_dict()["codecs"]
    index, location = INDEX_CODECS, "end"
    if array.shards is not None:
        sharding = codecs[0]["configuration"]
        codecs, location = sharding["codecs"], sharding.get("index_location", "end")
        index = tuple(codec["name"] for codec in sharding["index_codecs"])
    names = tuple(codec["name"] for codec in codecs)
    order = codecs[0].get("configuration", {}).get("endian") or sys.byteorder
    is_plain = names == PLAIN_CODECS and array.shards is None
    found = (TILE_CODECS if is_plain else names, index, location, order)
    if found != (TILE_CODECS, INDEX_CODECS, "end", sys.byteorder):
        raise SlideFormatError(
            f"{path}: tiles are encoded by {', '.join(names)} ({order} endian), or shards in "
            "another way than write() does; write the pack again"
        )


def _check_declared(path: str, tiles: Any, columns: list[Any], coverage: list[Any]) -> None:
    """Raise unless the arrays of a pack fit each other and the limits; no array is read."""
    for array in (tiles, *columns, *coverage):
        check_chunks(path, array, Limits())
    if max(array.size for array in (*columns, *coverage)) > MAX_TILES or tiles.ndim != 4:
        raise ValueError("tiles")
    nbytes = math.prod(tiles.shape[1:]) * tiles.dtype.itemsize
    if nbytes > Limits.tile_bytes:
        raise SlideLimitError(
            f"{path}: declares tiles of {nbytes:,} bytes, and the limit is {Limits.tile_bytes:,}; "
            "write the pack again with smaller tiles"
        )
    if encoded_pack(path, tiles) is not None:
        _check_columns(tiles, columns)
        return
    if tiles.chunks != (1, *tiles.shape[1:]):
        raise ValueError("chunks")
    _check_columns(tiles, columns)
    _check_codecs(path, tiles)


def _check_columns(tiles: Any, columns: list[Any]) -> None:
    if any(array.shape != tiles.shape[:1] for array in columns):
        raise ValueError("tiles")


def open_pack(path: Any) -> TilePack:
    """Open a pack that `write` made; no tile is read.

    Parameters
    ----------
    path : str or path
        The ``*.tiles.zarr`` folder, or its address in a bucket.

    Returns
    -------
    TilePack
        ``.tiles`` is lazy, one shard per chunk; the columns are in memory.

    Raises
    ------
    SlideNotFoundError
        There is nothing at the path.
    SlideFormatError
        The path is not a pack of dask_slides.
    SlideLimitError
        The pack declares tiles above the limit.

    Examples
    --------
    >>> import dask_slides as ds
    >>> slide = ds.sample_slide("a.tif", shape=(2048, 2048))
    >>> path = ds.write(ds.pack_tiles(slide, tile_size=64, top_k=5), "a.tiles.zarr")
    >>> ds.open_pack(path)[:2].shape
    (2, 64, 64, 3)
    """
    return open_own(path, "tile pack", "give a *.tiles.zarr folder", _open_pack)


def _open_pack(path: str) -> TilePack:
    group = open_group(path, consolidated=False)  # the arrays are what is decoded, not a copy
    attributes = group.attrs.asdict()
    if attributes.pop(MARK)["kind"] != "pack":
        raise KeyError(MARK)
    if attributes.get("mpp") is not None:
        float(attributes["mpp"])
    array = group["tiles"]
    classes = attributes.get("classes")
    columns = [group[name] for name in (*COLUMNS, *["label"] * (classes is not None))]
    coverage = [] if classes is None else [group["coverage"]]
    _check_declared(path, array, columns, coverage)
    y, x, score, fraction, *label = (np.asarray(column[...]) for column in columns)
    shares = [np.asarray(one[...], np.float64) for one in coverage]
    per_shard = int((array.shards or array.chunks)[0])
    identity = identify(f"{path}/zarr.json")
    reader = PackReader(
        path,
        identity,
        array.shape,
        array.dtype,
        per_shard,
        encoded_pack(f"{path}/tiles", array),
        array.metadata.fill_value.item(),
        array.shards is not None or has_checksum_codec(array),
    )
    pack = TilePack(_lazy_tiles(reader), y, x, score, attributes, reader, fraction)
    return pack if classes is None else _annotated(pack, label[0], shares[0])


def _annotated(pack: TilePack, label: Array, coverage: NDArray[np.float64]) -> TilePack:
    """Return the pack with the class of each tile, and the share of it that each class covers."""
    classes = pack.attributes["classes"]
    known = (label >= NO_CLASS) & (label < len(classes))
    if coverage.shape != (len(pack), len(classes)) or not known.all():
        raise ValueError("classes")
    names = np.array([*map(str, classes), ""])  # the last one is that of number -1
    return replace(pack, labels=names[label], coverage=coverage)


def _lazy_tiles(reader: PackReader) -> da.Array:
    count, *shape = reader.shape
    if not count:
        return da.empty(reader.shape, dtype=reader.dtype, chunks=(1, *shape))
    per_task = reader.tiles_per_shard
    if per_task == 1:  # no shards: some tiles together all the same, to have fewer tasks
        per_task = tiles_per_shard(count, math.prod(shape) * reader.dtype.itemsize)
    lengths = even_pieces(count, per_task)
    tiles = da.map_blocks(
        partial(_read_block, reader, bounds(lengths)),
        chunks=(lengths, *((n,) for n in shape)),
        dtype=reader.dtype,
        meta=np.empty((0,) * 4, reader.dtype),
        name=f"pack-{tokenize(reader)}",
    )
    return block_array(tiles)
