"""Regions, sizes of levels, and strips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of pixels: top left (y, x), height and width."""

    y: int
    x: int
    height: int
    width: int

    @property
    def stop_y(self) -> int:
        """First row below the region."""
        return self.y + self.height

    @property
    def stop_x(self) -> int:
        """First column right of the region."""
        return self.x + self.width

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def within(self, shape: tuple[int, int]) -> bool:
        """Return whether the region is not empty and lies inside an image of `shape`."""
        return (
            self.y >= 0
            and self.x >= 0
            and self.height > 0
            and self.width > 0
            and self.stop_y <= shape[0]
            and self.stop_x <= shape[1]
        )

    def intersect(self, other: Region) -> Region:
        """Return the common part. Its height or width is 0 if there is none."""
        y, x = max(self.y, other.y), max(self.x, other.x)
        height = max(0, min(self.stop_y, other.stop_y) - y)
        width = max(0, min(self.stop_x, other.stop_x) - x)
        return Region(y, x, height, width)

    def slices(self, origin_y: int = 0, origin_x: int = 0) -> tuple[slice, slice]:
        """Return the index of the region in an array whose first pixel is (origin_y, origin_x)."""
        return (
            slice(self.y - origin_y, self.stop_y - origin_y),
            slice(self.x - origin_x, self.stop_x - origin_x),
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """Position of an image on another one, where pixel i starts at ``offset + scale * i``."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Pixels of the other image per pixel of this one, along y and x."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Start of the first pixel, in pixels of the other image."""

    def on(self, other: Placement) -> Placement:
        """Return this placement followed by `other`, the one of the other image on a third."""
        (y, x), (top, left) = self.scale, self.offset
        (other_y, other_x), (other_top, other_left) = other.scale, other.offset
        scale = (y * other_y, x * other_x)
        return Placement(scale, (other_top + top * other_y, other_left + left * other_x))


def level_size(size: int, downsample: float) -> int:
    """Return `size` divided by `downsample`, rounded half up, and at least 1."""
    return max(1, int(size / downsample + 0.5))


def snapped_factor(full: int, size: int) -> float:
    """Return the downsample of a level of `size` pixels of an image of `full` pixels.

    Sizes of levels are rounded, so their quotient is slightly off. If an integer factor gives the
    size, it is the downsample.
    """
    quotient = full / size
    # several integers may give the size of a small level; most pyramids use powers of two
    for factor in (2 ** round(math.log2(quotient)) if quotient >= 1 else 1, round(quotient)):
        if factor and abs(full / factor - size) < 1:
            return float(factor)
    return quotient


def reduced_size(size: int, factor: int) -> int:
    """Return `size` divided by `factor`, rounded up: a partial last pixel counts."""
    return -(-size // factor)


def halved(size: int, times: int = 1) -> int:
    """Return `size` halved `times` times, each time rounded up."""
    return -(-size // (1 << times))


def shrunk(region: Region, factor: int) -> Region:
    """Return the region that `region` touches in an image `factor` times smaller."""
    return tiles_of(region, (factor, factor))


def tiles_of(region: Region, tile: tuple[int, int]) -> Region:
    """Return the rows and columns of the tiles that `region` touches, as a region."""
    (height, width), y, x = tile, region.y // tile[0], region.x // tile[1]
    return Region(y, x, -(-region.stop_y // height) - y, -(-region.stop_x // width) - x)


def hull(regions: Sequence[Region]) -> Region:
    """Return the smallest region that holds all of `regions`."""
    top, left = min(r.y for r in regions), min(r.x for r in regions)
    bottom, right = max(r.stop_y for r in regions), max(r.stop_x for r in regions)
    return Region(top, left, bottom - top, right - left)


def rectangles(mask: NDArray[np.bool_]) -> list[Region]:
    """Return rectangles that cover the True cells of `mask` (rows, cols) without overlap.

    Adjacent cells of a row are joined first, then equal rows below each other.
    """
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    order = np.lexsort((rows, stops, starts))
    rows, starts, stops = rows[order], starts[order], stops[order]
    new = np.ones(len(rows), bool)
    new[1:] = (np.diff(starts) != 0) | (np.diff(stops) != 0) | (np.diff(rows) != 1)
    first = np.flatnonzero(new)
    heights = np.diff(np.append(first, len(rows)))
    found = (rows[first], starts[first], heights, (stops - starts)[first])
    return [Region(*one) for one in zip(*(n.tolist() for n in found), strict=True)]


def joined(regions: Iterable[Region]) -> list[Region]:
    """Return rectangles without overlap that cover the pixels of `regions`.

    The result depends only on the pixels, not on how they are divided into regions.
    """
    corners = np.array([(r.y, r.x, r.stop_y, r.stop_x) for r in regions], np.int64).reshape(-1, 4)
    ys, xs = np.unique(corners[:, 0::2]), np.unique(corners[:, 1::2])
    mask = np.zeros((max(0, len(ys) - 1), max(0, len(xs) - 1)), bool)
    at = (np.searchsorted(ys, corners[:, 0::2]), np.searchsorted(xs, corners[:, 1::2]))
    for (top, bottom), (left, right) in zip(at[0].tolist(), at[1].tolist(), strict=True):
        mask[top:bottom, left:right] = True
    out = []
    for one in rectangles(mask):
        y, x = int(ys[one.y]), int(xs[one.x])
        out.append(Region(y, x, int(ys[one.stop_y]) - y, int(xs[one.stop_x]) - x))
    return out


def strips(region: Region, tile_height: int, max_pixels: int) -> Iterator[Region]:
    """Cut `region` into strips of at most `max_pixels`, or one row of tiles if that has more.

    Cuts lie between rows of tiles, so that no tile is decoded for two strips.
    """
    rows = max(1, max_pixels // max(1, region.width) // tile_height) * tile_height
    start = region.y
    while start < region.stop_y:
        stop = min(region.stop_y, (start // tile_height) * tile_height + rows)
        yield Region(start, region.x, stop - start, region.width)
        start = stop


def bounds(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return where consecutive pieces of `sizes` start, and the end: (0, s0, s0 + s1, ...)."""
    out = [0]
    for size in sizes:
        out.append(out[-1] + size)
    return tuple(out)


def even_pieces(size: int, piece: int) -> tuple[int, ...]:
    """Divide `size` into lengths of `piece`; the last one may be shorter."""
    count, rest = divmod(size, piece)
    return (piece,) * count + ((rest,) if rest else ())
