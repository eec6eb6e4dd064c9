"""The base classes of sources of pixels, whatever their format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_slides.core.bad_tiles import MissingRegion
from dask_slides.core.channels import Channel
from dask_slides.core.geometry import Placement, Region, strips
from dask_slides.core.types import Array

Span = tuple[int, int]
"""First row or column, and the one past the last."""


Piece = tuple[Region, Array, tuple[MissingRegion, ...], Array | None]
"""A region, its pixels, the parts that no tile holds, and which pixels have a value."""


@dataclass(frozen=True)
class Level:
    """One resolution of an image."""

    shape: tuple[int, int]
    """Height and width in pixels of this level."""
    downsample: tuple[float, float]
    """Pixels of level 0 for one of this level, along y and x."""
    tile: tuple[int, int]
    """Height and width of a tile, strip or chunk in the file: what one decode returns."""


class Source(ABC):
    """A picklable, frozen description of an image that any process can read from.

    A source holds no open file: `read` opens the file by path, in the process that calls it. A
    subclass defines `name`, `levels`, `channels` and `dtype` as fields or properties, and `read`.
    The other methods have defaults for sources that cannot do more.
    """

    if TYPE_CHECKING:  # a property at runtime would be taken for the default of a dataclass field

        @property
        def name(self) -> str:
            """The name of the image in messages."""

        @property
        def levels(self) -> tuple[Level, ...]:
            """Resolutions, the full one first."""

        @property
        def channels(self) -> int:
            """Samples per pixel."""

        @property
        def dtype(self) -> np.dtype[Any]:
            """Type of a sample."""

    @abstractmethod
    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`, (height, width, channels)."""

    @property
    def layer_name(self) -> str:
        """What the layer of a graph that computes the pixels is called."""
        return "read"

    @property
    def fill(self) -> Any:
        """The value that missing pixels show, of the dtype; None if no pixel can be missing."""
        return None

    @property
    def masked(self) -> bool:
        """Whether single pixels may be missing: nodata, or left out by a mask."""
        return False

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Return the pixels of `region` of `level`, and which of them (h, w) have a value.

        The second is None if all of them have one. Pixels of absent and corrupt tiles count as
        pixels with a value here; see `holes` for these.
        """
        return self.read(level, region), None

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` of `level` that show the fill because their tile is bad.

        Tiles that this process has read are not read again. If corrupt tiles are masked, tiles
        that were not read yet are decoded.
        """
        return ()

    def lacks(self, level: int, region: Region) -> bool:
        """Return whether it is known without a read that all tiles of `region` are bad."""
        return False

    @property
    def on_bad_tile(self) -> str | None:
        """How corrupt tiles are handled: "raise", "mask", or None for a source without tiles."""
        return None

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the factors that `level` can be read reduced by, ascending.

        A reduced image has ``ceil(size / factor)`` pixels, each about the mean of `factor` x
        `factor` pixels, or fewer at the edge. It does not depend on the region that is read, and
        costs less than reading and averaging.
        """
        return ()

    def coarseness(self, level: int) -> int:
        """Return how many times coarser the colours of a reduced image are than its pixels."""
        return 1

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Return `region`, in pixels of the reduced image, of `level` reduced by `factor`."""
        raise NotImplementedError

    def tiles(self, level: int, region: Region) -> Iterator[tuple[Region, Array]] | None:
        """Return the region and the pixels of each tile in `region`; None without plain tiles.

        Absent and corrupt tiles are left out. The next tile may overwrite the array of this one.
        """
        return None

    def gather(
        self, level: int, regions: list[Region]
    ) -> Iterator[tuple[int, Region, Array]] | None:
        """Return the same for many regions, each tile decoded once: number, region and pixels."""
        return None

    def read_width(self, level: int) -> int:
        """Return the least width in pixels that a task should read at once; 0 if any will do."""
        return 0


@dataclass(frozen=True)
class Opened:
    """What a reader returns for a file or store."""

    source: Source
    mpp: tuple[float, float] | None
    """Micrometres per pixel (y, x), if the file has them."""
    properties: dict[str, str]
    images: tuple[str, ...] = ()
    """Names of the images, if there are several."""
    channels: tuple[Channel, ...] = ()
    """What the file says about the channels of the source."""


class DerivedSource(Source):
    """A source computed from the pixels of another one, its parent."""

    if TYPE_CHECKING:

        @property
        def parent(self) -> Source:
            """The source whose pixels this one is computed from."""

    @property
    def name(self) -> str:
        """The name of the parent."""
        return self.parent.name

    @property
    def channels(self) -> int:
        """As the parent."""
        return self.parent.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """As the parent."""
        return self.parent.dtype

    @property
    def fill(self) -> Any:
        """As the parent."""
        return self.parent.fill

    @property
    def masked(self) -> bool:
        """As the parent."""
        return self.parent.masked

    @property
    def on_bad_tile(self) -> str | None:
        """As the parent."""
        return self.parent.on_bad_tile

    def lacks(self, level: int, region: Region) -> bool:
        """Return whether it is known that all tiles that `region` needs are bad."""
        return region.area > 0 and self.parent.lacks(*self.window(level, region))

    @property
    @abstractmethod
    def operation(self) -> str:
        """What was done to the parent, in a few words for people, such as "cut off"."""

    @property
    @abstractmethod
    def placement(self) -> Placement:
        """Where level 0 lies on level 0 of the parent."""

    @abstractmethod
    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and region of the parent that `region` needs."""

    def spans(self, level: int, region: Region) -> tuple[int, list[Span], list[Span]]:
        """Return the level, the rows and the columns of the parent that `region` needs.

        These are several ranges where the source leaves out what lies between them.
        """
        number, window = self.window(level, region)
        return number, [(window.y, window.stop_y)], [(window.x, window.stop_x)]

    @abstractmethod
    def working_bytes(self, level: int, region: Region) -> int:
        """Return the peak bytes of reading `region`, its result included, without its reads."""

    @abstractmethod
    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and region of the largest single read of the parent."""


def fill_holes(
    source: Source, holes: tuple[MissingRegion, ...], region: Region, pixels: Array
) -> None:
    """Write the fill of `source` into the `holes` of `pixels`, which show `region`."""
    for hole in holes:
        pixels[hole.region.slices(region.y, region.x)] = source.fill


def iter_pieces(source: Source, level: int, region: Region, max_pixels: int) -> Iterator[Piece]:
    """Return `region` in pieces, each pixel once: tiles, or strips of at most `max_pixels`.

    With each piece come the parts of it that no tile holds, and which of its pixels have a value
    (None for all). Bad tiles are left out, and so are strips without any other pixel. The next
    piece may overwrite the array of this one.
    """
    tiles = source.tiles(level, region)
    if tiles is not None:
        return map(_without_gaps, tiles)
    return _iter_strips(source, level, region, max_pixels)


def _without_gaps(tile: tuple[Region, Array]) -> Piece:
    return *tile, (), None


def _iter_strips(source: Source, level: int, region: Region, max_pixels: int) -> Iterator[Piece]:
    for strip in strips(region, source.levels[level].tile[0], max_pixels):
        if source.lacks(level, strip):
            continue
        pixels, valid = source.read_valid(level, strip)
        yield strip, pixels, source.holes(level, strip), valid


def root_of(source: Source) -> Source:
    """Return the file, store or array at the bottom of a chain of derived sources."""
    while isinstance(source, DerivedSource):
        source = source.parent
    return source


def placement_of(source: Source) -> Placement:
    """Return the placement of level 0 of `source` on level 0 of its root."""
    place = Placement()
    while isinstance(source, DerivedSource):
        place = place.on(source.placement)
        source = source.parent
    return place


def root_window(source: Source, level: int, region: Region) -> tuple[int, Region]:
    """Return the level and region of the root that `region` of `source` needs."""
    while isinstance(source, DerivedSource):
        level, region = source.window(level, region)
        source = source.parent
    return level, region


def root_spans(source: Source, level: int, region: Region) -> tuple[list[Span], list[Span]]:
    """Return the rows and the columns of the root that `region` of `source` needs, as ranges."""
    rows, columns = [(region.y, region.stop_y)], [(region.x, region.stop_x)]
    while isinstance(source, DerivedSource):
        (top, bottom), (left, right) = rows[0], columns[0]
        number, down, across = source.spans(level, Region(top, left, bottom - top, right - left))
        for y, end in rows[1:]:
            down += source.spans(level, Region(y, left, end - y, right - left))[1]
        for x, end in columns[1:]:
            across += source.spans(level, Region(top, x, bottom - top, end - x))[2]
        level, source, rows, columns = number, source.parent, down, across
    return rows, columns


def replace_root(source: Source, root: Source) -> Source:
    """Return the same chain of derived sources on top of another root."""
    if isinstance(source, DerivedSource):
        return replace(source, parent=replace_root(source.parent, root))  # type: ignore[type-var]
    return root


def provenance(source: Source, name: str) -> str:
    """Return what was done to the image called `name`, such as "resized by 2 from a.svs"."""
    operations: list[str] = []
    while isinstance(source, DerivedSource):
        operations.insert(0, source.operation)
        source = source.parent
    return f"{' and '.join(operations)} from {name}" if operations else name
