"""PNG, JPEG, JPEG 2000, BMP, WebP, GIF and PPM files, which are decoded whole."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dask_slides.core.bad_tiles import MissingRegion
from dask_slides.core.geometry import Region
from dask_slides.core.source import Level, Source
from dask_slides.core.types import Array
from dask_slides.errors import (
    SlideError,
    SlideFormatError,
    SlideUnsupportedError,
    is_memory_error,
    memory_error,
    reason_of,
)
from dask_slides.readers.codecs.colour import Conversion
from dask_slides.readers.codecs.headers import START, jpeg_frame
from dask_slides.readers.image_decoders import Decode, PillowDecode, PngDecode, upright
from dask_slides.readers.jpeg2000_file import SIGNATURE, STREAM, open_jpeg2000
from dask_slides.readers.remote.byte_ranges import stream
from dask_slides.readers.remote.identity import Identity, check_identity, identify
from dask_slides.readers.tile_status import TileStatus, decode_error, fill_for
from dask_slides.runtime.fork_safety import fork_safe_lock

MAX_PIXELS = 2**28
"""Most pixels of a raster file that is read: every worker holds the whole image in memory."""

_FORMATS = frozenset({"BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "WEBP"})
"""Formats that are read with Pillow. It cuts others to 8 bits, or reads only their preview."""
_NAMES = {"TIFF": "a TIFF with this header", "MPEG": "video (MPEG)"}
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "CMYK": "CMYK", "YCbCr": "RGB",
          "RGBA": "RGBA", "LA": "LA", "PA": "RGBA", "F": "F"}  # fmt: skip
"""Pillow mode that images of each mode are converted to."""
_TRANSPARENT = {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"}
"""The same for images with a transparent colour."""


@dataclass(frozen=True)
class ImageFileSource(Source):
    """A raster file. Each process decodes it once and caches the file that it decoded last."""

    path: str
    identity: Identity
    shape: tuple[int, int]
    """Height and width of the upright image."""
    decode: Decode
    conversion: Conversion
    orientation: int = 1
    """EXIF orientation of the stored image, 1 to 8."""
    on_bad_tile: str = "raise"

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level of one tile, the whole image."""
        return (Level(self.shape, (1.0, 1.0), self.shape),)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.conversion.channels(self.decode.channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        return self.decode.dtype

    def read(self, level: int, region: Region) -> Array:
        """Return the pixels of `region`."""
        assert level == 0
        check_identity(self.path, self.identity)
        try:
            if self.on_bad_tile == "raise":
                return self._part(region)
            return _tile_status(self).read_masked(region, self._part, self.channels, self.fill)
        except Exception as error:
            failure = decode_error(self.path, level, region, error)
        raise failure

    def _part(self, region: Region) -> Array:
        return _pixels(self)[region.slices()]

    @property
    def fill(self) -> Any:
        """The value that masked pixels show."""
        return self.dtype.type(self.conversion.fill)

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return `region` if the image is corrupt and corrupt tiles are masked."""
        if self.on_bad_tile == "raise":
            return ()
        for part in _tile_status(self).undecoded(region):
            self.read(level, part)
        return _tile_status(self).holes(region)


_lock = fork_safe_lock()
_inside: list[warnings.catch_warnings[None]] = []
"""One for each thread in `unwarned`; the first of them restores the filters."""


@contextmanager
def unwarned() -> Iterator[None]:
    """Ignore the warnings of Pillow about its limit of pixels and about damaged tags.

    All threads of a process share the warning filters, so the first thread saves them and the
    last one restores them. Warnings of other packages are still shown.
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
def _tile_status(source: ImageFileSource) -> TileStatus:
    return TileStatus(0, source.shape, source.shape)


@lru_cache(maxsize=1)
def _pixels(source: ImageFileSource) -> Array:
    height, width = source.shape
    stored = (height, width) if source.orientation < 5 else (width, height)
    with unwarned(), stream(source.path) as file:
        try:
            pixels = source.decode(file)
        except NotImplementedError as error:
            raise _unsupported(source.path, error) from None
    pixels = pixels.reshape(*stored, -1)
    if (pixels.shape[-1], pixels.dtype) != (source.decode.channels, source.decode.dtype):
        raise ValueError(f"it holds {pixels.shape[-1]} samples of {pixels.dtype}")
    pixels = upright(source.conversion(pixels), source.orientation)
    pixels.flags.writeable = False  # it is shared by every task of the process
    return pixels


def _unsupported(path: str, error: Exception) -> SlideUnsupportedError:
    return SlideUnsupportedError(
        f"{path}: cannot be read ({reason_of(error)}); convert it to a TIFF first"
    )


def open_raster(path: str, fill: float | None) -> tuple[ImageFileSource, dict[str, str]]:
    """Read the header of the file at `path`."""
    identity = identify(path)
    try:
        with unwarned(), stream(path) as file:
            kind, size, images, decode, alpha, orientation = _header(path, file)
    except SlideError:
        raise
    except NotImplementedError as error:
        raise _unsupported(path, error) from None
    except Exception as error:  # each format raises errors of its own
        if is_memory_error(error):
            raise memory_error(path, reason_of(error)) from None
        reason = reason_of(error)
        if re.search("unsupported|not supported", reason, re.IGNORECASE):
            raise _unsupported(path, error) from None
        raise SlideFormatError(f"{path}: cannot be opened ({reason}); check the file") from None
    _check_size(path, kind, *size)
    stored = 3 if alpha is None else 4
    fill = fill_for(path, fill, np.dtype(decode.dtype), colour=decode.channels == stored)
    conversion = Conversion(alpha=alpha, fill=fill)  # type: ignore[arg-type]
    shape = size if orientation < 5 else size[::-1]
    properties = {
        "format": kind,
        "reader": "Pillow" if isinstance(decode, PillowDecode) else "imagecodecs",
    }
    if images > 1:
        properties["images"] = str(images)
    return ImageFileSource(path, identity, shape, decode, conversion, orientation), properties


def _check_size(path: str, kind: str, height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise SlideFormatError(f"{path}: is a {kind} without pixels; check the file")
    if height * width > MAX_PIXELS:
        raise SlideUnsupportedError(
            f"{path}: is a {kind} of over {MAX_PIXELS:,} pixels, which would be read whole; "
            "convert it to a tiled TIFF first (libvips: vips tiffsave --tile)"
        )


Header = tuple[str, tuple[int, int], int, Decode, str | None, int]


def _header(path: str, file: Any) -> Header:
    """Return format, stored height and width, number of images, decoder, alpha, orientation."""
    from PIL import Image, UnidentifiedImageError

    first = file.read(32)
    if first.startswith((SIGNATURE, STREAM)):
        jp2 = open_jpeg2000(path, file)
        return "JPEG2000", jp2.shape, jp2.images, jp2, jp2.alpha, 1
    if first.startswith(START):
        _check_jpeg(path, file)
    file.seek(0)
    try:
        image = Image.open(file)
    except Image.DecompressionBombError:
        return "raster", (MAX_PIXELS, MAX_PIXELS), 1, PillowDecode("L"), None, 1
    except UnidentifiedImageError:
        raise SlideFormatError(
            f"{path}: not an image that is known; give a TIFF, a slide, an OME-Zarr or a raster"
        ) from None
    with image:
        kind = str(image.format)
        shape = image.height, image.width
        tile: Any = image.tile[0] if image.tile else None
        deep = kind == "PPM" and _is_deep(tile)
        if kind not in _FORMATS or deep:
            name = "PGM or PPM of more than 8 bits" if deep else _NAMES.get(kind, kind)
            raise SlideUnsupportedError(
                f"{path}: {name} is not read; convert it to a TIFF or PNG first"
            )
        _check_size(path, kind, *shape)
        decode: Decode
        if kind == "PNG":
            channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[first[25]]
            if first[25] < 4 and "transparency" in image.info:
                channels += 1
            decode = PngDecode(channels, first[24])
            alpha = channels in (2, 4)
        else:
            decode = _pillow_decode(path, kind, image)
            alpha = decode.mode in ("LA", "RGBA")
        return (
            kind, shape, _images(image), decode, "straight" if alpha else None,
            _orientation(kind, image),
        )  # fmt: skip


def _check_jpeg(path: str, file: Any) -> None:
    """Refuse kinds of JPEG that Pillow does not support or reports as damaged."""
    file.seek(0)
    try:
        frame = jpeg_frame(file.read(2**20))
    except ValueError:
        return  # Pillow reports what is wrong with it
    kind = ""
    if frame.bits != 8:
        kind = f"of {frame.bits} bits"
    elif frame.samples not in (1, 3, 4):
        kind = f"of {frame.samples} components"
    elif frame.marker > 0xC8:
        kind = "with arithmetic coding"
    elif frame.marker > 0xC3:
        kind = "of several resolutions (hierarchical)"
    if kind:
        raise SlideUnsupportedError(f"{path}: is a JPEG {kind}; convert it to a TIFF first")


def _is_deep(tile: Any) -> bool:
    """Return whether a PGM or PPM has more than 8 bits, which Pillow rescales or cuts off."""
    return tile.args == "I;16B" or (isinstance(tile.args, tuple) and tile.args[-1] > 255)


def _pillow_decode(path: str, kind: str, image: Any) -> PillowDecode:
    mode = image.mode
    if "transparency" in image.info:
        mode = _TRANSPARENT.get(mode, mode)
    if mode not in _MODES:
        raise SlideUnsupportedError(f"{path}: {kind} of mode {mode}; convert it to RGB or grey")
    return PillowDecode(_MODES[mode])


def _images(image: Any) -> int:
    """Return the number of images in the file."""
    try:
        return int(getattr(image, "n_frames", 1))
    except (OSError, EOFError, ValueError, SyntaxError):
        return 1  # the others are damaged


def _orientation(kind: str, image: Any) -> int:
    """Return the EXIF orientation, 1 to 8."""
    from PIL import Image

    try:
        # tags of a PNG may follow its pixels, so its own getexif() would decode them first
        tags = Image.Image.getexif(image) if kind == "PNG" else image.getexif()
        value = tags.get(274, 1)
    except SlideError:
        raise
    except Exception:  # damaged tags
        return 1
    return value if value in range(1, 9) else 1
