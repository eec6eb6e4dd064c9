"""Task graphs: one task for one output block, which reads its own pixels by path.

A graph over a file is one Blockwise layer whose tasks know nothing but their block number:
a few kilobytes for any slide. Over a dask array a task depends on the window it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize

from dask_slides.core.geometry import Region, bounds
from dask_slides.core.source import (
    Source,
    rebind,
    root_of,
    root_window,
)
from dask_slides.core.types import Array
from dask_slides.graph.chunks import default_chunks, normalized_chunks
from dask_slides.readers.dask_array import ArraySource

Block = tuple[int, ...]


class BlockTask(Protocol):
    """What computes one output block; frozen and small, as it is sent to every worker."""

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the level and region of the source that `block` needs."""
        ...

    def __call__(self, source: Source, block: Block) -> Array:
        """Compute `block`."""
        ...


def _call_task(task: BlockTask, source: Source, block_id: Block) -> Array:
    return task(source, block_id)


def _call_task_on_window(
    plan: tuple[BlockTask, Source], block: Block, pixels: Array, y: int, x: int
) -> Array:
    task, hollow = plan
    window = replace(root_of(hollow), pixels=pixels, y=y, x=x)  # type: ignore[type-var]
    return task(rebind(hollow, window), tuple(block))


def map_blocks(
    task: BlockTask,
    source: Source,
    chunks: tuple[tuple[int, ...], ...],
    dtype: np.dtype[Any],
    label: str,
) -> da.Array:
    """Return the dask array whose blocks `task` computes from `source`."""
    name = f"{label}-{tokenize(task, source)}"
    root = root_of(source)
    if isinstance(root, ArraySource):
        return _map_windows(task, source, root, chunks, dtype, name)
    return da.map_blocks(
        partial(_call_task, task, source),
        chunks=chunks,
        dtype=dtype,
        meta=np.empty((0,) * len(chunks), dtype),
        name=name,
    )


def _map_windows(
    task: BlockTask,
    source: Source,
    root: ArraySource,
    chunks: tuple[tuple[int, ...], ...],
    dtype: np.dtype[Any],
    name: str,
) -> da.Array:
    hollow = rebind(source, root.hollow())
    # one shared key, so that the chain is pickled once and not for every task
    shared = dask.delayed((task, hollow), name=f"{name}-plan", traverse=False)
    call = dask.delayed(_call_task_on_window, pure=False)
    blocks = np.empty([len(lengths) for lengths in chunks], object)
    for block in np.ndindex(*blocks.shape):
        _, region = root_window(source, *task.window(block))
        shape = tuple(chunks[axis][i] for axis, i in enumerate(block))
        if 0 in shape:
            blocks[block] = da.zeros(shape, dtype=dtype)
            continue
        pixels = root.array[region.slices()]
        part = call(
            shared, block, pixels, region.y, region.x,
            dask_key_name=(f"{name}-block", *block),
        )  # fmt: skip
        blocks[block] = da.from_delayed(part, shape, dtype=dtype)
    return da.block(blocks.tolist())


@dataclass(frozen=True)
class ReadBlock:
    """Blocks of pixels (y, x, c) of one level."""

    level: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def region(self, block: Block) -> Region:
        """Return the region that `block` is."""
        top, bottom = self.rows[block[0]], self.rows[block[0] + 1]
        left, right = self.columns[block[1]], self.columns[block[1] + 1]
        return Region(top, left, bottom - top, right - left)

    def window(self, block: Block) -> tuple[int, Region]:
        """Return what `block` reads: itself."""
        return self.level, self.region(block)

    def __call__(self, source: Source, block: Block) -> Array:
        """Read `block`; a copy of its own, so that no larger array stays alive."""
        return np.ascontiguousarray(source.read(*self.window(block)))


def image_blocks(source: Source, level: int, chunks: Any, label: str) -> da.Array:
    """Return the pixels of `level` as a dask array (y, x, c)."""
    shape = source.levels[level].shape
    if 0 in shape:
        return da.empty((*shape, source.channels), dtype=source.dtype, chunks=-1)
    sides = default_chunks(source, level) if chunks is None else chunks
    rows, columns = normalized_chunks(sides, shape, source.dtype)
    task = ReadBlock(level, bounds(rows), bounds(columns))
    return map_blocks(task, source, (rows, columns, (source.channels,)), source.dtype, label)
