"""Decoders of whole image files: Pillow, and imagecodecs for PNG, which Pillow cuts to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_slides.core.types import Array


@dataclass(frozen=True)
class PillowDecode:
    """Decode a file with Pillow."""

    mode: str
    """The Pillow mode that the image is converted to: L, RGB or RGBA."""

    @property
    def channels(self) -> int:
        """Samples per pixel, alpha included."""
        return len(self.mode)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        return np.dtype(np.uint8)

    def __call__(self, file: Any) -> Array:
        """Return the samples (h, w, channels) of an open file."""
        from PIL import Image

        with Image.open(_WholeFile(file)) as image:
            return np.asarray(image if image.mode == self.mode else image.convert(self.mode))


class _WholeFile:
    """An open file that raises at its end, even if Pillow is set to read truncated files."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        from PIL import ImageFile

        data: bytes = self._file.read(size)
        if size and not data and ImageFile.LOAD_TRUNCATED_IMAGES:
            raise EOFError("the file ends early")
        return data


@dataclass(frozen=True)
class PngDecode:
    """Decode a PNG with imagecodecs; its transparent colour becomes alpha."""

    channels: int
    """Samples per pixel, alpha included."""
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        return np.dtype(np.uint16 if self.bits == 16 else np.uint8)

    def __call__(self, file: Any) -> Array:
        """Return the samples (h, w, channels) of an open file."""
        import imagecodecs

        pixels: Array = imagecodecs.png_decode(file.read())
        return pixels


def upright(pixels: Array, orientation: int) -> Array:
    """Return stored pixels (h, w, c) upright; `orientation` is the EXIF value, 1 to 8."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
