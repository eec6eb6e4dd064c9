"""Write tile packs as Zarr: one tile per chunk, one shard per task.

A pack is a Zarr v3 group. `tiles` is (n, h, w, c). The other arrays have one row per tile:

- `y`, `x`: int64, top and left in pixels of level 0 of the slide;
- `score`, `tissue_fraction`: float64;
- with annotations `label`, int32, the number of the class in the attribute `classes`, or -1 for
  none, and `coverage`, float64 (n, classes), the share of the tile that each class covers.

Classes are numbers because Zarr v3 has no standard for arrays of strings of a fixed length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from dask_slides.core.bad_tiles import OK
from dask_slides.core.geometry import bounds, even_pieces
from dask_slides.core.types import Array
from dask_slides.core.version import __version__
from dask_slides.graph.chunks import MAX_TASKS
from dask_slides.graph.tiles import TASK_BYTES, SlideTileReader, reading_bytes
from dask_slides.ops.pack import TilePack
from dask_slides.runtime.scheduler import Progress, check_memory, compute, memory_per_thread
from dask_slides.writers.pack_chunks import EncodedChunks, PackChunks
from dask_slides.writers.store.arrays import compressors, put_shards, shards_of
from dask_slides.writers.store.attributes import own_attributes
from dask_slides.writers.store.manifest import pixels_of_task, record_task, write_file
from dask_slides.writers.store.shards import shard_of
from dask_slides.writers.store.transaction import Target, Transaction, facts_of, transaction

FEW_SHARDS = 16
"""Shards that a small pack is divided into, so that there are tasks for all threads."""
SMALL_SHARD_BYTES = 2**23
"""Smallest shard of a small pack, in bytes of its tiles."""

COLUMNS = ("y", "x", "score", "tissue_fraction")
"""Arrays with one value per tile that every pack has."""
NO_CLASS = -1
"""Number in the array `label` of a tile that belongs to no class."""

ReadingBytes = Callable[[int], int]
"""Returns the peak bytes of reading a number of tiles, without the tiles themselves."""


def tiles_per_shard(count: int, nbytes: int) -> int:
    """Return the usual number of tiles of `nbytes` per shard."""
    divided = max(SMALL_SHARD_BYTES // nbytes, -(-count // FEW_SHARDS))
    tiles = max(1, min(TASK_BYTES // nbytes, divided), -(-count // MAX_TASKS))
    return min(tiles, max(1, count))


def task_bytes_of_pack(per_shard: int, nbytes: int, reading: ReadingBytes) -> int:
    """Return the peak bytes of a task: its tiles, the encoded shard, and the reading."""
    tiles, encoded = per_shard * nbytes, per_shard * nbytes
    return tiles + encoded + reading(per_shard)


def shards_that_fit(count: int, nbytes: int, reading: ReadingBytes) -> int:
    """Return the tiles per shard for the memory that the active scheduler has per thread."""
    usual = task_bytes_of_pack(tiles_per_shard(count, nbytes), nbytes, reading)
    return plan_shards(count, nbytes, reading, memory_per_thread(usual))


def plan_shards(count: int, nbytes: int, reading: ReadingBytes, available: int | None) -> int:
    """Return the number of tiles per shard: the usual one, or fewer if memory is short."""
    tiles = tiles_per_shard(count, nbytes)
    if available is not None:
        while tiles > 1 and task_bytes_of_pack(tiles, nbytes, reading) > available:
            tiles //= 2
    return tiles


def _reading_bytes(pack: TilePack) -> ReadingBytes:
    """Return the peak bytes of reading tiles of `pack`: 0 unless a slide is read."""
    if not (len(pack) and isinstance(pack.reader, SlideTileReader)):
        return lambda count: 0
    return partial(reading_bytes, pack.reader.source, pack.reader.task.tile)


def _read_and_write_shard(
    store: str, starts: tuple[int, ...], reader: Any, block_id: tuple[int, ...]
) -> Array:
    start, stop = starts[block_id[0]], starts[block_id[0] + 1]
    if pixels_of_task(store, str(start)) is None:
        _write_tiles(store, start, reader(start, stop))
    return np.full((1,), stop - start, np.int64)


def _write_encoded_shard(
    store: str,
    starts: tuple[int, ...],
    per_shard: int,
    tile: tuple[int, int],
    chunks: PackChunks,
    block_id: tuple[int, ...],
) -> Array:
    """Write a shard of encoded tiles, of `tile` height and width, unless an earlier run did."""
    start, stop = starts[block_id[0]], starts[block_id[0] + 1]
    if pixels_of_task(store, str(start)) is None:
        height, width = chunks.encoding.tile
        most = per_shard * (tile[0] // height) * (tile[1] // width)
        _put_encoded(store, start, stop - start, per_shard, most, chunks.chunks(start, stop))
    return np.full((1,), stop - start, np.int64)


def _put_encoded(
    store: str,
    start: int,
    count: int,
    per_shard: int,
    most: int,
    chunks: Iterable[bytes | None],
) -> None:
    """Write the shard of `count` tiles from `start` on, which may hold `most` chunks."""
    found = list(chunks)
    data = shard_of([*found, *[None] * (most - len(found))])
    record = write_file(store, f"tiles/c/{start // per_shard}/0/0/0", data, OK)
    record_task(store, str(start), count, [record])


def _write_block(
    store: str,
    starts: tuple[int, ...],
    per_shard: int,
    chunks: EncodedChunks | None,
    tiles: Array,
    block_id: tuple[int, ...],
) -> Array:
    """Write tiles of a dask array."""
    start = starts[block_id[0]]
    if chunks is None:
        _write_tiles(store, start, tiles)
    else:
        _put_encoded(store, start, len(tiles), per_shard, per_shard, chunks.encoded(tiles))
    return np.full((1,), len(tiles), np.int64)


def _write_tiles(store: str, start: int, tiles: Array) -> None:
    index = (slice(start, start + len(tiles)), *(slice(None),) * 3)
    record_task(store, str(start), len(tiles), put_shards(store, "tiles", index, tiles))


def write_pack(
    pack: TilePack,
    target: Target,
    sharded: bool,
    progress: Progress | None,
    chunks: PackChunks | None = None,
) -> str:
    """Write the tiles, the columns and the attributes of a pack; return the path.

    Without shards a task writes as many tiles as a shard would hold, each as a file. `chunks`
    encodes tiles as images; None compresses their samples with zstd.
    """
    count, *shape = pack.tiles.shape
    nbytes = int(np.prod(shape)) * pack.tiles.dtype.itemsize
    reading = _reading_bytes(pack)
    per_shard = shards_that_fit(count, nbytes, reading)
    check_memory(task_bytes_of_pack(per_shard, nbytes, reading), _name(pack))
    key = _key(pack, per_shard) | {"sharded": sharded}
    key |= facts_of(chunks, "chunks")
    with transaction(target, key, count * nbytes) as unfinished:
        _create(unfinished, pack, per_shard if sharded else 1, not sharded, chunks)
        if count:
            _compute_shards(pack, unfinished.path, per_shard, progress, chunks)
        facts = {} if chunks is None else {"encoding": chunks.describe()}
        attributes = dict(pack.attributes) | facts | own_attributes("pack")
        shards = {"tiles": shards_of(unfinished.path, "tiles")}
        unfinished.finish("tiles", shards, attributes, consolidated=True)
    return target.absolute


def _name(pack: TilePack) -> str:
    return str(pack.attributes.get("source", "pack"))


def _key(pack: TilePack, per_shard: int) -> dict[str, Any]:
    """Return the facts that must be equal to resume an unfinished store."""
    key: dict[str, Any] = {"kind": "pack", "dask_slides": __version__, "tiles_per_shard": per_shard}
    key |= {name: repr(value) for name, value in pack.attributes.items()}
    pixels = pack.tiles if pack.reader is None else pack.reader
    key |= facts_of(pixels, "tiles") | facts_of(pack.y, "y") | facts_of(pack.x, "x")
    return key | facts_of(pack.coverage, "coverage")


def _create(
    unfinished: Transaction,
    pack: TilePack,
    per_shard: int,
    plain: bool,
    chunks: PackChunks | None,
) -> None:
    shape = pack.tiles.shape[1:]
    group = unfinished.create(3)
    options: dict[str, Any] = {
        "chunks": (1, *shape),
        "shards": (per_shard, *shape) if per_shard > 1 else None,
        "compressors": compressors(plain),
    }
    if chunks is not None:
        from dask_slides.readers.codecs.zarr_codecs import register

        register()
        options = {"chunks": (1, *chunks.encoding.tile, shape[2]), "shards": (per_shard, *shape)}
        options |= chunks.encoding.options((0, 1, 2, 3)) | {"fill_value": _fill_of(pack)}
    group.create_array(
        "tiles",
        shape=pack.tiles.shape,
        **options,
        dtype=pack.tiles.dtype,
        dimension_names=["tile", "py", "px", "channel"],
        config={"write_empty_chunks": True},
    )
    for name, values in columns_of(pack).items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=tuple(max(1, side) for side in values.shape),
            dtype=values.dtype,
            compressors=compressors(plain),
            dimension_names=["tile", "class"][: values.ndim],
        )
        array[...] = values
    unfinished.ready()


def _fill_of(pack: TilePack) -> Any:
    return pack.reader.task.fill if isinstance(pack.reader, SlideTileReader) else 0


def columns_of(pack: TilePack) -> dict[str, Array]:
    """Return the arrays of a store with one row per tile, by name."""
    columns = {name: np.asarray(getattr(pack, name)) for name in COLUMNS}
    if pack.labels is not None and pack.coverage is not None:
        numbers = {name: number for number, name in enumerate(pack.attributes["classes"])}
        label = [numbers.get(str(name), NO_CLASS) for name in pack.labels]
        columns |= {"label": np.array(label, np.int32), "coverage": np.asarray(pack.coverage)}
    return columns


def _compute_shards(
    pack: TilePack,
    store: str,
    per_shard: int,
    progress: Progress | None,
    chunks: PackChunks | None = None,
) -> None:
    def describe(block: tuple[int, ...]) -> str:
        return f"{_name(pack)}: tiles {block[0] * per_shard} to {(block[0] + 1) * per_shard}"

    written = compute(shard_tasks(pack, store, per_shard, chunks), "write", progress, describe)
    if int(written.sum()) != len(pack):
        raise AssertionError(f"{written.sum()} of {len(pack)} tiles were written")


def shard_tasks(
    pack: TilePack, store: str, per_shard: int, chunks: PackChunks | None = None
) -> da.Array:
    """Return the graph: one task per shard, which returns how many tiles it wrote."""
    lengths = even_pieces(len(pack), per_shard)
    starts = bounds(lengths)
    ones = (1,) * len(lengths)
    if pack.reader is None:
        assert chunks is None or isinstance(chunks, EncodedChunks)  # there is nothing to copy
        whole = pack.tiles.rechunk((lengths, *((n,) for n in pack.tiles.shape[1:])))
        return whole.map_blocks(
            partial(_write_block, store, starts, per_shard, chunks),
            drop_axis=(1, 2, 3), chunks=(ones,), dtype=np.int64, meta=np.empty(0, np.int64),
        )  # fmt: skip
    write = partial(_read_and_write_shard, store, starts, pack.reader)
    if chunks is not None:
        height, width = pack.tiles.shape[1:3]
        write = partial(_write_encoded_shard, store, starts, per_shard, (height, width), chunks)
    return da.map_blocks(
        write,
        chunks=(ones,),
        dtype=np.int64,
        meta=np.empty(0, np.int64),
        name=f"write-tiles-{tokenize(store, starts, pack.reader, chunks)}",
    )
