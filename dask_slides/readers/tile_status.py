"""What a process knows of the units of storage of a level: tiles, strips or chunks.

That a unit is absent stands in the file's tables. Whether one is corrupt shows when it is
decoded, and is remembered, so that who asks after the pixels were read decodes nothing.
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
    reason_of,
)


class TileStatus:
    """The units of one level, in rows from the top left.

    Threads share it: what is set is a fact about the file, the same whoever finds it.
    """

    def __init__(
        self,
        level: int,
        shape: tuple[int, int],
        tile: tuple[int, int],
        absent: Array | None = None,
        offsets: Array | None = None,
    ) -> None:
        """Begin with what the tables say: `absent` (rows, cols) bool, `offsets` in the file."""
        self._level = level
        self._image = Region(0, 0, *shape)
        self._tile = tile
        counts = [-(-n // side) for n, side in zip(shape, tile, strict=True)]
        self._bad: Array = np.zeros(counts, bool) if absent is None else absent.reshape(counts)
        self._any = bool(self._bad.any())
        self._known = self._bad.copy()
        self._offsets = offsets
        self._reasons: dict[tuple[int, int], str] = {}

    def _span(self, region: Region) -> tuple[slice, slice]:
        height, width = self._tile
        return (
            slice(region.y // height, -(-region.stop_y // height)),
            slice(region.x // width, -(-region.stop_x // width)),
        )

    def _place(self, row: int, column: int) -> Region:
        height, width = self._tile
        return Region(row * height, column * width, height, width).intersect(self._image)

    def _where(self, marks: Array, region: Region) -> list[tuple[int, int]]:
        span = self._span(region)
        rows, columns = np.nonzero(marks[span])
        return [
            (int(row) + span[0].start, int(column) + span[1].start)
            for row, column in zip(rows, columns, strict=True)
        ]

    def parts(self, region: Region) -> Iterator[Region]:
        """Yield what each unit holds of `region`."""
        rows, columns = self._span(region)
        for row in range(rows.start, rows.stop):
            for column in range(columns.start, columns.stop):
                yield self._place(row, column).intersect(region)

    def whole(self, region: Region) -> Iterator[tuple[Region, int | None]]:
        """Yield the units that `region` touches, and where in the file each begins."""
        rows, columns = self._span(region)
        for row in range(rows.start, rows.stop):
            for column in range(columns.start, columns.stop):
                yield self._place(row, column), self._offset(row, column)

    def unknown(self, region: Region) -> list[Region]:
        """Return the units of `region` that nobody has decoded in this process."""
        return [self._place(*at) for at in self._where(~self._known, region)]

    def holes(self, region: Region) -> tuple[MissingRegion, ...]:
        """Return the parts of `region` whose units are known to hold no pixels."""
        if not self._any:
            return ()
        rows, columns = self._span(region)
        absent = self._bad[rows, columns].copy()
        tiles = []
        for (row, column), reason in sorted(self._reasons.items()):  # whatever was decoded first
            if rows.start <= row < rows.stop and columns.start <= column < columns.stop:
                absent[row - rows.start, column - columns.start] = False
                facts = self._facts(Region(row, column, 1, 1))
                tiles.append(BadTile(*facts, CORRUPT, reason, self._offset(row, column)))
        # a slide may have millions of these
        for one in rectangles(absent):
            units = Region(rows.start + one.y, columns.start + one.x, one.height, one.width)
            tiles.append(BadTile(*self._facts(units), ABSENT, "the file does not hold it"))
        return tuple(MissingRegion(tile.region.intersect(region), tile) for tile in tiles)

    def lacks(self, region: Region) -> bool:
        """Return whether it is known that no unit holds any of `region`."""
        return self._any and bool(self._bad[self._span(region)].all())

    def _facts(self, units: Region) -> tuple[int, int, int, int, int]:
        """Return the level and where in it these units lie."""
        height, width = self._tile
        whole = Region(
            units.y * height, units.x * width, units.height * height, units.width * width
        )
        place = whole.intersect(self._image)
        return self._level, place.y, place.x, place.height, place.width

    def _offset(self, row: int, column: int) -> int | None:
        return None if self._offsets is None else int(self._offsets[row, column])

    def saw(self, region: Region) -> None:
        """Remember that every unit of `region` was decoded, or found to be bad."""
        self._known[self._span(region)] = True

    def spoil(self, region: Region, error: Exception) -> None:
        """Remember that the unit that holds `region` is corrupt; raise what is no damage."""
        if not is_damage(error):
            raise error
        row, column = (span.start for span in self._span(region))
        self._reasons[row, column] = reason_of(error)
        self._bad[row, column] = True
        self._any = True
        self._known[row, column] = True  # last: who finds it known asks whether it is bad

    def masked(
        self, region: Region, read: Callable[[Region], Array], channels: int, fill: np.generic
    ) -> Array:
        """Return what `read` gives of `region`, (h, w, channels); `fill` where a unit cannot be."""
        try:
            pixels = read(region)
        except Exception as error:
            if not is_damage(error):
                raise
        else:
            self.saw(region)
            return pixels
        out = np.full((region.height, region.width, channels), fill)
        for part in self.parts(region):
            try:
                out[part.slices(region.y, region.x)] = read(part)
                self.saw(part)
            except Exception as error:
                self.spoil(part, error)
        return out


def is_damage(error: Exception) -> bool:
    """Return whether `error` says that bytes are wrong, and not that they could not be had."""
    if isinstance(error, SlideError):
        return isinstance(error, TileDecodeError)
    from_system = isinstance(error, OSError) and error.errno is not None
    from_others = isinstance(error, ConnectionError | TimeoutError)
    return not (from_system or from_others or is_memory_error(error))


def shown(fill: float, dtype: np.dtype[Any]) -> Any:
    """Return the value of `dtype` that the fill shows as."""
    return dtype.type(fill)


def fill_for(
    name: str, fill: Any, dtype: np.dtype[Any], *, colour: bool, nodata: Any = None
) -> Any:
    """Return what pixels of `dtype` without a value show, or refuse a `fill` that it lacks.

    By default that is the `nodata` value of the file, else white for `colour` and 0 for others.
    """
    limits = None if dtype.kind == "f" else np.iinfo(dtype)
    if fill is None:
        if nodata is not None:
            return nodata
        white = 1.0 if limits is None else int(limits.max)
        return white if colour else 0
    whole = not np.isnan(fill) and fill == int(fill)
    if limits is not None and not (whole and limits.min <= fill <= limits.max):
        raise SlideArgumentError(
            f"{name}: fill={fill!r} is not a value of {dtype}; give one that is, or None"
        )
    return fill


def value_in(text: str, dtype: np.dtype[Any]) -> int | float | None:
    """Return the number that `text` is, if it is a value of `dtype`."""
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


def lacks_value(samples: Array, nodata: float) -> Array:
    """Return which pixels (h, w) are nodata: where all samples (h, w, c) are, as GDAL has it."""
    lacks = np.isnan(samples) if np.isnan(nodata) else samples == nodata
    return np.asarray(lacks.all(axis=-1))


def text_of(number: float) -> str:
    """Return a number in as many digits as it takes to read it back."""
    return str(number) if isinstance(number, int) else f"{number:.17g}"
