"""What the pixels of a slide depend on, and the pixels of one tile of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dask_slides.core.types import Array
from dask_slides.testing.sampling.scene import RASTER, Scene, noise, scene
from dask_slides.testing.sampling.texture import textures

_PERIOD = 2048
# For glass, faint tissue and stain: how far in cells an outline is felt, how many pixels it is
# wide at least, what part of that distance at most, and how much it ripples. Ripple and half the
# width stay below the distance, so that there is no outline where all corners are saturated.
_REACH = (1, 1, 3)
_WIDE = (6, 64, math.inf)
_PART = (0.25, 0.25, 1.0)
_WAVY = (1, 1, 0.5)


@dataclass(frozen=True)
class Canvas:
    """All that the pixels depend on; a tile follows from its corners and its phase."""

    shape: tuple[int, int]
    tile: int
    split: int
    unit: int
    corners: NDArray[np.int8]
    textures: tuple[Array, ...]
    ripple: Array
    scene: Scene
    ids: NDArray[np.int64]
    first: NDArray[np.int64]

    def extent(self, ident: int) -> tuple[int, int, int, int]:
        """Top, left, rows and columns of the part of tile `ident` that is inside the slide."""
        row, col = divmod(int(self.first[ident]), self.ids.shape[1])
        top, left = row * self.tile, col * self.tile
        rows, cols = min(self.tile, self.shape[0] - top), min(self.tile, self.shape[1] - left)
        return top, left, rows, cols

    def render(self, ident: int) -> Array:
        """Return the pixels of tile `ident`, whole even where the slide ends within it."""
        top, left, rows, cols = self.extent(ident)
        box = tuple(np.arange(at, at + self.tile) % len(self.textures[0]) for at in (top, left))
        row, col = (at // self.tile * self.split for at in (top, left))
        levels = self.corners[:, row : row + self.split + 1, col : col + self.split + 1]
        edge, stroma, stain = (self._cover(n, levels[n], box) for n in range(3))
        glass, faint, brown, violet = (_at(texture, box) for texture in self.textures)
        y = (top + 0.5 + np.arange(self.tile)) / self.shape[0]
        x = (left + 0.5 + np.arange(self.tile)) / self.shape[1]
        pixels = glass
        if not isinstance(edge, int) or edge:
            hidden = isinstance(stroma, int) and not stroma
            tissue = faint if hidden else _blend(faint, _blend(brown, violet, stain), stroma)
            pixels = _blend(glass, self.scene.fold.apply(tissue, y, x), edge)
        return padded(self.scene.pen.apply(pixels, y, x)[:rows, :cols], self.tile)

    def _cover(self, n: int, levels: Array, box: tuple[Array, ...]) -> Array | int:
        """Return how much of what is inside outline `n` shows, from 0 to 128."""
        if levels.min() >= self.unit or levels.max() <= -self.unit:
            return 128 if levels.min() > 0 else 0
        cell = self.tile / self.split
        at = (np.arange(self.tile) + 0.5) / cell
        field = _between(levels.astype(np.float32) / self.unit, at, at)
        # One ripple for all, elsewhere for each.
        shifted = tuple((side + n * 701) % len(self.ripple) for side in box)
        field += _at(self.ripple, shifted) * np.float32(_WAVY[n] / 128)
        field *= np.float32(128 / min(_PART[n], _WIDE[n] / cell))
        field += 64
        cover: Array = np.clip(field, 0, 128, out=field).astype(np.int16)
        return cover


def canvas(shape: tuple[int, int], tile: int, seed: int) -> Canvas:
    """Return all that is needed to draw any tile of a slide."""
    where = scene(seed)
    ny, nx = -(-shape[0] // tile), -(-shape[1] // tile)
    split = 1
    while min(shape) / tile * split < 64 and split < tile // 4:
        split *= 2
    unit = 4 if ny * nx <= 10_000 else 1
    period = tile * (_PERIOD // tile) or tile // 2 ** math.ceil(math.log2(tile / _PERIOD))
    corners = _corners(where, shape, tile / split, unit, (ny * split, nx * split))
    ids, first = _alike(
        where, corners, shape, tile, max(1, period // tile), unit if split == 1 else 0
    )
    return Canvas(
        shape=shape,
        tile=tile,
        split=split,
        unit=unit,
        corners=corners,
        textures=textures(period),
        ripple=_ripple(period // 2, 2 * tile / split),
        scene=where,
        ids=ids,
        first=first,
    )


def _corners(
    scene: Scene, shape: tuple[int, int], cell: float, unit: int, cells: tuple[int, int]
) -> Array:
    """Return how far cell corners are inside each outline, from -unit to unit at its reach."""
    at_y, at_x = (
        np.clip(np.arange(n + 1) * cell / size * RASTER - 0.5, 0, RASTER - 1.001)
        for n, size in zip(cells, shape, strict=True)
    )
    found = []
    for outline, reach in zip(scene.fields, _REACH, strict=True):
        field = _between(outline, at_y, at_x)
        slope = np.hypot(*np.gradient(field))
        distance = field / np.maximum(slope, 1e-9) / reach
        found.append(np.rint(np.clip(distance, -1, 1) * unit))
    return np.array(found, np.int8)


def _alike(
    scene: Scene, corners: Array, shape: tuple[int, int], tile: int, phases: int, unit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which kind each tile is of, and the first tile of each kind."""
    ny, nx = -(-shape[0] // tile), -(-shape[1] // tile)
    if not unit:
        return np.arange(ny * nx).reshape(ny, nx), np.arange(ny * nx)
    drawn = np.zeros((ny, nx), bool)
    for row in range(ny):
        y = (row * tile + 0.5 + np.arange(tile)) / shape[0]
        for low, high in (scene.pen.reach(y), scene.fold.reach(y)):
            start, stop = (max(0, int(v * shape[1] // tile)) for v in (low, high))
            if low <= high:
                drawn[row, start : stop + 1] = True
    keys = np.zeros((ny, nx, 16), np.int8)
    for n, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        keys[..., n:12:4] = np.moveaxis(corners[:, i : i + ny, j : j + nx], 0, -1)
    # What lies under glass, or under faint tissue, makes no difference.
    keys[(keys[..., :4] <= -unit).all(-1), 4:12] = -unit
    keys[(keys[..., 4:8] <= -unit).all(-1), 8:12] = -unit
    keys[..., 12] = np.arange(ny)[:, None] % phases
    keys[..., 13] = np.arange(nx) % phases
    keys[-1, :, 14] = shape[0] % tile > 0
    # Else a tile with ink on it could stand for those without.
    keys[drawn, 14] += 2
    keys[:, -1, 15] = shape[1] % tile > 0
    packed = keys.reshape(-1, 16).view("V16").ravel()
    _, first, ids = np.unique(packed, return_index=True, return_inverse=True)
    ids = ids.reshape(ny, nx)
    ids[drawn] = len(first) + np.arange(drawn.sum())
    return ids, np.concatenate([first, np.flatnonzero(drawn)])


@lru_cache(maxsize=1)
def _ripple(period: int, longest: float) -> Array:
    """Return by how much, in cells / 128, outlines leave their straight course at each pixel."""
    waved = noise(np.random.default_rng(period), period, longest, 4, 2)
    found: Array = np.rint(np.clip(0.16 * waved, -0.85, 0.85) * 128).astype(np.int8)
    return found


def _between(values: Array, y: Array, x: Array) -> Array:
    """Return `values` at all places of rows `y` and columns `x`, from the four around each."""
    for at in (x, y):
        low = at.astype(int)
        part = (at - low).astype(np.float32)
        # Both axes in turn: what was sampled along the columns comes back to the rows.
        values = values.T
        values = values[low] * (1 - part)[:, None] + values[low + 1] * part[:, None]
    return values


def _at(texture: Array, box: tuple[Array, ...]) -> Array:
    # Most boxes end within the texture, and these need no copy.
    if box[0][0] <= box[0][-1] and box[1][0] <= box[1][-1] and len(box[0]) <= len(texture):
        return texture[box[0][0] : box[0][-1] + 1, box[1][0] : box[1][-1] + 1]
    found: Array = texture[np.ix_(*box)]
    return found


def _blend(under: Array, over: Array, cover: Array | int) -> Array:
    if isinstance(cover, int):
        return over if cover else under
    # In place and with the same cover for each channel laid out: several times faster.
    mixed = over.astype(np.int16)
    mixed -= under
    mixed *= np.repeat(cover, 3).reshape(mixed.shape)
    mixed += 64
    mixed >>= 7
    mixed += under
    return mixed.astype(np.uint8)


def padded(pixels: Array, tile: int) -> Array:
    """Return `pixels` in the corner of a whole tile, the last ones repeated."""
    rest = ((0, tile - pixels.shape[0]), (0, tile - pixels.shape[1]), (0, 0))
    return np.pad(pixels, rest, mode="edge")
