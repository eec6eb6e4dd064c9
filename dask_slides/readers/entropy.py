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
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dask_slides.compiled import loops
from dask_slides.readers.frames import END, FRAMES, START
from dask_slides.readers.huffman import (
    SHORT,
    TOO_FAR,
    TOO_WIDE,
    UNKNOWN,
    first_look,
    lookup,
    walk,
    words,
)

_TABLES, _RESTARTS, _SCAN, _END = 0xC4, 0xDD, 0xDA, 0xD9
"""Markers: DHT, DRI, SOS, EOI."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a segment."""
_LOSSLESS = 0xC3
_FOLLOWED = frozenset({0xC0, 0xC1, _LOSSLESS})
"""Frames whose scans are gone through here: sequential or lossless, with Huffman codes."""
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_NEXT = re.compile(rb"\xff+([^\x00\xff])")
"""A marker with the fill bytes before it."""
_FILL, _STUFFED = re.compile(rb"\xff\xff"), re.compile(rb"\xff\x00")
"""Three times faster than ``in`` and ``replace``, which look for two bytes at every place."""
_WHOLE = bytes((0, 63, 0))
"""What the header of a sequential scan ends with: all coefficients, all bits of them."""
_KEPT = 4
"""Sets of tables that a process keeps, of half a megabyte for colours."""
SAVED = 0.1e-6
"""Seconds a sample that the compiled loop is faster."""

_WRONG = {
    SHORT: "less data than its blocks take",
    UNKNOWN: "a code that is in none of its tables",
    TOO_WIDE: "a number too large for its samples",
    TOO_FAR: "a block of more than 64 coefficients",
}
Codes = dict[int, tuple[bytes, bytes]]
"""Huffman tables by class and number, as the stream has them: counts by length, and symbols."""


def check_scans(stream: bytes, tables: bytes | None, samples: int) -> None:
    """Raise ValueError unless the scans of a JPEG are whole.

    `tables` may hold Huffman tables that the stream lacks; `samples` are those of the whole
    image of which the stream is a part.
    """
    codes: Codes = {}
    if tables is not None:
        for marker, segment in _Segments(tables.removesuffix(END) + END):
            if marker == _TABLES:
                codes |= _codes(segment)
    frame: _Frame | None = None
    interval, left = 0, set[int]()
    segments = _Segments(stream)
    for marker, segment in segments:
        if marker == _TABLES:
            codes |= _codes(segment)
        elif marker == _RESTARTS:
            interval = int.from_bytes(segment)
        elif marker in FRAMES:
            if frame is not None:
                raise ValueError("the JPEG stream has a second frame header")
            frame = _frame(marker, segment)
            left = set(range(len(frame.components)))
        elif marker == _SCAN:
            if frame is None:
                raise ValueError("the JPEG stream has no frame header before its scan")
            scan = _scan(frame, segment, left, codes)
            left -= scan.numbers
            _check_scan(segments, scan, interval, samples)
    if frame is None or left:
        raise ValueError(f"the JPEG stream lacks {len(left)} of its components")


class _Segments:
    """The markers of a stream up to its end, each with its segment."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream
        self._at = len(START)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while True:
            found = _NEXT.match(self._stream, self._at)
            if found is None:
                raise ValueError(f"the JPEG stream has no marker at byte {self._at}")
            marker, self._at = found[1][0], found.end()
            if marker == _END:
                return
            segment = b""
            if marker not in _ALONE:
                start = self._at + 2
                self._at += int.from_bytes(self._stream[self._at : start])
                segment = self._stream[start : self._at]
                if start > self._at or self._at > len(self._stream):
                    raise ValueError(f"the JPEG stream has a broken segment at byte {start - 4}")
            yield marker, segment

    def data(self) -> tuple[bytes, int]:
        """Return what is coded up to the next marker, and this one, which comes again."""
        found = _MARKER.search(self._stream, self._at)
        if found is None:
            raise ValueError("the JPEG stream has no end")
        coded = self._stream[self._at : found.start()].rstrip(b"\xff")  # fill bytes
        self._at = found.start()
        if _FILL.search(coded):
            raise ValueError("the JPEG stream has fill bytes within its data")
        return _STUFFED.sub(b"\xff", coded), found[0][1]

    def skip(self) -> None:
        """Go on behind a marker without a segment."""
        self._at += 2


def _codes(segment: bytes) -> Codes:
    """Return the tables of a segment (B.2.4.2)."""
    codes, at = Codes(), 0
    while at < len(segment):
        counts = segment[at + 1 : at + 17]
        stop = at + 17 + sum(counts)
        if stop > len(segment):
            raise ValueError("the JPEG stream has a Huffman table that is cut off")
        codes[segment[at]] = counts, segment[at + 17 : stop]
        at = stop
    return codes


@dataclass(frozen=True)
class _Component:
    name: int
    across: int
    down: int
    """Samples for those of the others (sampling factors)."""


@dataclass(frozen=True)
class _Frame:
    lossless: bool
    bits: int
    height: int
    width: int
    components: tuple[_Component, ...]

    def units(self, chosen: list[_Component]) -> int:
        """Return how many units a scan has (A.2)."""
        side = 1 if self.lossless else 8
        down = max(one.down for one in self.components)
        across = max(one.across for one in self.components)
        if len(chosen) > 1:
            return -(-self.height // (side * down)) * -(-self.width // (side * across))
        # a component by itself has no more blocks than its samples take
        height, width = self.height * chosen[0].down, self.width * chosen[0].across
        return -(-height // (side * down)) * -(-width // (side * across))


def _frame(marker: int, segment: bytes) -> _Frame:
    """Return what a frame header says (B.2.2)."""
    if marker not in _FOLLOWED:
        raise ValueError(
            f"the JPEG stream is progressive, hierarchical or arithmetic (SOF{marker - 0xC0}), "
            "which is read in grey or colour of 8 bits only; save it as sequential JPEG"
        )
    if len(segment) < 6 or len(segment) != 6 + 3 * segment[5] or not segment[5]:
        raise ValueError("the JPEG stream has a broken frame header")
    components = tuple(
        _Component(segment[at], segment[at + 1] >> 4, segment[at + 1] & 15)
        for at in range(6, len(segment), 3)
    )
    if not all(1 <= n <= 4 for one in components for n in (one.across, one.down)):
        raise ValueError("the JPEG stream has sampling factors that are none")
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
    return _Frame(marker == _LOSSLESS, segment[0], height, width, components)


@dataclass(frozen=True)
class _Scan:
    numbers: set[int]
    """Of the components in it."""
    units: int
    order: list[tuple[int, int]]
    """Of each block of a unit, the rows of `tables` for its difference and for what follows."""
    tables: tuple[NDArray[np.int16], NDArray[np.int16]]
    """For the first bits of a code, and for all: (rows, 1024) and (rows, 65536)."""
    coefficients: int


def _scan(frame: _Frame, segment: bytes, left: set[int], codes: Codes) -> _Scan:
    """Return what the header of a scan says (B.2.3), of components that are `left`."""
    count = segment[0] if segment else 0
    if not 1 <= count <= 4 or len(segment) != 4 + 2 * count:
        raise ValueError("the JPEG stream has a broken scan header")
    if not frame.lossless and segment[-3:] != _WHOLE:
        raise ValueError("the JPEG stream has a scan of some of the coefficients")
    numbers, rows, order = list[int](), dict[tuple[int, int], int](), list[tuple[int, int]]()
    for at in range(1, 1 + 2 * count, 2):
        name, chosen = segment[at : at + 2]
        fitting = (n for n in sorted(left - {*numbers}) if frame.components[n].name == name)
        number = next(fitting, None)
        if number is None:
            raise ValueError(f"the JPEG stream has a scan of component {name} too many")
        numbers.append(number)
        # differences of samples have up to 16 bits, those of a DCT 3 more than samples (F.1.2)
        first = chosen >> 4, 16 if frame.lossless else frame.bits + 3
        then = first if frame.lossless else (16 + (chosen & 15), frame.bits + 2)
        one = frame.components[number]
        order += [(rows.setdefault(first, len(rows)), rows.setdefault(then, len(rows)))] * (
            one.across * one.down if count > 1 else 1
        )
    units = frame.units([frame.components[number] for number in numbers])
    found = tuple((*codes[key], key < 16, widest) for key, widest in rows if key in codes)
    tables = _lookups(found) if found else None  # what is wrong with those comes first
    if tables is None or len(found) < len(rows):
        raise ValueError("the JPEG stream lacks one of its Huffman tables")
    return _Scan({*numbers}, units, order, tables, 1 if frame.lossless else 64)


@lru_cache(maxsize=_KEPT)  # the tiles of a page mostly have the same ones
def _lookups(
    rows: tuple[tuple[bytes, bytes, bool, int], ...],
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    tables = np.stack([lookup(*row) for row in rows])
    first = first_look(tables)
    first.flags.writeable = tables.flags.writeable = False
    return first, tables


def _check_scan(segments: _Segments, scan: _Scan, interval: int, samples: int) -> None:
    """Raise ValueError unless the data of a scan are whole, in intervals of so many units."""
    taken = _walker(scan, samples)
    restarts, units = 0, scan.units
    while True:
        coded, marker = segments.data()
        some = min(units, interval or units)
        bits = taken(words(coded), 8 * len(coded), some)
        if bits < 0:
            raise ValueError(f"the JPEG stream has {_WRONG[bits]}")
        more = len(coded) - -(-bits // 8)
        if more:
            raise ValueError(f"the JPEG stream has {more} bytes more than its blocks take")
        units -= some
        if not units:
            return
        expected = 0xD0 + restarts % 8
        if marker != expected:
            raise ValueError(
                f"the JPEG stream has marker FF{marker:02X} where FF{expected:02X} must be"
            )
        segments.skip()
        restarts += 1


def _walker(scan: _Scan, samples: int) -> Callable[[NDArray[np.int64], int, int], int]:
    """Return `walk` for the blocks of a scan, compiled if there is much to go through."""
    compiled = loops(samples * SAVED)
    if compiled is not None:
        order = np.array(scan.order, np.int64)
        return lambda data, bits, units: int(
            compiled.walk(data, bits, units, order, *scan.tables, scan.coefficients)
        )
    # a memoryview is indexed several times faster than an array
    first, tables = ([row.data for row in rows] for rows in scan.tables)
    return lambda data, bits, units: walk(
        data.data, bits, units, scan.order, first, tables, scan.coefficients
    )
