"""Draw masks and tiles over the picture of a slide."""

from __future__ import annotations

from typing import Any

from dask_slides.core.types import Array
from dask_slides.numerics.tissue_mask import TissueMask, edges_of_mask
from dask_slides.plots.axes import plot_overlay
from dask_slides.plots.display import display_rgb
from dask_slides.plots.overlay import overlay
from dask_slides.slide import Slide

Mask = Array | TissueMask | None
"""A mask: booleans (rows, cols) of equal size that cover the slide, or one with its own edges."""


def plot_on_slide(
    slide: Slide, title: str, ax: Any, max_size: int, *, mask: Mask = None, boxes: Any = None
) -> Any:
    """Draw a mask or boxes on the slide with matplotlib; return the axes. See `plot_overlay`."""
    pixels = slide.thumbnail(max_size)
    return plot_overlay(
        pixels, slide.shape[:2], title, ax,
        channels=slide.channels, fill=slide.source.fill,
        **_of_picture(mask, pixels), boxes=boxes,
        mpp=None if slide.mpp_yx is None else slide.mpp_yx[1],
    )  # fmt: skip


def picture_on_slide(
    slide: Slide,
    *,
    mask: Mask = None,
    boxes: Array | None = None,
    max_size: int = 1024,
    thumbnail: Array | None = None,
) -> Array:
    """Return the picture of the slide with a mask or boxes, (y, x, 3) uint8.

    `boxes` (n, 4) are in pixels of level 0. With `thumbnail`, the one of the slide, nothing is
    read.
    """
    pixels = slide.thumbnail(max_size) if thumbnail is None else thumbnail
    factor = slide.shape[1] / pixels.shape[1]
    return overlay(
        display_rgb(pixels, slide.channels, fill=slide.source.fill),
        **_of_picture(mask, pixels),
        boxes=None if boxes is None else boxes / factor,
        mpp=None if slide.mpp_yx is None else slide.mpp_yx[1] * factor,
    )


def _of_picture(mask: Mask, pixels: Array) -> dict[str, Any]:
    """Return the mask, and what is missing, in the pixels of a picture of the slide.

    The last row and column of a blank map may be smaller than the others.
    """
    if not isinstance(mask, TissueMask):
        return {"mask": mask}
    if pixels.size and mask.kinds.size:
        mask = mask.resampled(*edges_of_mask(mask.shape, pixels.shape[:2]))
    return {"mask": mask.tissue, "missing": mask.missing}
