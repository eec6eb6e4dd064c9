"""Random crops of tissue, the same on every scheduler."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.arguments import as_array, checked_seed, checked_share
from dask_slides.core.grid import TileGrid, tile_pair
from dask_slides.core.types import Array
from dask_slides.errors import LittleTissueWarning, SlideArgumentError
from dask_slides.graph.tile_statistics import MIN_TASKS, reading_order, statistics_at
from dask_slides.numerics.detectors import Detector, StatisticsDetector, measure_of
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR
from dask_slides.numerics.statistics import CellStats
from dask_slides.numerics.tissue_mask import BoxSums, TissueMask, edges_of_mask
from dask_slides.ops.blank_map import BlankMap, GivenMap, map_of_grid
from dask_slides.ops.chosen_tiles import (
    Candidates,
    JudgedTiles,
    Listed,
    deviation,
    find_missing,
    listed_holes,
    tissue_greys,
    tissue_measure,
)
from dask_slides.ops.pack import (
    TilePack,
    bad_attributes,
    map_or_detector,
    pack_at,
    pack_attributes,
    pack_image,
    warn_blank,
)
from dask_slides.slide import Mpp, Slide, SlideLike, as_slide

ROUNDS = 16
"""Rounds of drawing. Then the best crops are repeated."""

Integers = NDArray[np.int64]


def plan_crops(
    slide: Slide,
    n: int,
    size: Any,
    downsample: float | None,
    mpp: Mpp,
    magnification: float | None = None,
) -> tuple[Slide, TileGrid]:
    """Return the slide at the scale of the crops, and the grid of cells. Nothing is read."""
    if not isinstance(n, int | np.integer) or n < 1:
        raise SlideArgumentError(f"n={n!r} is not a count of crops; give 1 or more")
    tile = tile_pair(size, "size")
    image = pack_image(slide, downsample, mpp, magnification)
    height, width = image.shape[:2]
    if height < tile[0] or width < tile[1]:
        raise SlideArgumentError(
            f"{slide.name}: a crop of {tile[0]} x {tile[1]} px does not fit the image of "
            f"{height} x {width} px; use smaller crops"
        )
    return image, TileGrid((height, width), tile, tile, "shift")


def random_crops(
    slide: SlideLike,
    *,
    n: int,
    size: Any,
    seed: int = 0,
    downsample: float | None = None,
    mpp: Mpp = None,
    magnification: float | None = None,
    min_tissue: float = 0.5,
    detector: Detector = DEFAULT_DETECTOR,
    blank_map: GivenMap = None,
    weights: Any = None,
) -> TilePack:
    """Draw random crops of tissue.

    The centres of crops are drawn from the tissue, every pixel of it with the same probability, or
    with that of `weights`. No crop touches an absent or a masked corrupt tile of the slide. The
    same seed draws the same crops on any scheduler and for any chunks. The positions are computed
    immediately; the pixels stay lazy.

    Parameters
    ----------
    slide : Slide, path or dask array
        The image.
    n : int
        Number of crops.
    size : int or (int, int)
        Height and width of a crop in pixels of the result.
    seed : int
        Seed of `numpy.random.default_rng`.
    downsample, mpp, magnification
        Scale of the crops, with the default of `pack_tiles`.
    min_tissue : float
        Smallest share of the area of a crop that is tissue. If too few crops have as much, those
        with the most are repeated.
    detector : Detector
        `Tissue` finds a mask of the slide. A detector of statistics judges cells of the size of a
        crop, and the crops; the whole slide is read for it.
    blank_map : BlankMap or path, optional
        A blank map of this slide, of any tile size, or the path of its outlines as GeoJSON, used
        instead of `detector`. If it is computed, no pixel is read.
    weights : array_like, optional
        (h, w) numbers from 0 of any size that cover the slide: centres are drawn in proportion to
        them. They need a mask, so not a detector of statistics.

    Returns
    -------
    TilePack
        Ordered by position, so shuffle it for training. If the whole slide is blank, the pack is
        empty and BlankSlideWarning is issued. If crops have less than `min_tissue`,
        LittleTissueWarning is issued.

    Raises
    ------
    SlideArgumentError
        An argument is wrong, or a crop does not fit the image.
    SlideMppError
        `mpp` or `magnification` is given, and the micrometres per pixel of the slide are not known.

    Examples
    --------
    >>> import dask_slides as ds
    >>> slide = ds.open_slide(ds.sample_slide("a.tif", shape=(2048, 2048)))
    >>> crops = ds.random_crops(slide, n=8, size=64, seed=1, downsample=1)
    >>> crops[:].shape
    (8, 64, 64, 3)
    """
    slide = as_slide(slide)
    seed = checked_seed(seed)
    min_tissue = checked_share(min_tissue, "min_tissue")
    rng = np.random.default_rng(seed)
    image, grid = plan_crops(slide, n, size, downsample, mpp, magnification)
    found = map_or_detector(slide, detector, blank_map)
    if isinstance(found, BlankMap):
        crops = _MaskCrops(slide, image, grid.tile, found, checked_weights(slide.name, weights))
        drawn = crops.draw(rng, int(n), min_tissue)
        measure = tissue_measure(drawn.tissue_fraction, min_tissue)
        drawn = replace(drawn, judged=JudgedTiles.all(measure, drawn.score))
    elif weights is not None:
        raise SlideArgumentError(
            f"{slide.name}: weights need a mask; use detector=Tissue() or blank_map"
        )
    else:
        drawn = _draw_dense(image, map_of_grid(image, grid, found).compute(), rng, int(n))
    drawn = drawn.at(reading_order(drawn.yx))
    if not len(drawn.yx):
        warn_blank(slide, drawn)
    elif isinstance(found, BlankMap):
        _warn_of_little_tissue(slide, drawn.tissue_fraction, min_tissue)
    attributes = pack_attributes(slide, image, grid.tile, drawn.detector)
    attributes |= {"stride": None, "seed": seed}
    if isinstance(found, BlankMap):
        attributes["min_tissue"] = min_tissue
    attributes |= bad_attributes(drawn.skipped, drawn.bad_tiles)
    pack = pack_at(
        slide, image, drawn.yx, grid.tile, drawn.score, attributes, 0, drawn.tissue_fraction,
        tasks=MIN_TASKS,
    )  # fmt: skip
    return replace(pack, judged=drawn.judged)


def _warn_of_little_tissue(slide: Slide, shares: Array, min_tissue: float) -> None:
    """Issue LittleTissueWarning at the line that calls the public function."""
    little = shares[shares < min_tissue]
    if len(little):
        warnings.warn(
            f"{slide.name}: {len(little):,} of {len(shares):,} crops have less than min_tissue "
            f"{min_tissue:g} of tissue, down to {little.min():.2g}; lower min_tissue or use "
            "smaller crops",
            LittleTissueWarning,
            stacklevel=3,
        )


def checked_weights(name: str, weights: Any) -> NDArray[np.float64] | None:
    """Return a map of weights as an array, None as None; raise SlideArgumentError for others."""
    if weights is None:
        return None
    array: NDArray[np.float64] | None = as_array(weights, np.float64)
    if array is None:
        raise SlideArgumentError(
            f"{name}: weights of type {type(weights).__name__}; give numbers from 0, (h, w)"
        )
    if array.ndim != 2 or not array.size or not (np.isfinite(array) & (array >= 0)).all():
        raise SlideArgumentError(
            f"{name}: weights of shape {array.shape}; give numbers from 0, (h, w)"
        )
    return array


def _weighted(
    mask: TissueMask, weights: NDArray[np.float64]
) -> tuple[TissueMask, NDArray[np.float64]]:
    """Return `mask` with pixels that lie in one weight each, and the weights of its pixels."""
    of_weights = edges_of_mask(mask.shape, weights.shape)
    edges = [
        np.union1d(*both) for both in zip((mask.y_edges, mask.x_edges), of_weights, strict=True)
    ]
    index = [
        np.searchsorted(one, starts[:-1], side="right") - 1
        for one, starts in zip(of_weights, edges, strict=True)
    ]
    return mask.resampled(edges[0], edges[1]), np.asarray(weights[np.ix_(*index)])


class _MaskCrops:
    """Draw crops from the tissue of a blank map."""

    def __init__(
        self,
        slide: Slide,
        image: Slide,
        size: tuple[int, int],
        found: BlankMap,
        weights: NDArray[np.float64] | None,
    ) -> None:
        self._image, self._size, self._found = image, size, found
        mask = found.mask
        if weights is not None:
            mask, weights = _weighted(mask, weights)
        self._mask = mask
        self._factors = np.array([a / b for a, b in zip(slide.shape, image.shape, strict=True)][:2])
        areas = np.multiply.outer(np.diff(mask.y_edges), np.diff(mask.x_edges))[mask.tissue]
        if weights is not None:
            areas = areas * weights[mask.tissue]
        self._pixels = np.argwhere(mask.tissue)[areas > 0]
        self._summed = np.cumsum(areas[areas > 0])
        self._tissue = BoxSums(mask.tissue, mask)
        self._missing = None if mask.missing is None else BoxSums(mask.missing, mask)

    def draw(self, rng: np.random.Generator, n: int, min_tissue: float) -> Candidates:
        """Return n crops, in the order in which they were drawn."""
        rounds: list[Candidates] = []
        missing = n
        for _ in range(ROUNDS if len(self._pixels) else 0):
            drawn = self._draw_round(rng, missing)
            rounds.append(drawn)
            missing -= int(np.count_nonzero(drawn.tissue_fraction >= min_tissue))
            if not missing:
                break
        seen = _joined(rounds) if rounds else Candidates.none(self._found.detector)
        good = seen.at(seen.tissue_fraction >= min_tissue)
        if missing and len(seen.yx):  # repeat the best ones
            best = seen.at(np.argsort(-seen.tissue_fraction, kind="stable")[: max(1, n // 4)])
            repeated = best.at(np.arange(missing) % len(best.yx))
            good = _joined([good, repeated])
        return good

    def _draw_round(self, rng: np.random.Generator, count: int) -> Candidates:
        """Return up to `count` crops of which no pixel is missing."""
        chosen = np.searchsorted(
            self._summed, rng.random(count) * self._summed[-1], side="right"
        ).clip(max=len(self._pixels) - 1)
        i, j = self._pixels[chosen].T
        mask = self._mask
        starts = np.stack((mask.y_edges[i], mask.x_edges[j]), axis=1)
        ends = np.stack((mask.y_edges[i + 1], mask.x_edges[j + 1]), axis=1)
        centre = (starts + rng.random((count, 2)) * (ends - starts)) / self._factors
        size = np.array(self._size)
        yx = centre.astype(np.int64) - size // 2
        yx = np.clip(yx, 0, np.array(self._image.shape[:2]) - size)
        boxes = self._boxes(yx)
        whole, known, bad = find_missing(self._image, yx, self._size, self._listed)
        if self._missing is not None:
            present = self._missing(boxes) == 0
            whole, known = whole & present, known & present
        tissue = self._tissue(boxes)
        fraction = tissue / (boxes[:, 2] * boxes[:, 3])
        skipped = int(np.count_nonzero(~known))
        found = Candidates(
            yx, self._score(boxes, tissue), fraction, self._found.detector, skipped,
            (*self._found.bad_tiles, *sorted(bad, key=str)),
        )  # fmt: skip
        return found.at(whole)

    def _boxes(self, yx: Integers) -> Integers:
        """Return the crops at `yx` in whole pixels of the slide: y, x, height, width."""
        start = np.rint(yx * self._factors).astype(np.int64)
        stop = np.rint((yx + np.array(self._size)) * self._factors).astype(np.int64)
        return np.concatenate((start, stop - start), axis=1)

    def _score(self, boxes: Integers, tissue: Integers) -> NDArray[np.float64]:
        if self._mask.grey is None:
            return tissue.astype(float)
        return deviation(tissue, *(sums(boxes) for sums in self._greys))

    @cached_property
    def _listed(self) -> Listed:
        return listed_holes(self._image)

    @cached_property
    def _greys(self) -> tuple[BoxSums, BoxSums]:
        """Sums of the grey values of the tissue, and of their squares."""
        grey = tissue_greys(self._mask)
        return BoxSums(grey, self._mask), BoxSums(grey * grey, self._mask)


def _joined(parts: list[Candidates]) -> Candidates:
    return Candidates(
        np.concatenate([part.yx for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.tissue_fraction for part in parts]),
        parts[0].detector,
        sum(part.skipped for part in parts),
        tuple({tile: None for part in parts for tile in part.bad_tiles}),
    )


def _draw(
    rng: np.random.Generator,
    cells: NDArray[np.int64],
    count: int,
    grid: TileGrid,
    size: tuple[int, int],
) -> NDArray[np.int64]:
    """Return corners (count, 2) of crops inside the image, with their centres in `cells`."""
    chosen = cells[rng.integers(len(cells), size=count)]
    tile = np.array(size)
    within = np.minimum(grid.tile, np.array(grid.shape) - chosen)  # the last cells may be smaller
    corner = chosen + rng.integers(-(tile // 2), within - tile // 2, size=(count, 2))
    result: NDArray[np.int64] = np.clip(corner, 0, np.array(grid.shape) - tile)
    return result


def _draw_dense(image: Slide, found: BlankMap, rng: np.random.Generator, n: int) -> Candidates:
    """Return n crops that are dense by their statistics, with their centres in dense cells.

    The cells of `found` have the size of a crop.
    """
    grid, size = found.grid, found.grid.tile
    detector: StatisticsDetector = found.detector
    dense = np.argwhere(found.stats.whole & ~np.asarray(found.blank))
    skipped = int(np.count_nonzero(~found.stats.known))
    if not len(dense):
        return Candidates.none(detector, skipped, found.bad_tiles)
    cells = np.stack((grid.starts(0)[dense[:, 0]], grid.starts(1)[dense[:, 1]]), axis=1)
    is_blank = detector.fit(found.stats)  # the threshold of the slide, not of the crops
    corners, scores, measures, missing = [], [], [], n
    for _ in range(ROUNDS):
        candidates = _draw(rng, cells, missing, grid, size)
        stats = statistics_at(image.source, candidates, size, found.fields)
        good = stats.whole & ~is_blank(stats)
        corners.append(candidates[good])
        scores.append(stats.std[good])
        measures.append(_values(is_blank, stats)[good])
        missing -= int(good.sum())
        if not missing:
            break
    if missing:
        rest = rng.integers(len(cells), size=missing)
        corners.append(cells[rest])
        scores.append(found.stats.std[tuple(dense[rest].T)])
        measures.append(_values(is_blank, found.stats)[tuple(dense[rest].T)])
    yx, score = np.concatenate(corners), np.concatenate(scores)
    measure = measure_of(is_blank, found.stats)
    if measure is not None:
        measure = replace(measure, values=np.concatenate(measures))
    judged = JudgedTiles.all(measure, score)
    return Candidates(yx, score, np.ones(len(yx)), detector, skipped, found.bad_tiles, judged)


def _values(detector: StatisticsDetector, stats: CellStats) -> Array:
    """Return the numbers that `detector` compares; NaN if it does not tell."""
    measure = measure_of(detector, stats)
    return np.full(stats.count.shape, np.nan) if measure is None else measure.values
