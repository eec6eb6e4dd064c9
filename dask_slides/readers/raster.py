"""PNG, JPEG, BMP, WebP and their like, read whole: the classic mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_slides.errors import SlideFormatError, SlideUnsupportedError
from dask_slides.forks import lock_of_one_process
from dask_slides.geometry import Region
from dask_slides.readers.bad_tiles import Hole
from dask_slides.readers.pixels import Conversion
from dask_slides.readers.protocol import Identity, Level, check_identity, decoded, identify
from dask_slides.readers.ranges import stream
from dask_slides.readers.units import Units, fill_for, shown

Array = NDArray[Any]

MAX_PIXELS = 2**28
"""Above this a raster file is refused: it would be held whole by every worker."""

_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "CMYK": "RGB", "YCbCr": "RGB",
          "RGBA": "RGBA", "RGBX": "RGB", "LA": "LA", "PA": "RGBA", "I;16": "I;16", "F": "F",
          "I;16L": "I;16", "I;16B": "I;16", "I": "I"}  # fmt: skip
"""What each mode of Pillow is read as."""
_SAMPLES = {"L": (1, "uint8"), "RGB": (3, "uint8"), "RGBA": (4, "uint8"), "LA": (2, "uint8"),
            "I;16": (1, "uint16"), "I": (1, "int32"), "F": (1, "float32")}  # fmt: skip
"""Channels and dtype of the modes read."""


@dataclass(frozen=True)
class RasterSource:
    """A raster file; each process decodes it once and keeps the last one."""

    path: str
    identity: Identity
    shape: tuple[int, int]
    mode: str
    conversion: Conversion
    on_bad_tile: str = "raise"

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level, one tile: the whole image."""
        return (Level(self.shape, (1.0, 1.0), self.shape),)

    @property
    def channels(self) -> int:
        """Grey is 1, colour 3."""
        return self.conversion.channels(_SAMPLES[self.mode][0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        return np.dtype(_SAMPLES[self.mode][1])

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region`."""
        assert level == 0
        check_identity(self.path, self.identity)
        if self.on_bad_tile == "raise":
            return decoded(self.path, level, region, lambda: self._part(region))
        whole = partial(_units(self).masked, region, self._part, self.channels, self.fill)
        return decoded(self.path, level, region, whole)

    def _part(self, region: Region) -> Array:
        return _pixels(self)[region.slices()]

    @property
    def fill(self) -> Any:
        """What a masked pixel shows."""
        return shown(self.conversion.fill, self.dtype)

    def holes(self, level: int, region: Region) -> tuple[Hole, ...]:
        """Return `region` if the image cannot be decoded, and is masked."""
        if self.on_bad_tile == "raise":
            return ()
        for part in _units(self).unknown(region):
            self.read(level, part)
        return _units(self).holes(region)


_lock = lock_of_one_process()
_inside: list[warnings.catch_warnings[None]] = []
"""One for each thread that is in `unwarned`; the first one puts the filters back at the end."""


@contextmanager
def unwarned() -> Iterator[None]:
    """Ignore what Pillow warns of: its limit of pixels, and tags that hold no pixels.

    Filters are those of all threads of a process, and each that saves them could put back those of
    another one. So the first thread saves them, the last one puts them back, and the warnings of
    other packages are shown meanwhile.
    """
    with _lock:
        _inside.append(warnings.catch_warnings())
        if len(_inside) == 1:
            _inside[0].__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    finally:
        with _lock:
            last = _inside.pop()
            if not _inside:
                last.__exit__(None, None, None)


@lru_cache(maxsize=16)
def _units(source: RasterSource) -> Units:
    return Units(0, source.shape, source.shape)


@lru_cache(maxsize=1)
def _pixels(source: RasterSource) -> Array:
    from PIL import Image

    with unwarned(), stream(source.path) as file, Image.open(file) as image:
        wanted = image if image.mode == source.mode else image.convert(source.mode)
        pixels = np.asarray(wanted)
    pixels = source.conversion(pixels.reshape(*source.shape, -1))
    pixels.flags.writeable = False  # it is shared by every task of the process
    return pixels


def open_raster(path: str, fill: float | None) -> tuple[RasterSource, dict[str, str]]:
    """Read the header of the file at `path`."""
    from PIL import Image, UnidentifiedImageError

    identity = identify(path)
    try:
        with unwarned(), stream(path) as file, Image.open(file) as image:
            width, height = image.size
            mode, kind = image.mode, str(image.format)
            if mode == "P" and "transparency" in image.info:
                mode = "PA"
    except Image.DecompressionBombError:
        width = height = MAX_PIXELS
        mode = kind = "image"
    except UnidentifiedImageError:
        raise SlideFormatError(
            f"{path}: not an image that is known; give a TIFF, a slide, an OME-Zarr or a raster"
        ) from None
    except (OSError, ValueError, SyntaxError) as error:
        raise SlideFormatError(f"{path}: cannot be opened ({error}); check the file") from None
    if width * height > MAX_PIXELS:
        raise SlideUnsupportedError(
            f"{path}: a {kind} of over {MAX_PIXELS:,} pixels would be read whole; "
            "convert it to a tiled TIFF first (libvips: vips tiffsave --tile)"
        )
    if mode not in _MODES:
        raise SlideUnsupportedError(f"{path}: {kind} of mode {mode}; convert it to RGB or grey")
    mode = _MODES[mode]
    alpha = "straight" if mode in ("RGBA", "LA") else None
    samples, dtype = _SAMPLES[mode]
    fill = fill_for(path, fill, np.dtype(dtype), colour=samples >= 3)
    conversion = Conversion(alpha=alpha, fill=fill)  # type: ignore[arg-type]
    return RasterSource(path, identity, (height, width), mode, conversion), {"format": kind}
