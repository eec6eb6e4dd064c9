"""Divide images into tasks, and estimate the memory of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np

from dask_slides.core.geometry import Region, even_pieces
from dask_slides.core.source import (
    DerivedSource,
    Source,
    replace_root,
    root_of,
    root_spans,
    root_window,
)
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.resized import ResizedSource
from dask_slides.readers.dask_array import ArraySource

MAX_TASKS = 1000
"""Largest number of tasks that an operation aims at."""


LARGEST_CHUNK = 2**26
"""Largest chunk in pixels. Images too large for MAX_TASKS of these get more tasks."""


CONCURRENT_TILES = 10
"""Number of tiles that Zarr decodes at a time in one read."""


TASK_SIDE = 4096
"""Side of the input of a task in pixels that chunks aim at."""


REDUCED_TASK_SIDE = 8192
"""The same for reduced decoding, where larger blocks have relatively smaller margins."""


SMALL_TASK_SIDE = 1280
"""The minimum, so that small images also give work to a few threads."""


def normalized_chunks(
    chunks: Any, shape: tuple[int, int], dtype: np.dtype[Any]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Convert `chunks` (one number, (y, x), or lengths) to lengths along y and x."""
    if isinstance(chunks, Sequence) and len(chunks) == 3:
        chunks = tuple(chunks)[:2]
    try:
        rows, columns = da.core.normalize_chunks(chunks, shape=shape, dtype=dtype)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise SlideArgumentError(
            f"chunks={chunks!r} do not fit an image of {shape[0]} x {shape[1]} px; "
            "give one number, (y, x), or the lengths along y and x"
        ) from error
    return rows, columns


def default_chunks(source: Source, level: int) -> tuple[int, int]:
    """Return a chunk size that gives at most MAX_TASKS tasks of about equal work."""
    shape = source.levels[level].shape
    target = task_side(shape, input_ratio(source), read_side(source))
    side = [_chunk_side(source, level, axis, target) for axis in (0, 1)]
    if source.levels[level].tile[1] >= shape[1]:  # the file has strips, not tiles
        side = [_chunk_side(source, level, 0, target**2 // shape[1]), shape[1]]
    wide = read_span(source, level)
    if wide > side[1]:  # chunks become wider and lower, with as many pixels
        tile = source.levels[level].tile[0]
        side = [min(side[0], max(1, TASK_SIDE**2 // wide // tile) * tile), min(wide, shape[1])]
    while True:
        pieces = [-(-n // s) for n, s in zip(shape, side, strict=True)]
        if pieces[0] * pieces[1] <= MAX_TASKS or side[0] * side[1] >= LARGEST_CHUNK:
            return side[0], side[1]
        side[0 if pieces[0] >= pieces[1] else 1] *= 2


def task_side(
    shape: tuple[int, int], ratio: tuple[float, float] = (1.0, 1.0), largest: int = TASK_SIDE
) -> int:
    """Return the side of the input of a task to aim at, which is less for small images."""
    longest = max(shape[0] * ratio[0], shape[1] * ratio[1])
    return max(SMALL_TASK_SIDE, min(largest, int(longest / 4)))


def read_side(source: Source) -> int:
    """Return the side of the input of a task to aim at if the image is large."""
    while isinstance(source, DerivedSource):
        if isinstance(source, ResizedSource) and source.factor > 1:
            return REDUCED_TASK_SIDE
        source = source.parent
    return TASK_SIDE


def _chunk_side(source: Source, level: int, axis: int, target: int) -> int:
    """Return a chunk side of whole tiles for which about `target` input pixels are read.

    In an enlarged image few input pixels become many, so that the side itself is limited.
    """
    size = source.levels[level].shape[axis]
    tile = source.levels[level].tile[axis]
    ratio = input_ratio(source)[axis]
    aim = target / ratio if ratio >= 1 else min(target / ratio, max(target, TASK_SIDE))
    return min(size, max(1, round(aim / tile)) * tile)


def input_ratio(source: Source) -> tuple[float, float]:
    """Return the pixels of the root per pixel of level 0, along y and x."""
    y = x = 1.0
    while isinstance(source, DerivedSource):
        _, window = source.window(0, Region(0, 0, *source.levels[0].shape))
        y *= window.height / source.levels[0].shape[0]
        x *= window.width / source.levels[0].shape[1]
        source = source.parent
    return y, x


def read_span(source: Source, level: int) -> int:
    """Return the minimum width of a read, in pixels of `level`; 0 if there is none."""
    root = root_of(source)
    shape = source.levels[level].shape
    if 0 in shape:
        return 0
    read, window = root_window(source, level, Region(0, 0, *shape))
    return -(-root.read_width(read) * shape[1] // window.width)


def read_unit(source: Source) -> tuple[int, int]:
    """Return the minimum height and width of a read in pixels of level 0; 0 if there is none."""
    wide = read_span(source, 0)
    if not wide:
        return 0, 0
    shape = source.levels[0].shape
    read, window = root_window(source, 0, Region(0, 0, *shape))
    return -(-root_of(source).levels[read].tile[0] * shape[0] // window.height), wide


def even_chunks(
    shape: tuple[int, int], side: tuple[int, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide `shape` into chunks of `side`; return their lengths along y and x."""
    return even_pieces(shape[0], side[0]), even_pieces(shape[1], side[1])


def task_bytes(source: Source, level: int, region: Region, whole: Region | None = None) -> int:
    """Return the peak bytes of reading `region`, including the result.

    This is a sum over the chain of sources: each derived source adds its own arrays and its largest
    read of its parent. If a task reads a `whole` region in parts from a dask array, it holds all
    blocks that the whole region touches.
    """
    total, reduction = 0, 1
    root = root_of(source)
    if isinstance(root, ArraySource):
        blocks = root.without_blocks()
        total = blocks.nbytes(root_spans(source, level, whole or region))
        source = replace_root(source, blocks)
    while isinstance(source, DerivedSource):
        total += source.working_bytes(level, region) // reduction
        level, region = source.largest_read(level, region)
        if isinstance(source, ResizedSource):
            reduction *= source.factor**2  # its parents are read at a reduced size
        source = source.parent
    sample = source.channels * source.dtype.itemsize
    tile = source.levels[level].tile
    # the pixels, a copy if they are converted, and the tiles that are being decoded
    read = 2 * region.area // reduction
    masks = 4 * region.area // reduction if source.masked else 0  # masks of valid pixels
    return total + (read + CONCURRENT_TILES * tile[0] * tile[1]) * sample + masks
