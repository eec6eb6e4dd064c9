"""Draw pictures, masks and tile boxes on matplotlib axes, in pixels of level 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dask_slides.core.channels import Channel
from dask_slides.core.types import Array
from dask_slides.plots.display import display_rgb
from dask_slides.plots.overlay import (
    box_opacity,
    box_rgb,
    checked_boxes,
    checked_mask,
    checked_mpp,
    colours_for,
    mask_cells,
    overlay,
)
from dask_slides.plots.pictures import plot_image
from dask_slides.plots.scale_bar import MAX_SHARE, is_dark, length_text, round_length


def plot_overlay(
    pixels: Array,
    size: tuple[int, int],
    title: str,
    ax: Any = None,
    *,
    channels: Sequence[Channel] | None = None,
    fill: Any = None,
    mask: Array | None = None,
    mask_cell: tuple[float, float] | None = None,
    missing: Array | None = None,
    outlines: bool = True,
    boxes: Any = None,
    box_colours: Any = None,
    veil: float = 0.5,
    mpp: float | None = None,
    scale_bar: bool = True,
) -> Any:
    """Draw an image, and what `overlay` draws, on axes with the coordinates of level 0.

    Lines are vectors: they stay sharp in a PDF and when you zoom.

    Parameters
    ----------
    pixels : ndarray, (h, w, c)
        The whole image at any scale, such as a thumbnail.
    size : (int, int)
        Height and width of level 0.
    title : str
        Title of the axes.
    ax : matplotlib axes, optional
        By default those of a new figure.
    channels, fill
        As in `display_rgb`.
    mask, missing, outlines, veil, scale_bar
        As in `overlay`.
    mask_cell : (float, float), optional
        Height and width of a cell of the mask in pixels of level 0. By default the mask covers the
        image exactly.
    boxes : array_like, (n, 4), optional
        y, x, height and width of each box, in pixels of level 0.
    box_colours : array_like, (3,) or (n, 3), optional
        RGB of all boxes or of each, 0 to 255.
    mpp : float, optional
        Micrometres per pixel of level 0 along x. Without it there is no scale bar.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    SlideArgumentError
        As `overlay` does.
    ImportError
        matplotlib is not installed.
    """
    picture = display_rgb(pixels, channels, fill=fill)
    colours = colours_for(picture)
    scale = [n / length if length else 1.0 for n, length in zip(picture.shape, size, strict=False)]
    small = mask_cell and (mask_cell[0] * scale[0], mask_cell[1] * scale[1])
    veiled = overlay(
        picture, mask=mask, mask_cell=small, missing=missing, outlines=False, veil=veil
    )
    ax = plot_image(veiled, size, title, ax)
    if boxes is not None:
        boxes = checked_boxes(boxes)
        rgb = box_rgb(colours.box if box_colours is None else box_colours, len(boxes))
        _add_boxes(ax, boxes, rgb, box_opacity(boxes * min(scale)))
    if mask is not None and outlines:
        mask = checked_mask(mask)
        _add_lines(ax, border_lines(mask, mask_cells(mask, size, mask_cell), size), colours.outline)
    if mpp is not None and scale_bar and veiled.size:
        _add_scale_bar(ax, size, checked_mpp(mpp), veiled)
    return ax


def border_lines(
    mask: Array, cell: tuple[float, float], size: tuple[float, float] = (np.inf, np.inf)
) -> Array:
    """Return the border of a mask (rows, cols) as straight lines, (n, 2, 2) float64.

    A line has two points (x, y) in pixels, where cells have the size `cell` (y, x). Lines end at
    the image of `size` (y, x), whose edge is no border.
    """
    across = _runs(mask[1:] != mask[:-1])
    along = _runs((mask[:, 1:] != mask[:, :-1]).T)
    horizontal = np.stack((across[:, 1:], np.repeat(across[:, :1] + 1, 2, 1)), axis=-1)
    vertical = np.stack((np.repeat(along[:, :1] + 1, 2, 1), along[:, 1:]), axis=-1)
    lines = np.concatenate((horizontal, vertical)) * np.array(cell[::-1], float)
    inside = (lines.min(axis=1) < size[::-1]).all(axis=1)
    return np.asarray(np.minimum(lines[inside], size[::-1]))


def _runs(marked: Array) -> Array:
    """Return line, start and stop of each run of True along the lines of `marked`, (n, 3)."""
    edges = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    line, start = np.nonzero(edges == 1)
    return np.stack((line, start, np.nonzero(edges == -1)[1]), axis=1)


def _add_lines(ax: Any, lines: Any, colour: Array) -> None:
    from matplotlib.collections import LineCollection

    lines = LineCollection(
        lines, colors=[tuple(colour / 255)], linewidths=1.5, capstyle="projecting", zorder=3
    )
    ax.add_collection(lines, autolim=False)


def _add_boxes(ax: Any, boxes: Array, colours: Array, alpha: float) -> None:
    from matplotlib.collections import PolyCollection

    top, left = boxes[:, 0], boxes[:, 1]
    bottom, right = top + boxes[:, 2], left + boxes[:, 3]
    corners: Any = np.stack((left, top, right, top, right, bottom, left, bottom), axis=1)
    polygons = PolyCollection(
        corners.reshape(-1, 4, 2), facecolors="none", edgecolors=colours / 255, linewidths=0.6,
        alpha=alpha, zorder=2,
    )  # fmt: skip
    ax.add_collection(polygons, autolim=False)


def _add_scale_bar(ax: Any, size: tuple[int, int], mpp: float, picture: Array) -> None:
    from matplotlib.patheffects import withStroke

    length = round_length(size[1] * MAX_SHARE * mpp)
    corner = picture[-max(1, len(picture) // 8) :, : max(1, picture.shape[1] // 4)]
    ink, edge = ("white", "black") if is_dark(corner) else ("black", "white")
    left, y = 0.02 * size[1], size[0] - 0.02 * max(size)
    stop = left + length / mpp
    ax.plot(
        (left, stop), (y, y), color=ink, linewidth=4, solid_capstyle="butt", zorder=4,
        scalex=False, scaley=False, path_effects=[withStroke(linewidth=6, foreground=edge)],
    )  # fmt: skip
    ax.annotate(
        length_text(length), ((left + stop) / 2, y), (0, 4), textcoords="offset points",
        ha="center", va="bottom", color=ink, zorder=4,
        path_effects=[withStroke(linewidth=2, foreground=edge)],
    )  # fmt: skip
