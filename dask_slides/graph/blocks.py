"""Task graphs. Each operation is one layer, with one task per output block.

Over a file, this is a Blockwise layer of a few kilobytes, whatever the size of the slide: each task
gets its block number and reads its pixels by path. Over a dask array, a task depends only on the
source blocks it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef

from dask_slides.core.geometry import Region, bounds
from dask_slides.core.source import Source, replace_root, root_of, root_spans
from dask_slides.core.types import Array
from dask_slides.graph.block_array import BlockArray, block_array
from dask_slides.graph.chunks import default_chunks, normalized_chunks
from dask_slides.readers.dask_array import ArraySource, BlocksSource

Block = tuple[int, ...]


class BlockTask(Protocol):
    """A task that computes output blocks. It is frozen, and small because every worker gets it."""

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the level and region of the source that `block` needs."""
        ...

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Compute a block. Dask passes ``block_id``."""
        ...


def map_blocks(
    task: BlockTask,
    source: Source,
    chunks: tuple[tuple[int, ...], ...],
    dtype: np.dtype[Any],
    label: str,
) -> da.Array:
    """Return a dask array whose blocks `task` computes from `source`."""
    name = f"{label}-{tokenize(task, source)}"
    meta = np.empty((0,) * len(chunks), dtype)
    root = root_of(source)
    if isinstance(root, ArraySource):
        layer = _layer_over_array(task, source, root, chunks, dtype, name)
        graph = HighLevelGraph.from_collections(name, layer, dependencies=[root.array])
        return BlockArray(graph, name, chunks, meta=meta)
    call = partial(task, source)  # Dask adds block_id
    return block_array(da.map_blocks(call, chunks=chunks, dtype=dtype, meta=meta, name=name))


def _layer_over_array(
    task: BlockTask,
    source: Source,
    root: ArraySource,
    chunks: tuple[tuple[int, ...], ...],
    dtype: np.dtype[Any],
    name: str,
) -> dict[Block, Task]:
    """Return the tasks of an operation over a dask array, by key."""
    blocks = root.without_blocks()
    call = _TaskOnBlocks(task, replace_root(source, blocks), blocks)  # pickled once for all tasks
    tasks = {}
    for block in np.ndindex(*(len(lengths) for lengths in chunks)):
        key = (name, *block)
        shape = tuple(lengths[i] for lengths, i in zip(chunks, block, strict=True))
        if 0 in shape:
            tasks[key] = Task(key, np.empty, shape, dtype)
            continue
        needed = call.needed(block)
        inputs = (TaskRef((root.array.name, i, j, 0)) for i, j in needed)
        tasks[key] = Task(key, call, block, *inputs)
    return tasks


@dataclass(frozen=True)
class _TaskOnBlocks:
    """Call `task` with a source that reads from blocks of a dask array."""

    task: BlockTask
    source: Source
    root: BlocksSource

    def needed(self, block: Block) -> list[tuple[int, int]]:
        """Return the blocks of the array that `block` needs, in order."""
        return self.root.touched(root_spans(self.source, *self.task.window(block)))

    def __call__(self, block: Block, *pixels: Array) -> Array:
        """Compute `block` from the pixels of the blocks it needs."""
        blocks = dict(zip(self.needed(block), pixels, strict=True))
        return self.task(replace_root(self.source, replace(self.root, blocks=blocks)), block)


@dataclass(frozen=True)
class ReadBlock:
    """Read blocks of pixels (y, x, c) of one level."""

    level: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    """Where blocks start, and the end."""

    def region(self, block: Block) -> Region:
        """Return the region of `block`."""
        top, bottom = self.rows[block[0]], self.rows[block[0] + 1]
        left, right = self.columns[block[1]], self.columns[block[1] + 1]
        return Region(top, left, bottom - top, right - left)

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the level and region of `block`."""
        return self.level, self.region(block)

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Read a block into a contiguous array."""
        pixels, _ = source.read_valid(*self.window(block_id))
        return np.ascontiguousarray(pixels)


def image_blocks(source: Source, level: int, chunks: Any, label: str | None = None) -> da.Array:
    """Return the pixels of `level` as a dask array (y, x, c) whose layer is called `label`.

    If the source is a dask array, return that array unless `chunks` are given.
    """
    if isinstance(source, ArraySource) and chunks is None:
        return source.array
    shape = source.levels[level].shape
    if 0 in shape:
        return da.empty((*shape, source.channels), dtype=source.dtype, chunks=-1)
    sides = default_chunks(source, level) if chunks is None else chunks
    rows, columns = normalized_chunks(sides, shape, source.dtype)
    task = ReadBlock(level, bounds(rows), bounds(columns))
    lengths = (rows, columns, (source.channels,))
    return map_blocks(task, source, lengths, source.dtype, label or source.layer_name)
