"""Find tissue in a reduced picture of a slide, of about 8 micrometres per pixel.

Bright field: tissue has colour relative to the glass, and texture. Both are compared with what the
glass of the same picture has. Well stained tissue is found pixel by pixel, faint tissue in cells of
32 µm. Pen is told from stain by the direction of its colour, on tissue also by its darkness, and by
the width of its strokes.

Dark field: tissue is brighter than the background by more than its noise, in any channel.

Nothing is trained or random, and the same picture gives the same mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dask_slides.core.types import Array
from dask_slides.numerics.cells import STRIP, Cells, local_means
from dask_slides.numerics.glass import Glass, measure_glass
from dask_slides.numerics.morphology import (
    Regions,
    closed,
    dilated,
    eroded,
    opened,
    regions,
    without_holes,
)
from dask_slides.numerics.stains import Colours, classify, find_ink
from dask_slides.runtime.threads import in_slices

Mask = NDArray[np.bool_]
Background = Literal["bright", "dark"]

SAMPLED = 8
"""Every how manyth pixel gives a median."""
SAMPLE_SIDE = 1024
"""Longest side of the pixels from which the side of the background is told."""
USUAL_MPP = 8.0
"""Micrometres per pixel of a picture if they are not known."""
CELL, SMALLEST_CELL, LARGEST_CELL = 32.0, 2, 8
"""Side in µm of the cells in which glass and faint tissue are measured, and limits in pixels."""
SURE_AREA = 200_000.0
"""Area in µm² above which a piece is no dust, whatever its colour and shape."""
LINT = 24.0
"""Half the width in µm of the widest fibre of lint."""
PALEST_PIECE = 0.12
"""Density, summed over the channels, of small pieces: smears and blurred dust have less."""
FLAT = 0.8
"""Texture inside specks and smears, and of glass, stays below; that of tissue does not."""
SAME_COLOUR = 0.85
"""Least cosine between the densities of a small piece and of all pieces: those of hematoxylin and
of DAB beside it have more, coloured dust has less."""
GREY, GREY_SIDE = 2, 256
"""Largest difference of the channels of a pixel of a grey picture, and longest side of the pixels
that are compared."""
ONE_STAIN = (0.4, 1.0, 0.5)
"""Densities of red, green and blue that a grey picture gets, as if it had the stain of eosin: then
what is darker than the glass has colour too."""
FAINT_COLOUR = 0.012
"""Range of optical density over the channels of faint tissue: three grey levels."""
FAINT_AREA = 100_000.0
"""Area in µm² that faint tissue has at least: little colour is sure only over a large area."""
NOISES = 6
"""How many standard deviations of the background, after a median of 3 x 3 pixels, tissue in dark
field is brighter than it."""
HALO = 0.15
"""Share of the usual brightness of tissue in dark field that its halo does not reach."""
GLOWING_LINT = 16.0
"""As `LINT`, in dark field, where thin fibres do not pass the median."""
FLAT_LIGHT = 0.05
"""Deviation of the brightness inside glowing dust, relative to its mean; that of tissue is more."""


@dataclass(frozen=True)
class Parameters:
    """Sizes in micrometres and square micrometres."""

    min_area: float = 10_000.0
    """Smaller pieces are dropped."""
    max_hole: float = 60_000.0
    """Smaller holes are filled."""
    closing: float = 8.0
    """Half the width of the gaps that are closed."""
    keep_ink: bool = False
    """Whether pen on tissue counts as tissue."""


def find_tissue(
    pixels: Array,
    *,
    valid: Mask | None = None,
    mpp: float | None = None,
    background: Background | None = None,
    parameters: Parameters = Parameters(),
) -> Mask:
    """Find the tissue in a picture of a slide.

    Parameters
    ----------
    pixels : ndarray
        (height, width, channels) of any number type. Bright field other than RGB of 8 bits is
        stretched to it.
    valid : ndarray, optional
        (height, width) bool, False = not part of the slide. NaN are not valid either.
    mpp : float, optional
        Micrometres per pixel, 8 if not known.
    background : {"bright", "dark"}, optional
        As `background_side` tells if not given.
    parameters : Parameters
        Areas and sizes.

    Returns
    -------
    ndarray
        (height, width) bool, True = tissue.
    """
    if pixels.dtype.kind in "fc":
        pixels, valid = _finite(pixels, valid)
    scale = USUAL_MPP if mpp is None else mpp
    if background is None:
        background = background_side(pixels, valid)
    if background == "dark":
        found = _dark_tissue(pixels, valid, scale, parameters)
    else:
        found = _bright_tissue(_as_rgb(pixels, valid), valid, scale, parameters)
    return found if valid is None else np.asarray(found & valid)


def background_side(pixels: Array, valid: Mask | None) -> Background:
    """Return whether the background is bright or dark.

    The most frequent grey value of a picture with background is that of the background. Black
    borders of scanners, of one value, are left out.
    """
    if pixels.dtype.kind in "fc":
        pixels, valid = _finite(pixels, valid)
    grey = _mean_of_channels(_subsampled(pixels))
    seen = grey > grey.min()
    if valid is not None:
        seen &= _subsampled(valid)
    values = grey[seen] if seen.any() else grey.reshape(-1)
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        low, high, share = 0.0, 255.0, 0.4
    else:
        low, high = (float(v) for v in np.percentile(values, [0.5, 99.5]))
        share = 0.7
    if not high > low:
        return "bright"  # nothing to find on either side
    counts, edges = np.histogram(values, 64, (low, high))
    mode = edges[int(np.argmax(ndimage.gaussian_filter1d(counts.astype(float), 1.5)))]
    return "bright" if mode - low > share * (high - low) else "dark"


def _subsampled(pixels: Array) -> Array:
    step = -(-max(pixels.shape[:2]) // SAMPLE_SIDE)
    return pixels[::step, ::step]


def _mean_of_channels(pixels: Array) -> Array:
    grey = np.zeros(pixels.shape[:2])
    for channel in range(pixels.shape[2]):  # a mean over a short axis takes four times as long
        grey += pixels[..., channel]
    return np.asarray(grey / pixels.shape[2])


def _finite(pixels: Array, valid: Mask | None) -> tuple[Array, Mask]:
    """Return pixels with 0 in place of those that are not finite, and which are valid."""
    finite = np.asarray(np.isfinite(pixels).all(axis=2))
    if valid is not None:
        finite &= valid
    return np.where(finite[..., None], pixels, 0), finite


def _as_rgb(pixels: Array, valid: Mask | None) -> Array:
    """Convert to RGB of 8 bits over the range of the values, and grey pictures to one stain."""
    if pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        pixels = _stretched(pixels, valid)
    step = -(-max(pixels.shape[:2]) // GREY_SIDE)
    differences = np.ptp(pixels[::step, ::step], axis=2)
    if np.count_nonzero(differences > GREY) > 0.0001 * differences.size:
        return pixels
    grey = np.arange(256) / 255
    tables = [np.rint(255 * grey**share).astype(np.uint8) for share in ONE_STAIN]
    return np.stack([table[pixels[..., 1]] for table in tables], axis=2)


def _stretched(pixels: Array, valid: Mask | None) -> Array:
    """Return RGB of 8 bits, from black to the brightest values; three copies if not RGB."""
    values = _subsampled(pixels)
    if valid is not None and _subsampled(valid).any():
        values = values[_subsampled(valid)]
    low, high = np.percentile(values, [0.1, 99.9])
    low = min(0.0, float(low))
    scaled = (pixels.astype(np.float32) - low) * (250 / max(float(high) - low, 1e-9))
    shown = np.clip(scaled, 0, 255).astype(np.uint8)
    return shown if shown.shape[2] == 3 else np.repeat(shown[..., :1], 3, axis=2)


def _bright_tissue(pixels: Array, valid: Mask | None, mpp: float, p: Parameters) -> Mask:
    glass = measure_glass(pixels, valid, _cell_side(mpp))
    colours = classify(pixels, glass)
    ink = find_ink(colours, mpp)
    cells = glass.cells
    tissue = colours.stain & cells.enlarged(_stained_cells(glass, colours))
    faint = _faint_cells(glass, colours.strong_share, mpp)
    if faint.any():
        tissue |= cells.enlarged(faint)
    tissue &= ~ink
    tissue = _cleaned(tissue, mpp, p, partial(_is_dust, glass))
    if p.keep_ink:
        return tissue | (ink & closed(tissue, round(300 / mpp)))
    return tissue


def _cell_side(mpp: float) -> int:
    return min(max(SMALLEST_CELL, round(CELL / mpp)), LARGEST_CELL)


def _stained_cells(glass: Glass, colours: Colours) -> Mask:
    """Return the rough cells (rows, columns) with stain that join cells with strong stain."""
    rough = dilated(glass.texture > 0.9, 1)
    found = regions(rough & (colours.stain_share > 0), diagonal=True)
    area, sure = found.totals(colours.stain_share), found.totals(colours.strong_share)
    return found.mask((sure > 0.02 * area) & (area * glass.cells.side**2 >= 4))


def _faint_cells(glass: Glass, strong: Array, mpp: float) -> Mask:
    """Return the cells (rows, columns) of large areas with texture and some colour.

    Cells beside strong stain take both from it. They count only beside faint cells farther off.
    """
    lost = np.maximum(glass.density, 0)  # skipped areas are brighter than the glass
    difference, total = np.ptp(lost, axis=0), glass.density.sum(axis=0)
    colour = ndimage.uniform_filter(np.where(difference < 0.1 * total, 0, difference), 3)
    rough = glass.texture > 0.8
    cells = rough | (colour > max(FAINT_COLOUR, 2 * glass.tint))
    # the mean over 3 x 3 cells reaches beyond the tissue
    cells = eroded(cells, 1) | (cells & ((glass.detail > 0.8) | ~rough))
    apart = opened(cells & ~dilated(strong > 0.02, 2), 2)
    found = regions(apart, diagonal=True)
    sure = found.count_in(apart & (glass.texture > 1) & (colour > FAINT_COLOUR))
    far = found.mask(
        (found.areas >= FAINT_AREA / (mpp * glass.cells.side) ** 2) & (sure > 0.3 * found.areas)
    )
    if not far.any():
        return far
    faint = closed(dilated(far, 3) & cells, 1)
    inner = eroded(faint, 2)
    # the outline lies where half the darkness of the tissue nearby is reached
    dark = total > 0.5 * local_means(total[None], inner, 8)[0]
    return np.asarray(inner | (faint & dark))


def _cleaned(
    mask: Mask,
    mpp: float,
    p: Parameters,
    is_dust: Callable[[Regions, Mask], Mask],
    lint: float = LINT,
) -> Mask:
    """Close gaps, fill holes, and drop small pieces, and those of medium size that are dust."""
    mask = closed(mask, round(p.closing / mpp))
    inner = eroded(mask, round(lint / mpp))
    core = dilated(inner, round(lint / mpp))
    mask = without_holes(mask, p.max_hole / mpp**2)
    found = regions(mask, diagonal=True)
    areas = found.areas
    good = found.count_in(core) > 0.5 * areas  # not as thin as lint
    good &= ~is_dust(found, inner)
    good |= areas > SURE_AREA / mpp**2
    return found.mask(good & (areas >= p.min_area / mpp**2))


def _is_dust(glass: Glass, found: Regions, inner: Mask) -> Mask:
    """Return (count,) which pieces are pale, of another colour than most, or flat inside."""
    inside = glass.cells.means(inner) == 1
    means = found.means([*glass.density, inside, inside * glass.detail], glass.cells.side)
    density, share, detail = means[:3], means[3], means[4]
    usual = density @ found.areas
    lengths = np.linalg.norm(density, axis=0) * np.linalg.norm(usual)
    pale = density.sum(axis=0) < PALEST_PIECE
    other = usual @ density < SAME_COLOUR * lengths
    return np.asarray(pale | other | (detail < FLAT * share))


def _dark_tissue(pixels: Array, valid: Mask | None, mpp: float, p: Parameters) -> Mask:
    cells = Cells(_cell_side(mpp), (pixels.shape[0], pixels.shape[1]))
    light = np.zeros(cells.shape, np.float32)
    step = int(pixels.dtype.kind in "iu")
    for channel in range(pixels.shape[2]):
        plane = pixels[..., channel].astype(np.float32)
        np.maximum(light, _brightness(plane, step, valid, cells), out=light)
    return _cleaned(light > 1, mpp, p, partial(_is_flat, light), GLOWING_LINT)


def _brightness(plane: Array, step: int, valid: Mask | None, cells: Cells) -> Array:
    """Return how bright a channel (height, width) is; tissue is brighter than 1.

    The background is measured in smooth cells and continued under the tissue, as the glass is.
    `step` is the smallest difference of values, 0 if they are not integers.
    """
    plane = plane - plane.min()  # small values, whose squares are exact enough
    mean = cells.means(plane)
    variance = cells.means(plane * plane) - mean * mean
    spread = ndimage.uniform_filter(np.sqrt(np.maximum(variance, 0)), 3)
    seen = np.ones(mean.shape, bool) if valid is None else cells.means(valid) == 1
    if not seen.any() or spread[seen].max() == 0:
        return np.zeros(plane.shape, np.float32)
    known = seen & (spread <= 1.5 * np.quantile(spread[seen], 0.1))
    level = np.full((1, *mean.shape), np.median(mean[known]), np.float32)
    for scale in (64, 16):
        level += local_means(mean - level, known, scale)
    plane = _median(plane - cells.enlarged(level[0]))
    noise = 1.4826 * float(np.median(np.abs(plane[cells.enlarged(known)][::SAMPLED])))
    limit = max(NOISES * noise, 0.5 * step)
    bright = plane[plane > limit]
    if bright.size:
        limit = max(limit, HALO * float(np.median(bright[::SAMPLED])))
    return np.asarray(plane / np.float32(limit)) if limit > 0 else np.zeros_like(plane)


def _median(plane: Array) -> Array:
    """Return the medians of 3 x 3 pixels, which take noise off and move no edges.

    A mean spreads tissue by a pixel, as little of its light is brighter than the background. The
    median of 9 is that of the largest of the smallest, the middle of the middle and the smallest
    of the largest values of the columns (Paeth, Median finding on a 3 x 3 grid, Graphics Gems,
    1990).
    """
    padded, out = np.pad(plane, 1, "edge"), np.empty_like(plane)
    step = max(1, STRIP // plane.shape[1])

    def call(rows: slice) -> None:
        around = padded[rows.start : rows.stop + 2]
        upper, middle, lower = around[:-2], around[1:-1], around[2:]
        low, high = np.minimum(upper, middle), np.maximum(upper, middle)
        least, most = np.minimum(low, lower), np.maximum(high, lower)
        centre = np.maximum(low, np.minimum(high, lower))
        largest = np.maximum(np.maximum(least[:, :-2], least[:, 1:-1]), least[:, 2:])
        smallest = np.minimum(np.minimum(most[:, :-2], most[:, 1:-1]), most[:, 2:])
        middlemost = _middle(centre[:, :-2], centre[:, 1:-1], centre[:, 2:])
        out[rows] = _middle(largest, middlemost, smallest)

    in_slices(call, len(plane), step)
    return out


def _middle(a: Array, b: Array, c: Array) -> Array:
    return np.asarray(np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c)))


def _is_flat(light: Array, found: Regions, inner: Mask) -> Mask:
    """Return (count,) which pieces are of one brightness inside, as glowing dust is."""
    inside = np.where(inner, light, 0)
    area = np.maximum(found.count_in(inner), 1)
    mean = found.totals(inside) / area
    variance = found.totals(inside * inside) / area - mean * mean
    return np.asarray(variance < (FLAT_LIGHT * mean) ** 2)
