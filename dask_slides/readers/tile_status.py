"""Track which tiles, strips or chunks of a level are absent or corrupt.

The tables of the file say which tiles are absent. A process finds a corrupt tile when it decodes
it, and remembers it: listing the bad tiles of a region that was read decodes nothing again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import ABSENT, CORRUPT, BadTile, MissingRegion
from dask_slides.core.geometry import Region, rectangles
from dask_slides.core.types import Array
from dask_slides.errors import (
    SlideArgumentError,
    SlideError,
    TileDecodeError,
    is_memory_error,
    memory_error,
    reason_of,
)


class TileStatus:
    """The state of the tiles of one level, in rows from the top left. Threads may share it."""

    def __init__(
        self,
        level: int,
        shape: tuple[int, int],
        tile: tuple[int, int],
        absent: Array | None = None,
        offsets: Array | None = None,
    ) -> None:
        """Start from the file's tables: `absent` (rows, cols) bool, `offsets` in the file."""
        self._level = level
        self._image = Region(0, 0, *shape)
        self._tile = tile
        counts = [-(-n // side) for n, side in zip(shape, tile, strict=True)]
        self._bad: Array = np.zeros(counts, bool) if absent is None else absent.reshape(counts)
        self._any_bad = bool(self._bad.any())
        self._decoded = self._bad.copy()
        self._offsets = offsets
        self._reasons: dict[tuple[int, int], str] = {}

    def _span(self, region: Region) -> tuple[slice, slice]:
        height, width = self._tile
        return (
            slice(region.y // height, -(-region.stop_y // height)),
            slice(region.x // width, -(-region.stop_x // width)),
        )

    def _region(self, row: int, column: int, rows: int = 1, columns: int = 1) -> Region:
        """Return the region that a rectangle of tiles covers."""
        height, width = self._tile
        region = Region(row * height, column * width, rows * height, columns * width)
        return region.intersect(self._image)

    def tiles(self, region: Region) -> Iterator[tuple[Region, int | None]]:
        """Yield the tiles that `region` touches, and the offset of each in the file."""
        rows, columns = self._span(region)
        for row in range(rows.start, rows.stop):
            for column in range(columns.start, columns.stop):
                yield self._region(row, column), self._offset(row, column)

    def undecoded(self, region: Region) -> list[Region]:
        """Return the tiles of `region` that were not decoded in this process."""
        rows, columns = self._span(region)
        found = np.argwhere(~self._decoded[rows, columns]).tolist()
        return [self._region(rows.start + row, columns.start + column) for row, column in found]

    def holes(self, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` whose tiles are known to hold no pixels."""
        if not self._any_bad:
            return ()
        rows, columns = self._span(region)
        absent = self._bad[rows, columns].copy()
        tiles = []
        # sorted, so that the result does not depend on the order of decoding
        for (row, column), reason in sorted(self._reasons.items()):
            if rows.start <= row < rows.stop and columns.start <= column < columns.stop:
                absent[row - rows.start, column - columns.start] = False
                offset = self._offset(row, column)
                tiles.append(self._bad_tile(self._region(row, column), CORRUPT, reason, offset))
        # joined into rectangles: a slide may have millions of absent tiles
        for one in rectangles(absent):
            joined = self._region(rows.start + one.y, columns.start + one.x, one.height, one.width)
            tiles.append(self._bad_tile(joined, ABSENT, "the file does not hold it"))
        return tuple(MissingRegion(tile.region.intersect(region), tile) for tile in tiles)

    def _bad_tile(
        self, region: Region, status: str, reason: str, offset: int | None = None
    ) -> BadTile:
        at = (region.y, region.x, region.height, region.width)
        return BadTile(self._level, *at, status, reason, offset)

    def all_missing(self, region: Region) -> bool:
        """Return whether all tiles of `region` are known to hold no pixels."""
        return self._any_bad and bool(self._bad[self._span(region)].all())

    def _offset(self, row: int, column: int) -> int | None:
        return None if self._offsets is None else int(self._offsets[row, column])

    def mark_decoded(self, region: Region) -> None:
        """Remember that every tile of `region` was decoded, or found to be bad."""
        self._decoded[self._span(region)] = True

    def mark_corrupt(self, region: Region, error: Exception) -> None:
        """Remember that the tile of `region` is corrupt; raise `error` if it is not damage."""
        if not is_damage(error):
            raise error
        row, column = (span.start for span in self._span(region))
        self._reasons[row, column] = reason_of(error)
        self._bad[row, column] = True
        self._any_bad = True
        self._decoded[row, column] = True  # last: other threads check it before `_bad`

    def read_masked(
        self, region: Region, read: Callable[[Region], Array], channels: int, fill: np.generic
    ) -> Array:
        """Return the pixels (h, w, channels) that `read` returns, with `fill` in corrupt tiles."""
        try:
            pixels = read(region)
        except Exception as error:
            if not is_damage(error):
                raise
        else:
            self.mark_decoded(region)
            return pixels
        out = np.full((region.height, region.width, channels), fill)
        for tile, _ in self.tiles(region):
            part = tile.intersect(region)
            try:
                out[part.slices(region.y, region.x)] = read(part)
                self.mark_decoded(part)
            except Exception as error:
                self.mark_corrupt(part, error)
        return out


def is_damage(error: Exception) -> bool:
    """Return whether `error` means that data are damaged, not that reading them failed."""
    if isinstance(error, SlideError):
        return isinstance(error, TileDecodeError)
    from_system = isinstance(error, OSError) and error.errno is not None
    from_others = isinstance(error, ConnectionError | TimeoutError)
    return not (from_system or from_others or is_memory_error(error))


def decode_error(
    name: str, level: int, region: Region, error: Exception, offset: int | None = None
) -> Exception:
    """Return the error to raise for an `error` of a codec: a TileDecodeError with the region.

    A SlideError is returned as it is. Raise the result outside of the `except` block: errors of
    codecs often cannot be pickled, and would be pickled with it as its context. `offset` is the
    position of the tile in the file, if `region` is one tile.
    """
    if isinstance(error, SlideError):
        return error
    reason = reason_of(error)
    if is_memory_error(error):
        return memory_error(f"{name}: level {level}, rows {region.y} to {region.stop_y}", reason)
    at = "" if offset is None else f", at byte {offset},"
    return TileDecodeError(
        f"{name}: level {level}, rows {region.y} to {region.stop_y}, columns {region.x} to "
        f"{region.stop_x}{at} cannot be decoded ({reason}); the file may be damaged, "
        "fetch it again or export it again",
        level,
        region.y,
        region.x,
        offset,
    )


def fill_for(
    name: str, fill: Any, dtype: np.dtype[Any], *, colour: bool, nodata: Any = None
) -> Any:
    """Return the fill of pixels without a value; refuse a `fill` that is no value of `dtype`.

    By default it is the `nodata` value of the file, else white for colour and 0 for others.
    """
    limits = None if dtype.kind == "f" else np.iinfo(dtype)
    if fill is None:
        if nodata is not None:
            return nodata
        white = 1.0 if limits is None else int(limits.max)
        return white if colour else 0
    is_integer = not np.isnan(fill) and fill == int(fill)
    if limits is not None and not (is_integer and limits.min <= fill <= limits.max):
        raise SlideArgumentError(
            f"{name}: fill={fill!r} is not a value of {dtype}; give one that is, or None"
        )
    return fill


def parse_nodata(text: str, dtype: np.dtype[Any]) -> int | float | None:
    """Return the number in `text` if it is a value of `dtype`, else None."""
    if dtype.kind == "f":
        try:
            return float(dtype.type(float(text)))
        except ValueError:
            return None
    try:
        value = int(text)
    except ValueError:
        try:
            value = int(float(text))
        except (ValueError, OverflowError):
            return None
        if value != float(text):
            return None
    limits = np.iinfo(dtype)
    return value if limits.min <= value <= limits.max else None


def is_nodata(samples: Array, nodata: float) -> Array:
    """Return which pixels (h, w) have the `nodata` value in all samples, as GDAL defines it."""
    found = np.isnan(samples) if np.isnan(nodata) else samples == nodata
    return np.asarray(found.all(axis=-1))


def text_of(number: float) -> str:
    """Return `number` as text that reads back to the same number."""
    return str(number) if isinstance(number, int) else f"{number:.17g}"
