"""Absent and corrupt tiles, and the regions of an image that are missing because of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dask_slides.core.geometry import Region, joined, shrunk
from dask_slides.core.json_values import require_type
from dask_slides.core.types import Array

OK, BLANK, ABSENT, CORRUPT = "ok", "blank", "absent", "corrupt"
STATUSES = (OK, BLANK, ABSENT, CORRUPT)
"""Statuses of tiles and of shards. Only shards can be blank."""
MODES = ("raise", "mask")
"""What to do with a tile that cannot be decoded."""
MARK = "dask_slides"
"""Key of our attributes in a store. They also list the missing regions."""


@dataclass(frozen=True)
class BadTile:
    """An absent or corrupt tile of a slide. Adjacent absent tiles are joined into one."""

    level: int
    y: int
    """Top, in pixels of the level."""
    x: int
    """Left, in pixels of the level."""
    height: int
    width: int
    status: str
    """"absent": not in the file, which is valid; "corrupt": it cannot be decoded."""
    reason: str
    offset: int | None = None
    """Offset in the file; None if the tile is absent or the offset is unknown."""

    @property
    def region(self) -> Region:
        """The region of the tile, in pixels of its level."""
        return Region(self.y, self.x, self.height, self.width)

    def __str__(self) -> str:
        """Describe the tile in one line."""
        position = f"level {self.level}, y {self.y}, x {self.x}, {self.height} x {self.width} px"
        offset = "" if self.offset is None else f", offset {self.offset}"
        return f"{position}{offset}: {self.status} ({self.reason})"


@dataclass(frozen=True)
class MissingRegion:
    """A region of an image that shows the fill because a tile is absent or corrupt."""

    region: Region
    """In pixels of the requested level."""
    tile: BadTile


def sorted_bad_tiles(tiles: Iterable[BadTile]) -> tuple[BadTile, ...]:
    """Return `tiles` without duplicates, sorted, with adjacent absent tiles joined."""
    tiles = set(tiles)
    found = [tile for tile in tiles if tile.status != ABSENT]
    absent: dict[tuple[int, str], list[Region]] = {}
    for tile in tiles - set(found):
        absent.setdefault((tile.level, tile.reason), []).append(tile.region)
    for (level, reason), regions in absent.items():
        for one in joined(regions):
            found.append(BadTile(level, one.y, one.x, one.height, one.width, ABSENT, reason))
    return tuple(sorted(found, key=lambda tile: (tile.level, tile.y, tile.x, tile.status)))


def bad_tiles_to_json(tiles: Iterable[BadTile]) -> list[dict[str, Any]]:
    """Return `tiles` as plain values for the attributes of a store."""
    return [asdict(tile) for tile in sorted_bad_tiles(tiles)]


def bad_tile_from_json(row: Any) -> BadTile:
    """Return the tile that `row` describes; raise TypeError if the values are not valid."""
    tile = BadTile(**row)
    for number in (tile.level, tile.y, tile.x, tile.height, tile.width):
        require_type(number, int)
    require_type(tile.offset, int, type(None))
    require_type(tile.reason, str)
    if tile.status not in (ABSENT, CORRUPT):
        raise TypeError(f"{tile.status!r:.60} is not a status of a bad tile")
    return tile


def missing_to_json(holes: Iterable[MissingRegion]) -> list[list[Any]]:
    """Return each of `holes` as [y, x, height, width, status], with adjacent ones joined."""
    by_status: dict[str, list[Region]] = {}
    for hole in holes:
        by_status.setdefault(hole.tile.status, []).append(hole.region)
    return [
        [one.y, one.x, one.height, one.width, status]
        for status, regions in sorted(by_status.items())
        for one in joined(regions)
    ]


def missing_from_json(rows: Iterable[Sequence[Any]]) -> tuple[MissingRegion, ...]:
    """Return the missing regions that the attributes of a store list."""
    holes = []
    for *numbers, status in rows:
        y, x, height, width = (int(n) for n in numbers)
        if status not in (ABSENT, CORRUPT):
            raise ValueError(f"missing regions are absent or corrupt, not {status!r}")
        reason = f"written where the source was {status}"
        tile = BadTile(0, y, x, height, width, status, reason)
        holes.append(MissingRegion(tile.region, tile))
    return tuple(holes)


def missing_within(
    holes: Iterable[MissingRegion], region: Region, factor: int = 1
) -> tuple[MissingRegion, ...]:
    """Return the parts of `holes` that lie in `region` of an image `factor` times smaller."""
    parts = (
        MissingRegion(shrunk(hole.region, factor).intersect(region), hole.tile) for hole in holes
    )
    return tuple(part for part in parts if part.region.area)


def status_of_region(holes: Iterable[MissingRegion], region: Region) -> str | None:
    """Return "corrupt" or "absent" if such a hole touches `region`; None if none does."""
    found = {hole.tile.status for hole in holes if hole.region.intersect(region).area}
    return next((status for status in (CORRUPT, ABSENT) if status in found), None)


def present_mask(region: Region, holes: tuple[MissingRegion, ...]) -> Array | None:
    """Return a mask (h, w) of the pixels of `region` outside `holes`; None without holes."""
    if not holes:
        return None
    present = np.ones((region.height, region.width), bool)
    for hole in holes:
        present[hole.region.slices(region.y, region.x)] = False
    return present
