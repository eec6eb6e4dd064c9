"""Read the header of a compressed tile before a decoder allocates anything.

Decoders trust the header of the stream, not the tags of the page: a tile of a few bytes can
declare 65,535 x 65,535 pixels, or belong to another image.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

Data = bytes | memoryview

JPEG = frozenset({7, 33007, 34892})
"""Compression tags of JPEG with whole streams or with tables apart."""
START = b"\xff\xd8"
END = b"\xff\xd9"
_SCAN = b"\xff\xda"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG frame header."""
SEQUENTIAL_OR_PROGRESSIVE = frozenset({0xC0, 0xC1, 0xC2})
LOSSLESS = 0xC3
"""Frames with Huffman codes: of a DCT, or of differences between samples."""
_ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xDB)})
"""Markers without a segment; none of them may precede a frame header."""
_RESTARTS = frozenset(bytes((0xFF, marker)) for marker in range(0xD0, 0xD8))
_MOST_SCANS = 64
"""Most scans of a progressive JPEG: each costs a pass over the tile, but only ten bytes."""
_ZEROS = bytes(32)
"""No encoder ends a stream with so many zeros."""


@dataclass(frozen=True)
class Frame:
    """The size and kind of image that the header of a stream declares."""

    height: int
    width: int
    samples: int | None = None
    """Samples per pixel; None if they are known only after decoding."""
    bits: int | None = None
    end: int = 0
    """Bytes of the stream up to the end of its frame header; JPEG only."""
    marker: int = 0
    """Marker of the frame (SOF); JPEG only."""
    identifiers: bytes = b""
    """Component identifiers; ``b"RGB"`` means that colours are not YCbCr. JPEG only."""
    sampling: tuple[int, ...] = ()
    """Sampling factors of each component: across in the upper four bits, down. JPEG only."""


def jpeg_frame(data: Data) -> Frame:
    """Return the frame header (SOF) of a JPEG stream."""
    at = 2
    if bytes(data[:2]) != START:
        raise ValueError("the JPEG stream has no beginning")
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        end = at + 2 + length
        if marker in FRAMES:
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            if marker & 3 == 2 and bytes(data).count(_SCAN) > _MOST_SCANS:
                raise ValueError(f"the JPEG stream has more than {_MOST_SCANS} scans")
            if length != 8 + 3 * data[at + 9] or end > len(data):
                raise ValueError("the JPEG stream has a broken frame header")
            identifiers, sampling = data[at + 10 : end : 3], data[at + 11 : end : 3]
            return Frame(
                height, width, data[at + 9], data[at + 4], end, marker,
                bytes(identifiers), tuple(sampling),
            )  # fmt: skip
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _ALONE or length < 2:
            break
        else:
            at = end
    raise ValueError("the JPEG stream has no frame header")


def has_end(data: Data) -> bool:
    """Return whether a JPEG stream has an end marker behind its last scan.

    libjpeg fills missing data with grey. Bytes behind the marker are padding. An end marker before
    the scan belongs to another image, such as a thumbnail.
    """
    if data[-2:] == END:
        return True
    whole = bytes(data)
    return whole.rfind(END) > whole.rfind(_SCAN)


def between_restarts(header: bytes, data: Data) -> bytes:
    """Return one restart interval of a JPEG as a stream of its own.

    NDPI stores one JPEG and the offset of each of its restart intervals. `header` is the header of
    the JPEG with the size of one interval. An interval without its restart marker gets no end.
    """
    part = bytes(data)
    if part[-2:] in _RESTARTS:
        part = part[:-2] + END
    return header + part


def jpeg2000_frame(data: Data) -> Frame:
    """Return the size segment (SIZ) of a JPEG 2000 stream, in JP2 boxes or without."""
    if data[-2:] != END and not bytes(data).rstrip(b"\0").endswith(END):
        raise ValueError("the JPEG 2000 stream has no end")
    at = 0
    if bytes(data[4:8]) == b"jP  ":
        while bytes(data[at + 4 : at + 8]) != b"jp2c":
            length = int.from_bytes(data[at : at + 4], "big")
            if length < 8 or at + length >= len(data):
                raise ValueError("the JPEG 2000 file holds no stream")
            at += length
        at += 16 if int.from_bytes(data[at : at + 4], "big") == 1 else 8
    head = bytes(data[at : at + 43])
    if len(head) < 43 or head[:4] != b"\xff\x4f\xff\x51":
        raise ValueError("the JPEG 2000 stream has no beginning")
    right, bottom, left, top = struct.unpack(">4I", head[8:24])
    (samples,) = struct.unpack(">H", head[40:42])
    return Frame(bottom - top, right - left, samples, (head[42] & 127) + 1)


def webp_frame(data: Data) -> Frame:
    """Return the header in the first chunk of a WebP file."""
    head = bytes(data[:30])
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 25:
        raise ValueError("the WebP stream has no beginning")
    end = int.from_bytes(head[4:8], "little") + 8
    if end > len(data) or bytes(data[max(0, end - 32) : end]) == _ZEROS:
        raise ValueError("the WebP stream has no end")
    kind = head[12:16]
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return Frame((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, bits=8)
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        return Frame(height, width, bits=8)
    width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return Frame(height, width, bits=8)


def png_frame(data: Data) -> Frame:
    """Return the header chunk of a PNG."""
    head = bytes(data[:26])
    if len(head) < 26 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        raise ValueError("the PNG stream has no beginning")
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    return Frame(height, width, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour), bits)


def jpegxl_frame(data: Data) -> Frame:
    """Return the size header of a JPEG XL stream, in boxes or without."""
    stream = bytes(data)
    at = 0
    if stream[4:8] == b"JXL ":
        while stream[at + 4 : at + 8] not in (b"jxlc", b"jxlp"):
            length = int.from_bytes(stream[at : at + 4], "big")
            if length < 8 or at + length >= len(stream):
                raise ValueError("the JPEG XL file holds no stream")
            at += length
        at += 8 if stream[at + 4 : at + 8] == b"jxlc" else 12
    if stream[at : at + 2] != b"\xff\x0a":
        raise ValueError("the JPEG XL stream has no beginning")
    bits = int.from_bytes(stream[at + 2 : at + 14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def side() -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    if not ratio:
        return Frame(height, side())
    up, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return Frame(height, height * up // down)


def lerc_frame(data: Data) -> Frame:
    """Return the header of a LERC blob."""
    head = bytes(data[:26])
    if len(head) < 26 or head[:6] != b"Lerc2 ":
        raise ValueError("the LERC stream has no beginning")
    (version,) = struct.unpack("<i", head[6:10])
    start = 14 if version >= 3 else 10
    height, width = struct.unpack("<ii", head[start : start + 8])
    kind = bytes(data[start + 20 + 4 * (version >= 4) :][:1])
    bits = {0: 8, 1: 8, 2: 16, 3: 16, 4: 32, 5: 32, 6: 32, 7: 64}.get(kind[0]) if kind else None
    return Frame(height, width, bits=bits)


READ: dict[int, Callable[[Data], Frame]] = {
    **dict.fromkeys(JPEG, jpeg_frame),
    **dict.fromkeys((33003, 33004, 33005, 34712), jpeg2000_frame),
    **dict.fromkeys((50001, 34927), webp_frame),
    **dict.fromkeys((50002, 52546), jpegxl_frame),
    34933: png_frame,
    34887: lerc_frame,
}
"""By compression tag, the function that reads the header of a stream."""
