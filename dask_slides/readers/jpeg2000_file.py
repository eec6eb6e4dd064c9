"""Read JPEG 2000 files: the stored samples, and the meaning of the channels from the boxes.

The stream is decoded without its boxes, so that no library converts colours, reorders channels or
scales samples to 8 or 16 bits on its own.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dask_slides.core.types import Array
from dask_slides.errors import SlideFormatError, SlideUnsupportedError
from dask_slides.readers.codecs.colour import Conversion, rgb_of_cmyk

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
"""First bytes of a file with boxes."""
STREAM = b"\xff\x4f\xff\x51"
"""First bytes of a stream without boxes."""
_MAX_HEADER = 2**26
"""Largest header box that is read, in bytes; a colour profile has a few megabytes."""
_SPACES = {12: "cmyk", 16: "rgb", 17: "grey", 18: "sycc", 21: "rgb"}
"""Colour spaces by number. Profiles are not applied, so ROMM-RGB (21) is read as RGB."""
_PROFILES = {b"GRAY": "grey", b"RGB ": "rgb", b"CMYK": "cmyk"}
"""Colour spaces by the signature in ICC profiles."""
_COLOURS = {"cmyk": 4, "rgb": 3, "sycc": 3}
_CURE = "convert it to a TIFF first"

Alpha = Literal["straight", "premultiplied"]


@dataclass(frozen=True)
class Jpeg2000:
    """The decoder of the stream at `start` of a file to samples (h, w, channels), alpha last."""

    start: int = 0
    length: int = -1
    """Bytes of the stream; -1 means up to the end of the file."""
    images: int = 1
    """Streams in the file, of which the first is read."""
    shape: tuple[int, int] = (0, 0)
    components: int = 0
    bits: int = 8
    signed: bool = False
    space: str = ""
    """Colour space, empty if the file names none."""
    order: tuple[int, ...] = ()
    """Components in the order of their colours, alpha last."""
    alpha: Alpha | None = None

    @property
    def channels(self) -> int:
        """Samples per pixel, alpha included."""
        return self.components - (self.space == "cmyk")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        nbytes = 1 if self.bits <= 8 else 2 if self.bits <= 16 else 4
        return np.dtype(f"{'i' if self.signed else 'u'}{nbytes}")

    def __call__(self, file: Any) -> Array:
        """Decode the stream of an open file.

        RGB converted from luma and chroma (sYCC) may differ by 1 from that of other readers,
        which round differently.
        """
        import imagecodecs

        file.seek(self.start)
        pixels: Array = imagecodecs.jpeg2k_decode(file.read(self.length))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if pixels.shape != (*self.shape, self.components):
            raise ValueError(f"the stream is of shape {pixels.shape}")
        if self.order != tuple(range(self.components)):
            pixels = pixels[..., list(self.order)]
        if not self.signed and self.bits < 8:
            pixels = _scaled(pixels, self.bits, np.dtype(np.uint8))
        elif self.alpha is not None and self.bits not in (8, 16, 32):
            alpha = _scaled(pixels[..., -1:], self.bits, self.dtype)
            pixels = np.concatenate((pixels[..., :-1], alpha), axis=-1)
        colours = _COLOURS.get(self.space, 0)
        if self.space == "cmyk":
            pixels = np.concatenate((rgb_of_cmyk(pixels[..., :4]), pixels[..., colours:]), axis=-1)
        elif self.space == "sycc":
            rgb = Conversion(ycbcr=True)(pixels[..., :3])
            pixels = np.concatenate((rgb, pixels[..., colours:]), axis=-1)
        return pixels.astype(self.dtype, copy=False)


def _scaled(samples: Array, bits: int, dtype: np.dtype[Any]) -> Array:
    """Return samples of 0 to 2 ** `bits` - 1 scaled to the whole range of `dtype`."""
    top, full = np.uint64(2**bits - 1), np.uint64(np.iinfo(dtype).max)
    scaled: Array = (samples.astype(np.uint64) * full + top // np.uint64(2)) // top
    return scaled.astype(dtype)


def open_jpeg2000(path: str, file: Any) -> Jpeg2000:
    """Read the boxes and the size segment of an open file."""
    file.seek(0)
    found = Jpeg2000()
    header: list[tuple[bytes, bytes]] = []
    if file.read(4) != STREAM:
        streams = []
        for kind, start, length in _boxes(path, file):
            if kind == b"jp2c":
                streams.append((start, length))
            elif kind == b"jp2h" and not header:
                if not 0 <= length <= _MAX_HEADER:
                    raise _damaged(path, "its header box has no end")
                file.seek(start)
                inside = io.BytesIO(file.read(length))
                for name, at, size in _boxes(path, inside):
                    inside.seek(at)
                    header.append((name, inside.read(size)))
        if not streams:
            raise _damaged(path, "it holds no stream")
        found = replace(found, start=streams[0][0], length=streams[0][1], images=len(streams))
    file.seek(found.start)
    try:
        return _with_header(path, _with_size(path, file.read(2**16), found), header)
    except (struct.error, IndexError):
        raise _damaged(path, "its header is cut off") from None


def _damaged(path: str, reason: str) -> SlideFormatError:
    return SlideFormatError(f"{path}: is not a whole JPEG 2000 file ({reason}); fetch it again")


def _boxes(path: str, file: Any) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and length of the contents of each box; -1 means up to the end."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        length, begin = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, begin = int.from_bytes(head[8:16], "big"), 16
        if length == 0:
            yield head[4:8], at + begin, -1
            return
        if length < begin:
            # bytes behind the last box do not belong to the image
            return
        yield head[4:8], at + begin, length - begin
        at += length


def _with_size(path: str, head: bytes, found: Jpeg2000) -> Jpeg2000:
    """Add shape, components and bits from the size segment of the stream."""
    if head[:4] != STREAM:
        raise _damaged(path, "its stream has no beginning")
    right, bottom, left, top = struct.unpack(">4I", head[8:24])
    (count,) = struct.unpack(">H", head[40:42])
    parts = [struct.unpack(">3B", head[42 + 3 * k : 45 + 3 * k]) for k in range(count)]
    if not parts or right <= left or bottom <= top:
        raise _damaged(path, "it declares no pixels")
    depths, steps = {bits for bits, _, _ in parts}, {(across, down) for _, across, down in parts}
    if len(steps) > 1 or steps != {(1, 1)}:
        raise SlideUnsupportedError(f"{path}: JPEG 2000 with components of several sizes; {_CURE}")
    if len(depths) > 1:
        each = ", ".join(str((bits & 127) + 1) for bits, _, _ in parts)
        raise SlideUnsupportedError(f"{path}: JPEG 2000 with components of {each} bits; {_CURE}")
    bits = depths.pop()
    return replace(
        found,
        shape=(bottom - top, right - left),
        components=count,
        bits=(bits & 127) + 1,
        signed=bits > 127,
        order=tuple(range(count)),
    )


def _with_header(path: str, found: Jpeg2000, header: list[tuple[bytes, bytes]]) -> Jpeg2000:
    """Add colour space and channel order from the header boxes; refuse unsupported ones."""
    boxes = dict(reversed(header))  # the first box of each name counts
    spaces = [_space(content) for name, content in header if name == b"colr"]
    space = next((one for one in spaces if one in _SPACES.values()), "")
    # OpenJPEG writes 0 for an unknown colour space; with one bit it means that 0 is white
    if spaces[:1] == ["number 0"] and found.bits > 1:
        spaces = []
    if not space and any(spaces):
        raise SlideUnsupportedError(f"{path}: JPEG 2000 in colour space {spaces[0]}; {_CURE}")
    if b"pclr" in boxes:
        raise SlideUnsupportedError(f"{path}: JPEG 2000 with a palette; {_CURE}")
    found = _with_order(path, found, boxes.get(b"cdef", b""))
    if found.components - (found.alpha is not None) < _COLOURS.get(space, 0):
        space = ""  # it has fewer channels than its colour space
    bits, converted = found.bits, space in ("sycc", "cmyk")
    if bits > 32:
        raise SlideUnsupportedError(f"{path}: JPEG 2000 of {bits} bits per sample; {_CURE}")
    if found.signed and (converted or found.alpha is not None):
        raise SlideUnsupportedError(f"{path}: JPEG 2000 of signed colours; {_CURE}")
    if converted and bits not in ((8,) if space == "sycc" else (8, 16)):
        raise SlideUnsupportedError(f"{path}: JPEG 2000 of {bits} bits in {space}; {_CURE}")
    return replace(found, space=space)


def _space(box: bytes) -> str:
    """Return the colour space of a box, empty if the box does not name one."""
    if box[0] == 1:
        (number,) = struct.unpack(">I", box[3:7])
        return _SPACES.get(number, f"number {number}")
    if box[0] in (2, 3):
        kind = box[3 + 16 : 3 + 20]
        return _PROFILES.get(kind, kind.decode("latin-1").strip())
    return ""


def _with_order(path: str, found: Jpeg2000, box: bytes) -> Jpeg2000:
    """Put the components in the order of their colours, alpha and others last."""
    count = int.from_bytes(box[:2], "big")
    colours: dict[int, int] = {}
    alpha: dict[int, Alpha] = {}
    for at in range(2, 2 + 6 * count, 6):
        channel, kind, of = struct.unpack(">3H", box[at : at + 6])
        if channel not in found.order:
            raise SlideUnsupportedError(
                f"{path}: JPEG 2000 that defines channels it does not hold; {_CURE}"
            )
        if kind == 0 and 0 < of < 65535:
            colours[channel] = of
        elif kind in (1, 2) and of == 0:
            alpha[channel] = "straight" if kind == 1 else "premultiplied"
        elif kind in (1, 2):
            raise SlideUnsupportedError(f"{path}: JPEG 2000 with alpha of one colour; {_CURE}")
    if len(alpha) > 1:
        raise SlideUnsupportedError(f"{path}: JPEG 2000 with two alpha channels; {_CURE}")
    last = len(found.order) + 1
    shown = [channel for channel in found.order if channel not in alpha]
    order = (*sorted(shown, key=lambda channel: colours.get(channel, last)), *alpha)
    return replace(found, order=order, alpha=next(iter(alpha.values()), None))
