"""Read JPEG 2000 files: the stored samples of grey, RGB and other channels, and straight alpha.

The stream is decoded without its boxes, so that no library converts colours, reorders channels or
scales samples to 8 or 16 bits on its own. Files whose boxes ask for that are refused.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dask_slides.core.types import Array
from dask_slides.errors import SlideFormatError, SlideUnsupportedError

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
"""First bytes of a file with boxes."""
STREAM = b"\xff\x4f\xff\x51"
"""First bytes of a stream without boxes."""
_MAX_HEADER = 2**26
"""Largest header box that is read, in bytes; a colour profile has a few megabytes."""
_SPACES = {0: "unknown", 16: "RGB", 17: "grey"}
"""Colour spaces that are read, by number; OpenJPEG writes 0 for an unknown one."""
_PROFILES = (b"GRAY", b"RGB ")
"""The signature in ICC profiles of these spaces. Profiles are not applied."""

Boxes = list[tuple[bytes, bytes]]
"""Names and contents of the boxes in a header."""


@dataclass(frozen=True)
class Jpeg2000:
    """The decoder of the stream at `start` of a file to samples (h, w, channels), alpha last."""

    start: int
    length: int
    """Bytes of the stream; -1 means up to the end of the file."""
    shape: tuple[int, int]
    channels: int
    """Samples per pixel, alpha included."""
    bits: int
    signed: bool
    alpha: Literal["straight"] | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        nbytes = 1 if self.bits <= 8 else 2 if self.bits <= 16 else 4
        return np.dtype(f"{'i' if self.signed else 'u'}{nbytes}")

    def __call__(self, file: Any) -> Array:
        """Decode the stream of an open file."""
        import imagecodecs

        file.seek(self.start)
        pixels: Array = imagecodecs.jpeg2k_decode(file.read(self.length))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if pixels.shape != (*self.shape, self.channels):
            raise ValueError(f"the stream is of shape {pixels.shape}")
        return pixels.astype(self.dtype, copy=False)


def open_jpeg2000(path: str, file: Any) -> Jpeg2000:
    """Read the boxes and the size segment of an open file; refuse kinds that are not read."""
    file.seek(0)
    start, length, header = 0, -1, Boxes()
    try:
        if file.read(4) != STREAM:
            start, length, header = _stream_in_boxes(path, file)
        file.seek(start)
        shape, channels, bits, signed = _size(path, file.read(2**16))
        _check_spaces(path, header)
        alpha = _alpha(path, channels, dict(reversed(header)).get(b"cdef", b""))
    except (struct.error, IndexError):
        raise _damaged(path, "its header is cut off") from None
    if not 8 <= bits <= 24 or (alpha and (signed or bits not in (8, 16))):
        kind = f"{'' if not signed else 'signed '}{bits} bits{' with alpha' * bool(alpha)}"
        raise _unsupported(path, f"of {kind}")
    return Jpeg2000(start, length, shape, channels, bits, signed, alpha)


def _damaged(path: str, reason: str) -> SlideFormatError:
    return SlideFormatError(f"{path}: is not a whole JPEG 2000 file ({reason}); fetch it again")


def _unsupported(path: str, kind: str) -> SlideUnsupportedError:
    return SlideUnsupportedError(
        f"{path}: JPEG 2000 {kind} is not read; convert it to a TIFF first (GDAL: gdal_translate)"
    )


def _stream_in_boxes(path: str, file: Any) -> tuple[int, int, Boxes]:
    """Return start and length of the stream, and the contents of the header box."""
    boxes = list(_boxes(file))
    streams = [(start, length) for kind, start, length in boxes if kind == b"jp2c"]
    if not streams:
        raise _damaged(path, "it holds no stream")
    if len(streams) > 1:
        raise _unsupported(path, f"of {len(streams)} images")
    header = Boxes()
    for _, start, length in [one for one in boxes if one[0] == b"jp2h"][:1]:
        if not 0 <= length <= _MAX_HEADER:
            raise _damaged(path, "its header box has no end")
        file.seek(start)
        inside = file.read(length)
        for name, at, size in _boxes(io.BytesIO(inside)):
            header.append((name, inside[at:] if size < 0 else inside[at : at + size]))
    return (*streams[0], header)


def _boxes(file: Any) -> Iterator[tuple[bytes, int, int]]:
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


def _size(path: str, head: bytes) -> tuple[tuple[int, int], int, int, bool]:
    """Return shape, components, bits and sign from the size segment of the stream."""
    if head[:4] != STREAM:
        raise _damaged(path, "its stream has no beginning")
    right, bottom, left, top = struct.unpack(">4I", head[8:24])
    (count,) = struct.unpack(">H", head[40:42])
    parts = {struct.unpack(">3B", head[42 + 3 * k : 45 + 3 * k]) for k in range(count)}
    if not parts or right <= left or bottom <= top:
        raise _damaged(path, "it declares no pixels")
    if len(parts) > 1 or next(iter(parts))[1:] != (1, 1):
        raise _unsupported(path, "with components of several sizes or depths")
    depth = parts.pop()[0]
    return (bottom - top, right - left), count, (depth & 127) + 1, depth > 127


def _check_spaces(path: str, header: Boxes) -> None:
    """Refuse palettes, and colours that need a conversion."""
    if any(name == b"pclr" for name, _ in header):
        raise _unsupported(path, "with a palette")
    named = [_is_read(content) for name, content in header if name == b"colr"]
    if named and not any(named):
        raise _unsupported(path, "in another colour space than grey and RGB")


def _is_read(box: bytes) -> bool:
    """Return whether the colour space of a box is read. Vendors may define other boxes."""
    if box[0] == 1:
        return struct.unpack(">I", box[3:7])[0] in _SPACES
    return box[0] not in (2, 3) or box[19:23] in _PROFILES


def _alpha(path: str, channels: int, box: bytes) -> Literal["straight"] | None:
    """Return the kind of alpha in a channel definition; refuse other orders than the stored."""
    found: Literal["straight"] | None = None
    for at in range(2, 2 + 6 * int.from_bytes(box[:2], "big"), 6):
        channel, kind, of = struct.unpack(">3H", box[at : at + 6])
        if (channel, kind, of) == (channels - 1, 1, 0) and channels > 1:
            found = "straight"
        elif kind in (1, 2) or channel >= channels:
            raise _unsupported(path, "with alpha that is not straight and the last channel")
        elif kind == 0 and of not in (0, channel + 1, 65535):
            raise _unsupported(path, "with channels that are not stored in their order")
    return found
