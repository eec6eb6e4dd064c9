"""Parts of the made overviews: fields, outlines, stained tissue, glass, dust, pen, fluorescence.

Colours follow the Beer-Lambert law: a stain is an optical density per channel (natural logarithm),
and light that passes the slide is ``glass * exp(-density)``. Arrays are (y, x) or (y, x, c).
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree

Field = NDArray[np.float32]
Numbers = Sequence[float] | NDArray[np.float64]
Mask = NDArray[np.bool_]
Shape = tuple[int, int]
Rng = np.random.Generator

HEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.10, 0.93, 0.32)
EOSIN_ORANGE = (0.08, 0.83, 0.52)
DAB = (0.27, 0.57, 0.78)
"""Densities of the stains in red, green and blue: hematoxylin and DAB of Ruifrok and Johnston 2001,
eosin as measured in overviews."""

INKS = {
    "black": (0.13, 0.12, 0.14),
    "blue": (0.16, 0.28, 0.72),
    "green": (0.12, 0.52, 0.42),
    "red": (0.88, 0.17, 0.28),
}
"""Light that one layer of a felt pen lets through."""


def smooth(rng: Rng, shape: Shape, scale: float) -> Field:
    """Return Gaussian noise of mean 0 and deviation 1 whose bumps are `scale` px wide."""
    small = [max(4, int(np.ceil(side / scale)) + 3) for side in shape]
    grid = rng.standard_normal(small).astype(np.float32)
    size = (max(shape[1], round(small[1] * scale)), max(shape[0], round(small[0] * scale)))
    large = np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC))
    field = large[: shape[0], : shape[1]]
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), np.float32)


def fractal(rng: Rng, shape: Shape, scale: float, fine: float = 3, gain: float = 0.55) -> Field:
    """Return noise of all scales from `scale` down to `fine`, each `gain` times the last."""
    total, weight = np.zeros(shape, np.float32), 1.0
    while scale >= fine:
        total += weight * smooth(rng, shape, scale)
        scale, weight = scale / 2, weight * gain
    return np.asarray(total / (total.std() + 1e-6), np.float32)


def sigmoid(field: Field) -> Field:
    """Return the logistic function of `field`."""
    return np.asarray(1 / (1 + np.exp(-np.clip(field, -30, 30))), np.float32)


def ellipse(shape: Shape, centre: Numbers, radii: Numbers, angle: float = 0) -> Field:
    """Return a field that is 1 in the centre of an ellipse, 0 on its outline, less outside."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    dy, dx = y - centre[0], x - centre[1]
    along = (dx * np.cos(angle) + dy * np.sin(angle)) / radii[1]
    across = (dy * np.cos(angle) - dx * np.sin(angle)) / radii[0]
    return np.asarray(1 - np.hypot(along, across), np.float32)


def ragged(rng: Rng, field: Field, lobes: float = 0.2, fray: float = 0.05) -> Mask:
    """Return where `field` is positive, its outline bent into lobes and frayed."""
    scale = max(24.0, np.sqrt(np.count_nonzero(field > 0)) / 3)
    bent = field + lobes * fractal(rng, field.shape, scale, 12) * 0.6
    torn = sigmoid(3 * smooth(rng, field.shape, 2 * scale))  # cut here, torn there
    return np.asarray(bent + 1.5 * fray * torn * fractal(rng, field.shape, 10, 2, 0.7) > 0)


def pieces(rng: Rng, shape: Shape, count: int, size: tuple[float, float]) -> Mask:
    """Return ragged pieces at random places, `size` the range of their radii in px."""
    mask = np.zeros(shape, bool)
    for _ in range(count):
        long = rng.uniform(*size)
        radii = (long * rng.uniform(0.35, 0.9), long)
        centre = [rng.uniform(min(0.45 * s, long), max(0.55 * s, s - long)) for s in shape]
        field = ellipse(shape, centre, radii, rng.uniform(0, np.pi))
        mask |= _ragged_near(rng, field, rng.uniform(0.1, 0.3))
    return mask


def _ragged_near(rng: Rng, field: Field, lobes: float) -> Mask:
    """Apply `ragged` in the window that can become positive only."""
    rows, columns = np.nonzero(field > -1)
    window = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    mask = np.zeros(field.shape, bool)
    mask[window] = ragged(rng, field[window], lobes)
    return mask


def strands(rng: Rng, shape: Shape, period: float, bend: float = 60) -> Field:
    """Return wavy fibres, 0 to 1, about `period` px apart."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    phase = (x * np.cos(angle) + y * np.sin(angle)) / period + 2.5 * fractal(rng, shape, bend, 8)
    return np.asarray(1 - np.abs(np.sin(phase)), np.float32)


def density(*layers: tuple[Field, Numbers]) -> Field:
    """Return the optical density (y, x, 3) of amounts of stains."""
    return np.asarray(
        sum(amount[..., None] * np.asarray(stain, np.float32) for amount, stain in layers),
        np.float32,
    )


def lumina(rng: Rng, shape: Shape, scale: float, share: float) -> tuple[Mask, Field]:
    """Return holes that take `share` of the area, and how near each pixel is to one (0 to 1)."""
    field = 0.8 * smooth(rng, shape, scale) + 0.3 * smooth(rng, shape, scale / 3)
    limit = np.quantile(field, 1 - share)
    return np.asarray(field > limit), sigmoid((field - limit + 0.5) * 6)


def tears(rng: Rng, mask: Mask, large: bool = True) -> Mask:
    """Return cracks and, if `large`, torn out holes in the tissue of `mask`."""
    cracks = (np.abs(fractal(rng, mask.shape, 120)) < 0.025) & (smooth(rng, mask.shape, 150) > 0.8)
    if large:
        cracks |= fractal(rng, mask.shape, 130, 6) > 2.1
    return np.asarray(cracks & mask)


def amounts(rng: Rng, mask: Mask, nuclei: float = 1) -> tuple[Field, Field, Mask]:
    """Return hematoxylin and eosin of ordinary tissue, about 0 to 1, and its empty spots.

    At 8 µm a pixel a nucleus is a dot of one pixel: hematoxylin is noise whose mean follows the
    density of nuclei, which is high around glands and in clusters.
    """
    shape = mask.shape
    cells = sigmoid(rng.uniform(2, 6) * fractal(rng, shape, rng.uniform(60, 160), 6))
    holes, rim = lumina(rng, shape, rng.uniform(9, 22), rng.uniform(0.01, 0.07))
    crowd = np.clip(0.15 + 0.6 * cells + 0.5 * rim * cells, 0, 1.2) * nuclei
    dots = rng.gamma(1.2, 1 / 1.2, shape).astype(np.float32)
    blue = crowd * (0.3 + 0.7 * ndimage.gaussian_filter(dots, 0.6))
    fibres = strands(rng, shape, rng.uniform(3, 6))
    loose = ndimage.binary_erosion(mask, iterations=4) & (fractal(rng, shape, 150, 12) > 0.7)
    clefts = strands(rng, shape, rng.uniform(1.6, 3), 25) + 0.3 * smooth(rng, shape, 4)
    holes = holes | (loose & (clefts < rng.uniform(-0.2, 0.35)))
    pink = (0.55 + 0.35 * fibres * (1 - cells) + 0.12 * fractal(rng, shape, 40, 2)) * (
        1 - 0.35 * cells
    )
    return np.asarray(blue * mask, np.float32), np.asarray(np.clip(pink, 0.05, 2) * mask), holes


def stained(rng: Rng, mask: Mask, strength: float = 1, empty: Mask | None = None) -> Field:
    """Return the density of tissue in hematoxylin and eosin."""
    blue, pink, holes = amounts(rng, mask)
    keep = ~holes if empty is None else ~(holes | empty)
    edge = ndimage.gaussian_filter((mask & keep).astype(np.float32), 0.7) * mask
    eosin = EOSIN if rng.random() < 0.6 else EOSIN_ORANGE
    red = rng.uniform(0.5, 0.9)
    return density(
        (strength * 0.75 * blue * edge, HEMATOXYLIN), (strength * red * pink * edge, eosin)
    )


def fat(rng: Rng, mask: Mask, cell: float = 10) -> tuple[Field, Mask]:
    """Return the density of fat within `mask`, and its area with the outline of whole cells.

    Adipocytes are 60 to 100 µm wide: pink walls of less than a pixel around empty cells, a few
    strands of connective tissue and vessels.
    """
    shape = mask.shape
    side = [np.arange(-cell, s + cell, cell * 0.95) for s in shape]
    grid = np.stack(np.meshgrid(*side, indexing="ij"), -1).reshape(-1, 2)
    centres = grid + rng.uniform(-0.45, 0.45, grid.shape) * cell
    y, x = np.mgrid[: shape[0], : shape[1]]
    wobble = [0.8 * smooth(rng, shape, cell) for _ in range(2)]
    at = np.stack([(y + wobble[0]).ravel(), (x + wobble[1]).ravel()], -1)
    near, which = cKDTree(centres).query(at, k=2, workers=1)
    inside = np.clip(centres.round().astype(int), 0, np.array(shape) - 1)
    area = mask[inside[:, 0], inside[:, 1]][which[:, 0]].reshape(shape)
    gap = (near[:, 1] - near[:, 0]).reshape(shape)
    missing = smooth(rng, shape, 6) > 1.7
    wall = np.exp(-((gap / 1.3) ** 2)) * (0.75 + 0.25 * smooth(rng, shape, 12)) * ~missing
    septa = np.exp(-((fractal(rng, shape, 140, 10) / 0.05) ** 2)) * sigmoid(
        3 * smooth(rng, shape, 120)
    )
    pink = (0.32 * wall + 0.5 * septa * (0.6 + 0.4 * strands(rng, shape, 3))) * area
    blue = 0.12 * wall * rng.gamma(1.0, 1.0, shape) * area
    return density((pink, EOSIN), (blue, HEMATOXYLIN)), np.asarray(area)


def folds(rng: Rng, mask: Mask, count: int) -> Field:
    """Return how many more layers of tissue lie on each pixel: 0, or 1 to 4 in a fold."""
    shape, layers = mask.shape, np.zeros(mask.shape, np.float32)
    for _ in range(count):
        angle = rng.uniform(0, np.pi)
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        inside = np.argwhere(mask)
        cy, cx = inside[rng.integers(len(inside))]
        away = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle) + 18 * smooth(rng, shape, 120)
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        width = rng.uniform(3, 18) * np.clip(1 - np.abs(along) / rng.uniform(80, 250), 0, 1)
        layers = np.maximum(layers, (np.abs(away) < width) * rng.uniform(1, 4))
    return np.asarray(layers * mask, np.float32)


def stroke_points(
    rng: Rng, start: Numbers, length: float, curl: float = 0.12
) -> NDArray[np.float64]:
    """Return the points (n, 2) as x, y of a stroke by hand."""
    noise = rng.standard_normal(int(length / 3) + 2)
    turn = np.asarray(ndimage.gaussian_filter1d(noise, 6) * curl * 3)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(turn)
    steps = np.stack([np.cos(heading), np.sin(heading)], -1) * 3
    return np.asarray(np.cumsum(steps, 0) + np.asarray(start))


def ring_points(rng: Rng, centre: Numbers, radii: Numbers) -> NDArray[np.float64]:
    """Return the points (n, 2) as x, y of a ring by hand that does not quite close."""
    angle = np.arange(0, rng.uniform(5.7, 6.6), 3 / max(radii)) + rng.uniform(0, 6)
    wave = 1 + 0.08 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.04 * np.sin(5 * angle + 1)
    x = centre[1] + radii[1] * wave * np.cos(angle)
    return np.stack([x, centre[0] + radii[0] * wave * np.sin(angle)], -1)


def ink(rng: Rng, shape: Shape, strokes: Sequence[Any], width: float) -> tuple[Mask, Field]:
    """Return where strokes of a felt pen lie, and how thick the ink is.

    Ink is uneven: streaks, a thicker rim, dots where the pen rested, more where strokes cross.
    """
    cover, thick = np.zeros(shape, bool), np.zeros(shape, np.float32)
    full = rng.uniform(0.4, 1.1)  # a pen that runs dry is translucent
    for points in strokes:
        image = Image.new("L", (shape[1], shape[0]))
        draw = ImageDraw.Draw(image)
        widths = width * (1 + 0.15 * ndimage.gaussian_filter1d(rng.standard_normal(len(points)), 9))
        for (x, y), wide in zip(points, widths, strict=True):
            draw.ellipse([x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2], fill=255)
        area = np.asarray(image) > 0
        rim = np.exp(-ndimage.distance_transform_edt(area) / 2.5)
        x, y = points[rng.choice([0, -1])]
        rest = np.clip(ellipse(shape, (y, x), (width * 0.6,) * 2) * 3, 0, 1)
        one = full + 0.3 * rim + 0.5 * rest + 0.14 * fractal(rng, shape, 24, 3)
        thick += area * np.clip(one, 0.25, None)
        cover |= area
    return cover, np.asarray(ndimage.gaussian_filter(thick, 0.8), np.float32)


def glass(rng: Rng, shape: Shape, colour: Numbers) -> Field:
    """Return empty glass (y, x, 3): its colour, slow changes of it, and the seams of a scan."""
    light = np.ones((*shape, 3), np.float32) * np.asarray(colour, np.float32)
    light *= (1 + 0.004 * fractal(rng, shape, 200, 40))[..., None]
    step = int(rng.integers(40, 110))
    columns = np.repeat(rng.normal(0, 0.0015, shape[1] // step + 1), step)[: shape[1]]
    return np.asarray(light * (1 + columns[None, :, None]), np.float32)


def dust(rng: Rng, shape: Shape, amount: float) -> Field:
    """Return the density (y, x, 3) of specks, fibres, blurred spots, rings and smears on glass."""
    return density(
        (_dust(rng, shape, 0.7 * amount), (1, 1, 1)),
        (_dust(rng, shape, 0.3 * amount), rng.uniform(0.2, 1, 3)),  # coloured lint
    )


def _dust(rng: Rng, shape: Shape, amount: float) -> Field:
    dark = np.zeros(shape, np.float32)
    for _ in range(rng.poisson(14 * amount)):
        _speck(rng, dark)
    layer = Image.new("F", (shape[1], shape[0]))
    draw = ImageDraw.Draw(layer)
    for _ in range(rng.poisson(2.5 * amount)):
        start = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        points = stroke_points(rng, start, rng.uniform(25, 130), 0.25)
        draw.line(
            [tuple(p) for p in points], fill=rng.uniform(0.1, 0.6), width=int(rng.integers(1, 3))
        )
    dark += ndimage.gaussian_filter(np.asarray(layer), 0.6)
    for _ in range(rng.poisson(1.6 * amount)):
        dark += _spot(rng, shape)
    return dark


def _speck(rng: Rng, dark: Field) -> None:
    size = rng.exponential(1.4) + 0.6
    y, x = rng.uniform(0, dark.shape[0]), rng.uniform(0, dark.shape[1])
    reach = int(size * 3) + 2
    window = tuple(
        slice(max(0, int(at) - reach), min(side, int(at) + reach))
        for at, side in zip((y, x), dark.shape, strict=True)
    )
    rows, columns = np.ogrid[window]
    far = np.hypot(rows - y, (columns - x) * rng.uniform(0.6, 1.4))
    dark[window] += rng.uniform(0.2, 1.6) * sigmoid(((size - far) * 2).astype(np.float32))


def _spot(rng: Rng, shape: Shape) -> Field:
    """Return a blurred spot, a ring of a bubble or a faint smear."""
    centre = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
    size = rng.uniform(8, 30)
    field = ellipse(shape, centre, (size * rng.uniform(0.4, 1), size), rng.uniform(0, 3))
    kind = rng.integers(3)
    if kind == 0:
        return rng.uniform(0.02, 0.12) * sigmoid(field * 12)
    if kind == 1:
        return np.asarray(rng.uniform(0.1, 0.4) * np.exp(-((field * size / 1.6) ** 2)), np.float32)
    return rng.uniform(0.02, 0.07) * sigmoid(field * 6) * sigmoid(2 * strands(rng, shape, 6) - 1)


def jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return `pixels` after one round of JPEG with subsampled colour."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(file))


def camera(rng: Rng, light: Field, quality: int, noise: float = 1.2) -> NDArray[np.uint8]:
    """Return what a scanner stores of `light` (0 to 255): blurred, noisy, compressed."""
    seen = ndimage.gaussian_filter(light, (0.5, 0.5, 0))
    grain = (
        noise * rng.standard_normal(seen.shape, np.float32) * np.sqrt(np.clip(seen, 8, 255) / 220)
    )
    return jpeg(np.clip(seen + grain, 0, 255).round().astype(np.uint8), quality)
