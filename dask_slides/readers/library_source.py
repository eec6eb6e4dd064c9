"""What the readers share that leave the reading to a library, such as OpenSlide."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from dask_slides.core.bad_tiles import MissingRegion
from dask_slides.core.geometry import Region
from dask_slides.core.limits import Limits
from dask_slides.core.source import Level, Source
from dask_slides.core.types import Array
from dask_slides.errors import SlideFormatError, SlideLimitError, TileDecodeError
from dask_slides.readers.remote.identity import Identity, check_identity, identify
from dask_slides.readers.tile_status import TileStatus, decode_error
from dask_slides.runtime.fork_safety import after_fork_in_child, fork_safe_lock

Key = TypeVar("Key", bound=Hashable)
Handle = TypeVar("Handle")

OPEN_FILES = 16
"""Slides that one process keeps open for each library."""


@dataclass(frozen=True)
class Files:
    """The files of a slide, as they were when it was opened."""

    identities: tuple[tuple[str, Identity], ...]

    @classmethod
    def of(cls, paths: Iterable[str]) -> Files:
        """Identify the files at `paths`."""
        return cls(tuple((path, identify(path)) for path in paths))

    @property
    def paths(self) -> list[str]:
        """The path of each file."""
        return [path for path, _ in self.identities]

    def check(self) -> None:
        """Raise SlideChangedError if a file was changed."""
        for path, identity in self.identities:
            check_identity(path, identity)


class OpenHandles(Generic[Key, Handle]):
    """The open slides of this process, by key. Threads may share it.

    A handle must close itself when nothing refers to it. A forked child opens its own: files and
    locks of the parent's handles may be in use by threads that the child does not have, so it
    neither uses nor closes them.
    """

    def __init__(self, open_handle: Callable[[Key], Handle], limit: int = OPEN_FILES) -> None:
        self._open = open_handle
        self._limit = limit
        self._handles: OrderedDict[Key, Handle] = OrderedDict()
        self._of_parent: list[Handle] = []
        self._lock = fork_safe_lock()
        after_fork_in_child(self._start_anew)

    def _start_anew(self) -> None:
        self._of_parent += self._handles.values()
        self._handles = OrderedDict()

    def get(self, key: Key) -> Handle:
        """Return the handle of `key`; open it if it is not open."""
        with self._lock:
            if key not in self._handles:
                self._handles[key] = self._open(key)
                while len(self._handles) > self._limit:
                    self._handles.popitem(last=False)
            self._handles.move_to_end(key)
            return self._handles[key]

    def drop(self, key: Key, handle: Handle) -> None:
        """Forget `handle`, so that the next `get` opens another one."""
        with self._lock:
            if self._handles.get(key) is handle:
                del self._handles[key]


class LibrarySource(Source):
    """A source that a library reads region by region.

    A subclass is a frozen dataclass with the fields `path`, `files`, `levels`, `background` and
    `on_bad_tile`, and defines `part`. A library does not say which tile it could not decode, so
    the tiles of `levels` are read one by one to find it.
    """

    if TYPE_CHECKING:

        @property
        def path(self) -> str:
            """Absolute path."""

        @property
        def files(self) -> Files:
            """All files of the slide that are known."""

        @property
        def background(self) -> float:
            """The value that pixels without a value show."""

        @property
        def on_bad_tile(self) -> str:
            """What happens on a corrupt tile: "raise" or "mask"."""

    @abstractmethod
    def part(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Read `region` of `level`: pixels (h, w, channels), and a mask of those with a value.

        The mask is None if all have one; other pixels show the fill. Any error of the library may
        be raised.
        """

    def absent(self, level: int) -> Array | None:
        """Return which tiles (rows, columns) the file does not hold; None if it holds all."""
        return None

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    @property
    def fill(self) -> Any:
        """The value that pixels without a value show."""
        return self.dtype.type(self.background)

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region` of `level`."""
        return self.read_valid(level, region)[0]

    def read_valid(self, level: int, region: Region) -> tuple[Array, Array | None]:
        """Return the pixels of `region` of `level`, and which of them have a value."""
        self.files.check()
        valid = np.ones((region.height, region.width), bool) if self.masked else None
        read = partial(self._valid_part, level, region, valid)
        try:
            if self.on_bad_tile == "mask":
                status = _tile_status(self, level)
                pixels = status.read_masked(region, read, self.channels, self.fill)
            else:
                pixels = read(region)
        except Exception as error:  # each library has errors of its own
            failure = decode_error(self.path, level, region, error)
        else:
            return pixels, None if valid is None or valid.all() else valid
        raise self._with_tile(failure, level, region)

    def _valid_part(self, level: int, around: Region, valid: Array | None, part: Region) -> Array:
        """Return the pixels of a part of `around`; clear `valid` where they have no value."""
        pixels, mask = self.part(level, part)
        if mask is not None and valid is not None:
            valid[part.slices(around.y, around.x)] = mask
        return pixels

    def _with_tile(self, failure: Exception, level: int, region: Region) -> Exception:
        """Return the error of the first tile of `region` that cannot be decoded."""
        if isinstance(failure, TileDecodeError):
            for tile, _ in _tile_status(self, level).tiles(region):
                try:
                    self.part(level, tile)
                except Exception as error:
                    return decode_error(self.path, level, tile, error)
        return failure

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` whose tiles are absent, or masked as corrupt."""
        status = _tile_status(self, level)
        if self.on_bad_tile == "mask":
            for tile in status.undecoded(region):
                self.read(level, tile)
        return status.holes(region)

    def lacks(self, level: int, region: Region) -> bool:
        """Return whether all tiles of `region` are known to be bad."""
        return _tile_status(self, level).all_missing(region)


@lru_cache(maxsize=64)
def _tile_status(source: LibrarySource, level: int) -> TileStatus:
    info = source.levels[level]
    return TileStatus(level, info.shape, info.tile, source.absent(level))


def check_levels(
    path: str, levels: Iterable[Level], pixel_bytes: int, limits: Limits
) -> tuple[Level, ...]:
    """Return `levels`; raise if they are empty, or have more pixels or larger tiles than allowed.

    `pixel_bytes` are the bytes that the library holds for one pixel of a decoded tile.
    """
    checked = tuple(levels)
    for number, level in enumerate(checked):
        (height, width), (rows, columns) = level.shape, level.tile
        if min(height, width, rows, columns) < 1:
            raise SlideFormatError(
                f"{path}: level {number} has {height} x {width} px in tiles of {rows} x {columns}; "
                "the file is damaged, fetch it again"
            )
        if height * width > limits.pixels or rows * columns * pixel_bytes > limits.tile_bytes:
            raise SlideLimitError(
                f"{path}: level {number} declares {height:,} x {width:,} px in tiles of {rows:,} x "
                f"{columns:,}; if that is right, open it with limits=Limits(...)"
            )
    return checked
