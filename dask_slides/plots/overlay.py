"""Draw tissue masks, tile boxes and a scale bar over a picture of a slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.types import Array
from dask_slides.errors import SlideArgumentError
from dask_slides.plots.scale_bar import draw_scale_bar

OKABE_ITO = np.array(
    [
        (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115),
        (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    ],
    np.uint8,
)  # fmt: skip
"""Colours that people with any colour vision can tell apart, (8, 3): black, orange, sky blue,
bluish green, yellow, blue, vermilion, reddish purple (Okabe and Ito, 2008)."""

UNKNOWN = OKABE_ITO[6]
"""Where tiles of the file are absent or corrupt."""


@dataclass(frozen=True, eq=False)
class Colours:
    """What is drawn on one kind of picture, each (3,) uint8."""

    veil: Array
    """Grey with which blank areas are mixed: darker than glass, lighter than a dark background."""
    outline: Array
    box: Array


ON_BRIGHT = Colours(np.array((175, 180, 185), np.uint8), OKABE_ITO[5], OKABE_ITO[0])
ON_DARK = Colours(np.array((110, 115, 120), np.uint8), OKABE_ITO[4], OKABE_ITO[2])


DARK = 110
"""Mean of the red, green and blue of pixels on which black lines are not seen."""


def colours_for(picture: Array) -> Colours:
    """Return the colours for an 8-bit picture: bright-field or dark-field."""
    return ON_DARK if picture.size and np.median(picture) < 80 else ON_BRIGHT


def line_width(shape: tuple[int, ...]) -> int:
    """Return the width of lines on a picture of `shape` (y, x), 1 to 3 pixels."""
    return int(np.clip(round(max(shape[:2]) / 400), 1, 3))


def overlay(
    picture: Array,
    *,
    mask: Array | None = None,
    mask_cell: tuple[float, float] | None = None,
    missing: Array | None = None,
    outlines: bool = True,
    boxes: Any = None,
    box_colours: Any = None,
    veil: float = 0.5,
    mpp: float | None = None,
    scale_bar: bool = True,
) -> Array:
    """Draw a tissue mask, tile boxes and a scale bar over a picture.

    Parameters
    ----------
    picture : ndarray, (h, w, 3), uint8
        The picture; it is not changed. See `display_rgb`.
    mask : ndarray of bool, (rows, cols), optional
        The tissue mask: True = tissue. Blank areas are veiled. A picture without a mask has neither
        a veil nor outlines.
    mask_cell : (float, float), optional
        Height and width of a cell of the mask in pixels of the picture, for grids whose last cells
        reach beyond the slide. By default the mask covers the picture exactly.
    missing : ndarray of bool, of the shape of `mask`, optional
        Where the file is damaged, so that nobody knows what is there. It is orange, not veiled.
    outlines : bool
        Whether the border of the mask is drawn as a line.
    boxes : array_like, (n, 4), optional
        y, x, height and width of each box, in pixels of the picture.
    box_colours : array_like, (3,) or (n, 3), optional
        RGB of all boxes or of each; where boxes overlap, the later one is on top.
    veil : float
        Opacity of the veil, 0 to 1.
    mpp : float, optional
        Micrometres per pixel of the picture along x. Without it there is no scale bar.
    scale_bar : bool
        Whether a scale bar is drawn, at the lower left.

    Returns
    -------
    ndarray, (h, w, 3), uint8

    Raises
    ------
    SlideArgumentError
        An array has another shape, or a number is not in its range.

    Examples
    --------
    >>> picture = np.full((4, 6, 3), 240, "uint8")
    >>> found = overlay(picture, mask=np.array([[True, False]]), outlines=False)
    >>> found[0, :, 0]
    array([240, 240, 240, 208, 208, 208], dtype=uint8)
    """
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise SlideArgumentError(
            f"picture of shape {picture.shape}, {picture.dtype}; give (h, w, 3) uint8, such as "
            "display_rgb(thumbnail)"
        )
    out = picture.copy()
    if not out.size:
        return out
    colours, width = colours_for(picture), line_width(picture.shape)
    if mask is not None:
        tissue = mask_on_picture(mask, picture.shape, mask_cell)
        unknown = np.zeros_like(tissue)
        if missing is not None:
            unknown = ~tissue & mask_on_picture(missing, picture.shape, mask_cell)
        _blend(out, ~(tissue | unknown), colours.veil, _checked_share(veil))
        _blend(out, unknown, UNKNOWN, _checked_share(veil))
    if boxes is not None:
        boxes = checked_boxes(boxes)
        rgb = box_rgb(colours.box if box_colours is None else box_colours, len(boxes))
        _draw_boxes(out, boxes, rgb, dark=box_colours is None and not colours.box.any())
    if mask is not None and outlines:
        out[mask_border(tissue, width)] = colours.outline
    if mpp is not None and scale_bar:
        draw_scale_bar(out, checked_mpp(mpp))
    return out


def mask_on_picture(
    mask: Array, shape: tuple[int, ...], cell: tuple[float, float] | None = None
) -> Array:
    """Return the value of the mask at the centre of each pixel of a picture of `shape` (y, x)."""
    mask = checked_mask(mask)
    cells = mask_cells(mask, shape, cell)
    rows, columns = (
        np.minimum(((np.arange(length) + 0.5) / side).astype(np.intp), count - 1)
        for length, side, count in zip(shape, cells, mask.shape, strict=False)
    )
    return np.asarray(mask[rows[:, None], columns])


def mask_cells(
    mask: Array, shape: tuple[int, ...], cell: tuple[float, float] | None
) -> tuple[float, float]:
    """Return `cell`, or the height and width of the cells of a mask that covers `shape`."""
    if cell is None:
        return shape[0] / mask.shape[0], shape[1] / mask.shape[1]
    if not min(cell) > 0:
        raise SlideArgumentError(f"mask_cell={cell} is not a size; give numbers above 0")
    return cell


def mask_border(mask: Array, width: int = 1) -> Array:
    """Return the pixels of a line of `width` along the border of a mask (h, w).

    The line is half inside the mask; of an odd width the greater part is. The edge of the picture
    is no border.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    outside, inside = width // 2, (width + 1) // 2
    grown = binary_dilation(mask, iterations=outside) if outside else mask
    return np.asarray(grown & ~binary_erosion(mask, iterations=inside, border_value=1))


def _draw_boxes(out: Array, boxes: Array, colours: Array, dark: bool) -> None:
    """Draw the outlines of boxes (n, 4) in their colours (n, 3).

    Lines that are `dark` are white on dark pixels. Few lines are opaque, even those of small boxes.
    """
    width = int(np.clip(_side(boxes) // 48, 1, line_width(out.shape)))
    owner = box_of_pixels(boxes, out.shape, width)
    lines = owner >= 0
    rgb = colours[owner[lines]]
    if dark:
        rgb[out[lines].mean(axis=1) < DARK] = 255
    _blend(out, lines, rgb, max(box_opacity(boxes), 1 - 8 * float(lines.mean())))


def box_opacity(boxes: Array) -> float:
    """Return the opacity of the outlines of boxes (n, 4) in pixels of a picture.

    Small boxes get light lines, so that tissue shows between them.
    """
    return float(np.clip(_side(boxes) / 24, 0.35, 1))


def _side(boxes: Array) -> float:
    """Return the median of the shorter sides of boxes (n, 4)."""
    return float(np.median(boxes[:, 2:].min(axis=1))) if len(boxes) else 0.0


def box_of_pixels(boxes: Array, shape: tuple[int, ...], width: int = 1) -> Array:
    """Return the box whose outline covers each pixel, (h, w) int32; -1 where there is none.

    The sides of a box lie at its rounded coordinates, so that neighbours share one line. Where
    boxes overlap, it is the last one.
    """
    height, length = shape[:2]
    top, left = np.floor(boxes[:, :2] + 0.5).astype(np.int64).T
    bottom, right = np.floor(boxes[:, :2] + boxes[:, 2:] + 0.5).astype(np.int64).T
    bottom = _at_edge(bottom, height, width)
    right = _at_edge(right, length, width)
    rows = _last_span(np.stack((top, bottom)), left, right, (height, length))
    columns = _last_span(np.stack((left, right)), top, bottom, (length, height))
    thin = np.maximum(rows, columns.T)
    out = thin.copy()
    for d in range(1, width):
        np.maximum(out[d:, d:], thin[:-d, :-d], out=out[d:, d:])
    return out


def _at_edge(ends: Array, size: int, width: int) -> Array:
    """Move the last sides of boxes that end at the edge of the picture into the picture."""
    return np.where(ends <= size, np.minimum(ends, max(0, size - width)), ends)


def _last_span(lines: Array, first: Array, last: Array, shape: tuple[int, int]) -> Array:
    """Return the number of the last span over each pixel of `shape`, int32; -1 if there is none.

    Span i covers the pixels `first[i]` to `last[i]` of the two lines `lines[:, i]`. It is the union
    of two spans of 2**k pixels. Those are marked at their first pixel and halved until they have
    one pixel, so that the time does not depend on the lengths.
    """
    first, last = np.maximum(first, 0), np.minimum(last, shape[1] - 1)
    inside = (lines >= 0) & (lines < shape[0]) & (first <= last)
    power = np.frexp(np.maximum(last - first + 1, 1))[1] - 1
    found = np.full(shape, -1, np.int32)
    for k in range(int(power.max(initial=0)), -1, -1):
        whole = found.copy()  # its spans have 2**(k + 1) pixels
        np.maximum(found[:, 2**k :], whole[:, : -(2**k)], out=found[:, 2**k :])
        line, number = np.nonzero(inside & (power == k))
        for start in (first[number], last[number] - 2**k + 1):
            np.maximum.at(found, (lines[line, number], start), number.astype(np.int32))
    return found


def _blend(out: Array, where: Array, colour: Array, opacity: float) -> None:
    out[where] = np.rint(out[where] * (1 - opacity) + colour * opacity)


def checked_mask(mask: Any) -> Array:
    """Return the mask as an array; raise unless it is boolean, two-dimensional and not empty."""
    found: Array = np.asarray(mask)
    if found.ndim != 2 or found.dtype != bool or not found.size:
        raise SlideArgumentError(
            f"mask of shape {found.shape}, {found.dtype}; give (rows, cols) bool, True = tissue"
        )
    return found


def checked_boxes(boxes: Any) -> Array:
    """Return boxes as (n, 4) float64; raise unless they are finite and no side is negative."""
    found: Array = np.asarray(boxes, np.float64)
    if found.ndim != 2 or found.shape[1] != 4:
        raise SlideArgumentError(f"boxes of shape {found.shape}; give (n, 4): y, x, height, width")
    if not np.isfinite(found).all() or (found[:, 2:] < 0).any():
        raise SlideArgumentError("boxes must be finite, with sides of 0 or more")
    return found


def box_rgb(colours: Any, count: int) -> Array:
    """Return a colour for each of `count` boxes, (n, 3)."""
    colours = np.asarray(colours)
    if colours.shape not in ((3,), (count, 3)):
        raise SlideArgumentError(
            f"box_colours of shape {colours.shape}; give (3,) or ({count:,}, 3): RGB"
        )
    return np.broadcast_to(colours, (count, 3))


def checked_mpp(mpp: Any) -> float:
    """Return `mpp`; raise unless it is a number above 0."""
    if not 0 < float(mpp) < np.inf:
        raise SlideArgumentError(f"mpp={mpp} is not a size of pixels; give micrometres above 0")
    return float(mpp)


def _checked_share(veil: float) -> float:
    if not 0 <= veil <= 1:
        raise SlideArgumentError(f"veil={veil} is not an opacity; give 0 to 1")
    return veil
