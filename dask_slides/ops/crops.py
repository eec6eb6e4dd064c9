"""Random crops of dense areas, the same on every scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.bad_tiles import present_mask
from dask_slides.core.geometry import Region
from dask_slides.core.grid import TileGrid, tile_pair
from dask_slides.core.source import Source
from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.graph.blocks import Block, map_blocks
from dask_slides.graph.tiles import TileBlock, plan_tile_blocks
from dask_slides.numerics.detectors import Detector
from dask_slides.numerics.statistics import CellStats, record_length, record_of, unpacked
from dask_slides.ops.blank_map import BlankMap, map_of_grid
from dask_slides.ops.pack import (
    DENSE,
    TilePack,
    check_blank_map,
    pack_at,
    pack_attributes,
    pack_image,
    warn_blank,
)
from dask_slides.runtime.scheduler import compute
from dask_slides.slide import Mpp, Slide, SlideLike, as_slide

MIN_TASKS = 8
"""Least number of tasks. It is small because neighbouring crops share decoded tiles of the slide,
and two neighbouring tasks both decode the tiles at their common edge."""
ROUNDS = 16
"""Rounds of drawing. Then dense cells are taken for missing crops, or crops are repeated."""


@dataclass(frozen=True)
class CropStatsBlock:
    """Compute the statistics of crops, one block of crops per task."""

    tiles: TileBlock
    fields: tuple[str, ...]

    def window(self, block: Block) -> tuple[int, Region]:
        """Return the level and the region that the crops of `block` read."""
        return self.tiles.window(block)

    def __call__(self, source: Source, block_id: Block) -> Array:
        """Return the statistics of the crops of a block, (n, record)."""
        start, stop = self.tiles.starts[block_id[0] : block_id[0] + 2]
        regions = self.tiles.regions(source, slice(start, stop))
        pixels = self.tiles(source, block_id)
        records = []
        for region, tile in zip(regions, pixels, strict=True):
            seen = present_mask(region, source.holes(0, region))
            if source.masked:
                _, valid = source.read_valid(0, region)
                if valid is not None:
                    seen = valid if seen is None else seen & valid
            records.append(record_of(tile, self.fields, seen=seen))
        return np.stack(records)


def _stats_at(
    image: Slide, yx: NDArray[np.int64], tile: tuple[int, int], fields: tuple[str, ...]
) -> CellStats:
    """Compute the statistics of the crops at `yx`."""
    order = _reading_order(yx)
    tiles, lengths = plan_tile_blocks(image.source, yx[order], tile, 0, MIN_TASKS)
    records = map_blocks(
        CropStatsBlock(tiles, fields),
        image.source,
        (lengths, (record_length(fields),)),
        np.dtype(float),
        "crop-statistics",
    )
    found = np.empty(records.shape)
    found[order] = compute(records, "crop statistics")
    return unpacked(found, fields)


def _reading_order(yx: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order by y, then x, as neighbours share decoded tiles of the slide."""
    return np.lexsort((yx[:, 1], yx[:, 0]))


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


def _map_of_image(image: Slide, blank_map: BlankMap) -> BlankMap:
    """Return `blank_map`, computed; raise unless it is of `image`."""
    grid, shape = blank_map.grid, image.shape[:2]
    if grid.shape != shape or grid.tile != grid.stride:
        raise SlideArgumentError(
            f"{image.name}: the blank map is of an image of {grid.shape[0]} x {grid.shape[1]} px, "
            f"and crops are drawn from {shape[0]} x {shape[1]} px; make a map of that size"
        )
    return blank_map.compute()


def plan_crops(
    slide: Slide, n: int, size: Any, downsample: float | None, mpp: Mpp
) -> tuple[Slide, TileGrid]:
    """Return the slide at the scale of the crops, and the grid of cells. Nothing is read."""
    if not isinstance(n, int | np.integer) or n < 1:
        raise SlideArgumentError(f"n={n!r} is not a count of crops; give 1 or more")
    tile = tile_pair(size, "size")
    image = pack_image(slide, downsample, mpp)
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
    detector: Detector = DENSE,
    blank_map: BlankMap | None = None,
) -> TilePack:
    """Draw random crops from the dense areas of a slide.

    The centres of crops are drawn from the dense cells of a grid, whose cells have the size of a
    crop. The crops themselves are not blank either. No crop touches an absent or a masked corrupt
    tile of the slide. The same seed draws the same crops on any scheduler and for any chunks. The
    positions are computed immediately; the pixels stay lazy.

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
    downsample, mpp
        Scale of the crops, as in `resize`; by default full resolution.
    detector : Detector
        Decides which cells and crops are blank; the others are dense.
    blank_map : BlankMap, optional
        Used instead of `detector`: centres of crops are drawn where ``.blank`` is False. It must be
        of this slide, or of its `resize` if the crops have a scale. Its cells may have any size.

    Returns
    -------
    TilePack
        Ordered by position, so shuffle it for training. If the whole slide is blank, the pack is
        empty and BlankSlideWarning is issued.

    Raises
    ------
    SlideArgumentError
        An argument is wrong, or a crop does not fit the image.
    """
    slide = as_slide(slide)
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise SlideArgumentError(f"seed={seed!r} is not a seed; give a whole number from 0")
    rng = np.random.default_rng(int(seed))
    if blank_map is not None:
        check_blank_map(slide, blank_map, detector)
    image, grid = plan_crops(slide, n, size, downsample, mpp)
    if blank_map is None:
        found = map_of_grid(image, grid, detector).compute()
    else:
        found = _map_of_image(image, blank_map)
    yx, score = _draw_dense(image, found, grid.tile, rng, int(n), by_detector=blank_map is None)
    order = _reading_order(yx)
    yx, score = yx[order], score[order]
    if not len(yx):
        warn_blank(slide, found)
    attributes = pack_attributes(slide, image, found, None)
    attributes["seed"] = int(seed)
    attributes["tile_size"] = list(grid.tile)
    return pack_at(slide, image, yx, grid.tile, score, attributes, 0, MIN_TASKS)


def _draw_dense(
    image: Slide,
    found: BlankMap,
    size: tuple[int, int],
    rng: np.random.Generator,
    n: int,
    by_detector: bool,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return n corners of crops with their centres in dense cells, and their scores.

    If `by_detector`, the crops themselves are dense too; the cells then have the size of a crop.
    """
    grid = found.grid
    usable = found.stats.whole if by_detector else found.stats.count > 0
    dense = np.argwhere(usable & ~np.asarray(found.blank))
    if not len(dense):
        return np.empty((0, 2), np.int64), np.empty(0)
    cells = np.stack((grid.starts(0)[dense[:, 0]], grid.starts(1)[dense[:, 1]]), axis=1)
    is_blank = found.detector.fit(found.stats)  # the threshold of the slide, not of the crops
    corners, scores, missing = [], [], n
    for _ in range(ROUNDS):
        candidates = _draw(rng, cells, missing, grid, size)
        stats = _stats_at(image, candidates, size, found.fields)
        good = stats.whole & ~is_blank(stats) if by_detector else stats.whole
        corners.append(candidates[good])
        scores.append(stats.std[good])
        missing -= int(good.sum())
        if not missing:
            break
    if missing and by_detector:
        rest = rng.integers(len(cells), size=missing)
        corners.append(cells[rest])
        scores.append(found.stats.std[dense[rest, 0], dense[rest, 1]])
    elif 0 < missing < n:  # few candidates have data in all pixels: repeat crops
        drawn, drawn_scores = np.concatenate(corners), np.concatenate(scores)
        rest = rng.integers(len(drawn), size=missing)
        corners.append(drawn[rest])
        scores.append(drawn_scores[rest])
    return np.concatenate(corners), np.concatenate(scores)
