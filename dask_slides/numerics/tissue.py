"""Find tissue in a reduced picture of a slide, of about 8 micrometres per pixel.

Bright field: the colour of the glass is measured, also where it changes over the slide. Tissue has
colour relative to the glass: its optical densities in red, green and blue differ, as those of the
stains of Ruifrok and Johnston (Quantification of histochemical staining by color deconvolution,
Anal. Quant. Cytol. Histol. 23, 2001) do. Dust, shadows, bubbles and black bars absorb all colours
alike. Pen is told from stain by the direction of its colour and by the width of its strokes.

Dark field: tissue is brighter than the background by more than its noise, in any channel.

Nothing is trained or random, and the same picture gives the same mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dask_slides.core.types import Array
from dask_slides.numerics.glass import Cells, Glass, measure_glass, smooth_difference
from dask_slides.numerics.morphology import closed, dilated, eroded, opened, regions, without_holes, without_small
from dask_slides.runtime.threads import in_threads

Mask = NDArray[np.bool_]
Background = Literal["bright", "dark"]

FIT_SIDE = 512
"""Longest side of the picture from which the background is measured."""
CELL = 32.0
"""Side in micrometres of the cells in which glass and faint tissue are measured."""
STEPS = 96
"""Steps to which optical densities are rounded to look up the class of a colour."""
FINE, FINE_END, DENSEST = 20, 0.16, 4.0
"""Number and end of the linear steps, and the largest optical density."""

COLOURED, STAINED, INK, INK_OR_BLEND = 1, 2, 4, 8
"""Classes of colours, as bits: maybe stain, surely stain, surely ink, ink if beside ink."""
EIGHT = np.ones((3, 3), bool)


def background_side(pixels: Array, valid: Mask | None) -> Background:
    """Return whether the background is bright or dark.

    The most frequent grey value of a picture with background is that of the background. Black
    borders of scanners, of one value, are left out.
    """
    sample = _subsampled(pixels)
    grey = sample.mean(axis=2)
    seen = grey > grey.min() if valid is None else _subsampled(valid) & (grey > grey.min())
    values = grey[seen]
    if not values.size:
        values = grey.reshape(-1)
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        low, high, share = 0.0, 255.0, 0.4
    else:
        low, high = (float(v) for v in np.percentile(values, [0.5, 99.5]))
        share = 0.7
    counts, edges = np.histogram(values, 64, (low, max(high, low + 1e-9)))
    mode = edges[int(np.argmax(ndimage.gaussian_filter1d(counts.astype(float), 1.5)))]
    return "bright" if mode - low > share * (high - low) else "dark"


def _subsampled(pixels: Array) -> Array:
    step = max(1, -(-max(pixels.shape[:2]) // (2 * FIT_SIDE)))
    return pixels[::step, ::step]


def classify(pixels: Array, glass: Glass) -> Colours:
    """Sort the colours of an RGB picture of 8 bits, relative to the glass."""
    cells = glass.cells
    out = Colours(
        coloured=np.empty(cells.shape, bool),
        ink=np.empty(cells.shape, bool),
        blend=np.empty(cells.shape, bool),
        coloured_share=np.empty(cells.count, np.float32),
        stained_share=np.empty(cells.count, np.float32),
    )
    values = np.maximum(np.arange(256, dtype=np.float32), 1)
    tables = [-np.log(values / colour).astype(np.float32) for colour in glass.colour]
    offsets = np.log(glass.level / glass.colour).astype(np.float32)
    limits = glass_limits(glass)
    strips = cells.strips()

    def call(numbers: Array) -> None:
        for number in numbers:
            rows, part = strips[number]
            densities = [
                tables[c][pixels[part, :, c]] + cells.enlarged(offsets[rows, :, c])[: len(pixels[part])]
                for c in range(3)
            ]
            out.sort(densities, rows, part, cells, limits)

    in_threads(call, np.arange(len(strips)))
    return out


def glass_limits(glass: Glass) -> tuple[float, float]:
    if not glass.known.any():
        return 0.12, 0.02
    d = glass.density[glass.known]
    total = float(np.quantile(np.abs(d.sum(axis=1)), 0.9))
    tint = float(np.quantile(np.ptp(d, axis=1), 0.9))
    return 0.05 + A * total, 0.008 + B * tint


A, B = 2, 1
@dataclass(frozen=True)
class Colours:
    """Classes of the colours of a picture."""

    coloured: Mask
    ink: Mask
    blend: Mask
    coloured_share: Array
    stained_share: Array

    def sort(self, densities: list[Array], rows: slice, part: slice, cells: Cells, limits: tuple[float, float]) -> None:
        red, green, blue = densities
        least = np.minimum(np.minimum(red, green), blue)
        difference = np.maximum(np.maximum(red, green), blue) - least
        total = red + green + blue
        known = least < 1.9
        share = np.maximum(total, 0.05)
        coloured = (difference > 0.035) & (difference > 0.05 * share) & known
        coloured &= (difference > 0.12) | (total > difference + least)  # not the colour that JPEG smears onto glass
        stained = (difference > 0.07) & (difference > 0.08 * share) & known
        dark, tint = limits
        coloured |= (total > dark) & (difference > np.maximum(tint, 0.08 * total)) & known
        self.coloured[part] = coloured
        self.coloured_share[rows] = cells.means(coloured)
        self.stained_share[rows] = cells.means(stained)
        ink = (total > 0.5) & (red - green > 0.10 * total)  # green and blue pens
        ink |= (total > 0.8) & (red < 0.11 * total) & (blue > 0.64 * green)  # red pens
        ink |= (total > 1.3) & (difference < 0.09 * total)  # black pens on glass
        ink |= (total > 2.4) & (difference < 0.20 * total) & (blue > 0.28 * total)  # and on tissue
        self.ink[part] = ink
        blend = (red - green > 0.05 * total) | ((red < 0.16 * total) & (blue > 0.63 * green))
        blend |= (total > 0.5) & ((blue > 0.36 * total) | (difference < 0.12 * total))
        blend |= (total > 1.6) & (difference < 0.21 * total) & (blue > 0.28 * total)
        self.blend[part] = ink | (blend & (total > 0.2))


def find_faint(glass: Glass, stained: Array) -> Mask:
    """Return the cells (rows, cols) with both texture and colour, however little.

    Cells beside `stained` tissue take both from it. They count only beside faint cells farther off.
    """
    difference = np.ptp(glass.density, axis=2)
    total = glass.density.sum(axis=2)
    grey = difference < 0.1 * total
    colour = ndimage.uniform_filter(np.where(grey, 0, difference), 3)
    tint = 2 * (glass_limits(glass)[1] - 0.008)
    rough = glass.texture > 0.8
    maybe = rough | (colour > max(0.012, tint))
    maybe = eroded(maybe, 1) | (maybe & ((glass.detail > 0.8) | ~rough))
    seeds = (glass.texture > 1) & (colour > 0.012)
    beside = dilated(stained > 0.02, 2)
    found = regions(opened(maybe & ~beside, 2), diagonal=True)
    far = found.mask((found.areas >= 100) & (found.count_in(seeds) > 0.3 * found.areas))
    faint = closed(dilated(far, 3) & maybe, 1)
    if not faint.any():
        return faint
    inner = eroded(faint, 2)
    usual = smooth_difference(total[..., None], inner, 8)[..., 0]
    return inner | (faint & (total > H * usual))


H = 0.5


def find_ink(colours: Colours, mpp: float) -> Mask:
    """Return where pen lies: colours of ink in strokes, and what blends with them."""
    if np.count_nonzero(colours.ink) < 30_000 / mpp**2:
        return np.zeros_like(colours.ink)
    ink = opened(colours.ink, round(12 / mpp))
    ink = without_small(ink, 30_000 / mpp**2)
    if not ink.any():
        return ink
    near = colours.blend & dilated(ink, round(150 / mpp))
    grown = grow(ink, near)
    return dilated(closed(grown, round(8 / mpp)), round(10 / mpp))


def grow(seeds: Mask, mask: Mask) -> Mask:
    found = regions(seeds | mask, diagonal=False)
    return found.mask(found.count_in(seeds) > 0)


def _filled(mask: Mask, mpp: float, p: Parameters, glass: Glass | None = None) -> Mask:
    """Fill holes and drop small pieces, and those of up to `SURE_AREA` that look like dust."""
    core = opened(mask, round(R / mpp))
    mask = without_holes(mask, p.max_hole / mpp**2)
    found = regions(mask, diagonal=True)
    areas = found.areas
    good = found.count_in(core) > S * areas
    if glass is not None:
        density = found.means(glass.density, glass.cells.side)
        usual = areas @ density
        cosine = density @ usual / np.maximum(np.linalg.norm(density, axis=1) * np.linalg.norm(usual), 1e-9)
        good &= (cosine > CC) & (density.sum(axis=1) > TT)
    good |= areas > SURE_AREA / mpp**2
    return found.mask(good & (areas >= p.min_area / mpp**2))


SURE_AREA = 200_000.0
R, S = 24, 0.3
TT = 0.12
CC = 0.85


def _bright_tissue(pixels: Array, valid: Mask | None, mpp: float, p: Parameters) -> Mask:
    glass = measure_glass(pixels, valid, max(2, round(CELL / mpp)))
    colours = classify(pixels, glass)
    cells = glass.cells
    ink = find_ink(colours, mpp)
    rough = ndimage.maximum_filter(glass.texture > 0.9, 3)
    strong = rough & (colours.coloured_share > 0)
    labels, count = ndimage.label(strong, np.ones((3, 3)))
    index = np.arange(count + 1)
    stained = ndimage.sum_labels(colours.stained_share, labels, index)
    area = ndimage.sum_labels(colours.coloured_share, labels, index)
    good = (stained > 0.02 * area) & (area * cells.side**2 >= 4)
    good[0] = False
    tissue = colours.coloured & cells.enlarged(good[labels]) & ~ink
    faint = find_faint(glass, colours.stained_share)
    if faint.any():
        tissue |= cells.enlarged(faint) & ~ink
    tissue = closed(tissue, round(p.closing / mpp))
    tissue = _filled(tissue, mpp, p, glass)
    if p.keep_ink:
        return tissue | (ink & closed(tissue, round(300 / mpp)))
    return without_small(tissue & ~ink, p.min_area / mpp**2) if ink.any() else tissue


@dataclass(frozen=True)
class Parameters:
    """Sizes in micrometres and square micrometres."""

    min_area: float = 10_000.0
    max_hole: float = 60_000.0
    closing: float = 8.0
    keep_ink: bool = False


def _dark_tissue(pixels: Array, valid: Mask | None, mpp: float, p: Parameters) -> Mask:
    found = np.zeros(pixels.shape[:2], bool)
    for channel in range(pixels.shape[2]):
        plane = pixels[..., channel].astype(np.float32)
        found |= _brighter(plane, valid, mpp)
    found = closed(found, round(p.closing / mpp))
    return _filled(found, mpp, p)


def _brighter(plane: Array, valid: Mask | None, mpp: float) -> Mask:
    """Return where a channel is brighter than its background by more than the noise."""
    cells = Cells(max(2, round(CELL / mpp)), plane.shape)
    mean = cells.means(plane, np.float32)
    variance = cells.means(plane * plane, np.float32) - mean * mean
    spread = ndimage.uniform_filter(np.sqrt(np.maximum(variance, 0)), 3)
    seen = np.ones(mean.shape, bool) if valid is None else cells.means(valid) == 1
    if not seen.any() or spread[seen].max() == 0:
        return np.zeros(plane.shape, bool)
    usual = np.quantile(spread[seen], 0.1)
    known = seen & (spread <= 1.5 * usual + 1e-9)
    level = np.full((*mean.shape, 1), np.median(mean[known]), np.float32)
    for scale in (64, 16):
        level += smooth_difference(mean[..., None] - level, known, scale)
    smooth = plane - cells.enlarged(level[..., 0])
    smooth = ndimage.uniform_filter(smooth, 3)
    quiet = smooth[cells.enlarged(known)]
    noise = 1.4826 * np.median(np.abs(quiet))
    least = DK * noise
    bright = smooth[smooth > least]
    if not bright.size:
        return np.zeros(plane.shape, bool)
    return smooth > max(least, DS * float(np.median(bright)))


DK, DS = 6, 0.25


def find_tissue(
    pixels: Array,
    *,
    valid: Mask | None = None,
    mpp: float | None = None,
    background: Background | None = None,
    parameters: Parameters = Parameters(),
) -> Mask:
    """Find the tissue in a picture of a slide."""
    scale = 8.0 if mpp is None else mpp
    if background is None:
        background = background_side(pixels, valid)
    if background == "dark":
        return _dark_tissue(pixels, valid, scale, parameters)
    if pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        pixels = _as_rgb(pixels)
    return _bright_tissue(pixels, valid, scale, parameters)


def _as_rgb(pixels: Array) -> Array:
    """Convert to RGB of 8 bits over the range of the values."""
    low, high = np.percentile(_subsampled(pixels), [0.1, 99.9])
    scaled = (pixels.astype(np.float32) - low) * (250 / max(float(high - low), 1e-9))
    shown = np.clip(scaled, 0, 255).astype(np.uint8)
    return shown if shown.shape[2] == 3 else np.repeat(shown[..., :1], 3, axis=2)
