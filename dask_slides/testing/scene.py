"""Draw the scene that `sample_slide` writes: islands of stained tissue, a pen mark and a fold.

The code uses only integers, and floats that are added, multiplied, divided and compared, so that
the pixels are the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np

from dask_slides.core.types import Array

RASTER = 512
"""Side of the tissue maps, which are the same for slides of all sizes."""
PERIOD = 2048
"""Pixels after which the textures repeat."""
PATCHES, PATCH = 300, 320
"""Number and diameter of the patches of the histology picture that form a texture."""
SOFT, RAGGED = 12, 48
"""Pixels over which an outline fades and by which cells shift it; fewer on small slides."""


@dataclass(frozen=True)
class Stroke:
    """A curved band with pointed ends. Lengths are fractions of the slide's height and width."""

    top: float
    left: float
    height: float
    slope: float
    bend: float
    half: float
    """Half of its width in the middle."""
    ink: tuple[int, int, int]
    """Transmission of each colour, from 0 to 256."""

    def draw(self, pixels: Array, y: Array, x: Array) -> Array:
        """Return `pixels`, whose centres are at `y` and `x`, with the stroke on them."""
        t = (y - self.top) / self.height
        taper = np.maximum(4 * t * (1 - t), 0)
        middle, half = self.left + self.slope * t + self.bend * taper, self.half * taper
        if not half.any() or (middle + half).max() < x[0] or (middle - half).min() > x[-1]:
            return pixels
        inside = (half[:, None] - np.abs(x - middle[:, None])) / self.half
        strength = (np.clip(8 * inside, 0, 1) * 256).astype(np.int32)[..., None]
        inked: Array = pixels * (65536 - strength * (256 - np.array(self.ink, np.int32))) >> 16
        return inked.astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Scene:
    """The data from which the pixels of a slide are drawn."""

    shape: tuple[int, int]
    outlines: Array
    """Distance of each point inside the outlines of the islands, the stained and the violet part,
    as a fraction of the slide's side: (3, RASTER, RASTER)."""
    textures: tuple[Array, ...]
    """Glass, faint, brown and violet tissue: (PERIOD, PERIOD, 3)."""
    pen: Stroke
    fold: Stroke

    def tile(self, top: int, left: int, side: int) -> Array:
        """Return the pixels of a square, which may extend beyond the edge of the slide."""
        pixels = np.arange(side) + 0.5
        y, x = (top + pixels) / self.shape[0], (left + pixels) / self.shape[1]
        glass, faint, brown, violet = (_window(one, top, left, side) for one in self.textures)
        tissue, stained, mixed = (self._cover(n, top, left, y, x) for n in range(3))
        if not isinstance(tissue, int) or tissue:
            inside = _blend(faint, _blend(brown, violet, mixed), stained)
            glass = _blend(glass, self.fold.draw(inside, y, x), tissue)
        return self.pen.draw(glass, y, x)

    def _cover(self, n: int, top: int, left: int, y: Array, x: Array) -> Array | int:
        """Return the opacity, from 0 to 128, of the area inside outline `n`."""
        side = min(self.shape)
        ragged, soft = min(RAGGED, side / 200), min(SOFT, side / 400)
        y, x = (np.clip(v * RASTER - 0.5, 0, RASTER - 1.001) for v in (y, x))
        rows, columns = (slice(int(v[0]), int(v[-1]) + 2) for v in (y, x))
        depth = self.outlines[n, rows, columns] * np.float32(side)
        if depth.min() > ragged + soft or depth.max() < -ragged - soft:
            return 128 if depth.min() > 0 else 0
        depth = _interpolate(depth, y - rows.start, x - columns.start)
        # Each outline is shifted by different cells.
        cells = _window(self.textures[2], top + 600 * n, left, len(y))[..., 1]
        depth += (cells.astype(np.float32) - 128) * np.float32(ragged / 128)
        cover: Array = np.clip(depth * np.float32(128 / soft) + 64, 0, 128).astype(np.int16)
        return cover


def draw_scene(shape: tuple[int, int], seed: int) -> Scene:
    """Return the scene of a slide; `seed` decides where its four islands lie."""
    rng = np.random.default_rng(seed)
    at = (np.arange(RASTER) + 0.5) / RASTER
    centres = np.array([(0.26, 0.26), (0.26, 0.74), (0.74, 0.26), (0.74, 0.74)])
    centres += rng.integers(-20, 21, (4, 2)) / 1000
    radii = rng.integers(160, 190, (4, 2)) / 1000
    islands = [
        1 - np.add.outer(((at - y) / height) ** 2, ((at - x) / width) ** 2)
        for (y, x), (height, width) in zip(centres, radii, strict=True)
    ]
    island = np.maximum.reduce(islands) + 0.8 * _noise(rng, 5)
    stained = island + 2 * _noise(rng, 8) - 0.1
    violet = _noise(rng, 4) - 0.05
    (y, x), (height, width) = centres[2], radii[2]
    pen = Stroke(y - height / 2, x - width / 2, 1.4 * height, -0.08, -0.04, 0.01, (40, 130, 150))
    (y, x), height = centres[1], radii[1, 0]
    fold = Stroke(y - 0.7 * height, x, 1.4 * height, 0.05, -0.03, 0.007, (130, 100, 120))
    # At their outline the values of the islands fall by about 11 per side of the slide.
    outlines = np.array([island, stained, violet], np.float32) / np.float32(11)
    return Scene(shape, outlines, _textures(), pen, fold)


@lru_cache(maxsize=1)
def _textures() -> tuple[Array, ...]:
    """Return the textures, made from the histology picture of scikit-image."""
    from PIL import Image

    with files("skimage").joinpath("data/ihc.png").open("rb") as file:
        picture = np.asarray(Image.open(file).convert("RGB"))
    rng = np.random.default_rng(0)
    # Squaring the brightness doubles the optical density.
    brown = np.minimum(_patchwork(picture, rng).astype(np.uint16) ** 2 // 240, 255)
    violet = np.dstack([brown[..., :1], np.sort(brown[..., 1:], axis=-1)])
    faint = np.array([150, 136, 152], np.uint16) + violet * 3 // 8
    glass = np.array([241, 239, 242], np.uint8) + rng.integers(0, 5, faint.shape, np.uint8)
    return tuple(one.astype(np.uint8) for one in (glass, faint, brown, violet))


def _patchwork(picture: Array, rng: np.random.Generator) -> Array:
    """Return round patches of `picture`, turned at random, that repeat without a seam."""
    # The mirrored picture has no seams. Patches never cross the edge, so shift it half-way.
    rest = PERIOD - len(picture)
    whole = np.pad(picture, ((0, rest), (0, rest), (0, 0)), mode="symmetric")
    away = (2 * np.arange(PATCH) - PATCH + 1) ** 2
    disc = np.clip(200 - 200 * np.add.outer(away, away) // PATCH**2, 0, 128).astype(np.int16)
    for n in range(PATCHES):
        if n == PATCHES // 2:
            whole = np.roll(whole, PERIOD // 2, (0, 1))
        top, left = rng.integers(0, PERIOD - PATCH + 1, 2)
        y, x = rng.integers(0, len(picture) - PATCH + 1, 2)
        patch = np.rot90(picture[y : y + PATCH, x : x + PATCH], int(rng.integers(4)))
        under = whole[top : top + PATCH, left : left + PATCH]
        under[...] = _blend(under, patch, disc)
    return whole


def _noise(rng: np.random.Generator, waves: int) -> Array:
    """Return smooth noise from -1 to 1: `waves` bumps along a side of the raster, and finer."""
    total, weight = np.zeros((RASTER, RASTER)), 0.5
    while waves <= RASTER // 8:
        at = np.arange(RASTER) * waves / RASTER
        part = at - at.astype(int)
        at += part * part * (3 - 2 * part) - part
        lattice = rng.integers(-100, 101, (waves + 2, waves + 2)) / 100
        total += weight * _interpolate(lattice, at, at)
        waves, weight = 2 * waves, weight / 2
    return total


def _interpolate(values: Array, y: Array, x: Array) -> Array:
    """Interpolate `values` linearly at rows `y` and columns `x`."""
    for at in (x, y):
        low = at.astype(int)
        part = (at - low).astype(values.dtype)[:, None]
        # One axis after the other; the second transpose restores the order.
        values = values.T
        values = values[low] * (1 - part) + values[low + 1] * part
    return values


def _window(texture: Array, top: int, left: int, side: int) -> Array:
    """Return a square of a texture that repeats in both directions."""
    top, left = top % PERIOD, left % PERIOD
    if max(top, left) + side <= PERIOD:
        return texture[top : top + side, left : left + side]
    rows, columns = ((start + np.arange(side)) % PERIOD for start in (top, left))
    return texture.take(rows, 0).take(columns, 1)


def _blend(under: Array, over: Array, cover: Array | int) -> Array:
    """Blend `over` onto `under` with the opacity `cover` / 128."""
    if isinstance(cover, int):
        return over if cover else under
    # Working in place and repeating the cover for each channel is several times faster.
    mixed = over.astype(np.int16)
    mixed -= under
    mixed *= np.repeat(cover, 3).reshape(mixed.shape)
    mixed += 64
    mixed >>= 7
    mixed += under
    return mixed.astype(np.uint8)
