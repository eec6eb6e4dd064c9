"""Read many regions of a source, and decode each tile only once."""

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
    """Read each of `regions` into the top left of its own array (h, w, c) of `out`.

    Each tile of the source is decoded only once. In addition to `out`, memory holds at most
    `max_pixels` at a time, or one tile if that is larger.
    """
    if len(regions) < 2:
        for region in regions:
            out[0][: region.height, : region.width] = source.read(level, region)
        return
    parts = source.gather(level, regions)
    for index, part, pixels in parts or _read_together(source, level, regions, max_pixels):
        out[index][part.slices(regions[index].y, regions[index].x)] = pixels
        del pixels  # free them before the next ones are read


def _read_together(
    source: Source, level: int, regions: list[Region], max_pixels: int
) -> Iterator[tuple[int, Region, Array]]:
    """Yield parts of `regions`: the index of the region, the part, and its pixels.

    Regions are read together if that decodes fewer tiles.
    """
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
    """Yield rectangles of whole tiles that cover `regions` without overlap.

    Each has at most `max_pixels`, or is one tile.
    """
    height, width = tile
    spans = [tiles_of(region, tile) for region in regions if region.area]
    around = hull(spans)
    touched = np.zeros((around.height, around.width), bool)
    for span in spans:
        touched[span.slices(around.y, around.x)] = True
    max_width = max(1, max_pixels // height // width) * width
    for tiles in rectangles(touched):
        top, left = (around.y + tiles.y) * height, (around.x + tiles.x) * width
        right = left + tiles.width * width
        for x in range(left, right, max_width):
            part = Region(top, x, tiles.height * height, min(max_width, right - x))
            yield from strips(part, height, max_pixels)


@dataclass(frozen=True)
class _Group:
    """Regions of a derived source that are read together."""

    numbers: tuple[int, ...]
    hull: Region
    area: int
    """Total number of pixels of the regions."""
    cost: int
    """Pixels that the root decodes and copies for the hull."""


def _groups(source: Source, level: int, regions: list[Region], max_pixels: int) -> list[_Group]:
    """Group consecutive `regions` that cost the root less if they are read together."""

    def group(numbers: tuple[int, ...], around: Region, area: int) -> _Group:
        number, window = root_window(source, level, around)
        height, width = root_of(source).levels[number].tile
        decoded = tiles_of(window, (height, width)).area * height * width
        return _Group(numbers, around, area, decoded + window.area)

    def join_neighbours(groups: list[_Group]) -> list[_Group]:
        out: list[_Group] = []
        for one in groups:
            last = out[-1] if out else None
            around = hull([last.hull, one.hull]) if last else one.hull
            # pixels between the two are computed but not used
            if last and around.area <= min(max_pixels, 2 * (last.area + one.area)):
                both = group(last.numbers + one.numbers, around, last.area + one.area)
                if both.cost <= last.cost + one.cost:
                    out[-1] = both
                    continue
            out.append(one)
        return out

    found: list[_Group] = []
    groups = [group((number,), region, region.area) for number, region in enumerate(regions)]
    while len(groups) != len(found):  # the first passes join tiles of a row, later ones join rows
        found, groups = groups, join_neighbours(groups)
    return groups
