"""Read the pixels of many crops of one slide, or of many tiles of one pack."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from dask_slides.core.geometry import Region
from dask_slides.core.source import Source, replace_root, root_of
from dask_slides.core.types import Array
from dask_slides.errors import TileDecodeError
from dask_slides.graph.batch_read import read_each
from dask_slides.graph.resized import STRIP_PIXELS
from dask_slides.graph.tiles import SlideTileReader, TileReader
from dask_slides.ops.pack import TilePack
from dask_slides.runtime.scheduler import compute

log = logging.getLogger("dask_slides.feed")
Integers = NDArray[np.int64]
Crop = tuple[Array, ...]
"""The pixels of a crop at each scale, each (h, w, c)."""


@dataclass
class Pixels:
    """Crops that were read."""

    crops: list[Crop | None]
    """None for a crop of which pixels are missing or corrupt."""
    bad: list[str]
    """The bad tiles that were found, in words."""


class PixelReader(Protocol):
    """Read crops of a slide or of a pack, in any process."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of a crop."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        ...

    @property
    def mpp(self) -> tuple[float | None, ...]:
        """Micrometres per pixel at each scale."""
        ...

    def read(self, at: Integers) -> Pixels:
        """Read the crops at these top left corners (n, 2), or the tiles with these numbers (n,)."""
        ...


@dataclass(frozen=True)
class SlidePixels:
    """Reads crops of a slide at one or several scales around one centre."""

    sources: tuple[Source, ...]
    """The slide at each scale; corners are in pixels of the first."""
    size: tuple[int, int]
    fill: float
    """Value of pixels beyond the image."""
    mpp: tuple[float | None, ...]

    @classmethod
    def of(
        cls,
        sources: Sequence[Source],
        size: tuple[int, int],
        fill: float,
        mpp: Sequence[float | None],
    ) -> SlidePixels:
        """Return the reader of `sources`, which notes corrupt tiles in place of raising."""
        return cls(tuple(map(noting_bad_tiles, sources)), size, fill, tuple(mpp))

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of a crop."""
        return (*self.size, self.sources[0].channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        return self.sources[0].dtype

    def read(self, at: Integers) -> Pixels:
        """Read crops. Each tile of the file is decoded once for all of them."""
        whole = np.ones(len(at), bool)
        bad: dict[str, None] = {}
        scales = []
        for number in range(len(self.sources)):
            corners = self._corners(at, number)
            pixels = np.empty((len(at), *self.shape), self.dtype)
            self._read_scale(self.sources[number], corners, pixels, whole, bad)
            scales.append(pixels)
        crops = [tuple(one[i] for one in scales) if good else None for i, good in enumerate(whole)]
        return Pixels(crops, list(bad))

    def _corners(self, at: Integers, number: int) -> Integers:
        """Return the top left of crops at a scale, in its pixels."""
        if not number:
            return at
        first, own = (np.array(self.sources[n].levels[0].shape) for n in (0, number))
        size = np.array(self.size)
        centre = (at + size / 2) * own / first
        return np.asarray(np.floor(centre - size / 2 + 0.5), np.int64)

    def _read_scale(
        self,
        source: Source,
        corners: Integers,
        out: Array,
        whole: NDArray[np.bool_],
        bad: dict[str, None],
    ) -> None:
        image = Region(0, 0, *source.levels[0].shape)
        boxes = [Region(y, x, *self.size) for y, x in corners.tolist()]
        regions = [box.intersect(image) for box in boxes]
        parts = []
        for pixels, box, region in zip(out, boxes, regions, strict=True):
            if region != box:
                pixels[...] = self.fill
            parts.append(pixels[region.slices(box.y, box.x)] if region.area else None)
        tile = source.levels[0].tile[0]
        order = sorted(range(len(boxes)), key=lambda i: (regions[i].y // tile, regions[i].x))
        order = [i for i in order if parts[i] is not None]
        if source.masked:
            for i in order:
                parts[i][...], valid = source.read_valid(0, regions[i])  # type: ignore[index]
                whole[i] &= valid is None
        else:
            self._read_whole(source, [regions[i] for i in order], [parts[i] for i in order])
        if source.on_bad_tile == "mask":
            for i in order:
                holes = source.holes(0, regions[i])
                whole[i] &= not holes
                bad.update(dict.fromkeys(str(hole.tile) for hole in holes))

    def _read_whole(self, source: Source, regions: list[Region], out: list[Array | None]) -> None:
        limit = min(STRIP_PIXELS, len(regions) * self.size[0] * self.size[1])
        read_each(source, 0, regions, out, max(1, limit))  # type: ignore[arg-type]


def log_bad_tiles(known: dict[str, None], slide: str, bad: Sequence[str], what: str) -> None:
    """Log each bad tile of a slide once; `known` holds those that were logged before."""
    for tile in bad:
        text = f"{slide}: {tile}"
        if text not in known:
            known[text] = None
            log.warning("%s; %s that touch it are left out", text, what)


def noting_bad_tiles(source: Source) -> Source:
    """Return `source`, which shows corrupt tiles as the fill, and lists them as holes."""
    root = root_of(source)
    if root.on_bad_tile != "raise":
        return source
    return replace_root(source, replace(root, on_bad_tile="mask"))  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class _ArrayTiles:
    """Reads tiles of a dask array."""

    tiles: da.Array

    def __call__(self, start: int, stop: int) -> Array:
        return np.asarray(compute(self.tiles[start:stop], "read tiles"))

    def read(self, numbers: Integers, out: Sequence[Array]) -> None:
        for pixels, into in zip(compute(self.tiles[numbers], "read tiles"), out, strict=True):
            into[...] = pixels


@dataclass(frozen=True, eq=False)
class PackPixels:
    """Reads tiles of a pack: a stored one, or one of a dask array."""

    reader: TileReader
    shape: tuple[int, ...]
    """Height, width and channels of a tile."""
    dtype: np.dtype[Any]
    mpp: tuple[float | None, ...]

    @classmethod
    def of(cls, pack: TilePack) -> PackPixels:
        """Return the reader of the tiles of `pack`."""
        tiles = pack.tiles
        return cls(pack.reader or _ArrayTiles(tiles), tiles.shape[1:], tiles.dtype, (pack.mpp,))

    def read(self, at: Integers) -> Pixels:
        """Read tiles. A shard is read from its start to its end."""
        numbers, first, back = np.unique(at, return_index=True, return_inverse=True)
        out = np.empty((len(numbers), *self.shape), self.dtype)
        good, bad = np.ones(len(numbers), bool), []
        try:
            self.reader.read(numbers, list(out))
        except TileDecodeError:
            for i in range(len(numbers)):
                try:
                    self.reader.read(numbers[i : i + 1], [out[i]])
                except TileDecodeError as error:
                    good[i] = False
                    bad.append(str(error))
        crops: list[Crop | None] = [
            # a transform may change its array, so that no two crops share one
            ((out[i] if first[i] == n else out[i].copy()),) if good[i] else None
            for n, i in enumerate(back.tolist())
        ]
        return Pixels(crops, bad)


def pixels_of_pack(pack: TilePack) -> tuple[PixelReader, Integers]:
    """Return the reader of the tiles of `pack`, and what to ask it for each tile."""
    reader = pack.reader
    if not isinstance(reader, SlideTileReader):
        return PackPixels.of(pack), np.arange(len(pack))
    pixels = SlidePixels.of([reader.source], reader.task.tile, reader.task.fill, [pack.mpp])
    return pixels, reader.task.origins.yx()
