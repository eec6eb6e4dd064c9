"""The pixels of a slide at 1, 1/2, 1/4 ... of its resolution, in square tiles.

Tiles are read from the cheapest stored level or reduced decode. Where that would take too long,
because the slide has no small level, they are cut from one picture of the slide, which is made in
the background. Until it is there, they show a rough preview.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from dask_slides.core.geometry import Region, halved, level_size
from dask_slides.core.source import Level, Source
from dask_slides.core.types import Array
from dask_slides.graph.overview import overview_blocks, overview_source
from dask_slides.graph.resized import ResizedSource
from dask_slides.graph.stored_level import LevelSource
from dask_slides.numerics.mask_detectors import DEFAULT_DETECTOR
from dask_slides.readers.dask_array import BlocksSource
from dask_slides.runtime.scheduler import compute
from dask_slides.slide import Slide
from dask_slides.view.look import Look

TILE = 256
"""Side of a tile in pixels."""
FULL = 20
"""The zoom of all images at full resolution; more halvings than any view needs."""
DIRECT = 18_000_000
"""Pixels of the file that a tile may need; 4,096 x 4,096 take some 20 ms of JPEG decoding."""
GAP = 0.8
"""As in `resize`: levels down to the size of the result are good enough to look at."""
LARGEST = 8192
"""Longest side of the picture; larger slides get larger pixels."""
PREVIEW = 48
"""Tiles of the file along each side of the preview."""


class Pyramid:
    """The tiles of a slide. Reading them is safe in several threads."""

    def __init__(self, slide: Slide, picture: Source | None = None) -> None:
        self.slide = slide
        self.look = Look.of(slide.channels, slide.dtype)
        self.overview: Array | None = None
        """(c + 1, h, w) the picture of the slide and the states of its pixels; see `load`."""
        self._picture = picture
        self._preview: Source | None = None
        self.version = 0
        """Counts how often tiles that were shown have been replaced by better ones."""

    @cached_property
    def small(self) -> Source:
        """The picture of the slide, not computed: the one in which `Tissue` finds tissue."""
        return overview_source(self.slide.source, self.slide.mpp_yx, self.mpp)

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the picture."""
        own = self.slide.mpp or 0.5
        return max(DEFAULT_DETECTOR.mpp, own * max(self.slide.shape[:2]) / LARGEST)

    def load(self) -> Array:
        """Compute the picture of the slide, after a preview if it takes long; return it."""
        if self.overview is None:
            if self._picture is None and self._is_slow(self.small, self.small.levels[0].shape):
                self._preview = in_memory(sampled(self.slide.source, PREVIEW))
                self.version += 1
            self.overview = compute(overview_blocks(self.small), "picture of the slide")
            pixels = np.moveaxis(self.overview[:-1], 0, 2)
            self.look = self.look.fitted(self.slide.channels, pixels, self.slide.source.fill)
            if self._picture is None:
                self._picture = in_memory(pixels)
            self.version += 1
        return self.overview

    def _is_slow(self, source: Source, shape: tuple[int, int]) -> bool:
        """Return whether `shape` pixels of `source` need more pixels of the file than a tile may.

        A reduced decode costs nearly as much as a full one.
        """
        level = 0
        if source is not self.slide.source:  # which may be resized from another image
            level = getattr(source, "from_level", getattr(source, "number", 0))
        stored = self.slide.levels[level].shape
        share = shape[0] * shape[1] / max(1, math.prod(source.levels[0].shape))
        return math.prod(stored) * min(1.0, share) > DIRECT

    @lru_cache(maxsize=64)  # noqa: B019 - a pyramid lives as long as the viewer
    def _source(self, halvings: int) -> Source:
        """Return the slide halved `halvings` times, read from the file."""
        source, size = self.slide.source, self.slide.shape[:2]
        if not halvings:
            return source
        for number, level in enumerate(source.levels):
            sides = zip(level.shape, size, strict=True)
            if all(abs(own - side / 2**halvings) < 1 for own, side in sides):
                return LevelSource(source, number)
        return ResizedSource(source, self._shape(halvings), "area", GAP)

    def _shape(self, halvings: int) -> tuple[int, int]:
        height, width = self.slide.shape[:2]
        return halved(height, halvings), halved(width, halvings)

    def pixels(self, halvings: int, y: int, x: int) -> tuple[Array | None, bool]:
        """Return the pixels of a tile, and whether they are final.

        Parameters
        ----------
        halvings : int
            How often the slide is halved, 0 to `FULL`.
        y, x : int
            Row and column of the tile.

        Returns
        -------
        ndarray or None
            (h, w, c) of the dtype of the slide, at most 256 x 256; None outside of the slide, and
            where nothing is known yet.
        bool
            False for pixels of the preview.
        """
        source, final = self._source(halvings), True
        if self._is_slow(source, (TILE, TILE)):
            known = self._picture or self._preview
            final = self._picture is not None
            if known is None:
                return None, final
            source = ResizedSource(known, self._shape(halvings), "area" if final else "linear", 1.0)
        whole = Region(0, 0, *source.levels[0].shape)
        region = Region(y * TILE, x * TILE, TILE, TILE)
        if not region.intersect(whole).area:
            return None, True
        return source.read(0, region.intersect(whole)), final


def in_memory(pixels: Array) -> Source:
    """Return a source of the pixels (h, w, c) of an array."""
    height, width, channels = pixels.shape
    level = Level((height, width), (1.0, 1.0), (64, 64))
    return BlocksSource(
        "picture", (level,), channels, pixels.dtype, (0, height), (0, width), {(0, 0): pixels}
    )


def sampled(source: Source, most: int) -> Array:
    """Return a rough picture of the smallest level: means of at most `most` x `most` of its tiles.

    Strips are as wide as the image, so each of them gives a row of means.
    """
    number = len(source.levels) - 1
    level, factor = source.levels[number], max(source.reductions(number), default=1)
    rows, columns = (
        np.unique(np.linspace(0, -(-n // m) - 1, min(most, -(-n // m))).astype(int)).tolist()
        for n, m in zip(level.shape, level.tile, strict=True)
    )
    parts = max(1, most // len(columns))
    out = np.empty((len(rows), len(columns) * parts, source.channels), source.dtype)
    size = [level_size(n, factor) for n in level.shape]
    tile = [max(1, n // factor) for n in level.tile]
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            whole = Region(0, 0, *size)
            region = Region(row * tile[0], column * tile[1], *tile).intersect(whole)
            if not region.area:
                out[i, j * parts : (j + 1) * parts] = 0
                continue
            if factor > 1:
                pixels = source.read_reduced(number, factor, region)
            else:
                pixels = source.read(number, region)
            for part, block in enumerate(np.array_split(pixels, parts, axis=1)):
                out[i, j * parts + part] = _mean(block if block.size else pixels)
    return out


def _mean(block: Array) -> Any:
    return np.nan_to_num(block.mean(axis=(0, 1), dtype=np.float64))
