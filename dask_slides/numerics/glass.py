"""The glass of a bright-field picture: its colour, also where it changes, and its noise.

Everything is measured in cells of a few pixels. Glass is smooth, tissue is not. The colour of the
glass is continued under the tissue, which corrects vignettes, shaded tiles and yellowed glass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dask_slides.core.types import Array
from dask_slides.numerics.cells import Cells, block_means, enlarged_smoothly, local_means
from dask_slides.numerics.morphology import dilated
from dask_slides.runtime.threads import in_threads

Mask = NDArray[np.bool_]

PURE_WHITE = 253.5
"""Areas that a scanner skipped are brighter: they say nothing about the glass."""
LEAST_GLASS = 0.002
"""Share of the cells that glass takes if a picture shows any beside skipped areas."""
DARKEST = 100
"""Grey value below which a cell is no glass: borders, tissue, pen."""
WHITE = 245.0
"""Level of the glass that is assumed where a picture shows none."""
LARGEST_TINT = 0.4
"""Range of optical density over the channels of glass; yellowed glass has up to 0.35."""
ROUGHEST = 8.0
"""Deviation of grey values in the smoothest cells above which a picture shows no glass."""
SAMPLED = 8
"""Every how manyth cell of the glass gives its noise."""
BLOCK = 2
"""Side in cells of the blocks in which the level is refined."""
SCALES = ((32, 1.0), (8, 0.08), (4, 0.05), (2, 0.03))
"""How the level is refined: distance in blocks, and how far glass may differ from the level before,
as range of optical density over the channels (as density, three times as far)."""


@dataclass(frozen=True)
class Glass:
    """The background of a bright-field picture."""

    cells: Cells
    level: Array
    """(3, rows, columns) the colour of the glass at each cell, also where tissue covers it."""
    density: Array
    """(3, rows, columns) optical density of each cell, by the natural logarithm."""
    detail: Array
    """(rows, columns) standard deviation in each cell, 1 = more than glass has."""
    texture: Array
    """(rows, columns) the same, averaged with the cells around."""
    darkness: float
    """Optical density, summed over the channels, that 90 % of the glass is below."""
    tint: float
    """Range of optical density over the channels that 90 % of the glass is below."""


def measure_glass(pixels: Array, valid: Mask | None, side: int) -> Glass:
    """Measure the glass from the smooth, bright cells of an RGB picture of 8 bits.

    Parameters
    ----------
    pixels : ndarray
        (height, width, 3) uint8.
    valid : ndarray, optional
        (height, width) bool, False = not part of the slide.
    side : int
        Side of the cells in pixels.
    """
    cells = Cells(side, (pixels.shape[0], pixels.shape[1]))
    mean, own = _statistics(pixels, cells)
    spread = ndimage.uniform_filter(own, 3)
    seen = np.ones(spread.shape, bool) if valid is None else cells.means(valid) == 1
    grey = mean.mean(axis=0)
    bright = seen & (grey > DARKEST)
    # the cells beside skipped areas mix white and glass
    scanned = bright & ~dilated(grey >= PURE_WHITE, 1)
    if np.count_nonzero(scanned) < LEAST_GLASS * scanned.size:
        scanned = bright
    usual = _roughness(own[scanned], grey[scanned])
    smooth = bright & (np.minimum(own, spread) <= max(0.4, 1.5 * usual))
    colour = _mode_of_glass(mean, grey, smooth, scanned) if smooth.any() else np.full(3, WHITE)
    if usual > ROUGHEST or np.ptp(np.log(colour)) > LARGEST_TINT:
        colour, smooth = np.full(3, WHITE), np.zeros_like(smooth)
    off = mean - colour.astype(np.float32)[:, None, None]
    near = smooth & (np.abs(off).max(axis=0) < 60) & (np.ptp(off, axis=0) < 20)
    noise = float(np.median(spread[near])) if near.any() else 0.0
    limit = max(0.35, 1.3 * noise + 0.25)
    known = near & scanned & (spread < 0.9 * limit)
    level, known = _continued(mean, known, colour)
    density = np.log(level / np.maximum(mean, 1))
    sampled = np.flatnonzero(known)[::SAMPLED]
    darkness, tint = _residue(density.reshape(3, -1)[:, sampled])
    return Glass(cells, level, density, own / limit, spread / limit, darkness, tint)


def _roughness(spread: Array, grey: Array) -> float:
    """Return the deviation of grey values in smooth cells among the brightest."""
    if not grey.size:
        return np.inf
    brightest = grey >= np.quantile(grey, 0.9)
    return float(np.quantile(spread[brightest], 0.3))


def _residue(density: Array) -> tuple[float, float]:
    """Return how dark and how coloured the glass is in spite of the level, from (3, n)."""
    if not density.size:
        return 0.02, 0.005  # as of even glass
    darkness, tint = np.abs(density.sum(axis=0)), np.ptp(density, axis=0)
    return float(np.quantile(darkness, 0.9)), float(np.quantile(tint, 0.9))


def _statistics(pixels: Array, cells: Cells) -> tuple[Array, Array]:
    """Return the mean of each cell (3, rows, columns), and the deviation of its grey values.

    The deviation is without that of an even slope of the light over the cell. Detail is stronger in
    grey than in one colour, and the noise of the colours partly cancels.
    """
    mean = np.empty((3, *cells.count), np.float32)
    squares = np.empty(cells.count, np.float32)
    strips = cells.strips()

    def call(numbers: NDArray[np.int64]) -> None:
        for rows, part in (strips[number] for number in numbers):
            planes = [pixels[part, :, channel] for channel in range(3)]
            for channel, plane in enumerate(planes):
                mean[channel, rows] = cells.means(plane)
            total = planes[0].astype(np.uint16) + planes[1] + planes[2]
            squares[rows] = cells.means(np.square(total, dtype=np.uint32))

    in_threads(call, np.arange(len(strips)))
    grey = mean.mean(axis=0)
    variance = squares / 9 - grey * grey
    for axis in (0, 1):
        variance -= _slope(grey, axis) ** 2 * ((cells.side**2 - 1) / (12 * cells.side**2))
    return mean, np.sqrt(np.maximum(variance, 0))


def _slope(values: Array, axis: int) -> Array:
    """Return the smaller of the steps to both neighbours along `axis`, 0 if they differ in sign."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (1, 1)
    steps = np.diff(np.pad(values, padding, mode="edge"), axis=axis)
    before, after = (steps[:-1], steps[1:]) if axis == 0 else (steps[:, :-1], steps[:, 1:])
    least = np.minimum(np.abs(before), np.abs(after))
    return np.where(before * after > 0, least, 0)


def _mode_of_glass(mean: Array, grey: Array, smooth: Mask, scanned: Mask) -> Array:
    """Return the brightest frequent colour that is not the pure white of skipped areas."""
    candidates = smooth & scanned
    if np.count_nonzero(candidates) < LEAST_GLASS * candidates.size:
        candidates = smooth
    counts = np.bincount(grey[candidates].astype(int), minlength=256).astype(float)
    counts = ndimage.gaussian_filter1d(counts, 2)
    peaks = np.flatnonzero(
        (counts >= ndimage.maximum_filter1d(counts, 7)) & (counts > 0.05 * counts.max())
    )
    peaks = peaks[peaks > peaks.max() - 30]
    best = peaks[np.argmax(counts[peaks])]
    near = candidates & (np.abs(grey - best) < 6)
    index = np.flatnonzero(near if near.any() else candidates)
    return np.array([np.median(plane.take(index)) for plane in mean])


def _continued(mean: Array, known: Mask, usual: Array) -> tuple[Array, Mask]:
    """Return the level of the glass at all cells, and which of the `known` cells agree with it."""
    blocks, whole = block_means(mean, BLOCK), block_means(known[None].astype(np.float32), BLOCK)
    agreed = whole[0] == 1
    level = np.empty_like(blocks)
    level[:] = usual[:, None, None]
    for scale, limit in SCALES:
        off = np.abs(np.log(np.maximum(blocks, 1) / level))
        agreed &= (np.ptp(off, axis=0) < limit) & (off.mean(axis=0) < 3 * limit)
        level += local_means(blocks - level, agreed, scale)
    large = np.repeat(np.repeat(agreed, BLOCK, axis=0), BLOCK, axis=1)
    known = large[: known.shape[0], : known.shape[1]]
    return enlarged_smoothly(level, known.shape, BLOCK), known
