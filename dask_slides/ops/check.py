"""Check a slide: decode every tile of every level, and list the bad ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from dask_slides.core.bad_tiles import ABSENT, CORRUPT, OK, BadTile
from dask_slides.core.source import root_of
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.bad_tiles import bad_tiles_of_level
from dask_slides.slide import SlideLike, as_slide


@dataclass(frozen=True)
class SlideCheck:
    """The result of `check_slide`."""

    name: str
    """Name of the slide."""
    tiles: int
    """Number of tiles of all levels; or of strips or chunks, if the file has those."""
    statuses: dict[str, int]
    """How many of them are "ok", "absent" and "corrupt"."""
    bad_tiles: tuple[BadTile, ...]
    """The absent and corrupt tiles, ordered by level and position; absent neighbours are joined."""

    @property
    def good(self) -> bool:
        """Whether no tile is corrupt. Absent tiles are legal."""
        return not self.statuses[CORRUPT]


def check_slide(slide: SlideLike) -> SlideCheck:
    """Decode every tile of every level of a slide, and list those that are absent or corrupt.

    The tiles are decoded on the active scheduler; their pixels are not returned.

    Parameters
    ----------
    slide : Slide or path
        A file or store. For a resized or cut slide, the file it was made from is checked.

    Returns
    -------
    SlideCheck
        With ``.good``, ``.statuses`` and ``.bad_tiles``.

    Raises
    ------
    SlideArgumentError
        A dask array has no tiles to check.
    SlideChangedError
        The file has changed since it was opened.

    Examples
    --------
    >>> import dask_slides as ds
    >>> path = ds.sample_slide("slide.tif", shape=(512, 768))
    >>> ds.check_slide(path).statuses
    {'ok': 6, 'absent': 0, 'corrupt': 0}
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
    for tile in found:  # absent neighbours are joined
        height, width = source.levels[tile.level].tile
        count[tile.status] += -(-tile.height // height) * -(-tile.width // width)
    statuses = {OK: tiles - count.total(), ABSENT: count[ABSENT], CORRUPT: count[CORRUPT]}
    return SlideCheck(slide.name, tiles, statuses, tuple(found))
