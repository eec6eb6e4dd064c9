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
from dask_slides.numerics.morphology import closed, dilated, eroded, regions
from dask_slides.runtime.threads import in_threads

Mask = NDArray[np.bool_]

BLACK = 1.9
"""Density of the least absorbed colour above which the others are noise: 15 % of the light."""
JPEG_SMEAR = 0.12
"""Largest difference of densities that JPEG, which halves the resolution of colour, smears onto
glass. It brightens one colour where it darkens another; stain only darkens."""
SAMPLED = 8
"""Every how manyth cell with stain gives the usual stain."""
PALEST, PALEST_TINT = 0.035, 0.008
"""Density, summed over the channels, and its range, that stain has where the glass is even."""
SMEARED = 0.12
"""Share of the density nearby that blur and JPEG smear onto glass."""
ROUGH, DARK, COLOURED = 0.8, 0.1, 0.035
"""Texture, density summed over the channels, and its range, up to all of which a cell shows glass:
its pixels are neither stain nor ink."""
STROKE, STROKE_AREA = 12, 30_000
"""Half the width in µm that strokes of a pen have somewhere, and their smallest area in µm²."""
THIN, THIN_AREA = 3, 500
"""The same for vivid ink: wider than nuclei, and larger than a few cells."""
SURE_SHARE = 0.05
"""Share of a stroke that surely is ink; of the rest, ink on tissue, it is only likely."""
INK_EDGE = 10
"""Width in µm of the blurred edge of a stroke."""
LIKELY, SURE, VIVID = 1, 2, 3
"""How sure ink is: darker than the tissue of the slide, in a colour that stain may have; of a
colour that no stain in use has at that density; far from the colours of all of them."""


@dataclass(frozen=True)
class Colours:
    """What the colours of a picture may be."""

    stain: Mask
    """(height, width) maybe stain."""
    ink: NDArray[np.uint8]
    """(height, width) 0, or how sure it is ink: `LIKELY`, `SURE` or `VIVID`."""
    stain_share: Array
    """(rows, columns) share of the pixels of each cell that may be stain."""
    strong_share: Array
    """(rows, columns) share of the pixels of each cell that surely are stain."""


def classify(pixels: Array, glass: Glass) -> Colours:
    """Sort the colours of an RGB picture (height, width, 3) of 8 bits."""
    stain, ink = np.zeros(glass.cells.shape, bool), np.zeros(glass.cells.shape, np.uint8)
    stain_share, strong_share = (np.zeros(glass.cells.count, np.float32) for _ in range(2))
    table = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1))
    levels = np.log(glass.level)
    darkest, usual = _unexplained(glass), _usual_stain(glass)
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
            ink[at] = _inked(red, green, blue, usual)

    in_threads(call, np.arange(len(parts)))
    return Colours(stain, ink, stain_share, strong_share)


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


def _usual_stain(glass: Glass) -> Array:
    """Return the median densities (3,) of the cells with stain, 0 without any."""
    stained = (glass.texture > 1) & (glass.density.sum(axis=0) > PALEST)
    density = glass.density.reshape(3, -1)[:, np.flatnonzero(stained)[::SAMPLED]]
    red, green, blue = density
    density = density[:, _inked(red, green, blue, np.zeros(3)) < SURE]
    return np.median(density, axis=1) if density.size else np.zeros(3)


def _inked(red: Array, green: Array, blue: Array, usual: Array) -> NDArray[np.uint8]:
    """Return how sure it is that densities are those of ink.

    `usual` are the densities (3,) of the tissue of the slide. Where ink lies on tissue, the
    densities of both add up.
    """
    total = red + green + blue
    grade = np.zeros(total.shape, np.uint8)
    dark = total > 0.5
    red, green, blue, total = red[dark], green[dark], blue[dark], total[dark]
    least = np.minimum(np.minimum(red, green), blue)
    difference = np.maximum(np.maximum(red, green), blue) - least
    more_red = red - green  # the stains in use absorb green most
    reddish = (red < 0.18 * total) & (blue > 0.57 * green)
    blackish = (total > 2.4) & (difference < 0.20 * total) & (blue > 0.28 * total)
    likely = (red > max(0.6, 2.2 * usual[0])) & (more_red > -0.08 * total)
    likely |= reddish & (green > max(0.8, 1.6 * usual[1]))
    fold = 3.5 * usual  # more than three layers of tissue absorb
    sure = more_red > 0.10 * total  # green and blue pens on glass
    sure |= (red > max(1.2, fold[0])) & (more_red > -0.02 * total)  # and on tissue
    sure |= (total > 0.8) & (red < 0.11 * total) & (blue > 0.64 * green)  # red pens
    sure |= reddish & (green > max(1.5, fold[1]))
    sure |= (total > 1.3) & (difference < 0.09 * total)  # black pens
    sure |= blackish & (least > fold.min())
    vivid = (total > 1) & (more_red > 0.25 * total)
    grade[dark] = (likely | sure).astype(np.uint8) + sure + vivid
    return grade


def find_ink(colours: Colours, mpp: float) -> Mask:
    """Return where pen lies: strokes of likely ink of which a part is sure ink."""
    ink = colours.ink
    sure, nowhere = ink >= SURE, np.zeros(ink.shape, bool)
    if np.count_nonzero(sure) < THIN_AREA / mpp**2:
        return nowhere
    wide = _inner(ink > 0, STROKE / mpp), _inner(ink >= VIVID, THIN / mpp)
    if not (wide[0].any() or wide[1].any()):
        return nowhere  # most slides have no pen, and the regions need not be found
    found = regions(ink > 0, diagonal=False)
    large = found.areas >= STROKE_AREA / mpp**2
    large &= found.count_in(wide[0]) > 0
    vivid = found.count_in(ink >= VIVID) >= THIN_AREA / mpp**2
    vivid &= found.count_in(wide[1]) > 0
    strokes = (found.count_in(sure) > SURE_SHARE * found.areas) & (large | vivid)
    return dilated(closed(found.mask(strokes), round(8 / mpp)), max(1, round(INK_EDGE / mpp)))


def _inner(mask: Mask, radius: float) -> Mask:
    """Return the pixels of `mask` that are farther than `radius` from its outline."""
    return eroded(mask, max(1, round(radius)))
