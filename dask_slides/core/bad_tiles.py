"""Tiles without pixels, absent or corrupt, and the regions of an image that miss them."""

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
"""States of tiles and of the shards of a store; only shards are blank."""
MODES = ("raise", "mask")
"""What to do with a tile that cannot be decoded."""
MARK = "dask_slides"
"""Attribute of the stores that we write; it also lists their missing regions."""


@dataclass(frozen=True)
class BadTile:
    """A tile of a slide that holds no pixels; absent neighbours are joined to one."""

    level: int
    y: int
    """Top, in pixels of the level."""
    x: int
    """Left, in pixels of the level."""
    height: int
    width: int
    status: str
    """"absent": the file does not hold it, which is legal; "corrupt": it cannot be decoded."""
    reason: str
    offset: int | None = None
    """Offset in the file; None if the tile is absent or the offset unknown."""

    @property
    def region(self) -> Region:
        """Its place in the level."""
        return Region(self.y, self.x, self.height, self.width)

    def __str__(self) -> str:
        """Return one line."""
        place = f"level {self.level}, y {self.y}, x {self.x}, {self.height} x {self.width} px"
        offset = "" if self.offset is None else f", offset {self.offset}"
        return f"{place}{offset}: {self.status} ({self.reason})"


@dataclass(frozen=True)
class MissingRegion:
    """A region of an image that shows the fill, as a tile of the file holds no pixels."""

    region: Region
    """In pixels of the level that was asked for."""
    tile: BadTile


def sorted_bad_tiles(tiles: Iterable[BadTile]) -> tuple[BadTile, ...]:
    """Return `tiles` without doubles, by level and place, absent neighbours joined."""
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
    """Return the tile of plain values; raise TypeError if they are no tile."""
    tile = BadTile(**row)
    for number in (tile.level, tile.y, tile.x, tile.height, tile.width):
        require_type(number, int)
    require_type(tile.offset, int, type(None))
    require_type(tile.reason, str)
    if tile.status not in (ABSENT, CORRUPT):
        raise TypeError(f"{tile.status!r:.60} where a status must be")
    return tile


def missing_to_json(holes: Iterable[MissingRegion]) -> list[list[Any]]:
    """Return `holes` as [y, x, height, width, status] each, neighbours joined."""
    by_status: dict[str, list[Region]] = {}
    for hole in holes:
        by_status.setdefault(hole.tile.status, []).append(hole.region)
    return [
        [one.y, one.x, one.height, one.width, status]
        for status, regions in sorted(by_status.items())
        for one in joined(regions)
    ]


def missing_from_json(rows: Iterable[Sequence[Any]]) -> tuple[MissingRegion, ...]:
    """Return the holes in the attributes of a store."""
    holes = []
    for *numbers, status in rows:
        y, x, height, width = (int(n) for n in numbers)
        if status not in (ABSENT, CORRUPT):
            raise ValueError(f"holes are absent or corrupt, not {status!r}")
        reason = f"written where the source was {status}"
        tile = BadTile(0, y, x, height, width, status, reason)
        holes.append(MissingRegion(tile.region, tile))
    return tuple(holes)


def missing_within(
    holes: Iterable[MissingRegion], region: Region, factor: int = 1
) -> tuple[MissingRegion, ...]:
    """Return the parts of `holes` in `region` of an image `factor` times smaller."""
    parts = (
        MissingRegion(shrunk(hole.region, factor).intersect(region), hole.tile) for hole in holes
    )
    return tuple(part for part in parts if part.region.area)


def status_of_region(holes: Iterable[MissingRegion], region: Region) -> str | None:
    """Return the status of the worst hole that touches `region`; None if none does."""
    found = {hole.tile.status for hole in holes if hole.region.intersect(region).area}
    return next((status for status in (CORRUPT, ABSENT) if status in found), None)


def present_mask(region: Region, holes: tuple[MissingRegion, ...]) -> Array | None:
    """Return which pixels (h, w) of `region` lie in none of its `holes`; None without holes."""
    if not holes:
        return None
    present = np.ones((region.height, region.width), bool)
    for hole in holes:
        present[hole.region.slices(region.y, region.x)] = False
    return present
