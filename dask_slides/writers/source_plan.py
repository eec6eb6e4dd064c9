"""Plan a store of the slide's own compressed tiles: which levels are copied, and which are made.

A stored level whose tiles a codec of Zarr decodes is copied. Where two levels are further apart
than a step, and below the last one down to a longest side of 256 px, levels are made from the
pixels of the level above the first gap::

    slide    1                   16
    step 4   1         4*        16        64*      * made: one pass over level 1, decoded at 1/4
    step 2   1    2*   4*   8*   16   32*  64*      * decoded at 1/2
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.core.geometry import even_pieces, halved
from dask_slides.core.source import DerivedSource, Source, root_of
from dask_slides.errors import SlideUnsupportedError
from dask_slides.graph.chunks import MAX_TASKS
from dask_slides.graph.moved_tiles import MovedTiles
from dask_slides.writers.image_plan import FEW_TASKS, SMALLEST_LEVEL

SHARD_SIDE, LOSSLESS_SHARD_SIDE = 8192, 4096
"""Side of a shard of copied tiles in pixels, about; a task holds a whole shard."""
SMALL_SHARD_SIDE = 2048
"""Side of the shards of a small image, so that there are tasks for all threads."""


@dataclass(frozen=True)
class CopiedLevel:
    """A stored level of the slide whose tiles are copied."""

    name: str
    """Path of the array in the store."""
    number: int
    """Number of the level in the slide."""
    shape: tuple[int, int]
    downsample: tuple[float, float]
    encoding: TileEncoding
    tiles_per_shard: int
    """Tiles of a shard, along y and along x."""

    @property
    def shard(self) -> tuple[int, int]:
        """Height and width of a shard in pixels."""
        height, width = self.encoding.tile
        return height * self.tiles_per_shard, width * self.tiles_per_shard

    @property
    def shards(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Heights and widths of the parts of the image in each shard."""
        rows, columns = (
            even_pieces(size, side) for size, side in zip(self.shape, self.shard, strict=True)
        )
        return rows, columns

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles along y and along x."""
        rows, columns = (
            -(-size // side) for size, side in zip(self.shape, self.encoding.tile, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class MadeLevel:
    """A level that the slide lacks."""

    name: str
    shape: tuple[int, int]
    downsample: tuple[float, float]
    """Pixels of level 0 per pixel, along y and along x."""
    halvings: int
    """Halvings from the level that it is made of."""


PlannedLevel = CopiedLevel | MadeLevel


@dataclass(frozen=True)
class SourcePlan:
    """The levels of a store, from full to smallest."""

    levels: tuple[PlannedLevel, ...]
    base: CopiedLevel
    """The level whose pixels the missing ones are made of."""

    @property
    def copied(self) -> tuple[CopiedLevel, ...]:
        """The levels that are copied."""
        return tuple(one for one in self.levels if isinstance(one, CopiedLevel))

    @property
    def made(self) -> tuple[MadeLevel, ...]:
        """The levels that are made."""
        return tuple(one for one in self.levels if isinstance(one, MadeLevel))


def stored_bytes(source: Source, number: int) -> int:
    """Return the bytes of the compressed tiles of a level; those of its pixels if not known."""
    found = source.byte_ranges(number)
    if found is not None:
        return int(found[2].sum())
    height, width = source.levels[number].shape
    return height * width * source.channels * source.dtype.itemsize


def plan_source(source: Source, step: int | None) -> SourcePlan:
    """Plan the store of `source`; SlideUnsupportedError if its level 0 cannot be copied.

    `step` is a power of two, the largest ratio of two levels; with None no level is made.
    """
    copied = []
    for number, level in enumerate(source.levels):
        encoding = source.encoding(number)
        if encoding is not None:
            count = _tiles_per_shard(level.shape, encoding)
            copied.append(CopiedLevel("", number, level.shape, level.downsample, encoding, count))
    if not copied or copied[0].number:
        raise SlideUnsupportedError(f"{source.name}: its tiles cannot be copied{_why_not(source)}")
    base, made = copied[0], []
    if step is not None:
        stored = {power_of_two(one.downsample): one for one in copied}
        factors = list(_missing(list(stored), step, max(copied[0].shape)))
        if factors:
            above = max(factor for factor in stored if factor < factors[0])
            base = stored[above]
            made = [_made(base, factor // above) for factor in factors]
    found: list[PlannedLevel] = sorted([*copied, *made], key=lambda one: max(one.downsample))
    named = tuple(replace(one, name=str(number)) for number, one in enumerate(found))
    return SourcePlan(named, base)


def _why_not(source: Source) -> str:
    """Say why the tiles of level 0 cannot be copied, and what to do."""
    if root_of(source).encoding(0) is None:
        return (
            "; codec='source' needs a tiled TIFF of JPEG, JPEG 2000, WebP, zstd, deflate or LZW "
            "without a predictor, in grey or RGB as stored; leave codec out"
        )
    if not isinstance(source, MovedTiles):
        assert isinstance(source, DerivedSource)
        return (
            f", as the image is {source.operation}; leave out the scale of a slide, give "
            "downsample=1 to a cut-off, or leave codec out"
        )
    encoding = source.parent.encoding(source.parent_level(0))
    if encoding is None:
        return _why_not(source.parent)
    return (
        f", as {source.divides(0, encoding.tile)}; give another tile_size or layout='grid', or "
        "leave codec out"
    )


def _missing(stored: list[int], step: int, longest: int) -> Iterator[int]:
    """Yield the factors of the levels to make, for those that are `stored` and ascend."""
    last = stored[0]
    for factor in [*stored[1:], 2**63]:
        while last * step < factor and longest >= SMALLEST_LEVEL * last * step:
            last *= step
            yield last
        last = factor


def _made(base: CopiedLevel, ratio: int) -> MadeLevel:
    """Return the level that is `ratio`, a power of two, times smaller than `base`."""
    times = ratio.bit_length() - 1
    shape = halved(base.shape[0], times), halved(base.shape[1], times)
    downsample = base.downsample[0] * ratio, base.downsample[1] * ratio
    return MadeLevel("", shape, downsample, times)


def power_of_two(downsample: tuple[float, float]) -> int:
    """Return the power of two that is nearest to `downsample`."""
    return int(2 ** round(math.log2(max(downsample))))


def _tiles_per_shard(shape: tuple[int, int], encoding: TileEncoding) -> int:
    """Return the tiles of a shard along a side."""
    tile, side = encoding.tile, SHARD_SIDE if encoding.lossy else LOSSLESS_SHARD_SIDE
    count = max(1, round(side / max(tile)))
    while count * max(tile) > SMALL_SHARD_SIDE and _shards(shape, tile, count) < FEW_TASKS:
        count = -(-count // 2)
    while _shards(shape, tile, count) > MAX_TASKS:
        count *= 2
    return count


def _shards(shape: tuple[int, int], tile: tuple[int, int], count: int) -> int:
    return math.prod(-(-n // (side * count)) for n, side in zip(shape, tile, strict=True))
