"""Draw arrays as PNG, as HTML for notebooks, and on matplotlib axes.

The functions take arrays and plain values, not slides.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dask_slides.core.channels import Channel
from dask_slides.core.types import Array
from dask_slides.plots.display import display_rgb

CHEAP_PIXELS = 4_000_000
"""Pixels of the largest level that a notebook reads for a picture."""


def bytes_text(count: float) -> str:
    """Return a number of bytes as text, such as "31.5 GB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def pixels_text(shape: Iterable[int]) -> str:
    """Return a shape as text, such as "1,024 x 768"."""
    return " x ".join(f"{side:,}" for side in shape)


def shrunk(pixels: Array, max_size: int) -> Array:
    """Shrink 8-bit RGB `pixels` (y, x, 3) so that the longest side is at most `max_size`."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((max_size, max_size), Image.Resampling.BOX)
    return np.asarray(image)


def png(pixels: Array, *, quickly: bool = False) -> bytes:
    """Return 8-bit RGB or RGBA `pixels` (y, x, 3 or 4) as the bytes of a PNG file.

    It takes a fifth of the time if it is made `quickly`, and up to half more bytes.
    """
    from PIL import Image

    out = io.BytesIO()
    options: dict[str, Any] = {"compress_level": 1} if quickly else {"optimize": True}
    Image.fromarray(pixels).save(out, "PNG", **options)
    return out.getvalue()


def grid_picture(blank: Array, side: int = 512) -> Array:
    """Draw a blank map (rows, cols) as grey (blank) and violet tiles, (y, x, 3) uint8.

    The longest side is `side` pixels or a little less.
    """
    tile = max(1, side // max(*blank.shape, 1))
    colours = np.array([(120, 60, 130), (156, 165, 187)], np.uint8)[blank.astype(np.intp)]
    picture = np.repeat(np.repeat(colours, tile, axis=0), tile, axis=1)
    if tile >= 8:  # lines between smaller tiles would hide them
        picture[::tile] = picture[:, ::tile] = (90, 92, 130)
    return shrunk(picture, side) if picture.size else picture


def contact_sheet(
    tiles: Sequence[Array],
    columns: int = 8,
    side: int = 128,
    channels: Sequence[Channel] | None = None,
    ground: int = 255,
) -> Array:
    """Arrange `tiles` (h, w, c) in rows of `columns`, each shrunk to at most `side` pixels.

    Between them is the grey value `ground`. The tiles have one size. They have one contrast too, so
    that you can compare them.
    """
    rows = -(-len(tiles) // columns) or 1
    sheet = np.full((rows * (side + 4) + 4, columns * (side + 4) + 4, 3), ground, np.uint8)
    if not len(tiles):
        return sheet
    means = np.stack([reduced(tile, side) for tile in tiles])
    shown = display_rgb(np.concatenate(means), channels).reshape(*means.shape[:3], 3)
    for number, tile in enumerate(shown):
        small = shrunk(tile, side)
        top = 4 + number // columns * (side + 4)
        left = 4 + number % columns * (side + 4)
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def reduced(tile: Array, side: int) -> Array:
    """Return the means of blocks of pixels (h, w, c), at least `side` of them if there were."""
    factor = max(1, max(tile.shape[:2]) // side)
    factor = min(factor, *tile.shape[:2])
    height, width = (n // factor for n in tile.shape[:2])
    blocks = tile[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    means = np.asarray(blocks.mean(axis=(1, 3)))
    return (means if tile.dtype.kind == "f" else means.round()).astype(tile.dtype)


def side_by_side(pictures: Sequence[Array], height: int) -> Array:
    """Arrange 8-bit RGB `pictures` in a row, each scaled to a height of `height` pixels."""
    from PIL import Image

    panels = []
    for picture in pictures:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        image = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
        panels += [np.asarray(image), np.full((height, 8, 3), 255, np.uint8)]
    return np.concatenate(panels[:-1], axis=1)


def image_html(text: str, data: bytes) -> str:
    """Return an HTML image with the PNG `data`. Its description `text` is escaped."""
    encoded = base64.b64encode(data).decode()
    return f"<img alt='{escape(text, quote=True)}' src='data:image/png;base64,{encoded}'>"


def facts_html(title: str, facts: Mapping[str, str], picture: Array | None) -> str:
    """Return an HTML table of `facts` beside `picture`. All text is escaped."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(key)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for key, value in facts.items()
    )
    image = "" if picture is None else image_html(title, png(picture))
    return (
        "<div style='display:flex;gap:16px;align-items:flex-start'>"
        f"<div>{image}</div><div><b>{escape(title)}</b><table>{rows}</table></div></div>"
    )


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
    """Draw 8-bit RGB `pixels` on axes that have the coordinates of an image of `size` (y, x)."""
    ax = axes_or_new(ax)
    if pixels.size:
        ax.imshow(pixels, extent=(0, size[1], size[0], 0))
    ax.set(title=title, xlabel="x (px of level 0)", ylabel="y (px of level 0)")
    return ax
