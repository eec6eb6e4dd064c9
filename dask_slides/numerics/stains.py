"""Colours of stain and of ink, relative to the glass.

Stains absorb red, green and blue to different degrees (Ruifrok and Johnston, Quantification of
histochemical staining by color deconvolution, Anal. Quant. Cytol. Histol. 23, 2001). Dust, shadows,
bubbles and black borders absorb all colours alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dask_slides.core.types import Array
from dask_slides.numerics.glass import Glass
from dask_slides.numerics.morphology import closed, dilated, opened, regions, without_small
from dask_slides.runtime.threads import in_threads

Mask = NDArray[np.bool_]

BLACK = 1.9
"""Density of the least absorbed colour above which the others are noise: 15 % of the light."""
JPEG_SMEAR = 0.12
"""Largest difference of densities that JPEG, which halves the resolution of colour, smears onto
glass. It brightens one colour where it darkens another; stain only darkens."""
PALEST, PALEST_TINT = 0.035, 0.008
"""Density, summed over the channels, and its range, that stain has where the glass is even."""
SMEARED = 0.12
"""Share of the density nearby that blur and JPEG smear onto glass."""
ROUGH, DARK, COLOURED = 0.8, 0.1, 0.035
"""Texture, density summed over the channels, and its range, up to all of which a cell shows glass:
its pixels are neither stain nor ink."""
STROKE, STROKE_AREA = 12, 30_000
"""Half the width in µm that strokes of a pen have at least, and their smallest area in µm²."""
BLEND = 150
"""How far in µm the edge of a stroke and ink on tissue may blend with what is beneath."""


@dataclass(frozen=True)
class Colours:
    """What the colours of a picture may be."""

    stain: Mask
    """(height, width) maybe stain."""
    ink: Mask
    """(height, width) surely ink."""
    blend: Mask
    """(height, width) ink if it lies beside ink."""
    stain_share: Array
    """(rows, columns) share of the pixels of each cell that may be stain."""
    strong_share: Array
    """(rows, columns) share of the pixels of each cell that surely are stain."""


def classify(pixels: Array, glass: Glass) -> Colours:
    """Sort the colours of an RGB picture (height, width, 3) of 8 bits."""
    stain, ink, blend = (np.zeros(glass.cells.shape, bool) for _ in range(3))
    stain_share, strong_share = (np.zeros(glass.cells.count, np.float32) for _ in range(2))
    table = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1))
    levels = np.log(glass.level)
    darkest = _unexplained(glass)
    parts = glass.cells.parts(_shows_more_than_glass(glass))

    def call(numbers: NDArray[np.int64]) -> None:
        for part in (parts[number] for number in numbers):
            own, at = part.own, part.pixels
            red, green, blue = (
                table.take(pixels[at][..., c]) + own.enlarged(levels[c][part.cells])
                for c in range(3)
            )
            stain[at], strong = _stained(
                red, green, blue, own.enlarged(darkest[part.cells]), glass.tint
            )
            stain_share[part.cells] = own.means(stain[at])
            strong_share[part.cells] = own.means(strong)
            ink[at], blend[at] = _inked(red, green, blue)

    in_threads(call, np.arange(len(parts)))
    return Colours(stain, ink, blend, stain_share, strong_share)


def _shows_more_than_glass(glass: Glass) -> Mask:
    """Return the cells (rows, columns) that are rough, dark or coloured, or beside a rough one."""
    rough = dilated(glass.texture > ROUGH, 1)
    dark = glass.density.sum(axis=0) > DARK
    return np.asarray(rough | dark | (np.ptp(glass.density, axis=0) > COLOURED))


def _unexplained(glass: Glass) -> Array:
    """Return the density (rows, columns), summed over the channels, that is no sign of stain."""
    nearby = ndimage.maximum_filter(glass.density.sum(axis=0), 3)
    return np.asarray(PALEST + 2 * glass.darkness + SMEARED * nearby)


def _stained(
    red: Array, green: Array, blue: Array, darkest: Array, tint: float
) -> tuple[Mask, Mask]:
    """Return which densities may be stain, and which surely are.

    Little colour counts where light is lost too, both by more than the glass leaves unexplained.
    """
    least = np.minimum(np.minimum(red, green), blue)
    difference = np.maximum(np.maximum(red, green), blue) - least
    total = red + green + blue
    sure = (difference > 0.035) & (difference > 0.05 * total)
    sure &= (difference > JPEG_SMEAR) | (total > difference + least)
    pale = (total > darkest) & (difference > PALEST_TINT + tint)
    pale &= difference > 0.08 * total
    light = least < BLACK
    strong = (difference > 0.07) & (difference > 0.08 * total)
    return (sure | pale) & light, strong & light


def _inked(red: Array, green: Array, blue: Array) -> tuple[Mask, Mask]:
    """Return which densities surely are ink, and which may be ink that blends with tissue."""
    total = red + green + blue
    least = np.minimum(np.minimum(red, green), blue)
    difference = np.maximum(np.maximum(red, green), blue) - least
    more_red = red - green  # the stains in use absorb green most
    ink = (total > 0.5) & (more_red > 0.10 * total)  # green and blue pens
    ink |= (total > 0.8) & (red < 0.11 * total) & (blue > 0.64 * green)  # red pens
    ink |= (total > 1.3) & (difference < 0.09 * total)  # black pens on glass
    ink |= (total > 2.4) & (difference < 0.20 * total) & (blue > 0.28 * total)  # and on tissue
    blend = (more_red > 0.05 * total) | ((red < 0.16 * total) & (blue > 0.63 * green))
    blend |= (total > 0.5) & ((blue > 0.36 * total) | (difference < 0.12 * total))
    blend |= (total > 1.6) & (difference < 0.21 * total) & (blue > 0.28 * total)
    return ink, ink | (blend & (total > 0.2))


def find_ink(colours: Colours, mpp: float) -> Mask:
    """Return where pen lies: colours of ink in strokes, and what blends with them."""
    none = np.zeros_like(colours.ink)
    if np.count_nonzero(colours.ink) < STROKE_AREA / mpp**2:
        return none
    ink = opened(colours.ink, round(STROKE / mpp))
    ink = without_small(ink, STROKE_AREA / mpp**2)
    if not ink.any():
        return none
    near = regions(ink | (colours.blend & dilated(ink, round(BLEND / mpp))), diagonal=False)
    grown = near.mask(near.count_in(ink) > 0)
    return dilated(closed(grown, round(8 / mpp)), round(10 / mpp))
