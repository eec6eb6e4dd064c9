"""Read a reduced picture of a whole slide, in which detectors find tissue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import dask.array as da
import numpy as np

from dask_slides.core.bad_tiles import present_mask
from dask_slides.core.geometry import Region, bounds, level_size, reduced_size
from dask_slides.core.source import Source
from dask_slides.core.types import Array
from dask_slides.graph.blocks import Block, ReadBlock, map_blocks
from dask_slides.graph.chunks import default_chunks, even_chunks, task_bytes
from dask_slides.graph.resized import ResizedSource
from dask_slides.graph.stored_level import LevelSource, ReducedLevelSource

SMALLEST, LARGEST = 1024, 4096
"""Longest sides of the picture if the slide is small, and if its pixel size is not known."""
USUAL_MPP = 0.5
"""Micrometres per pixel that a slide of unknown pixel size is assumed to have."""
NEAR = 0.5
"""Binary logarithm of the largest factor between the size of a level and that of the picture."""
PIXEL_BYTES, CHANNEL_BYTES = 60, 20
"""Measured peak bytes of a detector, of noise: per pixel at least, and per pixel and channel.
It may copy each sample three times in the dtype of the slide."""
NO_VALUE, VALUE, NOT_THERE = 0, 1, 2
"""States of pixels: nodata or masked, a value, or an absent or corrupt tile of the file."""


def overview_shape(
    shape: tuple[int, int], mpp: tuple[float, float] | None, target: float
) -> tuple[int, int]:
    """Return the size of the picture of a slide of `shape` with `target` micrometres per pixel.

    The longest side has at least 1,024 px if the slide has as many. It has at most 4,096 px if the
    pixel size is not known, or is that of a satellite.
    """
    height, width = shape
    own = (USUAL_MPP, USUAL_MPP) if mpp is None else mpp
    factors = [max(1.0, target / value) for value in own]
    sides = [shape[i] / factors[i] for i in (0, 1)]
    enlarge = min(min(factors), max(1.0, SMALLEST / max(sides)))
    factors = [factor / enlarge for factor in factors]
    if mpp is None or min(mpp) > target:
        most = max(height / factors[0], width / factors[1]) / LARGEST
        factors = [factor * max(1.0, most) for factor in factors]
    return level_size(height, factors[0]), level_size(width, factors[1])


@dataclass(frozen=True)
class OverviewBlock:
    """Read a block of pixels, and the state of each pixel, as planes.

    Planes are copied and searched faster than channels that lie side by side.
    """

    blocks: ReadBlock

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the level and region of `block`, whose first number is that of the planes."""
        return self.blocks.window(block[1:])

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Return the pixels and their states, (c + 1, h, w), in the dtype of the slide."""
        level, region = self.window(block_id)
        out = np.empty((source.channels + 1, region.height, region.width), source.dtype)
        pixels, valid = source.read_valid(level, region)
        for channel in range(source.channels):
            out[channel] = pixels[..., channel]
        out[-1] = VALUE
        if valid is not None:
            out[-1][~valid] = NO_VALUE
        present = present_mask(region, source.holes(level, region))
        if present is not None:
            out[-1][~present] = NOT_THERE
        return out


def overview_source(source: Source, mpp: tuple[float, float] | None, target: float) -> Source:
    """Return `source` reduced to about `target` micrometres per pixel, in the cheapest way.

    That is the smallest stored level that has about as many pixels, in full or reduced while it is
    decoded. If there is none, the image is resized.
    """
    shape = overview_shape(source.levels[0].shape, mpp, target)
    found = []
    for number, level in enumerate(source.levels):
        for factor in (1, *source.reductions(number)):
            sides = zip(level.shape, shape, strict=True)
            off = max(abs(math.log2(reduced_size(own, factor) / side)) for own, side in sides)
            if off <= NEAR:
                found.append((math.prod(level.shape), off, number, factor))
    if not found:
        return ResizedSource(source, shape, "area", 1.0)
    _, _, number, factor = min(found)
    if factor > 1:
        return ReducedLevelSource(source, number, factor)
    return LevelSource(source, number) if number else source


def overview_blocks(small: Source) -> da.Array:
    """Return the pixels of a picture and their states as one lazy array (c + 1, h, w).

    `small` comes from `overview_source`. The blocks are read in parallel.
    """
    rows, columns = even_chunks(small.levels[0].shape, default_chunks(small, 0))
    task = OverviewBlock(ReadBlock(0, bounds(rows), bounds(columns)))
    chunks = ((small.channels + 1,), rows, columns)
    return map_blocks(task, small, chunks, small.dtype, "overview")


def overview_bytes(small: Source) -> int:
    """Return the peak bytes of reading a block of a picture, or of finding tissue in all of it."""
    height, width = small.levels[0].shape
    side = default_chunks(small, 0)
    block = Region(0, 0, min(side[0], height), min(side[1], width))
    item = small.dtype.itemsize
    pixel = (small.channels + 1) * item
    read = task_bytes(small, 0, block) + block.area * pixel
    found = max(PIXEL_BYTES, (CHANNEL_BYTES + 3 * item) * small.channels)
    find = height * width * (2 * pixel + found)  # the blocks, and their picture
    return max(read, find)
