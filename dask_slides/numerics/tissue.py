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
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dask_slides.core.types import Array

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


@dataclass(frozen=True)
class Glass:
    """The background of a bright-field picture, in cells of `side` pixels."""

    side: int
    colour: Array
    """(3,) usual red, green and blue."""
    level: Array
    """(rows, cols, 3) the colour of the glass at each cell, also where tissue covers it."""
    texture: Array
    """(rows, cols) standard deviation in each cell, 1 = more than glass has."""
    density: Array
    """(rows, cols, 3) optical density of each cell."""


def measure_glass(pixels: Array, valid: Mask | None, side: int) -> Glass:
    """Measure the glass from the smooth, bright cells of an RGB picture of 8 bits."""
    mean, spread = _cells(pixels, side)
    seen = np.ones(spread.shape, bool)
    if valid is not None:
        seen = _cells(valid[..., None], side)[0][..., 0] == 1
    grey = mean.mean(axis=2)
    bright = seen & (grey > 100)
    if not bright.any():
        bright = seen if seen.any() else np.ones_like(seen)
    usual = float(np.quantile(spread[bright], 0.2))
    smooth = bright & (spread <= max(0.5, 1.5 * usual))
    colour = _mode_of_glass(mean, grey, smooth if smooth.any() else bright)
    near = smooth & (np.abs(mean - colour).max(axis=2) < 60)
    near &= np.ptp(mean - colour, axis=2) < 20
    if near.any():
        usual = float(np.quantile(spread[near], 0.5))
    texture = spread / max(0.45, 1.3 * usual + 0.35)
    near &= grey < 253.5
    level = _spread_out(mean, near & (texture < 0.9), colour)
    density = -np.log(np.maximum(mean, 1) / level)
    return Glass(side, colour, level, texture, density)


def _cells(pixels: Array, side: int) -> tuple[Array, Array]:
    """Return the mean of each cell (rows, cols, c), and the standard deviation (rows, cols)."""
    rows, columns = (-(-n // side) for n in pixels.shape[:2])
    padding = ((0, rows * side - pixels.shape[0]), (0, columns * side - pixels.shape[1]), (0, 0))
    if padding != ((0, 0),) * 3:
        pixels = np.pad(pixels, padding, mode="symmetric")
    cells = pixels.reshape(rows, side, columns, side, -1)
    count = side * side
    total = cells.sum(axis=(1, 3), dtype=np.float32)
    squares = np.einsum("iajbc,iajbc->ijc", cells, cells, dtype=np.float32)
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean * mean, 0)).mean(axis=2)
    return mean, ndimage.uniform_filter(spread, 3)


def _mode_of_glass(mean: Array, grey: Array, smooth: Mask) -> Array:
    """Return the brightest frequent colour that is not the pure white of skipped areas."""
    candidates = smooth & (grey < 253.5)
    if candidates.sum() < 0.002 * candidates.size:
        candidates = smooth
    counts = np.bincount(grey[candidates].astype(int), minlength=256).astype(float)
    counts = ndimage.gaussian_filter1d(counts, 2)
    peaks = np.flatnonzero(
        (counts >= ndimage.maximum_filter1d(counts, 7)) & (counts > 0.05 * counts.max())
    )
    peaks = peaks[peaks > peaks.max() - 30]
    best = peaks[np.argmax(counts[peaks])]
    near = candidates & (np.abs(grey - best) < 6)
    return np.asarray(np.median(mean[near if near.any() else candidates], axis=0))


def _spread_out(values: Array, known: Mask, usual: Array) -> Array:
    """Smooth `values` where they are `known`, and continue them over the rest."""
    out = np.empty_like(values)
    out[:] = usual
    for scale, limit in ((64, 1.0), (16, 0.08), (4, 0.03)):
        off = np.abs(np.log(np.maximum(values, 1) / out))
        known = known & (np.ptp(off, axis=2) < limit) & (off.mean(axis=2) < 3 * limit)
        weight = ndimage.gaussian_filter(known.astype(np.float32), scale, truncate=2)
        share = np.clip(weight * 8, 0, 1)
        for channel in range(3):
            difference = np.where(known, values[..., channel] - out[..., channel], 0)
            shift = ndimage.gaussian_filter(difference, scale, truncate=2)
            out[..., channel] += share * shift / np.maximum(weight, 1e-6)
    return out


def _density_of_steps() -> Array:
    """Return the optical density of each step: linear near zero, then in equal ratios."""
    fine = np.arange(FINE) * (FINE_END / FINE)
    return np.concatenate([fine, np.geomspace(FINE_END, DENSEST, STEPS - FINE)]).astype(np.float32)


def _steps_of(densities: Array) -> Array:
    """Return the step nearest to each optical density."""
    steps = _density_of_steps()
    return np.searchsorted((steps[1:] + steps[:-1]) / 2, densities)


def _classes() -> Array:
    """Return the class of each colour, (STEPS ** 3,) uint8, from its optical densities."""
    steps = _density_of_steps()
    red, green, blue = steps[:, None, None], steps[None, :, None], steps[None, None, :]
    total = red + green + blue
    most = np.maximum(np.maximum(red, green), blue)
    difference = most - np.minimum(np.minimum(red, green), blue)
    share = np.maximum(total, 0.05)
    r, g, b = red / share, green / share, blue / share
    spread = difference / share
    b_to_g = b / np.maximum(g, 0.02)
    black = np.minimum(np.minimum(red, green), blue) > 1.9
    # of faint colours the direction is not sure; grey dust and shadows have none
    coloured = (difference > 0.035) & (spread > 0.05) & ~black
    stained = (difference > 0.07) & (spread > 0.08) & ~black
    ink = (total > 0.5) & (r - g > 0.10)  # green and blue pens
    ink |= (total > 0.8) & (r < 0.11) & (b_to_g > 0.64)  # red pens
    ink |= (total > 1.3) & (spread < 0.09)  # black pens on glass
    ink |= (total > 2.4) & (spread < 0.20) & (b > 0.28)  # black pens on tissue
    blend = (r - g > 0.05) | ((r < 0.16) & (b_to_g > 0.63))
    blend |= (total > 0.5) & ((b > 0.36) | (spread < 0.12))
    blend |= (total > 1.6) & (spread < 0.21) & (b > 0.28)
    blend = ink | (blend & (total > 0.2))
    bits = coloured * COLOURED + stained * STAINED + ink * INK + blend * INK_OR_BLEND
    return np.ascontiguousarray(bits.reshape(-1), np.uint8)


def classify(pixels: Array, glass: Glass) -> Array:
    """Return the classes (h, w) of the colours of an RGB picture of 8 bits."""
    classes = _classes()
    values = np.arange(256, dtype=np.float32)
    tables = [
        _steps_of(-np.log(np.maximum(values, 1) / level)).astype(np.int32) * STEPS ** (2 - c)
        for c, level in enumerate(glass.colour)
    ]
    out = np.empty(pixels.shape[:2], np.uint8)
    even = np.abs(glass.level / glass.colour - 1).max() < 0.01
    for row in range(-(-len(pixels) // glass.side)):  # rows that stay in the cache
        part = slice(row * glass.side, (row + 1) * glass.side)
        strip = pixels[part]
        if not even:
            gain = np.repeat(glass.colour / glass.level[row], glass.side, axis=0)
            strip = np.minimum(strip * gain[: pixels.shape[1]].astype(np.float32) + 0.5, 255)
            strip = strip.astype(np.uint8)
        index = tables[0][strip[..., 0]]
        index += tables[1][strip[..., 1]]
        index += tables[2][strip[..., 2]]
        out[part] = classes[index]
    return out


def find_faint(glass: Glass, stained: Mask) -> Mask:
    """Return the cells (rows, cols) with both texture and colour, however little.

    Cells beside `stained` tissue take both from it. They count only beside faint cells farther off.
    """
    difference = np.ptp(glass.density, axis=2)
    grey = difference < 0.1 * glass.density.sum(axis=2)
    colour = ndimage.uniform_filter(np.where(grey, 0, difference), 3) / 0.012
    texture = glass.texture
    faint = (np.minimum(texture, 2) * np.minimum(colour, 2) > 1) & (texture > 0.7) & (colour > 0.5)
    beside = ndimage.maximum_filter(_cells(stained[..., None], glass.side)[0][..., 0] > 0.02, 5)
    far = without_small(opened(faint & ~beside, 1), 30)
    return np.asarray(ndimage.maximum_filter(far, 5) & faint)


def _enlarged(cells: Mask, side: int, shape: tuple[int, int]) -> Mask:
    return np.repeat(np.repeat(cells, side, axis=0), side, axis=1)[: shape[0], : shape[1]]


def _square(radius: float) -> int:
    return 2 * max(0, round(radius)) + 1


def _dilated(mask: Mask, radius: float) -> Mask:
    return np.asarray(ndimage.maximum_filter(mask, _square(radius)))


def _eroded(mask: Mask, radius: float) -> Mask:
    return np.asarray(ndimage.minimum_filter(mask, _square(radius), mode="nearest"))


def closed(mask: Mask, radius: float) -> Mask:
    """Return `mask` without gaps of up to twice `radius` pixels."""
    size = _square(radius)
    if size == 1:
        return mask
    near = np.pad(mask, size)
    near = ndimage.minimum_filter(ndimage.maximum_filter(near, size), size)
    return np.asarray(near[size:-size, size:-size])


def opened(mask: Mask, radius: float) -> Mask:
    """Return `mask` without parts narrower than twice `radius` pixels."""
    size = _square(radius)
    return np.asarray(ndimage.maximum_filter(ndimage.minimum_filter(mask, size), size))


def without_small(mask: Mask, pixels: float, needs: Mask | None = None) -> Mask:
    """Drop the pieces of fewer than `pixels`; with `needs`, also those that hold none of it."""
    labels, count = ndimage.label(mask, EIGHT)
    if not count:
        return mask
    areas = np.bincount(labels.reshape(-1), minlength=count + 1)
    good = areas >= pixels
    if needs is not None:
        seeds = np.bincount(labels[needs & mask], minlength=count + 1)
        good &= seeds > 0.02 * areas
    good[0] = False
    return np.asarray(good[labels])


def without_holes(mask: Mask, pixels: float) -> Mask:
    """Fill the holes of fewer than `pixels`."""
    labels, count = ndimage.label(~mask)
    areas = np.bincount(labels.reshape(-1), minlength=count + 1)
    small = areas < pixels
    small[0] = False
    if count:
        edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        small[edge] = False
    return np.asarray(mask | small[labels])


def find_ink(classes: Array, mpp: float) -> Mask:
    """Return where pen lies: colours of ink in strokes, and what blends with them."""
    ink = opened((classes & INK) > 0, 12 / mpp)
    ink = without_small(ink, 30_000 / mpp**2)
    if not ink.any():
        return ink
    near = ((classes & INK_OR_BLEND) > 0) & _dilated(ink, 150 / mpp)
    grown = ndimage.binary_propagation(ink, mask=ink | near)
    return _dilated(closed(np.asarray(grown), 8 / mpp), 10 / mpp)


def _bright_tissue(pixels: Array, valid: Mask | None, mpp: float, p: Parameters) -> Mask:
    glass = measure_glass(pixels, valid, max(2, round(CELL / mpp)))
    classes = classify(pixels, glass)
    tissue = (classes & COLOURED) > 0
    rough = ndimage.maximum_filter(glass.texture > 0.9, 3)
    tissue &= _enlarged(rough, glass.side, tissue.shape)
    ink = find_ink(classes, mpp)
    tissue &= ~ink
    tissue = without_small(tissue, 4, (classes & STAINED) > 0)
    faint = find_faint(glass, (classes & STAINED) > 0)
    tissue |= _enlarged(faint, glass.side, tissue.shape) & ~ink
    tissue = closed(tissue, p.closing / mpp)
    tissue = without_small(tissue, p.min_area / mpp**2)
    tissue = without_holes(tissue, p.max_hole / mpp**2)
    if p.keep_ink:
        return tissue | (ink & closed(tissue, 300 / mpp))
    return without_small(tissue & ~ink, p.min_area / mpp**2)


@dataclass(frozen=True)
class Parameters:
    """Sizes in micrometres and square micrometres."""

    min_area: float = 15_000.0
    max_hole: float = 60_000.0
    closing: float = 10.0
    keep_ink: bool = False


def _dark_tissue(pixels: Array, valid: Mask | None, mpp: float, p: Parameters) -> Mask:
    found = np.zeros(pixels.shape[:2], bool)
    for channel in range(pixels.shape[2]):
        plane = pixels[..., channel].astype(np.float32)
        found |= _brighter(plane, valid, mpp)
    found = closed(found, p.closing / mpp)
    found = without_small(found, p.min_area / mpp**2)
    return without_holes(found, p.max_hole / mpp**2)


def _brighter(plane: Array, valid: Mask | None, mpp: float) -> Mask:
    """Return where a channel is brighter than its background."""
    smooth = ndimage.gaussian_filter(plane, max(0.7, 8 / mpp / 2))
    sample = _subsampled(smooth)
    values = sample if valid is None else sample[_subsampled(valid)]
    if not values.size or values.min() == values.max():
        return np.zeros(plane.shape, bool)
    from skimage.filters import threshold_otsu, threshold_triangle

    values = np.sqrt(values - values.min())
    level = min(threshold_otsu(values), threshold_triangle(values))
    below = values[values <= level]
    noise = 1.4826 * float(np.median(np.abs(below - np.median(below))))
    level = max(level, float(np.median(below)) + 4 * noise)
    return np.asarray(np.sqrt(np.maximum(smooth - sample.min(), 0)) > level)


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
