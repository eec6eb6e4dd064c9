"""PNG, JPEG, JPEG 2000, BMP, WebP and their like, read whole: the classic mode."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
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
from dask_slides.readers.image_decoders import ByPillow, Decode, Netpbm, Png, upright
from dask_slides.readers.jpeg2000_file import SIGNATURE, STREAM, open_jpeg2000
from dask_slides.readers.remote.byte_ranges import stream
from dask_slides.readers.remote.identity import Identity, check_identity, identify
from dask_slides.readers.tile_status import TileStatus, decode_error, fill_for
from dask_slides.runtime.fork_safety import fork_safe_lock

MAX_PIXELS = 2**28
"""Above this a raster file is refused: it would be held whole by every worker."""

_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "CMYK": "CMYK", "YCbCr": "RGB",
          "RGBA": "RGBA", "RGBX": "RGB", "LA": "LA", "PA": "RGBA", "I;16": "I;16", "F": "F",
          "I;16L": "I;16", "I;16B": "I;16", "I": "I"}  # fmt: skip
"""What each mode of Pillow is read as."""
_TRANSPARENT = {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"}
"""What a mode is read as if one of its colours is transparent."""
_REFUSED = {
    "AVIF": "is an AVIF of more than 8 bits",
    "BUFR": "is a BUFR file",
    "EPS": "is a drawing (EPS)",
    "FITS": "is a FITS file",
    "GRIB": "is a GRIB file",
    "HDF5": "is an HDF5 file",
    "IPTC": "is an IPTC file",
    "MCIDAS": "is a McIDAS file",
    "MPEG": "is a video (MPEG)",
    "PCD": "is a Photo CD, of which only a small image would be read",
    "SGI": "is an SGI image of 16 bits",
    "TIFF": "is a TIFF whose header is not known",
    "WMF": "is a drawing (WMF)",
}
"""What Pillow knows by name only, cuts to 8 bits, or starts other programs for."""


_READERS: dict[type[Decode], str] = {ByPillow: "Pillow", Netpbm: "NumPy"}
"""What decodes the file, as users see it; imagecodecs all others."""


@dataclass(frozen=True)
class ImageFileSource(Source):
    """A raster file; each process decodes it once and keeps the last one."""

    path: str
    identity: Identity
    shape: tuple[int, int]
    """Height and width of the upright image."""
    decode: Decode
    conversion: Conversion
    orientation: int = 1
    """How the image is turned when it is shown, a number of EXIF."""
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
            return _units(self).read_masked(region, self._part, self.channels, self.fill)
        except Exception as error:
            failure = decode_error(self.path, level, region, error)
        raise failure

    def _part(self, region: Region) -> Array:
        return _pixels(self)[region.slices()]

    @property
    def fill(self) -> Any:
        """What a masked pixel shows."""
        return self.dtype.type(self.conversion.fill)

    def holes(self, level: int, region: Region) -> tuple[MissingRegion, ...]:
        """Return `region` if the image cannot be decoded, and is masked."""
        if self.on_bad_tile == "raise":
            return ()
        for part in _units(self).undecoded(region):
            self.read(level, part)
        return _units(self).holes(region)


_lock = fork_safe_lock()
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
def _units(source: ImageFileSource) -> TileStatus:
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
        f"{path}: is not read ({reason_of(error)}); convert it to a TIFF first"
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
    except Exception as error:  # each format has kinds of its own
        if is_memory_error(error):
            raise memory_error(path, reason_of(error)) from None
        said = reason_of(error)
        if re.search("unsupported|not supported", said, re.IGNORECASE):
            raise _unsupported(path, error) from None
        raise SlideFormatError(f"{path}: cannot be opened ({said}); check the file") from None
    _check_size(path, kind, *size)
    stored = 3 if alpha is None else 4
    fill = fill_for(path, fill, np.dtype(decode.dtype), colour=decode.channels == stored)
    conversion = Conversion(alpha=alpha, fill=fill)  # type: ignore[arg-type]
    shape = size if orientation < 5 else size[::-1]
    properties = {"format": kind, "reader": _READERS.get(type(decode), "imagecodecs")}
    if images > 1:
        properties["images"] = str(images)
    return ImageFileSource(path, identity, shape, decode, conversion, orientation), properties


def _check_size(path: str, kind: str, height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise SlideFormatError(f"{path}: a {kind} without pixels; check the file")
    if height * width > MAX_PIXELS:
        raise SlideUnsupportedError(
            f"{path}: a {kind} of over {MAX_PIXELS:,} pixels would be read whole; "
            "convert it to a tiled TIFF first (libvips: vips tiffsave --tile)"
        )


Header = tuple[str, tuple[int, int], int, Decode, str | None, int]


def _header(path: str, file: Any) -> Header:
    """Return format, stored height and width, number of images, decoder, alpha, orientation."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    first = file.read(32)
    if first.startswith((SIGNATURE, STREAM)):
        jp2 = open_jpeg2000(path, file)
        return "JPEG2000", jp2.shape, jp2.images, jp2, jp2.alpha, 1
    if first.startswith(START):
        _check_jpeg(path, file)
    file.seek(0)
    try:
        image = _opened(file, first)
    except Image.DecompressionBombError:
        return "raster", (MAX_PIXELS, MAX_PIXELS), 1, ByPillow("L"), None, 1
    except UnidentifiedImageError:
        raise SlideFormatError(
            f"{path}: not an image that is known; give a TIFF, a slide, an OME-Zarr or a raster"
        ) from None
    with image:
        kind = str(image.format)
        shape = image.height, image.width
        refused = isinstance(image, ImageFile.StubImageFile) or kind in _REFUSED
        if kind == "AVIF":
            refused = _deep_avif(file)
        elif kind == "SGI":
            refused = first[3] == 2
        if refused:
            raise SlideUnsupportedError(
                f"{path}: {_REFUSED.get(kind, f'is a file of {kind}')}; convert it to a TIFF first"
            )
        _check_size(path, kind, *shape)
        tile: Any = image.tile[0] if image.tile else None
        decode: Decode
        if kind == "PNG":
            channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[first[25]]
            if first[25] < 4 and "transparency" in image.info:
                channels += 1
            decode = Png(channels, first[24])
            alpha = channels in (2, 4)
        elif kind == "PPM" and first[:2] in (b"P2", b"P3", b"P5", b"P6") and _deep(tile):
            count = 3 if image.mode == "RGB" else 1
            decode = Netpbm((*shape, count), tile.offset, first[:2] in (b"P2", b"P3"))
            alpha = False
        else:
            decode = _by_pillow(path, kind, image, first)
            alpha = decode.mode in ("LA", "RGBA")
        return (
            kind, shape, _images(image), decode, "straight" if alpha else None,
            _orientation(kind, image, file),
        )  # fmt: skip


def _check_jpeg(path: str, file: Any) -> None:
    """Refuse a JPEG of a kind that Pillow does not know, or takes for damaged."""
    file.seek(0)
    try:
        frame = jpeg_frame(file.read(2**20))
    except ValueError:
        return  # Pillow tells what is wrong with it
    kind = ""
    if frame.bits != 8:
        kind = f"of {frame.bits} bits"
    elif frame.samples not in (1, 3, 4):
        kind = f"of {frame.samples} components"
    elif frame.marker > 0xC8:
        kind = "of arithmetic codes"
    elif frame.marker > 0xC3:
        kind = "of several resolutions (hierarchical)"
    if kind:
        raise SlideUnsupportedError(f"{path}: is a JPEG {kind}; convert it to a TIFF first")


def _opened(file: Any, first: bytes) -> Any:
    """Return an image of Pillow; a PNG of which it does not take the texts, without them."""
    from PIL import Image

    try:
        return Image.open(file)
    except ValueError:
        if not first.startswith(b"\x89PNG"):
            raise
    head = bytearray(first[:8])
    at, kind = 8, b""
    while kind != b"IDAT":
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"eXIf"):
            file.seek(at)
            head += file.read(12 + length)
        at += 12 + length
    return Image.open(io.BytesIO(head + struct.pack(">I4s", length, kind)))


def _deep(tile: Any) -> bool:
    """Return whether Pillow spreads or cuts the samples of a PGM or PPM of more than 8 bits."""
    return tile.args == "I;16B" or (isinstance(tile.args, tuple) and tile.args[-1] > 255)


def _by_pillow(path: str, kind: str, image: Any, first: bytes) -> ByPillow:
    mode = image.mode
    if "transparency" in image.info:
        mode = _TRANSPARENT.get(mode, mode)
    if mode not in _MODES:
        raise SlideUnsupportedError(f"{path}: {kind} of mode {mode}; convert it to RGB or grey")
    # the alpha of a TGA without bits for it is 0 everywhere
    if kind == "TGA" and mode in ("RGBA", "LA") and not first[17] & 15:
        return ByPillow(mode[:-1], opaque=True)
    return ByPillow(_MODES[mode])


def _deep_avif(file: Any) -> bool:
    """Return whether an image of an AVIF has more than 8 bits, which Pillow cuts off."""
    file.seek(0)
    head = file.read(2**16)
    places = [found.end() for found in re.finditer(b"av1C", head)]
    return any(head[at + 2 : at + 3] and head[at + 2] & 64 for at in places)


def _images(image: Any) -> int:
    """Return how many images the file holds, layers not counted."""
    if image.format == "PSD":
        return 1
    try:
        return max(int(getattr(image, "n_frames", 1)), len(image.info.get("sizes", ())))
    except (OSError, EOFError, ValueError, SyntaxError):
        return 1  # the others are damaged


def _orientation(kind: str, image: Any, file: Any) -> int:
    """Return how the image is turned when it is shown, 1 to 8."""
    from PIL import Image

    try:
        # what Pillow has for PNG decodes the pixels first, as the tags may come after them
        tags = Image.Image.getexif(image) if kind == "PNG" else image.getexif()
        if kind == "PNG" and 274 not in tags:
            late = _late_exif(file)
            if late:
                tags = Image.Exif()
                tags.load(late)
        value = tags.get(274, 1)
    except SlideError:
        raise
    except Exception:  # tags that are damaged turn nothing, and hold no pixels
        return 1
    return value if value in range(1, 9) else 1


def _late_exif(file: Any) -> bytes:
    """Return the EXIF tags of a PNG that come after its pixels, empty if there are none."""
    file.seek(0, 2)
    file.seek(max(0, file.tell() - 2**16))
    tail: bytes = file.read()
    for found in re.finditer(b"eXIf", tail):
        at = found.start()
        end = found.end() + int.from_bytes(tail[at - 4 : at], "big")
        if tail[end : end + 4] == zlib.crc32(tail[at:end]).to_bytes(4, "big"):
            return tail[found.end() : end]
    return b""
