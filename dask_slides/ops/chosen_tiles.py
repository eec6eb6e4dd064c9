"""Choose the tiles of a grid that show tissue, by a blank map or by the statistics of each tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.bad_tiles import BadTile, MissingRegion, sorted_bad_tiles
from dask_slides.core.geometry import Region
from dask_slides.core.grid import TileGrid
from dask_slides.core.types import Array
from dask_slides.graph.tile_statistics import statistics_at
from dask_slides.graph.tissue import areas_of_cells
from dask_slides.numerics.detectors import Measure, StatisticsDetector, measure_of
from dask_slides.numerics.tissue_mask import TissueMask, grid_areas
from dask_slides.ops.blank_map import BlankMap, map_of_grid
from dask_slides.slide import Slide

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class JudgedTiles:
    """All tiles that might have been chosen, and the numbers that decided."""

    measure: Measure | None
    """The number of each tile, NaN where pixels are missing; None if the detector has none."""
    score: NDArray[np.float64]
    """(n,) scores of the tiles that `measure` kept; NaN for the others."""
    chosen: Integers
    """Numbers of the tiles that were chosen."""

    @classmethod
    def all(cls, measure: Measure | None, score: NDArray[np.float64]) -> JudgedTiles:
        """Return tiles that were all chosen."""
        return cls(measure, score, np.arange(len(score)))

    def without(self, numbers: Integers) -> JudgedTiles:
        """Return what is known if pixels of the tiles with these numbers are missing."""
        unknown = np.isin(np.arange(len(self.score)), numbers)
        measure = self.measure
        if measure is not None:
            measure = replace(measure, values=np.where(unknown, np.nan, measure.values))
        return replace(self, measure=measure, score=np.where(unknown, np.nan, self.score))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Tiles that show tissue, ordered by position."""

    yx: Integers
    """(n, 2) top left, in pixels of the image that tiles are read from."""
    score: NDArray[np.float64]
    tissue_fraction: NDArray[np.float64]
    detector: Any
    skipped: int = 0
    """Number of tiles left out because pixels of the file are missing."""
    bad_tiles: tuple[BadTile, ...] = ()
    judged: JudgedTiles | None = None
    """These tiles among all others."""

    @classmethod
    def none(
        cls, detector: Any, skipped: int = 0, bad_tiles: tuple[BadTile, ...] = ()
    ) -> Candidates:
        """Return no tiles."""
        empty = np.empty(0)
        return cls(np.empty((0, 2), np.int64), empty, empty, detector, skipped, bad_tiles)

    @property
    def largest_value(self) -> float:
        """The largest number that decided about a tile, chosen or not; 0 if there is none."""
        measure = self.judged and self.judged.measure
        return float(np.nanmax(measure.values, initial=0)) if measure else 0.0

    def at(self, chosen: Any) -> Candidates:
        """Return the tiles with these numbers, or of this mask."""
        judged = self.judged
        return replace(
            self,
            yx=self.yx[chosen],
            score=self.score[chosen],
            tissue_fraction=self.tissue_fraction[chosen],
            judged=judged and replace(judged, chosen=judged.chosen[chosen]),
        )

    def best(self, count: int) -> Candidates:
        """Return the `count` tiles with the highest scores, ordered by position."""
        return self.at(np.sort(np.argsort(-self.score, kind="stable")[:count]))


def tiles_by_statistics(image: Slide, grid: TileGrid, detector: StatisticsDetector) -> Candidates:
    """Return the tiles that are not blank by their own statistics; the whole image is read."""
    found = map_of_grid(image, grid, detector).compute()
    stats = found.stats
    good = stats.whole & ~np.asarray(found.blank)
    skipped = int(np.count_nonzero(~stats.known))
    measure = measure_of(detector, stats)
    if measure is not None:
        measure = replace(measure, values=np.where(stats.whole, measure.values, np.nan))
    return _candidates(
        grid, good, stats.std, np.ones(good.shape), measure, detector, skipped, found.bad_tiles
    )


def _candidates(
    grid: TileGrid, good: Array, score: Array, fraction: Array, measure: Measure | None,
    detector: Any, skipped: int, bad_tiles: tuple[BadTile, ...],
) -> Candidates:  # fmt: skip
    """Return the `good` tiles of a grid; all arrays are (rows, cols)."""
    chosen = np.flatnonzero(good)
    if measure is not None:
        measure = replace(measure, values=measure.values.reshape(-1))
    judged = JudgedTiles(measure, np.where(good, score, np.nan).reshape(-1), chosen)
    return Candidates(
        tile_corners(grid, chosen), score.reshape(-1)[chosen], fraction.reshape(-1)[chosen],
        detector, skipped, bad_tiles, judged,
    )  # fmt: skip


def tile_corners(grid: TileGrid, numbers: Integers) -> Integers:
    """Return the top left (n, 2) of the tiles of `grid` with these numbers."""
    rows, columns = np.divmod(numbers, max(1, grid.cols))
    return np.stack((grid.starts(0)[rows], grid.starts(1)[columns]), axis=1)


def tiles_by_map(
    slide: Slide, image: Slide, grid: TileGrid, found: BlankMap, min_tissue: float
) -> Candidates:
    """Return the tiles of `grid` in which at least a share of `min_tissue` of `found` is tissue.

    `image` is `slide` at the scale of the grid. Pixels are read only to find missing ones.
    """
    mask = found.mask
    rows, columns = (level0_spans(grid, slide, axis) for axis in (0, 1))
    tissue, missing, area = np.moveaxis(areas_of_cells(mask, rows, columns), -1, 0)
    enough = (tissue >= min_tissue * area) & (tissue > 0)
    known = missing == 0
    score = _score(mask, rows, columns, tissue)
    fraction = tissue / np.maximum(area, 1)
    values = np.where(known, fraction, np.nan)
    tiles = _candidates(
        grid, enough & known, score, fraction, tissue_measure(values, min_tissue),
        found.detector, int(np.count_nonzero(~known)), found.bad_tiles,
    )  # fmt: skip
    return without_missing(image, tiles, grid.tile)


def tissue_measure(values: Array, min_tissue: float) -> Measure:
    """Return the shares of tissue as what decides."""
    return Measure("share of tissue", values, min_tissue, is_share=True, includes=True)


def level0_spans(grid: TileGrid, slide: Slide, axis: int) -> Integers:
    """Return where the tiles of `grid` start and end, (n, 2), in whole pixels of the slide."""
    starts = grid.starts(axis)
    factor = slide.shape[axis] / grid.shape[axis] if grid.shape[axis] else 1.0
    spans = np.stack((starts, starts + grid.tile[axis]), axis=1)
    return np.asarray(np.rint(spans * factor), np.int64)


def _score(mask: TissueMask, rows: Integers, columns: Integers, tissue: Array) -> Array:
    """Return the standard deviation of the grey values of the tissue in each tile."""
    if mask.grey is None:
        return tissue.astype(float)
    grey = tissue_greys(mask)
    sums = (grid_areas(values, mask, rows, columns) for values in (grey, grey * grey))
    return deviation(tissue, *sums)


def tissue_greys(mask: TissueMask) -> Integers:
    """Return the grey values of the tissue of `mask`, which has a picture; 0 elsewhere."""
    assert mask.grey is not None
    return np.where(mask.tissue, mask.grey, 0).astype(np.int64)


def deviation(count: Array, total: Integers, squares: Integers) -> Array:
    """Return the standard deviation for a count, a sum and a sum of squares."""
    count = np.maximum(count, 1)
    mean = total / count
    return np.asarray(np.sqrt(np.maximum(squares / count - mean * mean, 0)))


def without_missing(image: Slide, tiles: Candidates, tile: tuple[int, int]) -> Candidates:
    """Leave out tiles of which pixels are absent, corrupt, nodata or masked."""
    whole, known, bad = find_missing(image, tiles.yx, tile)
    if whole.all():
        return tiles
    judged = tiles.judged
    if judged is not None:
        judged = judged.without(judged.chosen[~whole])
    return replace(
        replace(tiles, judged=judged).at(whole),
        skipped=tiles.skipped + int(np.count_nonzero(~known)),
        bad_tiles=sorted_bad_tiles(bad | set(tiles.bad_tiles)),
    )


Listed = tuple[MissingRegion, ...] | None
"""The missing regions of an image; None if they are found by reading it."""


def listed_holes(image: Slide) -> Listed:
    """Return the missing regions of `image` that its file lists; None if it must be read."""
    source = image.source
    if source.masked or source.on_bad_tile == "mask":
        return None
    return source.holes(0, Region(0, 0, *image.shape[:2]))


def find_missing(
    image: Slide, yx: Integers, tile: tuple[int, int], listed: Listed = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], set[BadTile]]:
    """Return which tiles have all pixels, which touch no bad tile of the file, and the bad ones.

    The file lists absent tiles; `listed` are the result of `listed_holes`, if you have it. Corrupt
    and masked pixels are found by reading the tiles, which is done only if the slide was opened to
    mask them.
    """
    found = listed_holes(image) if listed is None and len(yx) else listed
    if found is None and len(yx):
        source = image.source
        stats = statistics_at(source, yx, tile, ())
        holes = [hole for at in yx[~stats.known] for hole in source.holes(0, _box(image, at, tile))]
        return stats.whole, stats.known, {hole.tile for hole in holes}
    known = ~_touched(found or (), yx, tile)
    return known, known, {hole.tile for hole in found or ()}


def _box(image: Slide, yx: Integers, tile: tuple[int, int]) -> Region:
    return Region(int(yx[0]), int(yx[1]), *tile).intersect(Region(0, 0, *image.shape[:2]))


def _touched(
    holes: tuple[MissingRegion, ...], yx: Integers, tile: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which tiles at `yx` overlap any of `holes`."""
    found = np.zeros(len(yx), bool)
    for hole in holes:
        region = hole.region
        found |= (
            (yx[:, 0] < region.stop_y) & (yx[:, 0] + tile[0] > region.y)
            & (yx[:, 1] < region.stop_x) & (yx[:, 1] + tile[1] > region.x)
        )  # fmt: skip
    return found
