"""Tile packs to Zarr, one tile a chunk, and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from dask_slides.core.geometry import bounds, even_pieces
from dask_slides.core.types import Array
from dask_slides.core.version import __version__
from dask_slides.graph.chunks import MAX_TASKS
from dask_slides.graph.tiles import TASK_BYTES, SlideTileReader, reading_bytes
from dask_slides.ops.pack import TilePack
from dask_slides.runtime.scheduler import Progress, check_memory, compute, memory_per_thread
from dask_slides.writers.store.arrays import compressors, put_shards, shards_of
from dask_slides.writers.store.bucket_transaction import BucketTransaction
from dask_slides.writers.store.local_transaction import LocalTransaction, facts_of, transaction
from dask_slides.writers.store.manifest import pixels_of_task, record_task
from dask_slides.writers.store.marker import Target, attributes_with_key

MOST_TILES = 2**25
"""Tiles of a pack that is opened: a store of a few bytes can declare any number."""
FEW_SHARDS = 16
"""Shards that a small pack is shared out to: one is written by one task."""
SMALL_SHARD = 2**23
"""Bytes that a shard has for all that, if the pack has them."""


def tiles_per_shard(count: int, nbytes: int) -> int:
    """Return how many tiles of `nbytes` a shard holds: even work, few files."""
    shared_out = max(SMALL_SHARD // nbytes, -(-count // FEW_SHARDS))
    few = max(1, min(TASK_BYTES // nbytes, shared_out), -(-count // MAX_TASKS))
    return min(few, max(1, count))


Reading = Callable[[int], int]
"""Peak bytes of reading so many tiles, beyond themselves."""


def pack_bytes_of_task(per_shard: int, nbytes: int, reading: Reading) -> int:
    """Return the peak bytes of a task: its tiles, the encoded shard, and reading them."""
    tiles, encoded = per_shard * nbytes, per_shard * nbytes
    return tiles + encoded + reading(per_shard)


def tiles_that_fit(count: int, nbytes: int, reading: Reading, available: int | None) -> int:
    """Return the tiles of a shard: as many as usual, or fewer where memory is short."""
    tiles = tiles_per_shard(count, nbytes)
    while (
        available is not None
        and tiles > 1
        and pack_bytes_of_task(tiles, nbytes, reading) > available
    ):
        tiles //= 2
    return tiles


def _reading(pack: TilePack) -> Reading:
    """Return what tells it of a pack: nothing unless its tiles are read from a slide."""
    if not (len(pack) and isinstance(pack.reader, SlideTileReader)):
        return lambda count: 0
    return partial(reading_bytes, pack.reader.source, pack.reader.task.tile)


def _write_shard(
    store: str, starts: tuple[int, ...], reader: Any, block_id: tuple[int, ...]
) -> Array:
    start, stop = starts[block_id[0]], starts[block_id[0] + 1]
    if pixels_of_task(store, str(start)) is None:
        _put(store, start, reader(start, stop))
    return np.full((1,), stop - start, np.int64)


def _write_block(tiles: Array, store: str, starts: tuple[int, ...], block_id: Any) -> Array:
    _put(store, starts[block_id[0]], tiles)
    return np.full((1,), len(tiles), np.int64)


def _put(store: str, start: int, tiles: Array) -> None:
    index = (slice(start, start + len(tiles)), *(slice(None),) * 3)
    record_task(store, str(start), len(tiles), put_shards(store, "tiles", index, tiles))


def write_pack(pack: TilePack, target: Target, progress: Progress | None) -> str:
    """Write `tiles`, `y`, `x`, `score` and the attributes; a shard a task."""
    count, *shape = pack.tiles.shape
    nbytes = int(np.prod(shape)) * pack.tiles.dtype.itemsize
    name = str(pack.attributes.get("source", "pack"))
    reading = _reading(pack)
    per_shard = tiles_that_fit(count, nbytes, reading, memory_per_thread())
    check_memory(pack_bytes_of_task(per_shard, nbytes, reading), name)
    key: dict[str, Any] = {"kind": "pack", "dask_slides": __version__, "tiles_per_shard": per_shard}
    key |= {name: repr(value) for name, value in pack.attributes.items()}
    pixels = pack.tiles if pack.reader is None else pack.reader
    key |= facts_of(pixels, "tiles") | facts_of(pack.y, "y") | facts_of(pack.x, "x")
    with transaction(target, key, count * nbytes) as partial:
        if not partial.resumed:
            _create(partial, pack, per_shard)
        store = partial.path
        if count:
            written = compute(
                _shards(pack, store, per_shard),
                "write",
                progress,
                lambda block: (
                    f"{name}: tiles {block[0] * per_shard} to {(block[0] + 1) * per_shard}"
                ),
            )
            if int(written.sum()) != count:
                raise AssertionError(f"{written.sum()} tiles were written of {count}")
        attributes = dict(pack.attributes) | attributes_with_key("pack")
        partial.finish("tiles", {"tiles": shards_of(store, "tiles")}, attributes)
    return target.place


def _create(partial: LocalTransaction | BucketTransaction, pack: TilePack, per_shard: int) -> None:
    count, *shape = pack.tiles.shape
    group = partial.create(3)
    group.create_array(
        "tiles",
        shape=pack.tiles.shape,
        chunks=(1, *shape),
        shards=(per_shard, *shape) if per_shard > 1 else None,
        dtype=pack.tiles.dtype,
        compressors=compressors(),
        dimension_names=["tile", "py", "px", "channel"],
        config={"write_empty_chunks": True},
    )
    for name in ("y", "x", "score"):
        values = getattr(pack, name)
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=(max(1, count),),
            dtype=values.dtype,
            compressors=compressors(),
            dimension_names=["tile"],
        )
        array[...] = values
    partial.ready()


def _shards(pack: TilePack, path: str, per_shard: int) -> da.Array:
    lengths = even_pieces(len(pack), per_shard)
    starts = bounds(lengths)
    ones = (1,) * len(lengths)
    if pack.reader is None:
        whole = pack.tiles.rechunk((lengths, *((n,) for n in pack.tiles.shape[1:])))
        return whole.map_blocks(
            _write_block, path, starts, drop_axis=(1, 2, 3), chunks=(ones,), dtype=np.int64,
            meta=np.empty(0, np.int64),
        )  # fmt: skip
    return da.map_blocks(
        partial(_write_shard, path, starts, pack.reader),
        chunks=(ones,),
        dtype=np.int64,
        meta=np.empty(0, np.int64),
        name=f"write-tiles-{tokenize(path, starts, pack.reader)}",
    )
