"""Base classes of sources of pixels, in any format."""

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

Spans = tuple[list[Span], list[Span]]
"""Ranges of rows and of columns, all of which are needed with each other."""

Piece = tuple[Region, Array, tuple[MissingRegion, ...], Array | None]
"""A region, its pixels, its missing regions, and the mask of pixels with a value (None: all)."""


@dataclass(frozen=True)
class Level:
    """One resolution of an image."""

    shape: tuple[int, int]
    """Height and width in pixels of this level."""
    downsample: tuple[float, float]
    """Pixels of level 0 per pixel of this level, along y and x."""
    tile: tuple[int, int]
    """Height and width of a tile, strip or chunk in the file, which is decoded as a whole."""


class Source(ABC):
    """A frozen, picklable description of an image, from which any process can read.

    A source holds no open file: `read` opens the file by path, in the process that calls it. A
    subclass defines `name`, `levels`, `channels` and `dtype` as fields or properties, and `read`.
    The other methods have defaults for sources that cannot do more.
    """

    if TYPE_CHECKING:  # at runtime, a dataclass would use a property as the default of a field

        @property
        def name(self) -> str:
            """The name of the image in messages."""

        @property
        def levels(self) -> tuple[Level, ...]:
            """Resolutions, from full to smallest."""

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
        """The name of the graph layer that computes the pixels."""
        return "read"

    @property
    def fill(self) -> Any:
        """The value of missing pixels; None if no pixel can be missing."""
        return None

    @property
    def masked(self) -> bool:
        """Whether single pixels may be missing, because of nodata or a mask."""
        return False

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Return the pixels of `region` of `level`, and a mask (h, w) of those with a value.

        The mask is None if all pixels have a value. It ignores absent and corrupt tiles; see
        `holes` for them.
        """
        return self.read(level, region), None

    def with_channels(self, numbers: tuple[int, ...]) -> Source | None:
        """Return the source of the channels `numbers`, in this order, which reads no others.

        None if the source cannot do this; then all channels are read, and these are kept.
        """
        return None

    def gutters(self, rows: Array, columns: Array) -> Array | None:
        """Return a mask of the pixels of level 0 at `rows` and `columns` that are no part of it.

        These are the gutters of a layout. They have no value in `read_valid`, and they show the
        fill, which resampling may mix with their neighbours. None if there are none.
        """
        return None

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` of `level` that show the fill because their tile is bad.

        Tiles that this process has read before are not read again. If corrupt tiles are masked,
        all other tiles are decoded to find them.
        """
        return ()

    def lacks(self, level: int, region: Region) -> bool:
        """Return whether all tiles of `region` are known to be bad, without reading any."""
        return False

    @property
    def on_bad_tile(self) -> str | None:
        """What happens on a corrupt tile: "raise" or "mask"; None for a source without tiles."""
        return None

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the factors by which `level` can be reduced while reading, ascending.

        A side of a reduced image has ``ceil(size / factor)`` pixels. Each pixel is about the mean
        of `factor` x `factor` pixels, or of fewer at the edge, whatever region is read. Reading it
        costs less than reading and averaging all pixels.
        """
        return ()

    def coarseness(self, level: int) -> int:
        """Return how many pixels of a reduced image share one colour sample along an axis."""
        return 1

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Return the pixels of `region` of `level` reduced by `factor`.

        `region` is in pixels of the reduced image.
        """
        raise NotImplementedError

    def tiles(self, level: int, region: Region) -> Iterator[tuple[Region, Array]] | None:
        """Yield the region and the pixels of each tile in `region`, without bad tiles.

        Return None if the source cannot iterate over tiles. The next tile may overwrite the array
        of this one.
        """
        return None

    def gather(
        self, level: int, regions: list[Region]
    ) -> Iterator[tuple[int, Region, Array]] | None:
        """Yield parts of many regions (index, part, pixels), decoding each tile once.

        Return None if the source cannot do this.
        """
        return None

    def read_width(self, level: int) -> int:
        """Return the minimum width in pixels that a task should read; 0 if there is none."""
        return 0


@dataclass(frozen=True)
class Opened:
    """The result of a reader for a file or store."""

    source: Source
    mpp: tuple[float, float] | None
    """Micrometres per pixel (y, x); None if the file does not have them."""
    properties: dict[str, str]
    images: tuple[str, ...] = ()
    """Names of the images if the file has several."""
    channels: tuple[Channel, ...] = ()
    """Names and display settings of the channels in the file."""


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
        """The samples per pixel of the parent."""
        return self.parent.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the parent."""
        return self.parent.dtype

    @property
    def fill(self) -> Any:
        """The fill of the parent."""
        return self.parent.fill

    @property
    def masked(self) -> bool:
        """Whether single pixels of the parent may be missing."""
        return self.parent.masked

    @property
    def on_bad_tile(self) -> str | None:
        """What happens on a corrupt tile of the parent."""
        return self.parent.on_bad_tile

    def lacks(self, level: int, region: Region) -> bool:
        """Return whether all tiles that `region` needs are known to be bad."""
        return region.area > 0 and self.parent.lacks(*self.window(level, region))

    @property
    @abstractmethod
    def operation(self) -> str:
        """The operation on the parent in a few words, such as "cut off"."""

    @property
    @abstractmethod
    def placement(self) -> Placement:
        """The placement of level 0 on level 0 of the parent."""

    @abstractmethod
    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and region of the parent that `region` needs."""

    def spans(self, level: int, region: Region) -> tuple[int, list[Span], list[Span]]:
        """Return the level, the rows and the columns of the parent that `region` needs.

        There are several ranges if the source skips rows or columns of the parent.
        """
        number, window = self.window(level, region)
        return number, [(window.y, window.stop_y)], [(window.x, window.stop_x)]

    def all_spans(
        self, level: int, rows: list[Span], columns: list[Span]
    ) -> tuple[int, list[Spans]]:
        """Return the level and the ranges of the parent that all `rows` x `columns` need.

        There are several pairs of ranges if not all rows of the parent need the same columns.
        """
        (top, bottom), (left, right) = rows[0], columns[0]
        number, down, across = self.spans(level, Region(top, left, bottom - top, right - left))
        for y, end in rows[1:]:
            down = down + self.spans(level, Region(y, left, end - y, right - left))[1]
        for x, end in columns[1:]:
            across = across + self.spans(level, Region(top, x, bottom - top, end - x))[2]
        return number, [(down, across)]

    @abstractmethod
    def working_bytes(self, level: int, region: Region) -> int:
        """Return the peak bytes of reading `region`, without those of reading the parent."""

    @abstractmethod
    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and region of the largest single read of the parent."""


def gutters_of(source: Source, level: int, region: Region) -> Array | None:
    """Return a mask (h, w) of the pixels of `region` whose centre lies in a gutter."""
    info, full = source.levels[level], source.levels[0].shape
    rows, columns = (
        np.minimum((np.arange(start, stop) + 0.5) * info.downsample[axis], full[axis] - 1)
        for axis, (start, stop) in enumerate(((region.y, region.stop_y), (region.x, region.stop_x)))
    )
    return source.gutters(rows.astype(np.int64), columns.astype(np.int64))


def gutters_of_parent(source: DerivedSource, rows: Array, columns: Array) -> Array | None:
    """Return a mask of the pixels at `rows` and `columns` with their centre in a gutter."""
    y, x = (
        np.minimum((index + 0.5) * scale, size - 1).astype(np.int64)
        for index, scale, size in zip(
            (rows, columns), source.placement.scale, source.parent.levels[0].shape, strict=True
        )
    )
    return source.parent.gutters(y, x)


def fill_holes(
    source: Source, holes: tuple[MissingRegion, ...], region: Region, pixels: Array
) -> None:
    """Write the fill of `source` into the `holes` of `pixels`, the pixels of `region`."""
    for hole in holes:
        pixels[hole.region.slices(region.y, region.x)] = source.fill


def iter_pieces(source: Source, level: int, region: Region, max_pixels: int) -> Iterator[Piece]:
    """Iterate over `region` in pieces that do not overlap: tiles, or strips.

    Strips have at most `max_pixels`, or one row of tiles. Bad tiles are skipped, and so are strips
    in which all tiles are known to be bad. The next piece may overwrite the array of this one.
    """
    tiles = source.tiles(level, region)
    if tiles is not None:
        return ((part, pixels, (), None) for part, pixels in tiles)
    return _iter_strips(source, level, region, max_pixels)


def _iter_strips(source: Source, level: int, region: Region, max_pixels: int) -> Iterator[Piece]:
    for strip in strips(region, source.levels[level].tile[0], max_pixels):
        if source.lacks(level, strip):
            continue
        pixels, valid = source.read_valid(level, strip)
        yield strip, pixels, source.holes(level, strip), valid


def root_of(source: Source) -> Source:
    """Return the file, store or array at the end of a chain of derived sources."""
    while isinstance(source, DerivedSource):
        source = source.parent
    return source


def placement_of(source: Source) -> Placement:
    """Return the placement of level 0 of `source` on level 0 of its root."""
    placement = Placement()
    while isinstance(source, DerivedSource):
        placement = placement.on(source.placement)
        source = source.parent
    return placement


def root_window(source: Source, level: int, region: Region) -> tuple[int, Region]:
    """Return the level and region of the root that `region` of `source` needs."""
    while isinstance(source, DerivedSource):
        level, region = source.window(level, region)
        source = source.parent
    return level, region


def root_spans(source: Source, level: int, region: Region) -> list[Spans]:
    """Return the ranges of rows and columns of the root that `region` of `source` needs."""
    found: list[Spans] = [([(region.y, region.stop_y)], [(region.x, region.stop_x)])]
    while isinstance(source, DerivedSource):
        number, needed = level, []
        for rows, columns in found:
            number, own = source.all_spans(level, rows, columns)
            needed += own
        level, source, found = number, source.parent, needed
    return found


def replace_root(source: Source, root: Source) -> Source:
    """Return `source` with another root under its chain of derived sources."""
    if isinstance(source, DerivedSource):
        return replace(source, parent=replace_root(source.parent, root))  # type: ignore[type-var]
    return root


def provenance(source: Source, name: str) -> str:
    """Describe the operations on the image `name`, such as "resized by 2 from a.svs"."""
    operations: list[str] = []
    while isinstance(source, DerivedSource):
        operations.insert(0, source.operation)
        source = source.parent
    return f"{' and '.join(operations)} from {name}" if operations else name
