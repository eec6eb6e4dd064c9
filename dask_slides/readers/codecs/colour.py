"""Convert stored samples to grey or RGB: palettes, inverted grey, alpha, YCbCr, CMYK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dask_slides.core.types import Array

BT601 = (0.299, 0.587, 0.114)
FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)


@dataclass(frozen=True)
class Conversion:
    """The conversion of stored samples (h, w, stored channels) to grey or RGB (h, w, channels)."""

    palette: bytes | None = None
    """RGB triples; the stored samples are indices into it."""
    scale: int | None = None
    """Factor that scales 1, 2 and 4-bit grey to 0 to 255."""
    invert: bool = False
    """Whether 0 is white."""
    ycbcr: bool = False
    """Whether the samples are luma and chroma."""
    luma: tuple[float, ...] = BT601
    """Shares of red, green and blue in the luma."""
    reference: tuple[float, ...] = FULL_RANGE
    """Black and white of the luma, then zero and maximum of each chroma."""
    cmyk: bool = False
    """Whether the samples are the four inks."""
    alpha: Literal["straight", "premultiplied"] | None = None
    """Whether the last channel is alpha, to be composited on `fill`."""
    opaque: int | None = None
    """The alpha of an opaque pixel, if it is not that of the dtype."""
    fill: float = 255

    @property
    def plain(self) -> bool:
        """Whether the stored samples are the pixels, so that stored samples can be averaged."""
        return self == Conversion(fill=self.fill)

    @property
    def mixes(self) -> bool:
        """Whether no stored number is converted to the same number in all channels."""
        return self.palette is not None or self.ycbcr or self.cmyk or self.scale is not None

    def channels(self, stored: int) -> int:
        """Return the number of channels after conversion from `stored` channels."""
        if self.palette is not None:
            return 3
        return stored - 1 if self.alpha or self.cmyk else stored

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype after conversion from `stored`."""
        if self.palette is not None or stored == np.bool_:
            return np.dtype(np.uint8)
        # numpy has two equal 64-bit integer types, and Zarr accepts only one of them
        return np.dtype(stored.newbyteorder("=").str)

    def __call__(self, stored: Array) -> Array:
        """Convert `stored` (h, w, stored channels)."""
        if stored.dtype == np.bool_:
            stored = stored.astype(np.uint8)
        if self.palette is not None:
            table = np.frombuffer(self.palette, np.uint8).reshape(-1, 3)
            return table[stored[..., 0]]
        if not stored.dtype.isnative:
            stored = stored.astype(stored.dtype.newbyteorder("="))
        if self.scale is not None:
            stored = stored * stored.dtype.type(self.scale)
        if self.invert:
            stored = np.invert(stored)
        if self.ycbcr:
            stored = _rgb_of_ycbcr(stored, self.luma, self.reference)
        if self.cmyk:
            stored = rgb_of_cmyk(stored)
        if self.alpha is not None:
            opaque = _opaque(stored.dtype) if self.opaque is None else self.opaque
            stored = _composited(stored, self.fill, opaque, straight=self.alpha == "straight")
        return stored


def _rgb_of_ycbcr(stored: Array, shares: tuple[float, ...], reference: tuple[float, ...]) -> Array:
    of_red, of_green, of_blue = shares
    luma, blue, red = (
        (stored[..., i].astype(np.float32) - low) * np.float32(top / (high - low))
        for i, (top, low, high) in enumerate(
            zip((255, 127, 127), reference[::2], reference[1::2], strict=True)
        )
    )
    to_red, to_blue = 2 - 2 * of_red, 2 - 2 * of_blue
    from_red, from_blue = of_red * to_red / of_green, of_blue * to_blue / of_green
    rgb = np.stack(
        (
            luma + round(to_red, 6) * red,
            luma - round(from_blue, 6) * blue - round(from_red, 6) * red,
            luma + round(to_blue, 6) * blue,
        ),
        axis=-1,
    )
    result: Array = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return result


def rgb_of_cmyk(stored: Array) -> Array:
    """Convert CMYK samples (h, w, 4) of an unsigned type, where 0 is no ink, to RGB.

    Each colour is (top - ink) * (top - black) / top, rounded, as in Pillow, libvips and GDAL
    without a colour profile.
    """
    top = int(np.iinfo(stored.dtype).max)
    wide: Any = np.uint32 if stored.dtype.itemsize == 1 else np.uint64
    light = top - stored.astype(wide)
    rgb: Array = ((light[..., :3] * light[..., 3:] + top // 2) // top).astype(stored.dtype)
    return rgb


def _opaque(dtype: np.dtype[Any]) -> int:
    """Return the alpha of an opaque pixel: 1 for floats, else the largest value up to 16 bits.

    GDAL and libvips write 255 for 32 bits too; an alpha above it is opaque as well.
    """
    if dtype.kind == "f":
        return 1
    return 255 if dtype.itemsize > 2 else int(np.iinfo(dtype).max)


def _composited(stored: Array, fill: float, opaque: int, *, straight: bool) -> Array:
    """Return the colour composited over `fill`; opaque pixels stay as they are stored."""
    dtype = stored.dtype
    colour, alpha = stored[..., :-1], np.clip(stored[..., -1:], 0, opaque)
    if dtype.kind == "f":
        below = dtype.type(fill)
        with np.errstate(invalid="ignore", over="ignore"):  # transparent pixels may hold any number
            mixed = (colour * alpha if straight else colour) + (1 - alpha) * below
        # NaN and infinity times 0 are not 0
        mixed[alpha[..., 0] == 0] = below
        if not np.isfinite(below):
            opaquely = alpha[..., 0] == 1
            mixed[opaquely] = colour[opaquely]
        over: Array = mixed.astype(dtype, copy=False)
        return over
    limits = np.iinfo(dtype)
    wide: Any = np.int32 if dtype.itemsize == 1 else np.int64
    below = wide(min(max(fill, limits.min), limits.max))
    weighted = colour.astype(wide) * (alpha if straight else wide(opaque))
    mixed = (weighted + (opaque - alpha.astype(wide)) * below + opaque // 2) // opaque
    composited: Array = np.clip(mixed, limits.min, limits.max).astype(dtype)
    return composited
