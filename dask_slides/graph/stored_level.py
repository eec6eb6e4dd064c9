"""A stored level as an image of its own, in full or reduced while it is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dask_slides.core.bad_tiles import MissingRegion, missing_within
from dask_slides.core.geometry import Placement, Region, reduced_size
from dask_slides.core.source import (
    DerivedSource,
    Level,
    Source,
    gutters_of,
    gutters_of_parent,
    provenance,
)
from dask_slides.core.types import Array


@dataclass(frozen=True)
class _StoredLevel(DerivedSource):
    """What `LevelSource` and `ReducedLevelSource` share: the pixels of the parent are passed on."""

    parent: Source
    number: int

    @property
    def layer_name(self) -> str:
        """The name of the graph layer, "level"."""
        return "level"

    @property
    def placement(self) -> Placement:
        """The placement on level 0 of the parent."""
        whole, own = self.parent.levels[0].shape, self.levels[0].shape
        return Placement((whole[0] / own[0], whole[1] / own[1]))

    def gutters(self, rows: Array, columns: Array) -> Array | None:
        """Return whether the centres of these pixels lie in gutters of the parent."""
        return gutters_of_parent(self, rows, columns)

    def working_bytes(self, level: int, region: Region) -> int:
        """Return 0: the pixels of the parent are passed on."""
        return 0

    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and region of the parent that `region` covers."""
        return self.window(level, region)


def read_from(source: Source) -> str:
    """Say what `source` reads: a stored level, or operations on level 0."""
    if isinstance(source, _StoredLevel):
        return source.operation
    return provenance(source, "level 0")


def stored_level(source: Source) -> tuple[Source, int]:
    """Return the slide and the number of the level that `source` shows; itself and 0 for others."""
    return (source.parent, source.number) if isinstance(source, LevelSource) else (source, 0)


@dataclass(frozen=True)
class LevelSource(_StoredLevel):
    """The levels of `parent` from `number` on."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The level, and the smaller ones."""
        first, *rest = self.parent.levels[self.number :]
        y, x = first.downsample
        own = [replace(one, downsample=(one.downsample[0] / y, one.downsample[1] / x))
               for one in rest]  # fmt: skip
        return replace(first, downsample=(1.0, 1.0)), *own

    @property
    def operation(self) -> str:
        """The operation, such as "level 1"."""
        return f"level {self.number}"

    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level of the parent and `region`."""
        return self.number + level, region

    def read(self, level: int, region: Region) -> Array:
        """Read `region` of the parent."""
        return self.parent.read(self.number + level, region)

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read `region`, and a mask of its pixels with a value."""
        return self.parent.read_valid(self.number + level, region)

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the holes of the parent."""
        return self.parent.holes(self.number + level, region)

    def tiles(self, level: int, region: Region) -> Iterator[tuple[Region, Array]] | None:
        """Return the tiles of the parent, if it can iterate over them."""
        return self.parent.tiles(self.number + level, region)

    def gather(
        self, level: int, regions: list[Region]
    ) -> Iterator[tuple[int, Region, Array]] | None:
        """Yield parts of many regions, if the parent can."""
        return self.parent.gather(self.number + level, regions)

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the reductions of the parent."""
        return self.parent.reductions(self.number + level)

    def coarseness(self, level: int) -> int:
        """Return the coarseness of the parent."""
        return self.parent.coarseness(self.number + level)

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Read `region` of the parent reduced by `factor`."""
        return self.parent.read_reduced(self.number + level, factor, region)


@dataclass(frozen=True)
class ReducedLevelSource(_StoredLevel):
    """A level of `parent` that is reduced by `factor` while it is decoded."""

    factor: int

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level."""
        level, factor = self.parent.levels[self.number], self.factor
        height, width = (reduced_size(n, factor) for n in level.shape)
        tile = level.tile[0] // factor, level.tile[1] // factor
        return (Level((height, width), (1.0, 1.0), tile),)

    @property
    def operation(self) -> str:
        """The operation, such as "level 1 decoded at 1/2"."""
        return f"level {self.number} decoded at 1/{self.factor}"

    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level of the parent, and what `region` covers of it."""
        full = Region(*(n * self.factor for n in (region.y, region.x, region.height, region.width)))
        return self.number, full.intersect(Region(0, 0, *self.parent.levels[self.number].shape))

    def read(self, level: int, region: Region) -> Array:
        """Read `region` of the parent, reduced."""
        return self.parent.read_reduced(self.number, self.factor, region)

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read `region`, and a mask of its pixels that lie in no gutter."""
        between = gutters_of(self, 0, region)
        if between is None or not between.any():
            return self.read(level, region), None
        return self.read(level, region), ~between

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the holes of the parent, reduced."""
        found = self.parent.holes(*self.window(level, region))
        return missing_within(found, region, self.factor)
