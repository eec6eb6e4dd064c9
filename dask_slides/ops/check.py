"""The check of a whole slide: every tile of every level is decoded, and the bad ones named."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from dask_slides.core.bad_tiles import ABSENT, CORRUPT, OK, BadTile
from dask_slides.core.source import root_of
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.bad_tiles import bad_tiles_of_level
from dask_slides.slide import as_slide


@dataclass(frozen=True)
class SlideCheck:
    """What a whole slide was found to hold."""

    name: str
    tiles: int
    """Of all levels; where there are none, strips or chunks."""
    statuses: dict[str, int]
    """How many are "ok", "absent" and "corrupt": all of them together."""
    bad_tiles: tuple[BadTile, ...]
    """The absent and the corrupt ones, by level and place; absent neighbours as one."""

    @property
    def good(self) -> bool:
        """Whether none is corrupt; absent tiles are legal."""
        return not self.statuses[CORRUPT]


def check_slide(slide: Any) -> SlideCheck:
    """Decode every tile of every level of a slide, and name those that are absent or corrupt.

    Runs on the active scheduler, about as fast as decoding is. Nothing is kept of the pixels.

    Parameters
    ----------
    slide : Slide or path
        A file or store; of a resized or cut slide the one it is made of.

    Returns
    -------
    SlideCheck
        ``.good``, ``.statuses``, ``.bad_tiles``.

    Raises
    ------
    SlideArgumentError
        A dask array has no tiles to check.
    SlideChangedError
        The file changed since it was opened.
    """
    slide = as_slide(slide)
    root = root_of(slide.source)
    if root.on_bad_tile is None:
        raise SlideArgumentError(f"{slide.name}: has no tiles to check; give a file or a store")
    source = replace(root, on_bad_tile="mask")  # type: ignore[type-var]
    found: list[BadTile] = []
    tiles = 0
    for number, level in enumerate(source.levels):
        tiles += -(-level.shape[0] // level.tile[0]) * -(-level.shape[1] // level.tile[1])
        found += bad_tiles_of_level(source, number, decodes=True)
    count = Counter[str]()
    for tile in found:  # absent neighbours are told as one
        height, width = source.levels[tile.level].tile
        count[tile.status] += -(-tile.height // height) * -(-tile.width // width)
    statuses = {OK: tiles - count.total(), ABSENT: count[ABSENT], CORRUPT: count[CORRUPT]}
    return SlideCheck(slide.name, tiles, statuses, tuple(found))
