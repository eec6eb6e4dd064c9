"""JPEG 2000 files: what their boxes say of the channels, and the samples exactly as stored.

The stream is decoded apart from its boxes, so that no library applies a palette, a colour space
or an order of channels on its own, or spreads samples over 8 or 16 bits.
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
"""First bytes of a stream without."""
_MAX_HEADER = 2**26
"""Bytes of a header box above which it is not read; a colour profile has a few megabytes."""
_SPACES = {12: "cmyk", 16: "rgb", 17: "grey", 18: "sycc", 21: "rgb"}
"""Colour spaces by their number; profiles are not applied, so ROMM-RGB (21) is RGB as others."""
_PROFILES = {b"GRAY": "grey", b"RGB ": "rgb", b"CMYK": "cmyk"}
"""Colour spaces of ICC profiles."""
_COLOURS = {"cmyk": 4, "rgb": 3, "sycc": 3}
_CURE = "convert it to a TIFF first"

Alpha = Literal["straight", "premultiplied"]


@dataclass(frozen=True)
class Jpeg2000:
    """How the stream at `start` of a file becomes samples (h, w, channels), alpha last."""

    start: int = 0
    length: int = -1
    """Bytes of the stream; -1 to the end of the file."""
    images: int = 1
    """Streams in the file; the first is read."""
    shape: tuple[int, int] = (0, 0)
    stored: tuple[tuple[int, bool], ...] = ()
    """Bits of each component, and whether it is signed."""
    subsampled: bool = False
    """Whether the chroma is stored smaller; the codec then makes RGB of it."""
    space: str = ""
    """Colour space, empty if the file names none."""
    palette: tuple[tuple[int, ...], ...] = ()
    """Rows of a palette."""
    palette_bits: int = 8
    mapping: tuple[tuple[int, int | None], ...] = ()
    """Component of each channel, and the column of the palette it is looked up in."""
    order: tuple[int, ...] = ()
    """Channels in the order of their colours, alpha last; others do not show."""
    alpha: Alpha | None = None

    @property
    def depth(self) -> tuple[int, bool]:
        """Bits of a channel, and whether it is signed."""
        if self.palette:
            return self.palette_bits, False
        return self.stored[0] if len(set(self.stored)) == 1 else (8, False)

    @property
    def channels(self) -> int:
        """Samples of a pixel, alpha included."""
        return len(self.order) - (self.space == "cmyk")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        bits, signed = self.depth
        return np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2 if bits <= 16 else 4}")

    def __call__(self, file: Any) -> Array:
        """Decode the stream of an open file.

        Luma and chroma (sYCC) become colours at most one step off the exact ones, which other
        readers round otherwise.
        """
        file.seek(self.start)
        data = file.read(self.length)  # OpenJPEG tells if it ends early
        parts = self._decoded(data) if len(set(self.stored)) == 1 else self._mixed(data)
        if parts.shape != (*self.shape, len(self.stored)):
            raise ValueError(f"the stream is of shape {parts.shape}")
        bits, signed = self.depth
        if self.palette:
            table = np.array(self.palette, self.dtype)
            index = np.clip(parts, 0, len(table) - 1)
            columns = [table[index[..., part], column] for part, column in self.mapping]
            parts = np.stack([columns[channel] for channel in self.order], axis=-1)
        elif self.order != tuple(range(parts.shape[-1])):
            parts = parts[..., list(self.order)]
        if not signed and bits < 8:
            parts = spread(parts, bits)
        elif self.alpha is not None and bits not in (8, 16, 32):
            full, top = np.iinfo(self.dtype).max, 2**bits - 1
            veil = parts[..., -1].astype(np.uint64) * np.uint64(full)
            parts = np.concatenate((parts[..., :-1], ((veil + top // 2) // top)[..., None]), -1)
        colours = _COLOURS.get(self.space, 0)
        if self.space == "cmyk":
            parts = np.concatenate((rgb_of_cmyk(parts[..., :4]), parts[..., colours:]), axis=-1)
        elif self.space == "sycc" and not self.subsampled:
            rgb = Conversion(ycbcr=True)(parts[..., :3])
            parts = np.concatenate((rgb, parts[..., colours:]), axis=-1)
        return parts.astype(self.dtype, copy=False)

    def _decoded(self, data: bytes) -> Array:
        import imagecodecs

        pixels: Array = imagecodecs.jpeg2k_decode(data)
        return pixels.reshape(*pixels.shape[:2], -1)

    def _mixed(self, data: bytes) -> Array:
        """Decode components of different bits and spread each over 8; imagecodecs reads none."""
        from PIL import Image

        with Image.open(io.BytesIO(data), formats=("JPEG2000",)) as image:
            pixels: Array = np.array(image)
        shifts = np.array([8 - bits for bits, _ in self.stored], np.uint8)
        pixels >>= shifts  # Pillow moves the bits to the top
        for channel, (bits, _) in enumerate(self.stored):
            if bits < 8:
                pixels[..., channel] = spread(pixels[..., channel], bits)
        return pixels


def spread(samples: Array, bits: int) -> Array:
    """Return samples of less than 8 bits spread over 0 to 255."""
    top = 2**bits - 1
    wide: Array = samples.astype(np.uint16) * 255
    full: Array = ((wide + top // 2) // top).astype(np.uint8)
    return full


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
        return _described(path, _sized(path, file.read(2**16), found), header)
    except (struct.error, IndexError):
        raise _damaged(path, "its header is cut off") from None


def _damaged(path: str, what: str) -> SlideFormatError:
    return SlideFormatError(f"{path}: is no whole JPEG 2000 file ({what}); fetch it again")


def _boxes(path: str, file: Any) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, beginning and length (-1: to the end) of the contents of each box."""
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
            # what follows the stream is no part of the picture
            return
        yield head[4:8], at + begin, length - begin
        at += length


def _sized(path: str, head: bytes, found: Jpeg2000) -> Jpeg2000:
    """Add what the size segment of the stream says."""
    if head[:4] != STREAM:
        raise _damaged(path, "its stream has no beginning")
    right, bottom, left, top = struct.unpack(">4I", head[8:24])
    (count,) = struct.unpack(">H", head[40:42])
    parts = [struct.unpack(">3B", head[42 + 3 * k : 45 + 3 * k]) for k in range(count)]
    if not parts or right <= left or bottom <= top:
        raise _damaged(path, "it declares no pixels")
    steps = [(across, down) for _, across, down in parts]
    subsampled = set(steps) != {(1, 1)}
    if subsampled and not (
        count == 3 and steps[0] == (1, 1) and steps[1] == steps[2] and steps[1] in ((2, 1), (2, 2))
    ):
        raise SlideUnsupportedError(f"{path}: JPEG 2000 of components of several sizes; {_CURE}")
    return replace(
        found,
        shape=(bottom - top, right - left),
        stored=tuple(((bits & 127) + 1, bits > 127) for bits, _, _ in parts),
        subsampled=subsampled,
        mapping=tuple((part, None) for part in range(count)),
        order=tuple(range(count)),
    )


def _described(path: str, found: Jpeg2000, header: list[tuple[bytes, bytes]]) -> Jpeg2000:
    """Add what the boxes of the header say, and refuse what is not read."""
    boxes = dict(reversed(header))  # the first of a name counts
    spaces = [_space(content) for name, content in header if name == b"colr"]
    space = next((one for one in spaces if one in _SPACES.values()), "")
    # OpenJPEG writes 0 where it knows none; of one bit it is that 0 is white
    if spaces[:1] == ["number 0"] and (1, False) not in found.stored:
        spaces = []
    if not space and any(spaces):
        raise SlideUnsupportedError(f"{path}: JPEG 2000 in colour space {spaces[0]}; {_CURE}")
    found = replace(found, space=space)
    if b"pclr" in boxes:
        found = _with_palette(path, found, boxes[b"pclr"], boxes.get(b"cmap", b""))
    found = _with_order(path, found, boxes.get(b"cdef", b""))
    colours = len(found.order) - (found.alpha is not None)
    if colours < _COLOURS.get(space, 0):
        found = replace(found, space="")  # there are not as many channels as it has
    depths = set(found.stored)
    bits, signed = found.depth
    if len(depths) > 1 and (
        found.palette
        or len(found.stored) not in (2, 3, 4)
        or any(deep > 8 or below for deep, below in depths)
    ):
        said = ", ".join(str(deep) for deep, _ in found.stored)
        raise SlideUnsupportedError(f"{path}: JPEG 2000 of components of {said} bits; {_CURE}")
    if bits > 32:
        raise SlideUnsupportedError(f"{path}: JPEG 2000 of {bits} bits a sample; {_CURE}")
    converted = found.space in ("sycc", "cmyk")
    if signed and (converted or found.alpha is not None or found.subsampled):
        raise SlideUnsupportedError(f"{path}: JPEG 2000 of signed colours; {_CURE}")
    if converted and not found.subsampled and bits not in ((8,) if space == "sycc" else (8, 16)):
        raise SlideUnsupportedError(f"{path}: JPEG 2000 of {bits} bits in {space}; {_CURE}")
    if found.subsampled and found.space not in ("sycc", ""):
        raise SlideUnsupportedError(f"{path}: JPEG 2000 of components of several sizes; {_CURE}")
    return found


def _space(box: bytes) -> str:
    """Return the colour space that a box specifies, empty if none that can be known."""
    if box[0] == 1:
        (number,) = struct.unpack(">I", box[3:7])
        return _SPACES.get(number, f"number {number}")
    if box[0] in (2, 3):
        kind = box[3 + 16 : 3 + 20]
        return _PROFILES.get(kind, kind.decode("latin-1").strip())
    return ""


def _with_palette(path: str, found: Jpeg2000, box: bytes, mapping: bytes) -> Jpeg2000:
    entries, columns = struct.unpack(">HB", box[:3])
    if len(box) < 3 + columns:
        raise _damaged(path, "its palette is not whole")
    depths = set(box[3 : 3 + columns])
    if len(depths) != 1 or max(depths) > 15:
        raise SlideUnsupportedError(f"{path}: JPEG 2000 with an uneven palette; {_CURE}")
    bits = depths.pop() + 1
    kind = np.dtype("u1" if bits <= 8 else ">u2")
    channels = [struct.unpack(">HBB", mapping[at : at + 4]) for at in range(0, len(mapping), 4)]
    if not channels:
        raise SlideUnsupportedError(
            f"{path}: JPEG 2000 with a palette that its header maps no channel to; {_CURE}"
        )
    if not entries:
        raise SlideUnsupportedError(f"{path}: JPEG 2000 with a palette of 0 colours; {_CURE}")
    if len(box) < 3 + columns + entries * columns * kind.itemsize:
        raise _damaged(path, "its palette is not whole")
    table = np.frombuffer(box, kind, entries * columns, 3 + columns).reshape(entries, columns)
    if int(table.max()) >= 2**bits:
        raise SlideUnsupportedError(
            f"{path}: JPEG 2000 with a palette of {bits} bits that holds larger values; {_CURE}"
        )
    for part, how, column in channels:
        if how != 1 or part >= len(found.stored) or column >= columns:
            raise SlideUnsupportedError(f"{path}: JPEG 2000 of which a palette is a part; {_CURE}")
    return replace(
        found,
        palette=tuple(tuple(row) for row in table.tolist()),
        palette_bits=bits,
        mapping=tuple((part, column) for part, _, column in channels),
        order=tuple(range(len(channels))),
    )


def _with_order(path: str, found: Jpeg2000, box: bytes) -> Jpeg2000:
    """Put the channels in the order of their colours, those that are no colour last."""
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
        raise SlideUnsupportedError(f"{path}: JPEG 2000 with alpha twice; {_CURE}")
    last = len(found.order) + 1
    shown = [channel for channel in found.order if channel not in alpha]
    order = (*sorted(shown, key=lambda channel: colours.get(channel, last)), *alpha)
    return replace(found, order=order, alpha=next(iter(alpha.values()), None))
