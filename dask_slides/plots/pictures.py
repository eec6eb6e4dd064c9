"""Pictures of results: HTML for notebooks, PNG bytes, matplotlib axes.

Takes plain values, so that every noun can use it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dask_slides.core.geometry import Region
from dask_slides.core.types import Array

CHEAP_PIXELS = 4_000_000
"""A notebook cell reads a level for its picture only up to this size."""


def bytes_text(count: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def pixels_text(shape: Iterable[int]) -> str:
    """Return a shape as text."""
    return " x ".join(f"{side:,}" for side in shape)


def rgb(pixels: Array) -> Array:
    """Return any image (y, x, c) as 8-bit RGB to look at; other dtypes are stretched."""
    shown = pixels[..., :3]
    if shown.shape[-1] == 2:
        shown = np.concatenate([shown, np.zeros_like(shown[..., :1])], axis=-1)
    if shown.dtype != np.uint8:
        finite = np.nan_to_num(shown.astype(np.float64))
        low, high = (float(pick(finite)) if finite.size else 0.0 for pick in (np.min, np.max))
        shown = (255 * (finite - low) / max(high - low, 1e-12)).astype(np.uint8)
    if shown.shape[-1] == 1:
        shown = np.repeat(shown, 3, axis=-1)
    return np.ascontiguousarray(shown)


def shrunk(pixels: Array, max_size: int) -> Array:
    """Return 8-bit RGB `pixels` (y, x, 3) with `max_size` on the longest side at most."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((max_size, max_size), Image.Resampling.BOX)
    return np.asarray(image)


def png(pixels: Array) -> bytes:
    """Return `pixels` (y, x, 3), 8-bit, as a PNG file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


def grid_picture(blank: Array, picture: Array | None = None, side: int = 512) -> Array:
    """Draw a blank map (rows, cols): cells kept in colour, cells dropped veiled and crossed.

    `picture` (y, x, 3), 8-bit, lies under it; without one the cells are white and violet.
    """
    from PIL import Image, ImageDraw

    rows, columns = blank.shape
    if picture is None:
        cell = max(2, side // max(rows, columns, 1))
        colours = np.array([[120, 60, 130], [244, 244, 246]], np.uint8)[blank.astype(np.intp)]
        picture = np.repeat(np.repeat(colours, cell, axis=0), cell, axis=1)
    image = Image.fromarray(picture).convert("RGB")
    draw = ImageDraw.Draw(image, "RGBA")
    height, width = picture.shape[:2]
    for row in range(rows):
        for column in range(columns):
            top, bottom = row * height // rows, (row + 1) * height // rows - 1
            left, right = column * width // columns, (column + 1) * width // columns - 1
            if blank[row, column]:
                draw.rectangle((left, top, right, bottom), fill=(40, 60, 110, 110))
            draw.rectangle((left, top, right, bottom), outline=(40, 60, 110, 90))
    return np.asarray(image)


def contact_sheet(tiles: Sequence[Array], columns: int = 8, side: int = 128) -> Array:
    """Lay `tiles` (h, w, c) out in rows of `columns`, each fitted into `side` pixels."""
    rows = -(-len(tiles) // columns) or 1
    sheet = np.full((rows * (side + 4) + 4, columns * (side + 4) + 4, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        small = shrunk(rgb(tile), side)
        top = 4 + number // columns * (side + 4)
        left = 4 + number % columns * (side + 4)
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def side_by_side(pictures: Sequence[Array], height: int) -> Array:
    """Lay 8-bit RGB `pictures` out in a row, each scaled to `height` pixels."""
    from PIL import Image

    panels = []
    for picture in pictures:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        image = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
        panels += [np.asarray(image), np.full((height, 8, 3), 255, np.uint8)]
    return np.concatenate(panels[:-1], axis=1)


def image_html(text: str, data: bytes) -> str:
    """Return a PNG as an element that holds it; `text` says what it shows, and is escaped."""
    encoded = base64.b64encode(data).decode()
    return f"<img alt='{escape(text, quote=True)}' src='data:image/png;base64,{encoded}'>"


def facts_html(title: str, facts: Mapping[str, str], picture: Array | None) -> str:
    """Return a small table of `facts` beside `picture`; every text is escaped."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(key)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for key, value in facts.items()
    )
    image = ""
    if picture is not None:
        image = image_html(title, png(picture))
    return (
        "<div style='display:flex;gap:16px;align-items:flex-start'>"
        f"<div>{image}</div><div><b>{escape(title)}</b><table>{rows}</table></div></div>"
    )


def slide_html(
    title: str,
    facts: Mapping[str, str],
    read: Callable[[int, Region], Array] | None,
    levels: Sequence[Any],
) -> str:
    """Return the table of a slide, with a picture of its smallest level if `read` is given."""
    picture = None
    if read is not None:
        last = len(levels) - 1
        picture = shrunk(rgb(read(last, Region(0, 0, *levels[last].shape))), 256)
    return facts_html(title, facts, picture)


def axes_or_new(ax: Any) -> Any:
    """Return `ax`, or the axes of a new matplotlib figure."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plotting needs matplotlib; pip install 'dask-slides[plot]'") from error
    return plt.subplots(layout="constrained")[1]


def plot_image(pixels: Array, size: tuple[int, int], title: str, ax: Any = None) -> Any:
    """Draw `pixels` with the coordinates of an image of `size` (y, x)."""
    ax = axes_or_new(ax)
    ax.imshow(rgb(pixels), extent=(0, size[1], size[0], 0), interpolation="nearest")
    ax.set(title=title, xlabel="x (px of level 0)", ylabel="y (px of level 0)")
    return ax
