"""Grids whose tiles are whole compressed tiles of a slide, so that these can be copied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dask_slides.core.grid import TileGrid
from dask_slides.errors import SlideArgumentError, SlideUnsupportedError
from dask_slides.graph.stored_level import LevelSource, stored_level
from dask_slides.slide import Slide

ALIGN = ("source",)
"""What the tiles of a pack can be aligned to."""


def check_align(align: Any) -> None:
    """Raise SlideArgumentError unless `align` is one of `ALIGN` or None."""
    if align is not None and align not in ALIGN:
        raise SlideArgumentError(f"align={align!r} is not known; use {ALIGN[0]!r} or None")


def level_slide(slide: Slide, number: int) -> Slide:
    """Return a stored level of `slide` as a slide of its own; `slide` itself for level 0."""
    if not number:
        return slide
    source = LevelSource(slide.source, number)
    whole, shape = slide.shape, slide.levels[number].shape
    mpp = slide.mpp_yx
    if mpp is not None:
        mpp = (mpp[0] * whole[0] / shape[0], mpp[1] * whole[1] / shape[1])
    return replace(slide, source=source, mpp_yx=mpp)


def aligned_level(slide: Slide, image: Slide, tolerance: float) -> Slide:
    """Return the stored level of `slide` that has the scale of `image`, within `tolerance`."""
    for number, level in enumerate(slide.levels):
        sides = zip(level.shape, image.shape[:2], strict=True)
        if all(abs(own / wanted - 1) <= tolerance for own, wanted in sides if wanted):
            return level_slide(slide, number)
    factors = " or ".join(f"{max(level.downsample):.4g}" for level in slide.levels)
    raise SlideArgumentError(
        f"{slide.name}: align='source' needs the scale of a stored level, as resampled tiles "
        f"cannot be copied; give downsample={factors}"
    )


def aligned_grid(image: Slide, grid: TileGrid) -> TileGrid:
    """Return `grid` with its tiles moved to the grid of the compressed tiles of `image`.

    The stride becomes the multiple of the compressed tile that is nearest to it, at least one.
    """
    source, level = stored_level(image.source)
    encoding = source.encoding(level)
    if encoding is None:
        raise SlideUnsupportedError(
            f"{image.name}: align='source' needs tiles that can be copied; leave it out"
        )
    unit = encoding.tile
    if grid.edge != "drop":
        raise SlideArgumentError(
            f"{image.name}: align='source' takes only whole tiles of the slide; use edge='drop'"
        )
    if any(side % one for side, one in zip(grid.tile, unit, strict=True)):
        raise SlideArgumentError(
            f"{image.name}: align='source' needs a tile_size that is a multiple of the slide's "
            f"tile of {unit[0]} x {unit[1]} px; {grid.tile[0]} x {grid.tile[1]} is not"
        )
    steps = zip(grid.stride, unit, strict=True)
    down, across = (one * max(1, (2 * step + one) // (2 * one)) for step, one in steps)
    return replace(grid, stride=(down, across))
