"""Periodic pictures of glass and of stained tissue, quilted from one histology picture."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from dask_slides.core.types import Array

_OVERLAP = 48
_CHOICE = 600
# Optical densities of haematoxylin and diaminobenzidine, after Ruifrok and Johnston.
_STAINS = np.array([(0.65, 0.70, 0.29), (0.27, 0.57, 0.78)])
_STEPS = 100


@lru_cache(maxsize=1)
def textures(period: int) -> tuple[Array, ...]:
    """Return glass, faint, brown and violet tissue, the last three of the same cells.

    All repeat after `period` pixels, a multiple of 8, without a seam.
    """
    rng = np.random.default_rng(period)
    stains = _flattened(_quilt(_amounts(), period, rng))
    noise = rng.standard_normal((period // 4, period // 4, 3), np.float32)
    glass = np.rint(np.array([243, 241, 244], np.float32) + np.float32(1.2) * noise)
    index = stains[0].astype(np.uint16) * 256
    index += stains[1]
    return np.tile(glass.astype(np.uint8), (4, 4, 1)), *(
        np.take(table, index, 0) for table in _tables()
    )


def _amounts() -> Array:
    """Return how much there is of either stain in the bundled picture, by 1 / _STEPS."""
    from importlib.resources import files

    from PIL import Image

    with files("skimage").joinpath("data/ihc.png").open("rb") as file:
        picture = np.asarray(Image.open(file).convert("RGB"))
    density = -np.log((picture + 1.0) / 256)
    amounts: Array = np.clip(density @ np.linalg.pinv(_STAINS) * _STEPS, 0, 255)
    return np.rint(np.moveaxis(amounts, 2, 0)).astype(np.uint8)


def _tables() -> list[Array]:
    """Return the colour for each amount of both stains: faint, brown and violet tissue."""
    blue, brown = np.meshgrid(*(np.arange(256) / _STEPS,) * 2, indexing="ij")
    mixed = blue + 0.5 * brown
    densities = (
        np.array([0.03, 0.08, 0.03]) + np.multiply.outer(0.36 * mixed, (0.55, 0.75, 0.35)),
        np.multiply.outer(2.1 * blue, _STAINS[0]) + np.multiply.outer(2.0 * brown, _STAINS[1]),
        np.multiply.outer(2.0 * blue, (0.62, 0.70, 0.34))
        + np.multiply.outer(1.6 * brown, (0.5, 0.95, 0.62)),
    )
    return [
        np.clip(np.rint(246 * np.exp(-od)), 0, 255).astype(np.uint8).reshape(-1, 3)
        for od in densities
    ]


def _quilt(picture: Array, period: int, rng: np.random.Generator) -> Array:
    """Return a torus of patches of `picture`, cut where neighbours differ the least."""
    # The period may be an odd multiple of 8.
    count = math.gcd(period, 16)
    step = period // count
    patches = _chosen(picture, count, step, rng)
    # Patches of a row first, from left to right, then whole rows; the seams along the last axis.
    rows = _joined(patches.swapaxes(3, 4), step, closed=False)
    rows = rows.transpose(0, 2, 4, 1, 3).reshape(1, count, 2, step + _OVERLAP, period)
    whole = _joined(rows, step, closed=True)
    quilt: Array = whole[0].swapaxes(0, 1).reshape(2, period, period)
    return quilt


def _joined(parts: Array, step: int, *, closed: bool) -> Array:
    """Return `parts`, each cut to `step` from where it joins the one before it."""
    after = parts[..., :_OVERLAP, :].astype(np.float32)
    before = np.roll(parts[..., step : step + _OVERLAP, :], 1, 1).astype(np.float32)
    after -= before
    seam = (after**2).sum(2)
    cut = _cut(seam.reshape(-1, *seam.shape[2:]), closed=closed).reshape(seam.shape)
    joined = parts[..., :step, :].copy()
    joined[..., :_OVERLAP, :] = np.rint(before + cut[:, :, None] * after)
    return joined


def _turned(patch: Array, way: int) -> Array:
    patch = np.rot90(patch, way, (1, 2))
    return patch[:, ::-1] if way > 3 else patch


def _chosen(picture: Array, count: int, step: int, rng: np.random.Generator) -> Array:
    """Return rows of patches in all orientations, which go with their neighbours."""
    # The candidates are compared at a quarter of their size: 16 times faster.
    quarter = picture.reshape(2, picture.shape[1] // 4, 4, -1, 4).mean((2, 4), dtype=np.float32)
    side, over, far = (step + _OVERLAP) // 4, _OVERLAP // 4, step // 4
    at = rng.integers(0, (picture.shape[1] - step - _OVERLAP) // 4 + 1, (_CHOICE, 2))
    small = np.array(
        [_turned(quarter[:, y : y + side, x : x + side], n % 8) for n, (y, x) in enumerate(at)]
    )
    beside = _misfit(small[..., far : far + over], small[..., :over])
    below = _misfit(small[:, :, far : far + over], small[:, :, :over])
    usual = beside.mean()
    # A patch of mostly one kind would be seen from afar, at every repeat.
    amount = small.mean((2, 3))
    cost = usual / 2 * (((amount - amount.mean(0)) / amount.std(0)) ** 2).sum(1)
    close = usual * (np.abs(at[:, None] - at).max(-1) < 20)
    # Row _CHOICE is for a place not filled yet.
    beside, below, close, beside_back, below_back = (
        np.vstack([table, np.zeros(_CHOICE, np.float32)])
        for table in (beside, below, close, beside.T, below.T)
    )
    grid = np.full((count, count), _CHOICE)
    for i, j in np.ndindex(count, count):
        around = grid[np.ix_(np.arange(i - 2, i + 3) % count, np.arange(j - 2, j + 3) % count)]
        match = beside[around[2, 1]] + beside_back[around[2, 3]]
        match = match + below[around[1, 2]] + below_back[around[3, 2]]
        grid[i, j] = best = (cost + match + close[around.ravel()].sum(0)).argmin()
        cost[best] += 4 * usual
    side = step + _OVERLAP
    found = np.empty((count, count, 2, side, side), np.uint8)
    for place, n in np.ndenumerate(grid):
        y, x = 4 * at[n]
        found[place] = _turned(picture[:, y : y + side, x : x + side], n % 8)
    return found


def _misfit(one: Array, two: Array) -> Array:
    """Return the squared distance of each of `one` from each of `two`."""
    one, two = one.reshape(len(one), -1), two.reshape(len(two), -1)
    squares = (one**2).sum(1)[:, None] + (two**2).sum(1)
    found: Array = np.maximum(squares - 2 * one @ two.T, 0)
    return found


def _cut(seam: Array, *, closed: bool) -> Array:
    """Return the weight of the later side along seams of shape (seams, width, length).

    The cheapest path runs along each; a closed one ends where it starts.
    """
    cost = np.ascontiguousarray(seam.transpose(2, 0, 1))
    length, seams, width = cost.shape
    each = np.arange(seams)[:, None]
    start = cost[0].argmin(1)
    if closed:
        cost[0] = np.where(np.arange(width) == start[:, None], cost[0], np.inf)
    sums = np.full((length, seams, width + 2), np.inf, np.float32)
    sums[0, :, 1:-1] = cost[0]
    for n in range(1, length):
        last = sums[n - 1]
        best = np.minimum(np.minimum(last[:, :-2], last[:, 2:]), last[:, 1:-1])
        np.add(best, cost[n], out=sums[n, :, 1:-1])
    path = np.empty((length, seams), int)
    path[-1] = start if closed else sums[-1, :, 1:-1].argmin(1)
    for n in range(length - 2, -1, -1):
        three = sums[n][each, path[n + 1][:, None] + np.arange(3)]
        path[n] = path[n + 1] + three.argmin(1) - 1
    # A few pixels wide, as a stain is never cut off within one.
    ramp = (np.arange(width)[:, None] - path.T[:, None]).astype(np.float32) / 6
    weight: Array = np.clip(ramp + np.float32(0.5), 0, 1)
    return weight


def _flattened(stains: Array) -> Array:
    """Return both amounts by 1 / _STEPS, with the same mean and spread all over."""
    period = stains.shape[-1]
    small = period // 8
    waves = np.hypot(np.fft.fftfreq(small)[:, None], np.fft.rfftfreq(small))
    gauss = np.exp(-2 * (np.pi * 11 * waves) ** 2)
    at = (np.arange(period) + 0.5) / 8 - 0.5
    off = np.abs((at[:, None] - np.arange(small) + small / 2) % small - small / 2)
    ramp = np.maximum(1 - off, 0).astype(np.float32)

    def smooth(values: Array) -> Array:
        means = values.reshape(small, 8, small, 8).mean((1, 3), dtype=np.float32)
        low = np.fft.irfft2(np.fft.rfft2(means) * gauss, means.shape)
        back: Array = ramp @ low.astype(np.float32) @ ramp.T
        return back

    found = []
    for values in stains:
        local = values - smooth(values)
        spread = np.sqrt(smooth(local**2))
        local *= np.clip(spread.mean() / spread, 0.7, 1.7)
        local += values.mean()
        found.append(np.clip(np.rint(local), 0, 255).astype(np.uint8))
    return np.array(found)
