"""Draw masks and tiles over the picture of a slide."""

from __future__ import annotations

from typing import Any

from dask_slides.core.types import Array
from dask_slides.plots.axes import plot_overlay
from dask_slides.plots.display import display_rgb
from dask_slides.plots.overlay import overlay
from dask_slides.slide import Slide


def plot_on_slide(slide: Slide, title: str, ax: Any, max_size: int, **drawn: Any) -> Any:
    """Draw a mask or boxes on the slide with matplotlib; return the axes. See `plot_overlay`."""
    return plot_overlay(
        slide.thumbnail(max_size), slide.shape[:2], title, ax,
        channels=slide.channels, fill=slide.source.fill,
        mpp=None if slide.mpp_yx is None else slide.mpp_yx[1], **drawn,
    )  # fmt: skip


def picture_on_slide(
    slide: Slide,
    *,
    mask: Array | None = None,
    boxes: Array | None = None,
    max_size: int = 1024,
    thumbnail: Array | None = None,
) -> Array:
    """Return the picture of the slide with a mask or boxes, (y, x, 3) uint8.

    `mask` (rows, cols) covers the slide; `boxes` (n, 4) are in pixels of level 0. With
    `thumbnail`, the one of the slide, nothing is read.
    """
    pixels = slide.thumbnail(max_size) if thumbnail is None else thumbnail
    factor = slide.shape[1] / pixels.shape[1]
    return overlay(
        display_rgb(pixels, slide.channels, fill=slide.source.fill),
        mask=mask,
        boxes=None if boxes is None else boxes / factor,
        mpp=None if slide.mpp_yx is None else slide.mpp_yx[1] * factor,
    )
