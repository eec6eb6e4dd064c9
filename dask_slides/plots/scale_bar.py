"""Draw a scale bar of a round length on a picture."""

from __future__ import annotations

import math

import numpy as np

from dask_slides.core.types import Array

MAX_SHARE = 0.25
"""Longest bar, as a share of the width of the picture."""
_UNITS = (("km", 1e9), ("m", 1e6), ("mm", 1e3), ("µm", 1.0), ("nm", 1e-3))
"""Units with their length in micrometres."""


def round_length(limit: float) -> float:
    """Return the largest length of 1, 2 or 5 times a power of ten that is at most `limit`."""
    power = math.floor(math.log10(limit))
    lengths = [float(f"{digit}e{power + step}") for step in (-1, 0, 1) for digit in (1, 2, 5)]
    return max(length for length in lengths if length <= limit)


def length_text(micrometres: float) -> str:
    """Return a length as text, such as "500 µm" or "2 mm"."""
    name, size = next((one for one in _UNITS if micrometres >= one[1]), _UNITS[-1])
    return f"{micrometres / size:g} {name}"


def draw_scale_bar(picture: Array, mpp: float) -> None:
    """Draw a bar with its length into the lower left corner of `picture`, in place.

    The bar is black on bright ground and white on dark ground, with an edge of the other colour. A
    picture without room for the label is left as it is.

    Parameters
    ----------
    picture : ndarray, (h, w, 3), uint8
    mpp : float
        Micrometres per pixel of the picture along x.
    """
    height, width = picture.shape[:2]
    size = int(np.clip(round(max(height, width) / 44), 12, 64))
    length = round_length(width * MAX_SHARE * mpp)
    ink = _bar_with_label(max(1, round(length / mpp)), length_text(length), size)
    edge = max(1, round(size / 12))
    ink = np.pad(ink, edge)
    margin = size // 2
    top, left = height - margin - ink.shape[0], margin
    if top < height // 2 or left + ink.shape[1] + margin > width:
        return
    ground = picture[top : height - margin, left : left + ink.shape[1]]
    colours = (255, 0) if is_dark(ground) else (0, 255)
    for colour, mask in zip(colours[::-1], (_grown(ink, edge), ink), strict=True):
        share = mask[..., None] / 255
        ground[:] = np.rint(ground * (1 - share) + colour * share)


def is_dark(ground: Array) -> bool:
    """Return whether white is easier to read than black on these 8-bit pixels."""
    return float(ground.mean()) < 110


def _bar_with_label(length: int, text: str, size: int) -> Array:
    """Return a bar of `length` pixels under its label as an 8-bit mask."""
    label = text_mask(text, size)
    thickness, gap = max(2, round(size / 4)), max(2, round(size / 5))
    width = max(length, label.shape[1])
    out = np.zeros((label.shape[0] + gap + thickness, width), np.uint8)
    start = (length - label.shape[1]) // 2 if length > label.shape[1] else 0
    out[: label.shape[0], start : start + label.shape[1]] = label
    out[-thickness:, :length] = 255
    return out


def text_mask(text: str, size: int) -> Array:
    """Return `text` in the font that Pillow includes as an 8-bit mask, cut to its ink.

    The font has no "µ": it is drawn as a "u" whose left stem goes down below the line.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=size)
    advance = math.ceil(font.getlength(text.replace("µ", "u")))
    image = Image.new("L", (advance + 2 * size, 3 * size))
    ImageDraw.Draw(image).text(
        (size, 2 * size), text.replace("µ", "u"), fill=255, font=font, anchor="ls"
    )
    out = np.array(image)
    for number in (i for i, letter in enumerate(text) if letter == "µ"):
        left = size + int(font.getlength(text[:number].replace("µ", "u")))
        middle = left + int(font.getlength("u")) // 2
        stem = out[2 * size - size // 4, left:middle]
        below = slice(2 * size - size // 4, 2 * size + max(2, round(size / 5)))
        out[below, left:middle] = np.maximum(out[below, left:middle], stem)
    rows, columns = (np.flatnonzero(out.any(axis=axis)) for axis in (1, 0))
    return out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _grown(mask: Array, by: int) -> Array:
    """Return the mask grown by a disk of radius `by`."""
    from scipy.ndimage import grey_dilation

    y, x = np.ogrid[-by : by + 1, -by : by + 1]
    return np.asarray(grey_dilation(mask, footprint=y**2 + x**2 <= (by + 0.5) ** 2))
