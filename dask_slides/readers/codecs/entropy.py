"""The scans of a JPEG gone through without decoding them, where no library tells of damage.

libjpeg makes the most of what it gets: what is missing is zeros, what is no code is left out,
and its warnings are kept by whoever called it. simplejpeg raises them, for 8 bits a sample. For
others everything that libjpeg would warn of, or guess, is looked for here, by ITU-T T.81
(ISO/IEC 10918-1): markers are in its annex B, the order of blocks in A.2, sequential Huffman
coding in F, the lossless one in H.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from dask_slides.numerics.loops.huffman import SHORT, TOO_FAR, TOO_WIDE, UNKNOWN, walk, words
from dask_slides.readers.codecs import scan_headers as headers
from dask_slides.readers.codecs.headers import END, FRAMES, START
from dask_slides.readers.codecs.scan_headers import Frame, Known, Scan

_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a segment."""
_WITH_MORE = frozenset({0xC4, *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE}) | FRAMES
"""Those with one that libjpeg knows: tables, scans, restart intervals, what applications say."""
_KNOWN = _ALONE | _WITH_MORE
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_NEXT = re.compile(rb"\xff+([^\x00\xff])")
"""A marker with the fill bytes before it."""
_FILL, _STUFFED = re.compile(rb"\xff\xff"), re.compile(rb"\xff\x00")
"""Three times faster than ``in`` and ``replace``, which look for two bytes at every place."""

_WRONG = {
    SHORT: "less data than its blocks take",
    UNKNOWN: "a code that is in none of its tables",
    TOO_WIDE: "a number too large for its samples",
    TOO_FAR: "a block of more than 64 coefficients",
}


class Reader(Protocol):
    """What goes through the data of scans."""

    def data(self, stream: bytes, at: int) -> tuple[Any, int, int]:
        """Return what is coded from `at` on, its bytes, and where the marker behind it is.

        ValueError if there is none, or fill bytes are within.
        """

    def begun(self, frame: Frame, scan: Scan) -> Callable[[Any, int, int, int], int]:
        """Return what goes through a part of a scan.

        It is called with what is coded, its bits, the number of the first unit, and how many
        units there are. It returns the bits that they take, or what is wrong.
        """


def read_scans(stream: bytes, tables: bytes | None, reader: Reader) -> None:
    """Let `reader` go through the scans of a JPEG; ValueError unless they are whole.

    `tables` may hold tables that the stream lacks.
    """
    known = Known()
    if tables is not None:
        for marker, segment in _Segments(tables.removesuffix(END) + END, reader):
            known.learn(marker, segment)
    frame: Frame | None = None
    left = set[int]()
    segments = _Segments(stream, reader)
    for marker, segment in segments:
        known.learn(marker, segment)
        if marker in FRAMES:
            if frame is not None:
                raise ValueError("the JPEG stream has a second frame header")
            frame = headers.frame_header(marker, segment)
            left = set(range(len(frame.components)))
        elif marker == headers.SCAN:
            if frame is None:
                raise ValueError("the JPEG stream has no frame header before its scan")
            scan = headers.scan_header(frame, segment, left, known)
            left -= {*scan.numbers}
            _read_scan(segments, scan, known.interval, reader.begun(frame, scan))
    if frame is None or left:
        raise ValueError(f"the JPEG stream lacks {len(left)} of its components")


class Checker:
    """Goes through scans and makes nothing of them."""

    def data(self, stream: bytes, at: int) -> tuple[bytes, int, int]:
        """Return what is coded from `at` on, its bytes, and where the marker behind it is."""
        found = _MARKER.search(stream, at)
        if found is None:
            raise ValueError(NO_END)
        coded = stream[at : found.start()].rstrip(b"\xff")  # fill bytes
        if _FILL.search(coded):
            raise ValueError(FILLED)
        coded = _STUFFED.sub(b"\xff", coded)
        return coded, len(coded), found.start()

    def begun(self, frame: Frame, scan: Scan) -> Callable[[bytes, int, int, int], int]:
        """Return `walk` for the blocks of a scan."""
        # a memoryview is indexed several times faster than an array
        first, tables = ([row.data for row in rows] for rows in scan.tables)
        order, size = scan.order, 1 if frame.lossless else 64
        return lambda coded, bits, start, units: walk(
            words(coded).data, bits, units, order, first, tables, size
        )


NO_END = "the JPEG stream has no end"
FILLED = "the JPEG stream has fill bytes within its data"


class _Segments:
    """The markers of a stream up to its end, each with its segment."""

    def __init__(self, stream: bytes, reader: Reader) -> None:
        self._stream = stream
        self._reader = reader
        self._at = len(START)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while True:
            found = _NEXT.match(self._stream, self._at)
            if found is None:
                raise ValueError(f"the JPEG stream has no marker at byte {self._at}")
            marker, self._at = found[1][0], found.end()
            if marker == END[1]:
                return
            segment = b""
            if marker not in _KNOWN:
                raise ValueError(f"the JPEG stream has marker FF{marker:02X}, which none has")
            if marker not in _ALONE:
                start = self._at + 2
                self._at += int.from_bytes(self._stream[self._at : start])
                segment = self._stream[start : self._at]
                if start > self._at or self._at > len(self._stream):
                    raise ValueError(f"the JPEG stream has a broken segment at byte {start - 4}")
            yield marker, segment

    def data(self) -> tuple[Any, int, int]:
        """Return what is coded up to the next marker, its bytes, and this one; it comes again."""
        coded, length, self._at = self._reader.data(self._stream, self._at)
        return coded, length, self._stream[self._at + 1]

    def skip(self) -> None:
        """Go on behind a marker without a segment."""
        self._at += 2


def _read_scan(
    segments: _Segments, scan: Scan, interval: int, taken: Callable[[Any, int, int, int], int]
) -> None:
    """Go through the data of a scan, in intervals of so many units."""
    restarts, start, stop = 0, 0, scan.units[0] * scan.units[1]
    while True:
        coded, length, marker = segments.data()
        some = min(stop - start, interval or stop)
        bits = taken(coded, 8 * length, start, some)
        if bits < 0:
            raise ValueError(f"the JPEG stream has {_WRONG[bits]}")
        more = length - -(-bits // 8)
        if more:
            raise ValueError(f"the JPEG stream has {more} bytes more than its blocks take")
        start += some
        if start == stop:
            return
        expected = 0xD0 + restarts % 8
        if marker != expected:
            raise ValueError(
                f"the JPEG stream has marker FF{marker:02X} where FF{expected:02X} must be"
            )
        segments.skip()
        restarts += 1
