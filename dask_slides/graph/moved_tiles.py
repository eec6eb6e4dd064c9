"""Copy compressed tiles of an image from which parts were taken in whole tiles."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dask_slides.core.bad_tiles import MissingRegion
from dask_slides.core.encoded_tiles import TileEncoding
from dask_slides.core.geometry import Region
from dask_slides.core.source import DerivedSource
from dask_slides.core.types import Array

NOT_THERE = -1
"""Number of a tile that lies in no part."""


@dataclass(frozen=True)
class MovedPart:
    """A region of a level of the parent, and where its top left lies in the result."""

    source: Region
    y: int
    x: int


class MovedTiles(DerivedSource):
    """An image made of parts of its parent; tiles can be copied if parts are whole tiles.

    Its holes are those of the parent that lie in parts.
    """

    @abstractmethod
    def parent_level(self, level: int) -> int:
        """Return the level of the parent of which `level` is made."""

    @abstractmethod
    def moved_parts(self, level: int, region: Region) -> Iterable[MovedPart]:
        """Yield what of the parts of `level` lies in `region`."""

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the holes of the parent that lie in parts."""
        return self._moved(level, region, self.parent.holes)

    def known_holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return those of `holes` that are known without decoding a tile."""
        return self._moved(level, region, self.parent.known_holes)

    def _moved(
        self,
        level: int,
        region: Region,
        holes_of: Callable[[int, Region], tuple[MissingRegion, ...]],
    ) -> tuple[MissingRegion, ...]:
        number, found = self.parent_level(level), []
        for part in self.moved_parts(level, region):
            for hole in holes_of(number, part.source):
                one = hole.region
                y, x = one.y - part.source.y + part.y, one.x - part.source.x + part.x
                found.append(MissingRegion(replace(one, y=y, x=x), hole.tile))
        return tuple(found)

    def encoding(self, level: int) -> TileEncoding | None:
        """Return how tiles are compressed; None if a part is not made of whole tiles."""
        encoding = self.parent.encoding(self.parent_level(level))
        return None if encoding is None or self.divides(level, encoding.tile) else encoding

    def divides(self, level: int, tile: tuple[int, int]) -> str:
        """Say which of the parent's tiles (height, width) a part divides; empty if none."""
        return _divided(self, level, tile)

    def streams(self, level: int, numbers: list[int]) -> Iterator[tuple[int, bytes | None]]:
        """Yield the streams of the tiles of the parent; None where no part lies."""
        encoding = self.encoding(level)
        assert encoding is not None
        found = _tile_numbers(self, level, encoding.tile)
        of_parent = dict(zip(numbers, found.reshape(-1)[numbers].tolist(), strict=True))
        needed = sorted({one for one in of_parent.values() if one != NOT_THERE})
        streams = dict(self.parent.streams(self.parent_level(level), needed))
        for number, one in of_parent.items():
            yield number, streams.get(one)


@lru_cache(maxsize=16)
def _divided(source: MovedTiles, level: int, tile: tuple[int, int]) -> str:
    parent = source.parent.levels[source.parent_level(level)].shape
    shape = source.levels[level].shape
    for part in source.moved_parts(level, Region(0, 0, *shape)):
        one = part.source
        for side, start, at, size, whole, end in (
            (tile[0], one.y, part.y, one.height, parent[0], shape[0]),
            (tile[1], one.x, part.x, one.width, parent[1], shape[1]),
        ):
            if start % side or at % side or (size % side and start + size != whole):
                return f"its parts are not whole tiles of {tile[0]} x {tile[1]} px"
            # a tile at the edge of the parent is padded, and a gutter would show the padding
            if size % side and at + size != end:
                return "a part ends in a partial tile at the edge of the slide"
    return ""


@lru_cache(maxsize=16)
def _tile_numbers(source: MovedTiles, level: int, tile: tuple[int, int]) -> Array:
    """Return the number of the parent's tile (rows, cols) in each tile of a level."""
    width, shape = (
        source.parent.levels[source.parent_level(level)].shape[1],
        source.levels[level].shape,
    )
    across = -(-width // tile[1])
    rows, columns = (-(-size // side) for size, side in zip(shape, tile, strict=True))
    found: Array = np.full((rows, columns), NOT_THERE, np.int64)
    for part in source.moved_parts(level, Region(0, 0, *shape)):
        one = part.source
        down, right = -(-one.height // tile[0]), -(-one.width // tile[1])
        own = np.arange(one.y // tile[0], one.y // tile[0] + down)[:, None] * across
        own = own + np.arange(one.x // tile[1], one.x // tile[1] + right)
        top, left = part.y // tile[0], part.x // tile[1]
        found[top : top + down, left : left + right] = own
    return found
