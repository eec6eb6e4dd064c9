"""Decoders of whole image files: Pillow, and what reads the formats that it cuts to 8 bits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dask_slides.core.types import Array
from dask_slides.readers.codecs.colour import rgb_of_cmyk

_SAMPLES = {"L": (1, "uint8"), "RGB": (3, "uint8"), "RGBA": (4, "uint8"), "LA": (2, "uint8"),
            "I;16": (1, "uint16"), "I": (1, "int32"), "F": (1, "float32"),
            "CMYK": (3, "uint8")}  # fmt: skip
"""Channels and dtype of the modes read."""


class Decode(Protocol):
    """Makes samples (h, w, stored channels) of an open file; frozen and picklable."""

    @property
    def channels(self) -> int:
        """Samples of a pixel, alpha included."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        ...

    def __call__(self, file: Any) -> Array:
        """Decode an open file."""
        ...


@dataclass(frozen=True)
class ByPillow:
    """What Pillow reads as it is stored."""

    mode: str
    """Mode of Pillow that it is converted to."""
    opaque: bool = False
    """Whether the fourth sample is no alpha."""

    @property
    def channels(self) -> int:
        """As `Decode`."""
        return _SAMPLES[self.mode][0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """As `Decode`."""
        return np.dtype(_SAMPLES[self.mode][1])

    def __call__(self, file: Any) -> Array:
        """As `Decode`."""
        from PIL import Image

        with Image.open(_Whole(file)) as image:
            image.load()  # an icon may turn out to be of another mode
            if self.opaque:
                return np.asarray(image)[..., : self.channels]
            pixels = np.asarray(image if image.mode == self.mode else image.convert(self.mode))
        if self.mode == "CMYK":
            # every JPEG file stores the opposite of inks, as Photoshop does, and Pillow knows it
            pixels = rgb_of_cmyk(pixels)
        return pixels


class _Whole:
    """An open file that ends in an error, also where Pillow was told to make up what is missing."""

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
class Png:
    """A PNG; Pillow cuts colour of 16 bits to 8, and its transparent colours take work."""

    channels: int
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """As `Decode`."""
        return np.dtype(np.uint16 if self.bits == 16 else np.uint8)

    def __call__(self, file: Any) -> Array:
        """As `Decode`."""
        import imagecodecs

        pixels: Array = imagecodecs.png_decode(file.read())
        return pixels


@dataclass(frozen=True)
class Netpbm:
    """A PGM or PPM of more than 8 bits, which Pillow spreads over 16 or cuts to 8."""

    shape: tuple[int, int, int]
    start: int
    plain: bool
    """Whether the samples are written as text."""

    @property
    def channels(self) -> int:
        """As `Decode`."""
        return self.shape[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """As `Decode`."""
        return np.dtype(np.uint16)

    def __call__(self, file: Any) -> Array:
        """As `Decode`."""
        file.seek(self.start)
        count = int(np.prod(self.shape))
        if self.plain:
            text = re.sub(rb"#[^\r\n]*", b"", file.read())
            return np.array(text.split()[:count], np.uint16).reshape(self.shape)
        stored = np.frombuffer(file.read(2 * count), ">u2", count)
        return stored.astype(np.uint16).reshape(self.shape)


def upright(pixels: Array, orientation: int) -> Array:
    """Turn pixels (h, w, c) as an orientation of EXIF, 1 to 8, says that they are shown."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
