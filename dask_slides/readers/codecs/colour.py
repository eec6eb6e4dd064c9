"""Convert stored samples to grey or RGB: palettes, inverted grey, alpha, YCbCr."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dask_slides.core.types import Array


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
    alpha: Literal["straight", "premultiplied"] | None = None
    """Whether the last channel is alpha, to be composited on `fill`."""
    fill: float = 255

    @property
    def plain(self) -> bool:
        """Whether the stored samples are the pixels, so that stored samples can be averaged."""
        return self == Conversion(fill=self.fill)

    @property
    def mixes(self) -> bool:
        """Whether no stored number is converted to the same number in all channels."""
        return self.palette is not None or self.ycbcr or self.scale is not None

    def channels(self, stored: int) -> int:
        """Return the number of channels after conversion from `stored` channels."""
        if self.palette is not None:
            return 3
        return stored - 1 if self.alpha else stored

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
            stored = _rgb_of_ycbcr(stored)
        if self.alpha is not None:
            stored = _composited(stored, self.fill, straight=self.alpha == "straight")
        return stored


def _rgb_of_ycbcr(stored: Array) -> Array:
    """Convert luma and chroma of 8 bits, as ITU-R BT.601 and JFIF define them."""
    luma, blue, red = (stored[..., i].astype(np.float32) for i in range(3))
    blue, red = blue - 128, red - 128
    rgb = np.stack(
        (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue),
        axis=-1,
    )
    result: Array = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return result


def _composited(stored: Array, fill: float, *, straight: bool) -> Array:
    """Return the colour of 8 or 16 bits composited over `fill`."""
    dtype = stored.dtype
    top = int(np.iinfo(dtype).max)
    wide: Any = np.int32 if dtype.itemsize == 1 else np.int64
    colour, alpha = stored[..., :-1].astype(wide), stored[..., -1:].astype(wide)
    weighted = colour * (alpha if straight else top)
    mixed = (weighted + (top - alpha) * int(fill) + top // 2) // top
    composited: Array = np.minimum(mixed, top).astype(dtype)
    return composited
