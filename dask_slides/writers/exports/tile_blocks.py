"""Write the tiles of a pack from tasks, block by block."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import dask
import numpy as np

from dask_slides.core.geometry import bounds
from dask_slides.core.types import Array
from dask_slides.graph.tiles import SlideTileReader, reading_bytes
from dask_slides.ops.pack import TilePack
from dask_slides.runtime.scheduler import check_memory, compute
from dask_slides.writers.exports.pack_facts import source_name, stem

WriteTiles = Callable[[int, Array], None]
"""Writes tiles (n, h, w, c), given the number of the first one. Picklable."""


def name_of(pack: TilePack) -> str:
    """Return the name of the slide of `pack` without its suffix, for names of files.

    Only letters, digits, ``-`` and ``_`` of ASCII are kept; each other character becomes ``_``.
    """
    return re.sub(r"[^A-Za-z0-9_-]", "_", stem(source_name(pack)))[:64]


def write_tile_blocks(pack: TilePack, write: WriteTiles) -> None:
    """Call `write` in tasks of the active scheduler, once for each chunk of the tiles of `pack`.

    So tiles of the slide are decoded as often as by ``pack.tiles.compute()``. Memory holds one
    chunk per thread.
    """
    if not len(pack):
        return
    lengths = pack.tiles.chunks[0]
    tiles = pack.tiles
    if tiles.numblocks[1:] != (1, 1, 1):  # a pack of the user's own array
        tiles = tiles.rechunk((lengths, -1, -1, -1))
    check_memory(_task_bytes(pack, max(lengths)), source_name(pack))
    starts = bounds(lengths)
    # a key of the graph of its own, so that a cluster sends it once to each worker
    shared = dask.delayed(write, pure=False, traverse=False)
    done = tiles.map_blocks(
        _write_block, shared, starts,
        drop_axis=(1, 2, 3), chunks=((1,) * len(lengths),), dtype=np.int64,
        meta=np.empty(0, np.int64), name=f"export-{uuid4().hex}",
    )  # fmt: skip
    source = source_name(pack)
    written = compute(
        done, "export", None, lambda at: f"{source}: tiles {starts[at[0]]} to {starts[at[0] + 1]}"
    )
    if int(written.sum()) != len(pack):
        raise AssertionError(f"{written.sum()} of {len(pack)} tiles were written")


def _write_block(tiles: Array, write: WriteTiles, starts: tuple[int, ...], block_id: Any) -> Array:
    write(starts[block_id[0]], tiles)
    return np.full((1,), len(tiles), np.int64)


def _task_bytes(pack: TilePack, count: int) -> int:
    """Return the peak bytes of a task of `count` tiles: the tiles, and the reading."""
    tile = pack.tiles.shape[1:]
    nbytes: int = count * math.prod(tile) * pack.tiles.dtype.itemsize
    if isinstance(pack.reader, SlideTileReader):
        nbytes += reading_bytes(pack.reader.source, (tile[0], tile[1]), count)
    return nbytes
