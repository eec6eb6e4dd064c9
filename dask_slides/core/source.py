"""What every source of pixels offers, and nothing of any format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from dask_slides.core.bad_tiles import MissingRegion
from dask_slides.core.channels import Channel
from dask_slides.core.geometry import Placement, Region, strips
from dask_slides.core.types import Array
from dask_slides.errors import (
    SlideError,
    TileDecodeError,
    is_memory_error,
    memory_error,
    reason_of,
)

Read = TypeVar("Read")


@dataclass(frozen=True)
class Level:
    """One resolution of an image."""

    shape: tuple[int, int]
    """Height and width in pixels of this level."""
    downsample: tuple[float, float]
    """Pixels of level 0 for one of this level, along y and x."""
    tile: tuple[int, int]
    """Height and width of a unit of storage: what one decode gives."""


@runtime_checkable
class Source(Protocol):
    """A picklable, frozen description of an image that any process can read from.

    A source never holds an open file: `read` opens what it needs, by path, in the
    process that calls it.
    """

    @property
    def name(self) -> str:
        """What messages call the image."""
        ...

    @property
    def levels(self) -> tuple[Level, ...]:
        """Resolutions, the full one first."""
        ...

    @property
    def channels(self) -> int:
        """Samples a pixel."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        ...

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`, (height, width, channels)."""
        ...


@dataclass(frozen=True)
class Opened:
    """What a reader returns of a file or store."""

    source: Source
    mpp: tuple[float, float] | None
    """Micrometres per pixel (y, x) if the file tells them."""
    properties: dict[str, str]
    images: tuple[str, ...] = ()
    """What the images are called, if there are several."""
    channels: tuple[Channel, ...] = ()
    """What the file says of the channels of the source, if it does."""


@runtime_checkable
class Shrinking(Source, Protocol):
    """A source that can be read smaller for less than reading and averaging it.

    Its reduced image has ``ceil(size / factor)`` pixels, each about the mean of `factor` x
    `factor` pixels, the last ones of what there is; it does not depend on the region read.
    """

    def factors(self, level: int) -> tuple[int, ...]:
        """Return the reductions that `level` can be read at, ascending; () if at none."""
        ...

    def coarseness(self, level: int) -> int:
        """Return how many times coarser than told the colours of a reduced image are."""
        ...

    def read_reduced(self, level: int, factor: int, region: Region) -> Array:
        """Return `region` of `level` reduced by `factor`, in pixels of the reduced image."""
        ...


@runtime_checkable
class Tiled(Source, Protocol):
    """A source whose units of storage can be looked at one by one, without a copy."""

    def tiles(self, level: int, region: Region) -> Iterator[tuple[Region, Array]] | None:
        """Return what the tiles hold of `region`, with their places; None if it has none.

        Those that are absent or corrupt are left out. An array is overwritten when the next one
        is asked for.
        """
        ...

    def gather(
        self, level: int, regions: list[Region]
    ) -> Iterator[tuple[int, Region, Array]] | None:
        """Return the same of many regions, each tile once: number, place and pixels."""
        ...


@runtime_checkable
class Sharing(Source, Protocol):
    """A source whose units of storage can be decoded once for several operations."""

    def with_means(self) -> Source:
        """Return the same, whose reduced units are means of full ones whatever their codec."""
        ...

    def sharing(self, folder: str, reads: Sequence[int]) -> AbstractContextManager[None]:
        """Decode each unit of level 0 once for what reads it in this process meanwhile.

        `reads` are the reductions that it will be read at, 1 for in full; what several of them
        can use is kept in a file without a name in `folder`.
        """
        ...


@runtime_checkable
class Spanning(Source, Protocol):
    """A source of which a task should read wide regions: strips, or tiles of another machine."""

    @property
    def spans(self) -> tuple[int, ...]:
        """Pixels along x of each level that should be read at once; 0 if any may."""
        ...


@runtime_checkable
class Checked(Source, Protocol):
    """A source that knows which of its pixels no tile holds: they show the fill."""

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` of `level` that show the fill.

        Of what was read in this process nothing is read again; it decodes what was not, if
        corrupt tiles are masked.
        """
        ...


@runtime_checkable
class Masked(Source, Protocol):
    """A source that may say of single pixels that the image has no value there.

    Those are the nodata value of a file, and what its mask leaves out. They show the fill.
    """

    @property
    def masked(self) -> bool:
        """Whether there may be such pixels at all."""
        ...

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Return the pixels of `region` of `level`, and which of them (h, w) have a value.

        None instead of the second array if all of them have one.
        """
        ...


@runtime_checkable
class Filling(Checked, Protocol):
    """The root of such a source: a file or store."""

    @property
    def fill(self) -> Any:
        """What a pixel shows that no tile holds; of the dtype."""
        ...


@runtime_checkable
class Sparse(Filling, Protocol):
    """Such a source whose tables say what it lacks."""

    def lacks(self, level: int, region: Region) -> bool:
        """Return whether it is known that no tile holds any of `region` of `level`."""
        ...


@runtime_checkable
class Masking(Filling, Protocol):
    """A file or store that reads on where a tile is corrupt, if that is wanted."""

    @property
    def on_bad_tile(self) -> str:
        """Whether a corrupt tile raises, or is masked by the fill: "raise" or "mask"."""
        ...


def holes_in(source: Source, level: int, region: Region) -> tuple[MissingRegion, ...]:
    """Return the holes of any source; arrays have none."""
    return source.holes(level, region) if isinstance(source, Checked) else ()


def is_masked(source: Source) -> bool:
    """Return whether single pixels of any source may be without a value."""
    return isinstance(source, Masked) and source.masked


def read_valid(source: Source, level: int, region: Region) -> tuple[Array, Array | None]:
    """Return the pixels of any source, and which of them (h, w) have a value; None for all."""
    if isinstance(source, Masked) and source.masked:
        return source.read_valid(level, region)
    return source.read(level, region), None


def fill_holes(
    source: Source, holes: tuple[MissingRegion, ...], region: Region, pixels: Array
) -> None:
    """Let the `pixels` of `region` of `source` show the fill in its `holes`."""
    if not holes:
        return
    root = root_of(source)
    assert isinstance(root, Filling)
    for hole in holes:
        pixels[hole.region.slices(region.y, region.x)] = root.fill


def fill_of(source: Source) -> Any:
    """Return what a pixel without a value shows."""
    root = root_of(source)
    assert isinstance(root, Filling)
    return root.fill


def is_hole(source: Source, level: int, region: Region) -> bool:
    """Return whether it is known that all of `region` shows the fill; nothing is read for it."""
    root = root_of(source)
    return isinstance(root, Sparse) and root.lacks(*root_window(source, level, region))


def iter_pieces(
    source: Source, level: int, region: Region, max_pixels: int
) -> Iterator[tuple[Region, Array, tuple[MissingRegion, ...], Array | None]]:
    """Yield `region` in pieces, each pixel once: tiles, or strips of at most `max_pixels`.

    With each piece come the parts of it that no tile holds, and which of its pixels have a value
    (None for all); tiles that are bad are left out, as are strips of nothing else. An array may be
    overwritten when the next one is asked for.
    """
    tiles = source.tiles(level, region) if isinstance(source, Tiled) else None
    if tiles is not None:
        for place, pixels in tiles:
            yield place, pixels, (), None
        return
    for strip in strips(region, source.levels[level].tile[0], max_pixels):
        if is_hole(source, level, strip):
            continue
        pixels, valid = read_valid(source, level, strip)
        yield strip, pixels, holes_in(source, level, strip), valid


@runtime_checkable
class DerivedSource(Source, Protocol):
    """A source computed from the pixels of another one."""

    @property
    def parent(self) -> Source:
        """The source whose pixels this one is computed from."""
        ...

    @property
    def placement(self) -> Placement:
        """Where level 0 lies on level 0 of the parent."""
        ...

    def window(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and region of the parent that `region` needs."""
        ...

    def working_bytes(self, level: int, region: Region) -> int:
        """Return the peak bytes of reading `region`, its result included, the reads not."""
        ...

    def largest_read(self, level: int, region: Region) -> tuple[int, Region]:
        """Return the level and region of the largest single read of the parent."""
        ...


def root_of(source: Source) -> Source:
    """Return the file, store or array at the bottom of a chain of derived sources."""
    while isinstance(source, DerivedSource):
        source = source.parent
    return source


def placement_of(source: Source) -> Placement:
    """Return where level 0 of `source` lies on level 0 of its root."""
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


def rebind(source: Source, root: Source) -> Source:
    """Return the same chain on top of another root."""
    if isinstance(source, DerivedSource):
        return replace(source, parent=rebind(source.parent, root))  # type: ignore[type-var]
    return root


def read_or_raise(
    name: str, level: int, region: Region, fetch: Callable[[], Read], offset: int | None = None
) -> Read:
    """Return what `fetch` reads, or raise TileDecodeError: which pixels of which slide.

    `offset` is that of the bytes in the file, where `region` is one tile.
    """
    try:
        return fetch()
    except SlideError:
        raise
    except Exception as error:  # each codec raises a kind of its own
        reason = reason_of(error)
        memory = is_memory_error(error)
    # out of the block: a codec's error often cannot be pickled, and would travel with ours
    if memory:
        raise memory_error(f"{name}: level {level}, rows {region.y} to {region.stop_y}", reason)
    at = "" if offset is None else f", at byte {offset},"
    raise TileDecodeError(
        f"{name}: level {level}, rows {region.y} to {region.stop_y}, columns {region.x} to "
        f"{region.stop_x}{at} cannot be decoded ({reason}); the file may be damaged, "
        "fetch it again or export it anew",
        level,
        region.y,
        region.x,
        offset,
    )
