"""Images with only some channels of another image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dask_slides.core.bad_tiles import MissingRegion
from dask_slides.core.geometry import Placement, Region
from dask_slides.core.source import DerivedSource, Level, Source
from dask_slides.core.types import Array


def with_channels(source: Source, numbers: tuple[int, ...]) -> Source:
    """Return `source` with the channels `numbers` only, in this order.

    A source that can read these channels alone does so; else all are read and these are kept.
    """
    if numbers == tuple(range(source.channels)):
        return source
    return source.with_channels(numbers) or ChannelsSource(source, numbers)


@dataclass(frozen=True)
class ChannelsSource(DerivedSource):
    """The image `parent` with the channels `numbers` only."""

    parent: Source
    numbers: tuple[int, ...]

    @property
    def layer_name(self) -> str:
        """The name of the graph layer, "channels"."""
        return "channels"

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels of the parent."""
        return self.parent.levels

    @property
    def channels(self) -> int:
        """Number of the chosen channels."""
        return len(self.numbers)

    @property
    def operation(self) -> str:
        """The operation, such as "channels 0, 2"."""
        return f"channels {', '.join(map(str, self.numbers))}"

    @property
    def placement(self) -> Placement:
        """The pixels lie where those of the parent do."""
        return Placement()

    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return `level` and `region`."""
        return level, region

    def working_bytes(self, level: int, region: Region) -> int:
        """Return the bytes of the chosen channels."""
        return region.area * self.channels * self.dtype.itemsize

    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return `level` and `region`."""
        return level, region

    def _chosen(self, pixels: Array) -> Array:
        return np.ascontiguousarray(pixels[..., list(self.numbers)])

    def read(self, level: int, region: Region) -> Array:
        """Read `region` of the parent, and keep the chosen channels."""
        return self._chosen(self.parent.read(level, region))

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read `region`, and a mask of the pixels with a value in the parent."""
        pixels, valid = self.parent.read_valid(level, region)
        return self._chosen(pixels), valid

    def gutters(self, rows: Array, columns: Array) -> Array | None:
        """Return the gutters of the parent."""
        return self.parent.gutters(rows, columns)

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the holes of the parent."""
        return self.parent.holes(level, region)

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the reductions of the parent."""
        return self.parent.reductions(level)

    def coarseness(self, level: int) -> int:
        """Return the coarseness of the parent."""
        return self.parent.coarseness(level)

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Read `region` reduced, and keep the chosen channels."""
        return self._chosen(self.parent.read_reduced(level, factor, region))

    def tiles(self, level: int, region: Region) -> Iterator[tuple[Region, Array]] | None:
        """Return the tiles of the parent with the chosen channels, if it can iterate over them."""
        found = self.parent.tiles(level, region)
        return None if found is None else ((part, self._chosen(tile)) for part, tile in found)

    def gather(
        self, level: int, regions: list[Region]
    ) -> Iterator[tuple[int, Region, Array]] | None:
        """Yield parts of many regions with the chosen channels, if the parent can."""
        found = self.parent.gather(level, regions)
        if found is None:
            return None
        return ((index, part, self._chosen(pixels)) for index, part, pixels in found)
