"""Where tissue, pen and fold lie on a slide, in parts of its height and width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dask_slides.core.types import Array

RASTER = 512
"""Side of the fields that the outlines of tissue are the zeros of."""


@dataclass(frozen=True)
class Stroke:
    """A band along a curve x(y), in parts of the slide's height and width."""

    top: float
    tall: float
    left: float
    slope: float
    half: float
    ink: tuple[float, float, float]

    def curve(self, y: Array) -> tuple[Array, Array]:
        """Return the middle and half the width at rows `y`."""
        t = (y - self.top) / self.tall
        wave = 0.025 * np.sin(np.pi * t) + 0.004 * np.sin(9 * t)
        taper = np.sqrt(np.clip(1 - np.abs(2 * t - 1) ** 5, 0, 1))
        wobble = 1 + 0.15 * np.sin(11 * t) + 0.08 * np.sin(31 * t)
        return self.left + self.slope * t - wave, self.half * taper * wobble

    def reach(self, y: Array) -> tuple[float, float]:
        """Return the least and the greatest x at rows `y`, in reverse if it is not there."""
        y = y[(y > self.top) & (y < self.top + self.tall)]
        if not y.size:
            return 2.0, -1.0
        middle, half = self.curve(y)
        return float((middle - half).min()), float((middle + half).max())

    def apply(self, pixels: Array, y: Array, x: Array) -> Array:
        """Return `pixels`, whose middles are at `y` and `x`, with the stroke on them."""
        low, high = self.reach(y)
        if high < x[0] or low > x[-1]:
            return pixels
        first, last = np.searchsorted(x, (low, high))
        pixels = pixels.copy()
        middle, half = self.curve(y)
        # Differences of places first: in single precision they would be off by a pixel.
        away = (x[first:last] - middle[:, None]).astype(np.float32)
        away /= np.maximum(half, 1e-9).astype(np.float32)[:, None]
        bristles = 3 * np.sin(40 * y).astype(np.float32)[:, None]
        # Ink gathers at the rim of a stroke, and the bristles leave streaks along it.
        streaks = np.sin(17 * away + bristles) * np.float32(0.06) + np.float32(0.86)
        streaks += away**2 * np.float32(0.08)
        streaks *= np.clip((1 - np.abs(away)) * 9, 0, 1)
        for n, ink in enumerate(self.ink):
            passed = 1 - streaks * np.float32(1 - ink)
            pixels[:, first:last, n] = np.rint(pixels[:, first:last, n] * passed)
        return pixels


@dataclass(frozen=True)
class Scene:
    """Where the tissue is, the same in relative coordinates at every size."""

    fields: tuple[Array, ...]
    pen: Stroke
    fold: Stroke


def noise(
    rng: np.random.Generator, size: int, longest: float, shortest: float, power: float = 2.6
) -> Array:
    """Return periodic noise with waves of these lengths in pixels, the long ones the strongest."""
    waves = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)).astype(np.float32)
    waves[0, 0] = 1
    gain = np.where((waves >= 1 / longest) & (waves <= 1 / shortest), waves**-power, 0)
    waved = np.fft.rfft2(rng.standard_normal((size, size), np.float32)) * gain
    values: Array = np.fft.irfft2(waved, (size, size))
    values /= values.std()
    return values


@lru_cache(maxsize=1)
def scene(seed: int) -> Scene:
    """Return where all lies for one seed."""
    rng = np.random.default_rng([seed, 0])
    t = (np.arange(RASTER) + 0.5) / RASTER
    lanes = []
    for gap in rng.uniform(0.43, 0.57, 2):
        # The margins and one gap stay free of tissue, whatever the noise.
        spans = ((0.05, gap - 0.04), (gap + 0.04, 0.95))
        humps = [
            np.where((t > a) & (t < b), np.sin(np.pi * (t - a) / (b - a)), 0) for a, b in spans
        ]
        lanes.append(np.maximum(*humps) ** 0.7)
    room = np.multiply.outer(*lanes)
    island = room * (1 + 0.3 * noise(rng, RASTER, RASTER / 3, 12))
    island -= np.quantile(island, 0.65)
    dense = 1.5 * island / island.std() + noise(rng, RASTER, RASTER / 4, 16)
    dense -= np.quantile(dense[island > 0], 0.3)
    violet = noise(rng, RASTER, RASTER / 2, 40) - 0.4
    pen = _placed(rng, room, island, 0.4, 0.008, (0.12, 0.52, 0.56))
    fold = _placed(rng, room, island, 1.0, 0.005, (0.62, 0.47, 0.55))
    return Scene((island, dense, violet), pen, fold)


def _placed(
    rng: np.random.Generator,
    room: Array,
    island: Array,
    share: float,
    half: float,
    ink: tuple[float, float, float],
) -> Stroke:
    """Return the one of many strokes whose share over tissue is nearest to `share`."""
    best, least = None, math.inf
    for top, tall, left, slope in rng.uniform((0, 0.14, 0, -0.12), (0.8, 0.22, 1, 0.12), (500, 4)):
        stroke = Stroke(top, tall, left, slope, half, ink)
        y = np.linspace(top, top + tall, 64)
        x = stroke.curve(y)[0] + np.array([[-1.5], [0], [1.5]]) * half
        at = tuple(np.clip(v * RASTER, 0, RASTER - 1).astype(int) for v in (y, x))
        miss = abs(float((island[at] > 0).mean()) - share) + float((room[at] <= 0).any())
        if miss < least:
            best, least = stroke, miss
    assert best is not None
    return best
