"""Reading many regions of a source, where each unit of storage is decoded once for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dask_slides.core.geometry import Region, hull, rectangles, strips, tiles_of
from dask_slides.core.source import DerivedSource, Source, root_of, root_window
from dask_slides.core.types import Array


def read_each(
    source: Source,
    level: int,
    regions: list[Region],
    out: Sequence[Array] | Array,
    max_pixels: int,
) -> None:
    """Read `regions` into `out`, each into the top left of its own array (h, w, c).

    A unit of storage is decoded once for all regions. Beyond `out`, memory holds at most
    `max_pixels` at a time, or one unit if that is larger.
    """
    if len(regions) < 2:
        for region in regions:
            out[0][: region.height, : region.width] = source.read(level, region)
        return
    parts = source.gather(level, regions)
    for index, part, pixels in parts or _gathered(source, level, regions, max_pixels):
        out[index][part.slices(regions[index].y, regions[index].x)] = pixels
        del pixels  # free it before the next part is read


def _gathered(
    source: Source, level: int, regions: list[Region], max_pixels: int
) -> Iterator[tuple[int, Region, Array]]:
    """Yield number, place and pixels of parts of `regions`, read together where that is cheaper."""
    if isinstance(source, DerivedSource):
        for group in _groups(source, level, regions, max_pixels):
            pixels = source.read(level, group.hull)
            for number in group.numbers:
                own = regions[number]
                yield number, own, pixels[own.slices(group.hull.y, group.hull.x)]
            del pixels
        return
    corners = np.array([(r.y, r.x, r.stop_y, r.stop_x) for r in regions]).reshape(-1, 4)
    for band in _bands(regions, source.levels[level].tile, max_pixels):
        low = np.maximum(corners[:, :2], (band.y, band.x))
        high = np.minimum(corners[:, 2:], (band.stop_y, band.stop_x))
        numbers = np.flatnonzero((low < high).all(axis=1)).tolist()
        parts = [regions[number].intersect(band) for number in numbers]
        around = hull(parts)
        pixels = source.read(level, around)
        for number, part in zip(numbers, parts, strict=True):
            yield number, part, pixels[part.slices(around.y, around.x)]
        del pixels


def _bands(regions: list[Region], tile: tuple[int, int], max_pixels: int) -> Iterator[Region]:
    """Yield rectangles of whole units of storage that cover all `regions`, without overlap.

    Each has at most `max_pixels`, or is one unit.
    """
    height, width = tile
    spans = [tiles_of(region, tile) for region in regions if region.area]
    around = hull(spans)
    touched = np.zeros((around.height, around.width), bool)
    for span in spans:
        touched[span.slices(around.y, around.x)] = True
    across = max(1, max_pixels // height // width) * width
    for one in rectangles(touched):
        top, left = (around.y + one.y) * height, (around.x + one.x) * width
        right = left + one.width * width
        for x in range(left, right, across):
            part = Region(top, x, one.height * height, min(across, right - x))
            yield from strips(part, height, max_pixels)


@dataclass(frozen=True)
class _Group:
    """Regions of a derived source that are read at once."""

    numbers: tuple[int, ...]
    hull: Region
    area: int
    """Pixels of the regions."""
    cost: int
    """Pixels that the root decodes for the hull, plus those of the hull itself."""


def _groups(source: Source, level: int, regions: list[Region], max_pixels: int) -> list[_Group]:
    """Group neighbouring `regions` that cost less to read at once."""

    def group(numbers: tuple[int, ...], around: Region, area: int) -> _Group:
        number, window = root_window(source, level, around)
        height, width = root_of(source).levels[number].tile
        decoded = tiles_of(window, (height, width)).area * height * width
        return _Group(numbers, around, area, decoded + window.area)

    def joined_once(groups: list[_Group]) -> list[_Group]:
        out: list[_Group] = []
        for one in groups:
            last = out[-1] if out else None
            around = hull([last.hull, one.hull]) if last else one.hull
            # pixels between them are computed for nothing: not too many
            if last and around.area <= min(max_pixels, 2 * (last.area + one.area)):
                both = group(last.numbers + one.numbers, around, last.area + one.area)
                if both.cost <= last.cost + one.cost:
                    out[-1] = both
                    continue
            out.append(one)
        return out

    found: list[_Group] = []
    groups = [group((number,), region, region.area) for number, region in enumerate(regions)]
    while len(groups) != len(found):  # first those of a row, then rows
        found, groups = groups, joined_once(groups)
    return groups
