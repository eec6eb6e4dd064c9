"""Decoders of whole image files: Pillow, and imagecodecs for PNG, which Pillow cuts to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dask_slides.core.types import Array
from dask_slides.readers.codecs.colour import rgb_of_cmyk

_SAMPLES = {"L": (1, "uint8"), "RGB": (3, "uint8"), "RGBA": (4, "uint8"), "LA": (2, "uint8"),
            "F": (1, "float32"), "CMYK": (3, "uint8")}  # fmt: skip
"""Channels and dtype of each Pillow mode that is read."""


class Decode(Protocol):
    """A frozen, picklable decoder of an open file to samples (h, w, channels)."""

    @property
    def channels(self) -> int:
        """Samples per pixel, alpha included."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        ...

    def __call__(self, file: Any) -> Array:
        """Decode an open file."""
        ...


@dataclass(frozen=True)
class PillowDecode:
    """Decode a file with Pillow."""

    mode: str
    """The Pillow mode that the image is converted to."""

    @property
    def channels(self) -> int:
        """See `Decode`."""
        return _SAMPLES[self.mode][0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """See `Decode`."""
        return np.dtype(_SAMPLES[self.mode][1])

    def __call__(self, file: Any) -> Array:
        """See `Decode`."""
        from PIL import Image

        with Image.open(_WholeFile(file)) as image:
            pixels = np.asarray(image if image.mode == self.mode else image.convert(self.mode))
        if self.mode == "CMYK":
            # Pillow assumes inverted inks, as Photoshop stores them, and inverts them back
            pixels = rgb_of_cmyk(pixels)
        return pixels


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
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """See `Decode`."""
        return np.dtype(np.uint16 if self.bits == 16 else np.uint8)

    def __call__(self, file: Any) -> Array:
        """See `Decode`."""
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
