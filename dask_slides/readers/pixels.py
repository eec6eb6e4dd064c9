"""What stored samples mean: palettes, inverted grey, alpha, YCbCr to plain colour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dask_slides.compiled import loops

Array = NDArray[Any]


@dataclass(frozen=True)
class Conversion:
    """How (h, w, stored channels) becomes (h, w, channels) of plain grey or colour."""

    palette: bytes | None = None
    """256 RGB triples; the stored samples are indices into it."""
    scale: int | None = None
    """Factor that spreads 1, 2 and 4-bit grey over 0 to 255."""
    invert: bool = False
    """Whether 0 is white."""
    ycbcr: bool = False
    """Whether the samples are luma and chroma (ITU-R BT.601, full range)."""
    alpha: Literal["straight", "premultiplied"] | None = None
    """Whether the last channel is alpha, to be composited on `fill`."""
    fill: float = 255

    @property
    def plain(self) -> bool:
        """Whether samples come out as they are stored, so that means of them do too."""
        return self == Conversion(fill=self.fill)

    @property
    def mixes(self) -> bool:
        """Whether the same number in every stored sample does not come out as itself."""
        return self.palette is not None or self.ycbcr or self.scale is not None

    def channels(self, stored: int) -> int:
        """Return how many channels come of `stored` ones."""
        if self.palette is not None:
            return 3
        return stored - 1 if self.alpha else stored

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype that comes of the `stored` one."""
        if self.palette is not None or stored == np.bool_:
            return np.dtype(np.uint8)
        return stored.newbyteorder("=")

    def __call__(self, stored: Array) -> Array:
        """Convert `stored` (h, w, stored channels)."""
        if self.palette is not None:
            table = np.frombuffer(self.palette, np.uint8).reshape(-1, 3)
            return table[stored[..., 0]]
        if stored.dtype == np.bool_:
            stored = stored.astype(np.uint8)
        if not stored.dtype.isnative:
            stored = stored.astype(stored.dtype.newbyteorder("="))
        if self.scale is not None:
            stored = stored * stored.dtype.type(self.scale)
        if self.invert:
            stored = np.invert(stored)
        if self.ycbcr:
            stored = _rgb_of_ycbcr(stored)
        if self.alpha is not None:
            stored = _composited(stored, self.fill, straight=self.alpha == "straight")
        return stored


def _rgb_of_ycbcr(stored: Array) -> Array:
    luma, blue, red = (stored[..., i].astype(np.float32) for i in range(3))
    blue -= 128
    red -= 128
    rgb = np.stack(
        (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue), axis=-1
    )
    result: Array = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return result


def rgb_of_cmyk(stored: Array) -> Array:
    """Return the RGB of inks, (h, w, 4) of an unsigned type, where 0 is no ink.

    Each colour is (top - ink) * (top - black) / top, rounded: what Pillow, libvips and GDAL show
    without a colour profile.
    """
    top = int(np.iinfo(stored.dtype).max)
    wide: Any = np.uint32 if stored.dtype.itemsize == 1 else np.uint64
    light = top - stored.astype(wide)
    rgb: Array = ((light[..., :3] * light[..., 3:] + top // 2) // top).astype(stored.dtype)
    return rgb


def _composited(stored: Array, fill: float, *, straight: bool) -> Array:
    dtype = stored.dtype
    colour, alpha = stored[..., :-1], stored[..., -1:]
    if dtype.kind == "f":
        kept = colour * alpha if straight else colour
        result: Array = (kept + (1 - alpha) * dtype.type(fill)).astype(dtype)
        return result
    top = int(np.iinfo(dtype).max)
    wide: Any = np.uint32 if dtype.itemsize == 1 else np.uint64
    veil = (top - alpha.astype(wide)) * wide(fill)
    kept = colour.astype(wide) * (alpha if straight else wide(top))
    packed: Array = np.minimum((kept + veil + top // 2) // top, top).astype(dtype)
    return packed


SAVED = 0.2e-9
"""Seconds a sample that the compiled means are faster."""


def box_mean(pixels: Array, factor: int, samples: int = 0) -> Array:
    """Return the means of `factor` x `factor` pixels of bytes (h, w, c), each rounded once.

    The last row and column are the means of what there is of them. `samples` are those of
    the whole image of which `pixels` are a part.
    """
    height, width, channels = pixels.shape
    means = np.empty((-(-height // factor), -(-width // factor), channels), np.uint8)
    whole = height % factor == width % factor == 0
    compiled = loops("pixels", samples * SAVED) if whole else None
    if compiled is not None and factor in (2, 4, 8):
        rows = np.ascontiguousarray(pixels).reshape(height, width * channels)
        compiled.box(rows, channels, factor, means.reshape(len(means), -1))
        return means
    for top, bottom, high in _boxes(height, factor):
        for left, right, wide in _boxes(width, factor):
            into = means[top // factor : -(-bottom // factor), left // factor : -(-right // factor)]
            _means(pixels[top:bottom, left:right], high, wide, into)
    return means


def _boxes(size: int, factor: int) -> Iterator[tuple[int, int, int]]:
    """Yield start, stop and length of the boxes along an axis: the whole ones, then the rest."""
    rest = size % factor
    if size > rest:
        yield 0, size - rest, factor
    if rest:
        yield size - rest, size, rest


def _means(pixels: Array, high: int, wide: int, means: Array) -> None:
    """Write the means of `high` x `wide` pixels; whole rows are added at once, then columns."""
    height, width, channels = pixels.shape
    sums = pixels[::high].astype(np.uint16)
    for row in range(1, high):
        sums += pixels[row::high]
    columns = sums.reshape(height // high, width // wide, wide, channels)
    for channel in range(channels):
        mean = columns[:, :, 0, channel] + np.uint16(high * wide // 2)
        for column in range(1, wide):
            mean += columns[:, :, column, channel]
        mean //= np.uint16(high * wide)
        means[..., channel] = mean
